# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from genaccel.sampling.calls import (
    any_calls,
    default_steps,
    images_of_calls,
    make_calls,
    parse_object,
    read_prompts,
    run_call,
)


class TextPipeline:
    def __call__(self, prompt=None, height=64, num_inference_steps=28, guidance_scale=3.5, generator=None, prompt_embeds=None):  # fmt: skip
        pass


class ClassPipeline:
    def __call__(self, class_labels, num_inference_steps=20, generator=None):
        pass


class NoisePipeline:
    def __call__(self, batch_size=1, num_inference_steps=None, generator=None):
        pass


class OneShotPipeline:
    def __call__(self, prompt):
        pass


def test_prompts_and_seeds_are_taken_in_turn():
    calls = make_calls(
        TextPipeline(),
        prompts=["a", "b", "c"],
        steps=10,
        generations=3,
        batch_size=2,
        seed=5,
        guidance=4.0,
        extra={"height": 32},
    )
    assert [call["prompt"] for call in calls] == [["a", "b"], ["c", "a"], ["b", "c"]]
    assert [call["seed"] for call in calls] == [5, 6, 7]
    shared = {"num_inference_steps": 10, "guidance_scale": 4.0, "height": 32}
    assert all(shared.items() <= call.items() for call in calls)


def test_the_pipeline_s_own_guidance_stays_unless_it_is_given():
    (call,) = make_calls(TextPipeline(), prompts=["a"], steps=2, generations=1)
    assert "guidance_scale" not in call


def test_classes_of_a_real_pipeline(build_pipeline):
    calls = make_calls(build_pipeline(), class_labels=[7, 999], steps=2, generations=2)
    assert [call["class_labels"] for call in calls] == [[7], [999]]
    with pytest.raises(ValueError, match="no class 1000, the model knows 0 to 999"):
        make_calls(build_pipeline(), class_labels=[1000], steps=2, generations=2)


def test_a_pipeline_of_noise_needs_neither():
    (call,) = make_calls(NoisePipeline(), steps=2, generations=1, batch_size=3)
    assert call == {"num_inference_steps": 2, "batch_size": 3, "seed": 0}


def test_embeddings_stand_for_prompts():
    (call,) = make_calls(TextPipeline(), steps=2, generations=1, extra={"prompt_embeds": 1})
    assert "prompt" not in call


@pytest.mark.parametrize(
    ("pipeline", "values", "message"),
    [
        (TextPipeline, {}, "TextPipeline draws what prompts say: .* --prompts"),
        (TextPipeline, {"prompts": []}, "--prompts"),
        (TextPipeline, {"class_labels": [1]}, "takes no class labels: leave --class-labels out"),
        (ClassPipeline, {}, "ClassPipeline draws classes: name some with --class-labels"),
        (ClassPipeline, {"prompts": ["a"]}, "takes no prompts: .* --class-labels"),
        (ClassPipeline, {"class_labels": [-1]}, "--class-labels has no class -1"),
        (ClassPipeline, {"class_labels": [1], "guidance": 2.0}, "leave --guidance out"),
        (OneShotPipeline, {"prompts": ["a"]}, "no steps to skip"),
        (TextPipeline, {"prompts": ["a"], "extra": {"depth": 1}}, "takes no argument 'depth'"),
        (TextPipeline, {"prompts": ["a"], "extra": {"seed": 1}}, "seed belongs into --seed"),
        (NoisePipeline, {"steps": 0}, "--steps must be at least 1"),
        (NoisePipeline, {"generations": 0}, "--generations must be at least 1"),
        (NoisePipeline, {"batch_size": 0}, "--batch-size must be at least 1"),
    ],
)
def test_what_does_not_fit_names_the_option(pipeline, values, message):
    with pytest.raises(ValueError, match=message):
        make_calls(pipeline(), **{"steps": 2, "generations": 1, **values})


def test_any_calls_take_what_there_is():
    assert any_calls(TextPipeline(), steps=2)[0]["prompt"] == ["a photograph"]
    assert any_calls(ClassPipeline(), steps=2)[0]["class_labels"] == [0]


def test_default_steps():
    assert default_steps(TextPipeline()) == 28
    assert default_steps(NoisePipeline()) == 50


def test_prompts_are_the_lines_of_a_file(tmp_path):
    (tmp_path / "p.txt").write_text("a cat\n\n  a dog \n", encoding="utf-8")
    assert read_prompts(tmp_path / "p.txt") == ["a cat", "a dog"]


def test_files_without_prompts_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no\.txt can't be read: No such file"):
        read_prompts(tmp_path / "no.txt")
    (tmp_path / "empty.txt").write_text("\n \n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"empty\.txt holds no prompts"):
        read_prompts(tmp_path / "empty.txt")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="no text file in UTF-8"):
        read_prompts(tmp_path / "binary.txt")


def test_seeds_make_generators(pipeline, calls):
    images = [np.asarray(run_call(pipeline, call).images[0]) for call in (calls[0], calls[0])]
    np.testing.assert_array_equal(*images)


def test_seeds_of_a_list_are_of_one_sample_each(pipeline, calls):
    call = {**calls[0], "class_labels": [1, 2]}
    both = images_of_calls(pipeline, [{**call, "seed": [5, 6]}])
    alone = images_of_calls(
        pipeline,
        [{**call, "class_labels": [label], "seed": seed} for label, seed in ((1, 5), (2, 6))],
    )
    assert len(both) == len(alone) == 2
    for a, b in zip(both, alone, strict=True):
        np.testing.assert_allclose(a, b, atol=1)
    assert not np.array_equal(both[0], both[1])


def test_an_option_holds_a_json_object():
    assert parse_object(None) == {}
    assert parse_object('{"height": 512}') == {"height": 512}
    with pytest.raises(ValueError, match=r"^--pipeline-arguments is no JSON object"):
        parse_object("{")
    with pytest.raises(ValueError, match=r'--config must be a JSON object such as {"a": 1}'):
        parse_object("[1]", "--config", '{"a": 1}')

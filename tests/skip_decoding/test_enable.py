# SPDX-License-Identifier: Apache-2.0
"""``genaccel.enable`` on language models of transformers: Llama, Emu3 and Janus."""

import copy
import logging
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

sys.path.insert(0, str(Path(__file__).parent))
from tiny_generators import (
    EMU3_CALL,
    EMU3_PROMPTS,
    JANUS_CALL,
    JANUS_PROMPTS,
    tiny_emu3,
    tiny_janus,
)
from tiny_models import VOCABULARY, draft_of, tiny_llama

import genaccel
from genaccel.skip_decoding import (
    FeatureDrafterNetwork,
    JacobiDrafter,
    ModelDrafter,
    SkipDecodingConfig,
)
from genaccel.skip_decoding.drafts.feature_drafter import FeatureDrafterParams
from genaccel.skip_decoding.preparation import prepare
from genaccel.skip_decoding.tuning import budget

PROMPTS = torch.tensor([[0, 0, 7, 9, 3], [5, 6, 7, 8, 9]])
CALL = {"max_new_tokens": 16, "do_sample": False, "attention_mask": (PROMPTS > 0).long()}


@pytest.fixture
def target() -> Any:
    return tiny_llama()


def test_a_model_is_accelerated_until_it_is_disabled(target: Any) -> None:
    stock, generate = type(target), type(target).generate
    plain = target.generate(PROMPTS, **CALL)
    config = SkipDecodingConfig(drafter=draft_of(target), tree=(2, 2))
    with genaccel.enable(target, config) as handle:
        assert handle.is_enabled
        assert genaccel.is_enabled(target)
        assert "it has not generated yet" in str(handle.report())
        assert torch.equal(target.generate(PROMPTS, **CALL), plain)
        report = handle.report()["model"].decoding
        assert report.mean_acceptance_length > 1.1
        assert "ModelDrafter drafts; the tokens are the model's own" in str(handle.doctor())
        with handle.paused():
            target.generate(PROMPTS, max_new_tokens=1, do_sample=False)
        assert handle.report()["model"].decoding is report
        with pytest.raises(ValueError, match="accelerated already"):
            genaccel.enable(target, config)
        assert type(target).__name__ == stock.__name__
        other = tiny_llama()
        assert type(other) is stock
        for twin in (copy.deepcopy(target), pickle.loads(pickle.dumps(target))):
            assert type(twin) is stock
            assert not [name for name in vars(twin) if "generations" in name]
            assert torch.equal(twin.generate(PROMPTS, **CALL), plain)
    assert type(target) is stock
    assert stock.generate is generate
    assert not [name for name in vars(target) if "genaccel" in name]
    assert not genaccel.is_enabled(target)
    with genaccel.enable(target, config):
        pass


def test_seeds_are_those_of_torch(target: Any) -> None:
    sampled = {**CALL, "do_sample": True}
    found = []
    with genaccel.enable(target, SkipDecodingConfig()):
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            found.append(target.generate(PROMPTS, **sampled))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


class Streamer:
    def __init__(self) -> None:
        self.values: list[Any] = []
        self.has_ended = False

    def put(self, value: Any) -> None:
        self.values.append(value.tolist())

    def end(self) -> None:
        self.has_ended = True


@pytest.mark.parametrize("ends", [{}, {"eos_token_id": [3, 21, 30, 34], "pad_token_id": 1}])
@pytest.mark.parametrize("others", [{}, {"num_beams": 1, "output_scores": True}])
def test_streamers_get_what_they_get_without(target: Any, ends: Any, others: Any) -> None:
    plain, ours = Streamer(), Streamer()
    call = {**CALL, **ends, **others, "return_dict_in_generate": True}
    target.generate(PROMPTS, streamer=plain, **call)
    config = SkipDecodingConfig(drafter=draft_of(target))
    with genaccel.enable(target, config) as handle:
        target.generate(PROMPTS, streamer=ours, **call)
        assert (handle.report()["model"].decoding is None) == bool(others)
    assert ours.values == plain.values
    assert ours.has_ended


def test_what_is_asked_of_transformers_is_done_by_transformers(target: Any, caplog: Any) -> None:
    prompt, mask = PROMPTS[1:], CALL["attention_mask"][1:]
    assisted = {**CALL, "attention_mask": mask, "assistant_model": draft_of(target)}
    plain = target.generate(prompt, **assisted)
    with genaccel.enable(target, SkipDecodingConfig()) as handle:
        with caplog.at_level(logging.WARNING, "genaccel"):
            found = target.generate(prompt, **assisted)
        assert "assisted generation is asked for" in handle.report()["model"].plain_because
        ours = [record for record in caplog.records if record.name.startswith("genaccel")]
        assert len(ours) == 1
        own = target.generate(prompt, max_new_tokens=2, custom_generate=lambda *_, **__: "own")
    assert torch.equal(found, plain)
    assert own == "own"


def test_a_drafter_is_found_beside_the_model(target: Any, tmp_path: Path) -> None:
    network = FeatureDrafterNetwork(FeatureDrafterParams.for_target(target.config))
    target.save_pretrained(tmp_path / "model")
    loaded = type(target).from_pretrained(tmp_path / "model")
    assert isinstance(prepare(SkipDecodingConfig(), loaded).prototype, JacobiDrafter)
    network.save_pretrained(tmp_path / "model" / "drafter")
    for made in (
        prepare(SkipDecodingConfig(tree=3), loaded),
        prepare(SkipDecodingConfig(drafter=tmp_path / "model" / "drafter", tree=(1, 1, 1)), target),
        prepare(SkipDecodingConfig(drafter=network, tree=3), target),
    ):
        assert type(made.prototype).__name__ == "FeatureDrafter"
    plain = loaded.generate(PROMPTS, **CALL)
    with genaccel.enable(loaded, SkipDecodingConfig(skip="uniform", tree=4)) as handle:
        loaded.generate(PROMPTS, **CALL)
        assert handle.report()["model"].decoding.unverified_fraction > 0
        assert "may differ from the model's own by skip='uniform'" in str(handle.doctor())
    with genaccel.enable(loaded, SkipDecodingConfig()):
        assert torch.equal(loaded.generate(PROMPTS, **CALL), plain)


def test_a_config_that_does_not_fit_is_refused_in_one_sentence(target: Any) -> None:
    for config, words in (
        (SkipDecodingConfig(skip="uniform"), "give a drafter that was trained"),
        (SkipDecodingConfig(tree=(2, 1)), "Jacobi decoding guesses chains"),
        (SkipDecodingConfig(acceptance="lantern"), 'acceptance="lantern" needs the code words'),
        (
            SkipDecodingConfig(skip="dynamic", drafter=JacobiDrafter()),
            'skip="dynamic" needs the code words',
        ),
        (
            SkipDecodingConfig(acceptance="lantern", codebook=torch.zeros(99, 2)),
            "codebook has 99 code words, and the model 40 tokens",
        ),
        (SkipDecodingConfig(drafter=tiny_llama(vocabulary=9)), "has 9 tokens and the model 40"),
    ):
        with pytest.raises(ValueError, match=words):
            genaccel.enable(target, config)
        assert not genaccel.is_enabled(target)
    with pytest.raises(TypeError, match="drafter must be"):
        genaccel.enable(target, SkipDecodingConfig(drafter=3))
    with pytest.raises(ValueError, match="Linear generates no tokens"):
        genaccel.enable(torch.nn.Linear(1, 1), SkipDecodingConfig())


def test_tokens_without_a_code_word_are_refused(target: Any) -> None:
    small = {"codebook": torch.randn(20, 2), "drafter": draft_of(target)}
    for config in (
        SkipDecodingConfig(acceptance="lantern", **small),
        SkipDecodingConfig(skip="dynamic", **small),
    ):
        words = "20 code words, and 40 tokens can be drawn"
        with genaccel.enable(target, config), pytest.raises(ValueError, match=words):
            target.generate(PROMPTS, **CALL)


def test_dynamic_skips_have_a_tree_to_compare_the_paths_of(target: Any) -> None:
    codebook, drafter = torch.randn(VOCABULARY, 4), draft_of(target)
    config = SkipDecodingConfig(skip="dynamic", codebook=codebook, drafter=drafter)
    found = prepare(config, target).drafter()
    draft_shape = found._shape  # type: ignore[union-attr]
    assert draft_shape.num_nodes == 1 + 2 + 4 + 4
    with genaccel.enable(target, config) as handle:
        target.generate(PROMPTS, **CALL)
        choice = handle.report()["model"].decoding.choice
        assert choice.widths is None or choice.widths[0] > 1
        assert str(choice) in str(handle.report())


def test_a_model_that_is_cast_meanwhile_is_prepared_anew(tmp_path: Path) -> None:
    model = tiny_llama()
    network = FeatureDrafterNetwork(FeatureDrafterParams.for_target(model.config))
    with genaccel.enable(model, SkipDecodingConfig(drafter=network, tree=3)) as handle:
        for dtype in (torch.float32, torch.float64):
            model.to(dtype)
            found = model.generate(PROMPTS, **CALL)
            assert handle.report()["model"].decoding.rounds > 0
            with handle.paused():
                assert torch.equal(model.generate(PROMPTS, **CALL), found)


def test_code_words_make_acceptance_and_skips_of_a_bare_model_possible(target: Any) -> None:
    codebook = torch.randn(VOCABULARY, 4)
    config = SkipDecodingConfig(
        acceptance="lantern",
        relaxed_delta=0.5,
        skip="dynamic",
        skip_similarity=0.1,
        drafter=draft_of(target),
        codebook=codebook,
        tree=(2, 2),
    )
    assert config == SkipDecodingConfig(
        **{name: getattr(config, name) for name in type(config).__dataclass_fields__}
    )
    with genaccel.enable(target, config) as handle:
        torch.manual_seed(0)
        target.generate(PROMPTS, **{**CALL, "do_sample": True})
        assert handle.report()["model"].decoding.unverified_fraction > 0


@pytest.mark.parametrize(
    "others",
    [
        {"acceptance": "ensemble"},
        {"is_stochastic": True},
        {"skip": "uniform", "rollback_below": 0.01, "max_unverified": 0.3},
    ],
    ids=["ensemble", "stochastic", "rollback"],
)
def test_all_ways_to_accept_are_reached_by_the_config(target: Any, others: Any) -> None:
    config = SkipDecodingConfig(drafter=draft_of(target), tree=(1, 1), **others)
    with genaccel.enable(target, config) as handle:
        torch.manual_seed(0)
        found = target.generate(PROMPTS, **{**CALL, "do_sample": True})
        decoding = handle.report()["model"].decoding
    assert found.shape == (2, 21)
    assert decoding.unverified_fraction <= 0.3
    assert decoding.target_forwards <= 16


def test_emu3_draws_pictures_as_it_does_alone() -> None:
    model = tiny_emu3()
    prompts, call = EMU3_PROMPTS, EMU3_CALL
    plain = model.generate(prompts, **call)
    assert plain.shape == (2, 3 + 16)
    with genaccel.enable(model, SkipDecodingConfig(row_length=5)) as handle:
        assert torch.equal(model.generate(prompts, **call), plain)
        report = handle.report()["model"].decoding
        assert report.target_forwards < 16
        unguided = {**call, "guidance_scale": None}
        found = model.generate(prompts, **unguided)
    assert torch.equal(found, model.generate(prompts, **unguided))


def test_janus_draws_pictures_as_it_does_alone(caplog: Any) -> None:
    model = tiny_janus()
    prompts, call = JANUS_PROMPTS, JANUS_CALL
    plain = model.generate(prompts, **call)
    assert plain.shape == (2, 16)
    assert len(plain.unique()) > 3
    text = {"max_new_tokens": 12, "do_sample": False, "attention_mask": call["attention_mask"]}
    plain_text = model.generate(prompts, **text)
    sampled = {**call, "do_sample": True, "num_return_sequences": 3, "temperature": 0.7}
    with genaccel.enable(model, SkipDecodingConfig()) as handle:
        assert torch.equal(model.generate(prompts, **call), plain)
        assert handle.report()["model"].decoding.target_forwards <= 16
        named = model.generate(prompts, **call, return_dict_in_generate=True)
        assert torch.equal(named.sequences, plain)
        torch.manual_seed(1)
        drawn = model.generate(prompts, **sampled)
        assert drawn.shape == (6, 16)
        torch.manual_seed(1)
        assert torch.equal(model.generate(prompts, **sampled), drawn)
        assert torch.equal(model.generate(prompts, **text), plain_text)
        assert handle.report()["model"].decoding is not None
        with caplog.at_level(logging.WARNING, "genaccel"):
            model.generate(prompts, **call, min_new_tokens=1, repetition_penalty=1.5)
        assert "would be shown the prompt alone" in handle.report()["model"].plain_because
    with genaccel.enable(model, SkipDecodingConfig(drafter=None)):
        torch.manual_seed(1)
        assert torch.equal(model.generate(prompts, **sampled), drawn)
    network = FeatureDrafterNetwork(FeatureDrafterParams.for_target(model.config.text_config))
    with pytest.raises(ValueError, match="is made of several models"):
        genaccel.enable(model, SkipDecodingConfig(drafter=network))
    drafter = ModelDrafter(tiny_llama(layers=1))
    with genaccel.enable(model, SkipDecodingConfig(drafter=drafter)) as handle:
        assert torch.equal(model.generate(prompts, **call), plain)
        assert "an embedding that this drafter does not know" in str(handle.report())
    config = SkipDecodingConfig(acceptance="lantern", relaxed_topk=3, relaxed_delta=0.4)
    with genaccel.enable(model, config) as handle:
        assert int(model.generate(prompts, **sampled).max()) < 12
    assert torch.equal(model.generate(prompts, **call), plain)


def test_the_tree_that_pays_is_chosen_by_measurement_and_told(target: Any) -> None:
    """Also where nothing pays: the tokens are the model's own either way."""
    plain = target.generate(PROMPTS, **CALL)
    with genaccel.enable(target, SkipDecodingConfig(drafter=tiny_llama())) as handle:
        assert torch.equal(target.generate(PROMPTS, **CALL), plain)
        choice = handle.report()["model"].decoding.choice
        assert choice is not None
        assert "times" in choice.reason
    with genaccel.enable(target, SkipDecodingConfig(drafter=draft_of(target), tree=3)) as handle:
        target.generate(PROMPTS, **CALL)
        assert handle.report()["model"].decoding.choice is None


def test_a_budget_is_tuned_once_and_kept(
    target: Any, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = SkipDecodingConfig(
        drafter=tiny_llama(), tree=2, skip="uniform", max_nll_gap=100.0, seed=3
    )
    with genaccel.enable(target, config):
        first = target.generate(PROMPTS, **{**CALL, "do_sample": True})
        assert len(list(cache.glob("budget*"))) == 1

        def measured_again(*args: Any, **values: Any) -> Any:
            raise AssertionError("measured again")

        monkeypatch.setattr(budget, "decode", measured_again)
        assert torch.equal(target.generate(PROMPTS, **{**CALL, "do_sample": True}), first)

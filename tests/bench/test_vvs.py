# SPDX-License-Identifier: Apache-2.0
"""What ``bench/vvs.py`` counts, keeps and concludes, on models small enough to be drawn from in no time."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("diffusers")

sys.path.insert(0, str(Path(__file__).parents[2]))
from bench import vvs
from bench._decoding import ablations, edge_cases, exactness, measurements, quality
from bench._decoding.generator import (
    EXACT,
    LANTERN,
    PLAIN,
    RANDOM,
    UNIFORM_TREE,
    VVS,
    Generator,
)
from bench._decoding.likelihood import gap, likelihood
from bench._decoding.parts import Parts
from bench._decoding.sample_sets import SampleSets
from bench.harness import Bench
from genaccel.pipelines.autoregressive_image_pipeline import AutoregressiveImagePipeline
from genaccel.skip_decoding.drafts.feature_drafter import (
    FeatureDrafterNetwork,
    FeatureDrafterParams,
)

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def generator() -> Generator:
    """Pictures of 4 x 4 tokens of 32 code words, in three classes."""
    from diffusers import VQModel
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    vqvae = VQModel(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        layers_per_block=1,
        latent_channels=4,
        num_vq_embeddings=32,
        norm_num_groups=4,
        sample_size=8,
    )
    config: Any = LlamaConfig(
        vocab_size=36,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=32,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
        initializer_range=0.3,
    )
    model = LlamaForCausalLM(config).eval()
    pipeline = AutoregressiveImagePipeline(model, vqvae.eval(), ["a", "b", "c"])
    network = FeatureDrafterNetwork(FeatureDrafterParams.for_target(model.config)).eval()
    return Generator("tiny", pipeline, network)


def test_counts_are_of_the_modes(generator: Generator) -> None:
    counts = {
        mode.name: measurements.count_of(generator, mode, batches=2, columns=3)
        for mode in (PLAIN, EXACT, VVS, RANDOM)
    }

    rows = {row["mode"]: row for row in measurements.count_rows(counts)}

    assert generator.num_tokens == 16
    assert rows["plain"]["forwards_a_picture"] == 16
    assert rows["plain"]["gap_nats"] == 0
    assert rows["exact"]["as_plain"] == rows["exact"]["pictures"] == 6
    assert rows["exact"]["gap_nats"] == pytest.approx(0, abs=1e-6)
    assert rows["vvs"]["tokens_per_forward"] > rows["exact"]["tokens_per_forward"]
    assert 0.2 < rows["vvs"]["unverified"] < 0.8
    assert rows["random"]["over_entropy"] > rows["vvs"]["over_entropy"] - 0.5
    assert rows["random"]["gap_nats"] > 0.2


def test_likelihood_is_that_of_single_forwards(generator: Generator) -> None:
    tokens = generator.draw(PLAIN, [1, 2], 3).tokens

    found = likelihood(generator, tokens, [1, 2])

    model, heads = generator.pipeline.transformer, torch.tensor([[33], [35]])
    negative = []
    with torch.inference_mode():
        for place in range(16):
            inputs = torch.cat((heads, tokens[:1, :place].expand(2, -1)), 1)
            both = model(inputs).logits[:, -1, :32]
            weights = both[1] + 2.0 * (both[0] - both[1])
            negative.append(-float(weights.log_softmax(0)[tokens[0, place]]))
    assert found.negative[0] == pytest.approx(sum(negative) / 16, abs=1e-4)
    many = generator.draw(PLAIN, generator.labels(0, 300), 5).tokens
    excess = gap(likelihood(generator, many, generator.labels(0, 300)).excess, [0.0] * 300)
    assert abs(excess.mean) < 4 * excess.standard_error
    with pytest.raises(ValueError, match="at least 2 pictures"):
        gap([1.0], [2.0])


def test_sets_are_kept_and_not_taken_for_others(generator: Generator, tmp_path: Path) -> None:
    sets = SampleSets(generator=generator, folder=tmp_path, chunk=5, commit="abc")
    first = sets.tokens(PLAIN, range(2))
    assert torch.equal(first[5:], generator.draw(PLAIN, [2, 0, 1, 2, 0], 1).tokens)
    before = sets.path(PLAIN, 0).stat().st_mtime_ns

    later = SampleSets(generator=generator, folder=tmp_path, chunk=5, commit="def")
    assert torch.equal(later.tokens(PLAIN, range(2)), first)
    assert sets.path(PLAIN, 0).stat().st_mtime_ns == before

    sets.tokens(VVS, range(1))
    assert len(later.tokens(VVS, range(1))) == 5
    sets.path(VVS, 0).rename(sets.path(LANTERN, 0))
    with pytest.raises(ValueError, match="of other settings"):
        sets.tokens(LANTERN, range(1))
    # Plain pictures of another model, written by who says nothing of himself.
    from safetensors.torch import save_file

    save_file({"tokens": (first[:5] + 1).to(torch.int16) % 32}, sets.path(PLAIN, 1))
    with pytest.raises(ValueError, match="is not what this code draws: 0 of"):
        sets.tokens(PLAIN, range(1, 2))


def test_parts_are_measured_once_for_a_commit(tmp_path: Path) -> None:
    calls = []

    def measure() -> dict[str, int]:
        calls.append(1)
        return {"value": len(calls)}

    clean = Parts(tmp_path, "abc")
    assert clean.result("part", measure) == {"value": 1}
    assert clean.result("part", measure) == {"value": 1}
    assert Parts(tmp_path, "def").result("part", measure) == {"value": 2}
    changed = Parts(tmp_path, "def+")
    assert changed.result("part", measure) == {"value": 3}
    assert changed.result("part", measure) == {"value": 4}


def test_a_threshold_leaves_as_much_unverified(generator: Generator) -> None:
    found = measurements.equal_share_threshold(generator, UNIFORM_TREE, vvs.DYNAMIC)

    assert -0.2 <= found["threshold"] <= 1.0
    assert found["uniform_share"] > 0.2
    assert found["difference"] < 0.25


def test_exactness_is_checked() -> None:
    assert sum(row["mismatches"] for row in exactness.golden_rows()) == 0
    assert exactness.tree_p_value(draws=1500) > 0.001
    assert all(row["over_delta"] <= 1 for row in exactness.lantern_variation())
    assisted = exactness.assisted_generation()
    assert assisted.theirs < assisted.ours == assisted.tokens


def test_a_wrong_tree_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = exactness.accept_by_rejection

    def biased(*arguments: Any, **others: Any) -> Any:
        # As if the drafter had been surer of its guesses than it was.
        surer = others["draft_probabilities"].square()
        surer = surer / surer.sum(-1, keepdim=True)
        return right(*arguments, **(others | {"draft_probabilities": surer}))

    monkeypatch.setattr(exactness, "accept_by_rejection", biased)
    assert exactness.tree_p_value(draws=1500) < 1e-6


def test_the_memory_is_compared_with_a_forward_over_all(generator: Generator) -> None:
    assert exactness.largest_cache_difference(generator, VVS) < 1e-5
    assert math.isnan(exactness.largest_cache_difference(generator, EXACT))  # nothing was skipped


def test_what_is_at_the_edge() -> None:
    rows = {row["case"]: row for row in edge_cases.edge_case_rows()}

    assert all(row["ok"] for row in rows.values()), rows
    assert "8 tokens" in rows["a drafter of another vocabulary"]["outcome"]
    assert edge_cases._sentence(lambda: None, "x") == "wrong: no error"


def test_directions_are_those_of_the_paper_or_not() -> None:
    base = {"tokens_per_forward": 2.0, "excess": 0.1, "excess_error": 0.01}
    found = {name: dict(base) for name in ablations.MODES}
    found["uneven paths, not truncated"] |= {"tokens_per_forward": 2.3, "excess": 0.3}
    found["staleness 0, 0"] |= {"tokens_per_forward": 2.3, "excess": 0.3}
    found["confidence"] |= {"tokens_per_forward": 2.01, "excess": 0.2}

    rows = {row["step"]: row for row in ablations.direction_rows(found)}

    assert rows["without truncation (gamma)"]["as_the_paper"]
    assert not rows["old features after verified rounds too"]["as_the_paper"]
    assert rows["the likeliest path"]["as_the_paper"]
    of_paper = [row for row in rows.values() if not row["paper"].startswith("none")]
    assert len(of_paper) == ablations.NUM_OF_PAPER


def test_the_ablated_modes_differ_in_what_they_say(
    generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measurements, "COLUMNS", 8)
    found = measurements.ablated(generator, batches=1)

    assert set(found) == set(ablations.MODES)
    longer = found["uneven paths, not truncated"]["unverified"]
    assert longer > found["uneven paths"]["unverified"]
    assert found["interval 2"]["unverified"] > found["interval 4"]["unverified"]


def test_accuracy_and_distances_know_their_noise() -> None:
    assert measurements.accuracy_drop(0.95, 0.95, 10_000) == 0
    assert measurements.accuracy_drop(0.95, 0.94, 10_000) == pytest.approx(3.1, abs=0.1)
    features = np.random.default_rng(0).normal(size=(200, 8))
    floor = measurements.floor_of_splits(features)
    assert 0 < floor < 0.5
    assert floor < 0.2 * measurements.polynomial_mmd(features, features + 1)


def test_the_classifier_sees_the_middle() -> None:
    pictures = torch.zeros(2, 3, 32, 32)
    pictures[:, :, 2:30, 2:30] = torch.arange(28.0)

    grey = quality.middle(pictures)

    assert grey.shape == (2, 28, 28)
    assert torch.equal(grey[0, 0], torch.arange(28.0))
    network = quality.DigitClassifier().eval()
    assert 0 <= network.share_right(grey, torch.zeros(2, dtype=torch.long)) <= 1


def test_a_bar_without_a_value_is_short(
    generator: Generator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = Bench(name="vvs", quick=True, json_path=tmp_path / "vvs.json", options={"digits": None})
    run = vvs.Run(bench, generator, tmp_path)
    run.values = {"exact_speedup_batch": 1.2, "overhead": 0.2}
    for name in vvs.BARS:
        run._bar(name)
    bench.finish()

    printed = capsys.readouterr().out.splitlines()
    lines = dict(line.split()[1:3] for line in printed if line.startswith("bar "))
    record = json.loads((tmp_path / "vvs.json").read_text())
    bars = {bar["name"]: bar["ok"] for bar in record["bars"]}
    assert list(lines) == list(vvs.BARS)
    assert lines["vvs_speedup_single"] == "value=nan"
    assert [name for name, ok in bars.items() if ok] == ["exact_speedup_batch"]
    assert set(vvs.QUICK_BARS) < set(vvs.BARS)


def test_a_full_run_goes_on_where_it_was(
    generator: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What others of these tests run, or takes minutes.
    lossless = [{"drafter": "a", "tokens": 30_000, "differing": 0, "tokens_per_forward": 2.0}]
    monkeypatch.setattr(vvs, "lossless_rows", lambda: lossless)
    monkeypatch.setattr(vvs, "edge_case_rows", lambda: [{"case": "a", "outcome": "b", "ok": True}])
    own = [{"model": "a", "differing": 0}]
    monkeypatch.setattr(vvs, "integration_rows", lambda: own)
    monkeypatch.setattr(vvs, "tree_p_value", lambda draws: 0.5)
    monkeypatch.setattr(vvs, "lantern_variation", lambda: [{"over_delta": 0.9}])
    monkeypatch.setattr(vvs, "replayed", lambda: {"efficiency": 0.9, "overhead": 0.02})
    judged = {"floor": 1e-4, "plain_to_plain": 5e-5, "lantern": 2e-4, "vvs": 4e-4}
    monkeypatch.setattr(vvs, "kernel_distances", lambda sets, modes: judged)
    base = {"tokens_per_forward": 2.0, "excess": 0.1, "excess_error": 0.01}
    monkeypatch.setattr(
        vvs, "ablated", lambda generator, batches: dict.fromkeys(ablations.MODES, base)
    )
    monkeypatch.setattr(vvs, "COLUMNS", 2)
    monkeypatch.setattr(measurements, "COLUMNS", 2)
    monkeypatch.setattr(vvs, "SET", range(1))
    monkeypatch.setattr(vvs, "SECOND_SET", range(1, 2))

    def run() -> vvs.Run:
        options = {"digits": None, "sets": True}
        bench = Bench(name="vvs", quick=False, json_path=None, options=options)
        made = vvs.Run(bench, generator, tmp_path)
        # As if nothing were changed.
        made.commit = "abc"
        made.photographs = replace(made.photographs, commit="abc")
        made.full()
        return made

    first = run()

    values = {bar["name"]: bar["value"] for bar in first.bench.bars}
    assert list(values) == list(vvs.BARS)
    missing = {name for name, value in values.items() if value is None}
    assert missing - {"auto_speedup_single", "auto_speedup_batch"} == {
        name for name in vvs.BARS if "digit" in name
    }
    assert values["identical_pictures_of_100"] == 100
    assert values["vvs_distance_floors"] == pytest.approx(4)
    assert (tmp_path / "sheet.png").is_file()

    def measured_again(*arguments: Any, **others: Any) -> None:
        pytest.fail("a part was measured again")

    monkeypatch.setattr(vvs, "count_of", measured_again)
    monkeypatch.setattr(vvs, "times", measured_again)
    again = run()
    assert {bar["name"]: bar["value"] for bar in again.bench.bars} == values

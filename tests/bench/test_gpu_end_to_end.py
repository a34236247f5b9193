# SPDX-License-Identifier: Apache-2.0
"""``bench/gpu_end_to_end.py`` on a CPU, with models of the real classes in small."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
from bench import gpu_end_to_end
from bench._gpu.subjects import MODES, SUBJECTS, PipelineWorkload, dit, flux, pixart_sigma
from bench.harness import Bench

CPU = torch.device("cpu")
SMALL = {"num_attention_heads": 2, "attention_head_dim": 16}
TINY = {
    "dit": dit("tiny-dit", 8, num_layers=6, **SMALL),
    "pixart": pixart_sigma(
        "tiny-pixart", 8, num_layers=6, cross_attention_dim=32, caption_channels=16, **SMALL
    ),
    "flux": flux(
        "tiny-flux",
        4,
        num_layers=3,
        num_single_layers=6,
        in_channels=16,
        joint_attention_dim=16,
        pooled_projection_dim=8,
        axes_dims_rope=(4, 6, 6),
        **SMALL,
    ),
}

# diffusers 0.42's DPMSolverMultistepScheduler with numpy 2; a calibration of 2 steps uses a plan for more.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GENACCEL_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", TINY)
def test_a_workload_runs_and_is_the_same_again(name):
    subject = TINY[name]
    workload = PipelineWorkload(
        subject, subject.build(CPU, torch.float32), batch_size=2, num_steps=4
    )
    samples = workload.test_samples(0)
    latents = workload.sample(workload.plain, samples)
    assert torch.isfinite(latents).all()
    assert len(latents) == 2
    assert torch.equal(workload.sample(workload.plain, samples), latents)
    assert not torch.equal(
        workload.sample(workload.plain, workload.calibration_samples(0)), latents
    )


@pytest.mark.parametrize(
    "name", ["dit", *(pytest.param(name, marks=pytest.mark.slow) for name in ("pixart", "flux"))]
)
def test_soda_reaches_its_share_of_flops_and_others_have_a_row(name):
    rows = gpu_end_to_end.subject_rows(
        TINY[name],
        CPU,
        torch.float32,
        batch_size=2,
        modes=("eager",),
        repeats=1,
        num_steps=8,  # the plan is in whole steps
        targets=(2.0,),
    )
    by_method = {row["method"]: row for row in rows}
    ours = by_method["genaccel SODA"]
    assert ours["flop_ratio"] >= 1.9
    assert ours["speedup"] > 0
    assert ours["speedup_over_flops"] == ours["speedup"] / ours["flop_ratio"]
    assert len(by_method) == 1 + len(gpu_end_to_end.other_methods.__globals__["PEERS"])
    for row in rows:
        assert (row["speedup"] is None) == row["note"].startswith("does not run")


def test_subjects_have_their_true_sizes():
    made = {name: make() for name, make in SUBJECTS.items()}
    assert {name for name, subject in made.items() if subject.name == name} == set(SUBJECTS)
    assert made["dit-xl-2-256"].config["sample_size"] == 32
    assert made["dit-xl-2-512"].config["sample_size"] == 64
    with torch.device("meta"):
        import diffusers

        counts = {
            name: sum(
                p.numel()
                for p in getattr(diffusers, subject.transformer)(**subject.config).parameters()
            )
            for name, subject in made.items()
        }
    assert counts["dit-xl-2-256"] == pytest.approx(675e6, rel=0.15)
    assert counts["pixart-sigma-1024"] == pytest.approx(610e6, rel=0.05)
    # FLUX.1 has 12 billion in 57 blocks.
    assert counts["flux-1024"] == pytest.approx(12e9 * 15 / 57, rel=0.15)


def test_bars_are_of_ours_at_the_largest_batch():
    bench = Bench(name="gpu_end_to_end", quick=True, json_path=None)
    row = {"subject": "dit", "target": 2.0, "mode": "eager", "method": "genaccel SODA"}
    gpu_end_to_end.add_bars(
        bench,
        [
            {**row, "batch": 4, "speedup_over_flops": 0.95},
            {**row, "batch": 1, "speedup_over_flops": 0.5},
            {**row, "batch": 4, "mode": "graphs", "speedup_over_flops": None},
            {**row, "batch": 4, "method": "cache-dit DBCache", "speedup_over_flops": 0.5},
        ],
    )
    assert [(bar["name"], bar["ok"]) for bar in bench.bars] == [
        ("dit_batch_4_2x_eager_speedup_over_flops", True),
        ("dit_batch_4_2x_graphs_speedup_over_flops", False),
    ]
    gpu_end_to_end.codec_bars(bench, [{"image": "768x512", "encode_ms": 10, "decode_ms": 30}])
    assert [bar["ok"] for bar in bench.bars[2:]] == [True, False]


def test_codec_rows_and_a_training_step():
    rows = gpu_end_to_end.codec_rows(CPU, [(48, 64)], 1)
    assert [(row["image"], row["tables"]) for row in rows] == [
        ("64x48", "entropy model"),
        ("64x48", "static"),
    ]
    assert all(min(row["bytes"], row["encode_ms"], row["decode_ms"]) > 0 for row in rows)
    assert gpu_end_to_end.training_steps_per_second(CPU, batch_size=1, side=64, repeats=1) > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="says that there is no GPU")
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "needs a CUDA device"),
        (["--only", "nothing"], 1, "unknown --only"),
        (["--modes", "graphs"], 1, "begin with eager"),
    ],
)
def test_says_what_it_needs(arguments, code, words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu_end_to_end.py", *arguments])
    assert gpu_end_to_end.main() == code
    assert words in capsys.readouterr().err
    assert set(MODES) == {"eager", "compiled", "graphs"}

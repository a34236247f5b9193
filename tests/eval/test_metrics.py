# SPDX-License-Identifier: Apache-2.0
"""One metric, one file, one row: each of them is checked here as the table lists it."""

import ast
import importlib
import inspect
import json
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

import genaccel.eval
from genaccel.cli import app
from genaccel.eval._pairs.folder_pairs import match_folders
from genaccel.eval._pairs.pair_metrics import load_paired_metric, score_pairs
from genaccel.eval.held_out import held_out_photographs
from genaccel.eval.metrics import METRICS, PAIRED_METRICS

sys.path.insert(0, str(Path(__file__).parents[2]))
from bench.readme_tables import main as draw_tables

ROOT = Path(__file__).parents[2]

# Commands that compare codecs or functions, or show results, in whatever metrics they are asked for.
OTHER_COMMANDS = {"rate-distortion", "speed", "report"}


def test_every_command_has_a_row() -> None:
    commands = {
        path.stem.replace("_", "-")
        for path in (ROOT / "eval").glob("*.py")
        if any(
            isinstance(node, ast.FunctionDef) and node.name == "main"
            for node in ast.parse(path.read_text(encoding="utf-8")).body
        )
    }
    assert commands == METRICS.keys() | OTHER_COMMANDS
    keys = [row.metric.key for row in METRICS.values()]
    assert len(set(keys)) == len(keys)


def test_every_row_has_a_file_that_runs_as_a_module(monkeypatch: pytest.MonkeyPatch) -> None:
    for row in METRICS.values():
        module = importlib.import_module(row.module)
        assert callable(getattr(module, row.function)), row
        takes_device = "device" in inspect.signature(module.main).parameters
        assert takes_device == bool(row.weights), row
        monkeypatch.setattr(sys, "argv", [row.name, "--help"])
        with (
            pytest.warns(RuntimeWarning, match="found in sys.modules"),
            pytest.raises(SystemExit) as end,
        ):
            runpy.run_module(row.module, run_name="__main__")
        assert end.value.code == 0, row


def test_every_row_has_a_test() -> None:
    for row in METRICS.values():
        path = Path(__file__).with_name(f"test_{row.file_name}.py")
        tests = [
            node
            for node in ast.parse(path.read_text(encoding="utf-8")).body
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        ]
        used = {n.id for test in tests for n in ast.walk(test) if isinstance(n, ast.Name)}
        assert row.function in used, f"{path} does not test {row.function}"


def test_the_table_of_the_page_is_that_of_the_rows() -> None:
    assert draw_tables(["--check", str(ROOT / "docs" / "evaluation.md")]) == 0


def test_the_table_is_read_without_torch() -> None:
    code = (
        "import sys, genaccel.cli.eval; sys.exit(any(m in sys.modules for m in ('torch', 'numpy')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names_are_loaded_on_first_use() -> None:
    assert all(callable(getattr(genaccel.eval, name)) for name in genaccel.eval.__all__)
    with pytest.raises(AttributeError, match="no attribute 'psnr_of_everything'"):
        genaccel.eval.psnr_of_everything  # noqa: B018


def test_a_variant_is_told_apart() -> None:
    variant = METRICS["dists"].metric.variant("r256", "resized to 256")
    assert (variant.key, variant.title) == ("dists_r256", "DISTS (resized to 256)")
    assert not variant.higher_is_better
    assert METRICS["lpips"].metric.variant("vgg").title == "LPIPS (vgg)"


@pytest.mark.parametrize("name", PAIRED_METRICS)
def test_a_value_does_not_depend_on_the_other_images(
    name: str, trunk_weights: Callable[[str], Path], tmp_path: Path
) -> None:
    options = {
        "lpips": lambda: {"net": "squeeze", "weights": trunk_weights("squeezenet1_1")},
        "dists": lambda: {"weights": trunk_weights("vgg16")},
    }
    try:
        loaded = load_paired_metric(name, **options.get(name, dict)())
    except (FileNotFoundError, ImportError) as error:
        pytest.skip(str(error))
    expected = METRICS[name].metric
    assert loaded.metric.key.startswith(expected.key)
    assert loaded.metric.title.startswith(expected.title)
    assert loaded.metric.higher_is_better == expected.higher_is_better
    photographs = held_out_photographs()
    for photograph in ("chelsea", "coffee", "rocket"):
        crop = photographs[photograph][40:216, 30:214]
        for folder, image in (("a", crop), ("b", crop // 16 * 16)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(image).save(tmp_path / folder / f"{photograph}.png")
    pairs = match_folders(tmp_path / "a", tmp_path / "b")
    together = score_pairs(pairs, loaded).images
    assert together == score_pairs(pairs[::-1], loaded).images
    alone = {k: v for pair in pairs for k, v in score_pairs([pair], loaded).images.items()}
    assert alone == together


@pytest.mark.parametrize("name", [row.name for row in METRICS.values() if row.kind == "sets"])
def test_a_value_does_not_depend_on_the_batches(
    name: str, picture_folder: Callable[..., Path], inception_weights: Path
) -> None:
    options = {
        "fid": ["--weights", str(inception_weights), "--dimensions", "64"],
        "kid": ["--features", "mobilenet_v2"],
        "precision-recall": ["--features", "mobilenet_v2"],
    }
    folders = [
        str(picture_folder("real", 12, seed=0)),
        str(picture_folder("fake", 9, seed=1, contrast=0.8)),
    ]
    records = []
    for size in ("50", "4"):
        arguments = ["eval", name, *folders, *options.get(name, []), "--batch-size", size, "--json"]
        result = CliRunner().invoke(app, arguments)
        if result.exit_code == 2 and "pip install" in result.stderr:
            pytest.skip(result.stderr)
        assert result.exit_code == 0, result.output
        records.append(json.loads(result.stdout))
    one, other = records
    expected = METRICS[name].metric
    assert one["metric"]["higher_is_better"] == expected.higher_is_better
    assert one["num_images"] == other["num_images"] == [12, 9]
    assert other["value"] == pytest.approx(one["value"], rel=1e-4)

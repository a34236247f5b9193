# SPDX-License-Identifier: Apache-2.0
"""Mutants of what is loaded by folder or by name: models, plans, and the records that runs leave."""

from __future__ import annotations

import copy
import hashlib
import json
import random
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from bench._fuzz.containers import picture, tiny_codec, tiny_networks
from bench._fuzz.subject import Files, Subject, mutated, write_files
from genaccel.codec.image_codec import INTEGER_ENTROPY_FOLDER, ImageCodec
from genaccel.errors import UnknownModelError
from genaccel.eval._page.run_files import read_run
from genaccel.eval._sets.moments import Statistics
from genaccel.files.atomic import write_json
from genaccel.models.masked_entropy_model import MaskedEntropyModel
from genaccel.models.registry import record_parts
from genaccel.models.restoration import Restoration, RestorationConfig
from genaccel.sensitivity.config import SensitivityConfig
from genaccel.sensitivity.plans.fingerprint import Fingerprint
from genaccel.sensitivity.plans.plan import PLAN_NAME, PLAN_TENSORS_NAME, Plan
from genaccel.sensitivity.plans.plan_library import PlanEntry, PlanLibrary
from genaccel.sensitivity.plans.stretch import stretch_steps
from genaccel.training.run_folder import RunFolder

_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 7, 8, 64, 255, 1023, 65536, 2**31, 2**63, 10**19),
    *(0.5, 1.0, -0.0, 1e-320, 1e300, float("inf"), float("nan")),
    *("", "x", "../evil", "/etc", "..", ".", "a\0b", "\ud800", "x" * 10_000),
    *([], [[]], {}, {"a": 1}, [0], [1] * 40, [1] * 10_000, ["x"], [True]),
)
_DTYPES = ("BOOL", "I8", "I16", "I32", "I64", "F16", "BF16", "F32", "F64", "F8_E4M3", "U8", "X", 3)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each container and key of a JSON value."""
    entries = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, inner in list(entries):
        yield value, key
        yield from _places(inner)


def mutated_json(random_state: random.Random, text: bytes) -> bytes:
    """JSON with another value, key or form somewhere; or the same damage as any file."""
    kind = random_state.randrange(10)
    if kind == 0:
        return mutated(random_state, text)
    if kind == 1:
        depth = random_state.choice((20, 40, 500, 900, 100_000))
        inside = random_state.choice(
            (b'{"a":' * depth + b"1" + b"}" * depth, b"[" * depth + b"]" * depth)
        )
        return random_state.choice((inside, text.rstrip()[:-1] + b',"deep":' + inside + b"}"))
    value = copy.deepcopy(json.loads(text))
    for _ in range(random_state.choice((1, 1, 2, 3))):
        places = list(_places(value))
        if not places:
            break
        container, key = random_state.choice(places)
        if kind == 2:
            del container[key]
        elif kind == 3 and isinstance(container, dict):
            container[random_state.choice(("x", "../x", "", "type"))] = container.pop(key)
        elif kind == 4 and isinstance(container[key], int | float):
            container[key] = container[key] * random_state.choice((-1, 2, 1000, 0.5, 1e30))
        elif kind == 5:
            container[key] = copy.deepcopy(random_state.choice(places)[0])
            return json.dumps(_within(value, 60)).encode()
        else:
            container[key] = copy.deepcopy(random_state.choice(_VALUES))
    return json.dumps(value).encode()


def _within(value: Any, depth: int) -> Any:
    """A value without what lies deeper, as one in a circle does."""
    if depth == 0 or not isinstance(value, dict | list):
        return None if isinstance(value, dict | list) else value
    if isinstance(value, dict):
        return {key: _within(inner, depth - 1) for key, inner in list(value.items())[:50]}
    return [_within(inner, depth - 1) for inner in value[:2]]


def mutated_tensors(random_state: random.Random, data: bytes) -> bytes:
    """A safetensors file with another header, other values, or damaged as any file."""
    kind = random_state.choice((0, 1, 1, 1, 2, 3, 4, 5))
    if kind == 0:
        return mutated(random_state, data)
    length = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    if kind == 1:
        start = random_state.randrange(len(body) + 1)
        fill = random_state.choice((b"\xff", b"\x00", b"\x7f", b"\x01", random_state.randbytes(1)))
        stop = min(len(body), start + random_state.choice((1, 2, 4, 64, len(body))))
        return data[: 8 + length] + body[:start] + fill * (stop - start) + body[stop:]
    if kind == 2:
        wrong = random_state.choice((0, 1, length - 1, length + 1, 2**24, 2**31, 2**63, 2**64 - 1))
        return wrong.to_bytes(8, "little") + data[8:]
    name = random_state.choice(sorted(header))
    entry = header[name]
    if kind == 3:
        entry["dtype"] = random_state.choice(_DTYPES)
    elif kind == 4:
        shape = entry.get("shape", [])
        entry["shape"] = random_state.choice(
            (shape[::-1], [*shape, 1], shape[1:], [0], [2**62, 4], [-1], [1] * 2000, "x", None)
        )
    else:
        changed = random_state.choice(("remove", "rename", "offsets", "twice", "no size"))
        if changed == "remove":
            del header[name]
        elif changed == "rename":
            header[random_state.choice(("", "x", "../x", "__metadata__"))] = header.pop(name)
        elif changed == "offsets":
            entry["data_offsets"] = random_state.choice(([0, 0], [0, 2**63], [4, 0], [-1, 1], []))
        elif changed == "twice":
            header["again"] = entry
        else:
            entry["shape"], entry["data_offsets"] = [0], 2 * entry.get("data_offsets", [0])[:1]
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def mutated_files(random_state: random.Random, files: Files) -> Files:
    """A folder with one to three of its files damaged, lost, exchanged, or made links."""
    result = dict(files)
    for _ in range(random_state.choice((1, 1, 1, 2, 3))):
        name = random_state.choice(sorted(result))
        content = result[name]
        kind = random_state.randrange(24)
        if isinstance(content, str):
            continue
        if kind == 0 and len(result) > 1:
            del result[name]
        elif kind == 1:
            result[name] = result[random_state.choice(sorted(result))]
        elif kind == 2:
            result[name] = random_state.choice(("nowhere", "/dev/zero", "/etc/passwd", ".", name))
        elif name.endswith(".json"):
            try:
                result[name] = mutated_json(random_state, content)
            except (ValueError, RecursionError):  # damaged already
                result[name] = mutated(random_state, content)
        elif name.endswith(".safetensors"):
            try:
                result[name] = mutated_tensors(random_state, content)
            except (AttributeError, LookupError, TypeError, ValueError):  # damaged already
                result[name] = mutated(random_state, content)
        else:
            result[name] = mutated(random_state, content)
    return result


def _read_files(folder: Path) -> Files:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class _Kind(NamedTuple):
    """Files that are valid, and what loads them."""

    files: Files
    load: Callable[[Path, random.Random], str]


class _Folders(Subject):
    """Folders of several kinds."""

    kinds: dict[str, _Kind]

    def make(self, random_state: random.Random) -> Files:
        """A mutant, in a folder that is called by its kind."""
        kind = random_state.choice(sorted(self.kinds))
        made = mutated_files(random_state, self.kinds[kind].files)
        if random_state.random() < 0.9:
            made = self.sealed(made)
        return {f"{kind}/{name}": content for name, content in made.items()}

    def sealed(self, files: Files) -> Files:
        """The same files with the digests that they hold of each other."""
        return files

    def run(self, files: Files, random_state: random.Random) -> str:
        """Load it, and use what was loaded."""
        kind = next(iter(files)).split("/")[0]
        with tempfile.TemporaryDirectory() as name:
            write_files(files, Path(name))
            return self.kinds[kind].load(Path(name) / kind, random_state)


def _use_codec(folder: Path, _: random.Random) -> str:
    codec = ImageCodec.from_pretrained(folder)
    image = picture(20, 36)
    data = codec.encode(image)
    for before, after in zip(codec.encode_indices(image), codec.decode_indices(data), strict=True):
        assert (before == after).all(), "other indices than were coded"
    assert codec.decode(data).shape == image.shape
    return "codec"


def _use_restoration(folder: Path, _: random.Random) -> str:
    network = Restoration.from_pretrained(folder)
    with torch.inference_mode():
        network(torch.zeros(1, 3, 8, 8), torch.tensor([20.0]), scale=2)
    return "restoration"


def _use_entropy_model(folder: Path, _: random.Random) -> str:
    model = MaskedEntropyModel.from_pretrained(folder)
    with torch.inference_mode():
        model(torch.zeros(1, model.slice_order.num_tokens, model.params.codebook_dim))
    return "entropy model"


class Models(_Folders):
    """Folders of models of toy size: codecs with and without a list of parts, and two networks alone."""

    name = "model"
    contract = (UnknownModelError, OSError)

    def __init__(self) -> None:
        model, entropy_model = tiny_networks()
        torch.manual_seed(1)
        restoration = Restoration(
            RestorationConfig(channels=8, num_blocks=2, num_inner_blocks=1, condition_channels=4)
        )
        with tempfile.TemporaryDirectory() as name:
            root = Path(name)
            for folder in ("codec", "listed"):
                model.save_pretrained(root / folder)
                entropy_model.save_pretrained(root / folder / INTEGER_ENTROPY_FOLDER)
            record_parts(root / "listed")
            restoration.save_pretrained(root / "restoration")
            MaskedEntropyModel(tiny_codec.TINY_ENTROPY).save_pretrained(root / "entropy")
            uses = {
                "codec": _use_codec,
                "listed": _use_codec,
                "restoration": _use_restoration,
                "entropy": _use_entropy_model,
            }
            self.kinds = {kind: _Kind(_read_files(root / kind), use) for kind, use in uses.items()}


def _use_plan(folder: Path, random_state: random.Random) -> str:
    plan = Plan.from_pretrained(folder)
    stretched = stretch_steps(plan, random_state.choice((1, 5, 50)))
    assert stretched.partial_mask.shape == stretched.compute_mask.shape
    return "plan"


def _use_library(folder: Path, random_state: random.Random) -> str:
    library = PlanLibrary(folder)
    target = random_state.choice(({"speedup": 2.0}, {"min_psnr": 10.0}, {"speedup": "max"}))
    chosen = library.choose(SensitivityConfig(**target), "transformer")
    return "library" if chosen is None else _use_plan(folder / chosen[0].folder, random_state)


class Plans(_Folders):
    """Plans of two sorts, alone and in a library."""

    name = "plan"
    contract = (ValueError, OSError)

    def __init__(self) -> None:
        with tempfile.TemporaryDirectory() as name:
            root = Path(name)
            plans = {"outputs": _plan_of_outputs(), "tokens": _plan_of_tokens()}
            library = PlanLibrary(root / "library")
            for folder, plan in plans.items():
                plan.save_pretrained(root / folder)
                library.add(plan, PlanEntry(folder, "transformer", 2.0, psnr=30.0))
            uses = {"outputs": _use_plan, "tokens": _use_plan, "library": _use_library}
            self.kinds = {kind: _Kind(_read_files(root / kind), use) for kind, use in uses.items()}

    def sealed(self, files: Files) -> Files:
        """With the digests of tensors that the plans hold, so that what is behind them is reached."""
        result = dict(files)
        for name, content in files.items():
            tensors = files.get(name.replace(PLAN_NAME, PLAN_TENSORS_NAME))
            if not name.endswith(PLAN_NAME) or not isinstance(tensors, bytes):
                continue
            if isinstance(content, bytes):
                digest = hashlib.sha256(tensors).hexdigest().encode()
                result[name] = re.sub(
                    rb'"tensors_sha256": "[0-9a-f]*"', b'"tensors_sha256": "%s"' % digest, content
                )
        return result


def _run_of(steps: int) -> Fingerprint:
    return Fingerprint(
        model_class="DiTTransformer2DModel",
        model_config_digest="1" * 32,
        scheduler_class="DDIMScheduler",
        scheduler_config_digest="2" * 32,
        num_inference_steps=steps,
        height=256,
        width=256,
        weights=(0.5, -0.25),
    )


def _plan_of_outputs() -> Plan:
    mask = (np.arange(12) % 3 == 0)[:, None]
    return Plan(
        fingerprint=_run_of(12),
        compute_mask=mask,
        forecasters=("reuse",),
        forecaster_index=np.where(mask, -1, 0).astype(np.int8),
        granularity="output",
        time_weights=np.where(mask, 1, 0).astype(np.float32),
        flop_fraction=0.4,
    )


def _plan_of_tokens() -> Plan:
    step = np.arange(12)
    mask = np.stack([step % 3 == 0, step % 4 == 0], axis=1)
    owners = (0, 0, 1, 1)
    computed = np.repeat(mask[:, list(owners), None], 2, axis=2)
    return Plan(
        fingerprint=_run_of(12),
        compute_mask=mask,
        forecasters=("reuse", "taylor1", "affine"),
        forecaster_index=np.where(mask, -1, step[:, None] * 3 // 12).astype(np.int8),
        token_counts=np.where(computed, 64, 16).astype(np.int32),
        segment_of_layer=owners,
        affine_slope=np.ones((12, 3, 2, 2), np.float32),
        affine_intercept=np.zeros((12, 3, 2, 2), np.float32),
        expected_error=1.25,
        flop_fraction=0.4,
    )


def _use_statistics(folder: Path, _: random.Random) -> str:
    Statistics.load(folder / "statistics.npz")
    return "statistics"


def _use_checkpoint(folder: Path, _: random.Random) -> str:
    run = RunFolder(folder)
    run.options()
    run.load()
    return "checkpoint"


def _use_evaluation(folder: Path, _: random.Random) -> str:
    return read_run(folder / "evaluation.json").kind


class Records(_Folders):
    """What runs leave: statistics of features, checkpoints, evaluations."""

    name = "record"
    contract = (ValueError, OSError)

    def __init__(self) -> None:
        with tempfile.TemporaryDirectory() as name:
            root = Path(name)
            statistics = Statistics(mean=np.zeros(4), covariance=np.eye(4), provenance={"a": 1})
            (root / "statistics").mkdir()
            statistics.save(root / "statistics" / "statistics.npz")
            run = RunFolder(root / "run")
            run.claim({"recipe": "toy", "loop": {"steps": 3}})
            run.save({"step": 1, "model": {"weight": torch.zeros(3)}})
            evaluation = {
                "genaccel_eval": 1,
                "kind": "paired",
                "label": "a",
                "metric": {"title": "PSNR", "unit": "dB", "higher_is_better": True},
                "mean": 30.0,
                "images": {"a.png": 30.0},
            }
            write_json(root / "evaluation" / "evaluation.json", evaluation, parents=True)
            uses = {
                "statistics": _use_statistics,
                "run": _use_checkpoint,
                "evaluation": _use_evaluation,
            }
            self.kinds = {kind: _Kind(_read_files(root / kind), use) for kind, use in uses.items()}

# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of the authors' RDVQ release (arXiv 2604.10546) as folders of ours.

The networks have the authors' parameter names, so conversion is a matter of splitting: the autoencoder with its
codebook goes to the folder itself, the entropy model to ``entropy/`` inside.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from genaccel.errors import UnknownModelError, listing
from genaccel.files.atomic import refuse_existing_folder
from genaccel.models.autoencoder import PRESETS as AUTOENCODER_PRESETS
from genaccel.models.autoencoder import Autoencoder, AutoencoderParams
from genaccel.models.masked_entropy_model import PRESETS as ENTROPY_PRESETS
from genaccel.models.masked_entropy_model import MaskedEntropyModel, MaskedEntropyParams
from genaccel.models.registry import record_parts, replaced_folder

ENTROPY_FOLDER = "entropy"

_MODEL_KEY = "model"
_ENTROPY_PREFIX = "quantize.condition_entropy_small."
_USAGE_COUNTER = "quantize.codebook_used"  # statistics of the training, 65536 entries
_NOT_STORED = "index_cdfs"  # ours: static tables, which these models code without
_MAX_NAMES = 4  # in a message

DRIFT_WARNING = (
    "indices are coded with probabilities that a float network computes: they may differ in the last bit between "
    "machines, devices and versions of torch, and then a file does not decode; decode where it was encoded"
)


class ConversionReport(NamedTuple):
    """Sizes of a converted checkpoint, and what was left out of it."""

    folder: Path
    autoencoder_parameters: int  # codebook included
    entropy_parameters: int
    ignored: tuple[str, ...]  # entries of the checkpoint that are not needed
    notes: tuple[str, ...]


def _read(path: Path) -> Mapping[str, object]:
    """The checkpoint's top level; runs no code of the file."""
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint {path}")
    try:
        # Training checkpoints hold their command line, which is a plain record.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # the unpickler stumbles over garbage in any way there is
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnknownModelError(
            f"{path} is no checkpoint of plain tensors: {reason} "
            "(files that would run code of their own are not opened)"
        ) from error
    if not isinstance(content, Mapping) or not isinstance(content.get(_MODEL_KEY), Mapping):
        found = (
            sorted(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
        )
        raise UnknownModelError(
            f"{path} is no RDVQ checkpoint: it must hold tensors under {_MODEL_KEY!r}, found {found}"
        )
    return content


def _shapes(model: nn.Module, prefix: str) -> dict[str, tuple[int, ...]]:
    return {
        prefix + name: tuple(tensor.shape)
        for name, tensor in model.state_dict().items()
        if name != _NOT_STORED
    }


def _check(expected: Mapping[str, tuple[int, ...]], state: Mapping[str, object]) -> None:
    """Raise UnknownModelError unless the tensors are the expected ones."""
    problems = []
    missing = [name for name in expected if name not in state]
    if missing and all(name.startswith(_ENTROPY_PREFIX) for name in missing):
        problems.append("it has no whole entropy model (as after the first training stage)")
    if missing:
        problems.append(f"{len(missing)} tensors are missing: {listing(missing, _MAX_NAMES)}")
    unexpected = [name for name in state if name not in expected and name != _USAGE_COUNTER]
    if unexpected:
        problems.append(
            f"{len(unexpected)} tensors are not expected: {listing(unexpected, _MAX_NAMES)}"
        )
    wrong = []
    for name in expected.keys() & state.keys():
        tensor = state[name]
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            wrong.append(f"{name} is no float tensor")
        elif tuple(tensor.shape) != expected[name]:
            wrong.append(f"{name} is {tuple(tensor.shape)} instead of {expected[name]}")
        elif not bool(tensor.isfinite().all()):
            wrong.append(f"{name} has values that are not finite")
    if wrong:
        problems.append(f"{len(wrong)} tensors do not fit: {listing(sorted(wrong), _MAX_NAMES)}")
    if problems:
        raise UnknownModelError(f"checkpoint does not fit the network: {'; '.join(problems)}")


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def convert_rdvq(
    checkpoint: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    autoencoder_params: AutoencoderParams = AUTOENCODER_PRESETS["paper"],
    entropy_params: MaskedEntropyParams = ENTROPY_PRESETS["paper"],
) -> ConversionReport:
    """Turn a released checkpoint into a folder for :meth:`Autoencoder.from_pretrained`.

    ``out`` holds the autoencoder and its codebook, ``out/entropy`` the entropy model for
    :meth:`MaskedEntropyModel.from_pretrained`, all in fp32. The folder appears whole or not at all.

    Args:
        checkpoint: File of ``torch.save`` with the tensors under the key ``model``. It is read without running
            code of its own.
        out: Folder to make; it must not exist, or be empty.
        autoencoder_params: Size of the network.
        entropy_params: Size of the entropy model, for the same codebook.

    Raises:
        FileNotFoundError: If there is no checkpoint.
        FileExistsError: If ``out`` is there and not empty.
        UnknownModelError: If the file is no such checkpoint, or tensors are missing, left over, or of another shape.
        ValueError: If the two sizes do not fit each other.
        OSError: If the folder cannot be written.

    Example:
        >>> convert_rdvq("rdvq.pt", "models/rdvq")  # doctest: +SKIP
    """
    if (
        autoencoder_params.codebook_size != entropy_params.codebook_size
        or autoencoder_params.codebook_dim != entropy_params.codebook_dim
        or len(autoencoder_params.strides) != entropy_params.num_scales
    ):
        raise ValueError("autoencoder_params and entropy_params must have one codebook and scales")
    target = Path(out)
    refuse_existing_folder(target)  # before the work, not after
    content = _read(Path(checkpoint))
    state = content[_MODEL_KEY]
    assert isinstance(state, Mapping)

    with torch.device("meta"):  # shapes only, until the checkpoint is known to fit
        autoencoder, entropy = Autoencoder(autoencoder_params), MaskedEntropyModel(entropy_params)
    expected = _shapes(autoencoder, "") | _shapes(entropy, _ENTROPY_PREFIX)
    _check(expected, state)

    autoencoder, entropy = Autoencoder(autoencoder_params), MaskedEntropyModel(entropy_params)
    autoencoder.load_state_dict(
        {name: state[name] for name in _shapes(autoencoder, "")}
        | {_NOT_STORED: autoencoder.index_cdfs}
    )
    entropy.load_state_dict({name: state[_ENTROPY_PREFIX + name] for name in _shapes(entropy, "")})

    with replaced_folder(target) as fresh:
        autoencoder.save_pretrained(fresh, dtype=torch.float32)
        entropy.save_pretrained(fresh / ENTROPY_FOLDER, dtype=torch.float32)
        record_parts(fresh)
    ignored = [str(name) for name in content if name != _MODEL_KEY]
    ignored += [f"{_MODEL_KEY}.{_USAGE_COUNTER}"] if _USAGE_COUNTER in state else []
    return ConversionReport(
        folder=Path(out),
        autoencoder_parameters=_count(autoencoder),
        entropy_parameters=_count(entropy),
        ignored=tuple(ignored),
        notes=(DRIFT_WARNING,),
    )

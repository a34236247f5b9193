# SPDX-License-Identifier: Apache-2.0
"""A model as a folder: its type and version, and which parts belong together.

A network's folder has ``config.json`` and ``model.safetensors``; ``config.json`` says its type and version too. In the
folder of a pipeline ``config.json`` would be diffusers', so that ``genaccel.json`` says them. Either may list the model's
parts, the files and folders in it, each with a digest: then only these go together. A part may be in the folder of
another model beside this one, so that two pipelines share an autoencoder. Folders without type, version or parts are
read all the same.

Whoever wrote a folder is not trusted. Its numbers are bounded, no network is built that is larger than the tensors in
the folder, and no name in its files leads out of it, but for a shared part to a folder beside it. A file may be
a link, as those of the Hugging Face cache are; a folder in it may not lead elsewhere.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

from genaccel.errors import ModelFolderError
from genaccel.files.atomic import atomic_folder, sync_tree, write_json
from genaccel.files.untrusted import read_json_object, shown

if TYPE_CHECKING:  # names and digests are needed where nothing is computed
    import torch
    from torch import nn

# A row for each type: the newest version of its folders. Older ones are read, newer ones refused.
MODEL_VERSIONS = {
    "autoencoder": 1,
    "entropy-model": 1,
    "feature-drafter": 1,
    "integer-entropy-model": 1,
    "pipeline": 1,
    "restoration": 1,
    "super-resolution": 1,
    "super-resolution-draft": 1,
}

_CONFIG_NAME = "config.json"
_WEIGHTS_NAME = "model.safetensors"
_PIPELINE_NAME = "model_index.json"
_PIPELINE_CONFIG_NAME = "genaccel.json"
# What makes a folder a model.
_MARKS = (_CONFIG_NAME, _PIPELINE_NAME)
_OWN_KEYS = ("type", "version", "parts")
# Where diffusers finds the classes of components, too.
_COMPONENT_LIBRARIES = ("diffusers", "transformers")

# Of a network, ours have some 100 MB: a file of holes, which takes no room, would be hashed for minutes.
_MAX_PART_BYTES = 2**32

Model = TypeVar("Model", bound="nn.Module")


def write_model_folder(
    folder: str | os.PathLike[str],
    model_type: str,
    config: Mapping[str, Any],
    model: nn.Module,
    *,
    dtype: torch.dtype,
) -> None:
    """Write a network's configuration and tensors; the folder is replaced as :func:`replaced_folder` says.

    Args:
        folder: Made if it is not there.
        model_type: A key of ``MODEL_VERSIONS``.
        config: JSON-ready.
        model: Whose ``state_dict`` is stored.
        dtype: Of the stored floating-point tensors; others keep theirs.
    """
    from safetensors.torch import save

    tensors = {
        name: (tensor.to(dtype) if tensor.is_floating_point() else tensor).cpu().contiguous()
        for name, tensor in model.state_dict().items()
    }
    with replaced_folder(folder) as fresh:
        (fresh / _WEIGHTS_NAME).write_bytes(save(tensors))
        typed = {"type": model_type, "version": MODEL_VERSIONS[model_type], **config}
        write_json(fresh / _CONFIG_NAME, typed)


def read_model_folder(
    folder: str | os.PathLike[str],
    model_type: str,
    build: Callable[[Mapping[str, Any]], Model],
    *,
    check: Callable[[Model], None] | None = None,
) -> Model:
    """Load what :func:`write_model_folder` wrote, in evaluation mode.

    Args:
        folder: Where it is.
        model_type: What the folder should hold.
        build: Makes the model of its configuration.
        check: Refuses a model whose tensors are read, by a ValueError.

    Raises:
        FileNotFoundError: If a file is missing.
        ModelFolderError: If it is of another type or a newer version, or the configuration or a tensor does not fit.
    """
    from genaccel.models.stored_weights import load_network

    path = Path(folder)
    config = _read_config(path, model_type)
    weights = path / _WEIGHTS_NAME
    if not weights.is_file():
        raise FileNotFoundError(f"{path} is no {model_type} folder: {_WEIGHTS_NAME} is missing")
    values = {key: value for key, value in config.items() if key not in _OWN_KEYS}
    try:
        model = load_network(weights, lambda: build(values))
        if check is not None:
            check(model)
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelFolderError(f"{path} is no valid {model_type}: {reason}") from error
    return model.eval()


@contextmanager
def replaced_folder(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """A new folder to write a model to; at the end of the block it takes the place of ``folder``.

    A model that is there is replaced as a whole, parts included; whatever else is in its folder (a card, plans) stays.
    In a folder with files but no model these stay too. After an error all is as it was, and no crash leaves parts of two
    models, or a part of one, where a model is looked for.

    Args:
        folder: Made if it is not there, with the folders above it.

    Yields:
        An empty folder beside it, or in it.

    Raises:
        OSError: If it cannot be written.
    """
    target = Path(folder)
    holds_model = any((target / name).is_file() for name in _MARKS)
    if not holds_model and target.is_dir() and any(target.iterdir()):
        # Others' files stay where they are; the file that makes a folder a model comes last.
        with TemporaryDirectory(prefix=".", suffix=".partial", dir=target) as name:
            yield Path(name)
            sync_tree(Path(name))
            for entry in sorted(Path(name).iterdir(), key=lambda path: path.name in _MARKS):
                os.replace(entry, target / entry.name)
        return
    with atomic_folder(target, overwrite=True, parents=True) as fresh:
        yield fresh
        if holds_model:
            _keep_other_files(target, fresh)


def record_parts(
    folder: str | os.PathLike[str],
    shared: Mapping[str, str | os.PathLike[str]] | None = None,
) -> None:
    """List a model's parts as they are now, so that :func:`check_model_folder` refuses others.

    Args:
        folder: Of a network, whose parts are its weights and the networks in its folder; or of a pipeline, whose parts
            are its components, and networks beside them.
        shared: Folders of components that another model holds, by their names in this pipeline.

    Raises:
        FileNotFoundError: If a component is neither in the folder nor shared.
        ModelFolderError: If a shared one is in no model's folder beside this one.
    """
    path = Path(folder)
    found = {name: {"path": os.path.relpath(p, path)} for name, p in (shared or {}).items()}
    networks = sorted(p.parent.name for p in path.glob(f"*/{_CONFIG_NAME}"))
    if (path / _PIPELINE_NAME).is_file():
        components = _components(path)
        names = [_PIPELINE_NAME, *components, *(n for n in networks if n not in components)]
        file = path / _PIPELINE_CONFIG_NAME
        config = {"type": "pipeline", "version": MODEL_VERSIONS["pipeline"]}
    else:
        names = [_WEIGHTS_NAME, *networks]
        file = path / _CONFIG_NAME
        config = _read_object(file)
    config["parts"] = {
        name: {
            "sha256": _digest(_part_path(path, name, found.get(name, {}))),
            **found.get(name, {}),
        }
        for name in names
    }
    write_json(file, config, overwrite=True)


def check_model_folder(folder: str | os.PathLike[str], model_type: str) -> None:
    """Refuse a folder that is not a whole model of a type; what its parts hold is compared with what they were.

    Raises:
        FileNotFoundError: If the folder holds no model of the type, or a part is missing.
        ModelFolderError: If it holds another one or one of a newer version, or a part is another model's.
    """
    path = Path(folder)
    for name, part in _read_config(path, model_type).get("parts", {}).items():
        if model_type != "pipeline" and _size(_part_path(path, name, part)) > _MAX_PART_BYTES:
            raise ModelFolderError(
                f"{_part_path(path, name, part)} is larger than {_MAX_PART_BYTES >> 30} GiB"
            )
        if _digest(_part_path(path, name, part)) != part["sha256"]:
            raise ModelFolderError(
                f"{_part_path(path, name, part)} is not the {name} that this model was saved with: parts of different "
                "models do not go together (if it is meant, genaccel.models.registry.record_parts lists it anew)"
            )


def network_in(folder: str | os.PathLike[str], name: str) -> Path | None:
    """Folder of a network that is part of a model, such as its entropy model; None if the model has none.

    Raises:
        ModelFolderError: If it is a link out of the model's folder, or is not among the parts that the model lists.
    """
    path = Path(folder)
    if not (path / name).is_dir():
        return None
    parts = _read_object(path / _CONFIG_NAME).get("parts")
    if isinstance(parts, dict) and name not in parts:
        raise ModelFolderError(
            f"{path / name} is none of the parts that this model was saved with "
            "(if it is meant, genaccel.models.registry.record_parts lists it anew)"
        )
    return _part_path(path, name, {})


def shared_components(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The components of a pipeline that another model's folder holds, for the ``from_pretrained`` of the pipeline.

    Raises:
        FileNotFoundError: If one is missing.
        ModelFolderError: If its class is none of diffusers or transformers.
    """
    path = Path(folder)
    if not (path / _PIPELINE_CONFIG_NAME).is_file():
        return {}
    components: dict[str, Any] = {}
    for name, part in _read_config(path, "pipeline").get("parts", {}).items():
        if "path" in part:
            library, class_name = _components(path).get(name, ("no library", ""))
            if library not in _COMPONENT_LIBRARIES:
                raise ModelFolderError(
                    f"{path}: {name} is of {library}, which shares no components"
                )
            component_class = getattr(import_module(library), class_name, None)
            if not isinstance(component_class, type) or not hasattr(
                component_class, "from_pretrained"
            ):
                raise ModelFolderError(
                    f"{path}: {library} has no component {shown(class_name)} for {name}"
                )
            components[name] = component_class.from_pretrained(_part_path(path, name, part))
    return components


def _read_config(path: Path, model_type: str) -> dict[str, Any]:
    """The file with type, version and parts, checked for the first two; of an old pipeline, nothing."""
    is_pipeline = model_type == "pipeline"
    required = path / (_PIPELINE_NAME if is_pipeline else _CONFIG_NAME)
    if not required.is_file():
        raise FileNotFoundError(f"{path} is no {model_type} folder: {required.name} is missing")
    file = path / _PIPELINE_CONFIG_NAME if is_pipeline else required
    if is_pipeline and not file.is_file():
        return {}
    config = _read_object(file)
    found, version = config.get("type", model_type), config.get("version", 1)
    if found != model_type:
        raise ModelFolderError(f"{path} holds a model of type {shown(found)}, not {model_type!r}")
    newest = MODEL_VERSIONS[model_type]
    if type(version) is not int or not 1 <= version <= newest:
        raise ModelFolderError(
            f"{path} is of version {shown(version)} of {model_type}, and this genaccel reads up to {newest}"
        )
    parts = config.get("parts", {})
    if not isinstance(parts, dict) or not all(
        isinstance(part, dict) and "sha256" in part and isinstance(part.get("path", ""), str)
        for part in parts.values()
    ):
        raise ModelFolderError(f"{file} must list parts as objects with a sha256")
    return config


def _read_object(file: Path) -> dict[str, Any]:
    try:
        return read_json_object(file)
    except ValueError as error:
        raise ModelFolderError(str(error)) from error


def _components(path: Path) -> dict[str, tuple[str, str]]:
    """Library and class of each component of a pipeline."""
    index = _read_object(path / _PIPELINE_NAME)
    return {
        name: (value[0], value[1])
        for name, value in index.items()
        if isinstance(value, list)
        and len(value) == 2
        and all(isinstance(text, str) for text in value)
    }


def _part_path(path: Path, name: str, part: Mapping[str, Any]) -> Path:
    """Where a part is: in the model's folder, or where a path says so, in a folder beside it."""
    text = os.path.normpath(part.get("path", name))
    steps, root = Path(text).parts, path.resolve()
    if "path" in part and steps[:1] == (os.pardir,):
        steps, root = steps[1:], root.parent
    if not steps or os.path.isabs(text) or os.pardir in steps:
        raise ModelFolderError(
            f"{path} names the part {shown(text)}, which is neither in it nor in a folder beside it"
        )
    found = Path(os.path.normpath(path / text))
    if not found.exists():
        raise FileNotFoundError(
            f"{path} lacks its part {shown(name)}: there is no {os.fspath(found)!r}"
        )
    if not (found.is_file() or (found.is_dir() and found.resolve().is_relative_to(root))):
        raise ModelFolderError(f"{found} is no part of {path}: it leads elsewhere, or is no file")
    return found


def _size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else (path,)
    return sum(file.stat().st_size for file in files if file.is_file())


def _digest(path: Path) -> str:
    """SHA-256 of a file, or of the names and digests of the files in a folder, in hexadecimal."""
    if path.is_dir():
        files = sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())
        lines = [f"{_digest(path / name)} {name}\n" for name in files if not name.startswith(".")]
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _keep_other_files(old: Path, fresh: Path) -> None:
    """Copy what is in a model's folder, but none of its files and networks, into the new one."""
    model_files = (_CONFIG_NAME, _WEIGHTS_NAME, _PIPELINE_NAME, _PIPELINE_CONFIG_NAME)
    components = _components(old) if (old / _PIPELINE_NAME).is_file() else {}
    for entry in old.iterdir():
        is_folder = entry.is_dir() and not entry.is_symlink()
        # A scheduler has no config.json, and a folder of others', such as a LoRA's, has configurations of other names.
        is_part = is_folder and (entry.name in components or (entry / _CONFIG_NAME).is_file())
        if entry.name in model_files or is_part or (fresh / entry.name).exists():
            continue
        if is_folder:
            shutil.copytree(entry, fresh / entry.name, symlinks=True)
        else:
            shutil.copy2(entry, fresh / entry.name, follow_symlinks=False)

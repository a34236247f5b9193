# SPDX-License-Identifier: Apache-2.0
"""Loads a pipeline of diffusers: from a folder, the zoo, the Hugging Face hub, or a function that makes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from genaccel import zoo
from genaccel.errors import UnknownModelError
from genaccel.models.registry import shared_components
from genaccel.sampling.functions import CallableLoader, search_path


def load_pipeline(
    source: str,
    *,
    pipeline_class: type | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str = torch.float32,
) -> Any:
    """A pipeline on its device, which shows no progress bar.

    Args:
        source: A name that :func:`find_pipeline` knows, or ``package.module:function`` or ``file.py:function``,
            a function without arguments that returns the pipeline.
        pipeline_class: Class of diffusers; by default the one that the pipeline's folder names.
        device: Device of the pipeline.
        dtype: Type of its weights, such as ``"bfloat16"``.

    Raises:
        ValueError: If there is none, or it can't be loaded.
    """
    from diffusers import DiffusionPipeline
    from diffusers.utils import logging

    wanted = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    is_function = ":" in source and not Path(source).is_dir()
    found = source if is_function else find_pipeline(source)
    logging.disable_progress_bar()
    try:
        if is_function:
            with search_path():
                pipeline = CallableLoader().load(source)()
        else:
            # Its older versions know no ``dtype``, and leave it out.
            named = {} if wanted == torch.float32 else {"dtype": wanted}
            owner: Any = pipeline_class or DiffusionPipeline
            pipeline = owner.from_pretrained(found, **named, **shared_components(found))
        pipeline = pipeline.to(device, *(() if wanted == torch.float32 else (wanted,)))
    except Exception as error:
        # diffusers raises whatever a damaged folder trips; of a function, its author wants to see where.
        if is_function and not isinstance(error, OSError | ValueError | RuntimeError):
            raise
        # Theirs run over many lines; the first says what is wrong.
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{source} can't be loaded as a pipeline: {first}") from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def find_pipeline(source: str) -> str:
    """The folder or name that ``from_pretrained`` takes for a pipeline that a user names.

    Args:
        source: A folder, a name of the zoo, or ``owner/name`` of the Hugging Face hub.

    Raises:
        ValueError: If it is no folder with a pipeline and no name of one.

    Example:
        >>> find_pipeline("someone/some-model")
        'someone/some-model'
    """
    owner, slash, name = source.partition("/")
    on_hub = slash and owner and name and "/" not in name and not source.startswith((".", "~"))
    if on_hub and not Path(source).is_dir():
        return source
    try:
        return str(zoo.resolve(source, "pipeline").folder)
    except UnknownModelError as error:
        raise ValueError(str(error)) from error

# SPDX-License-Identifier: Apache-2.0
"""Finds the transformer blocks of a model, whatever its class."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True, slots=True, eq=False)
class BlockList:
    """Blocks that a model calls one after another.

    Attributes:
        name: Path of the list in the model, such as "transformer_blocks".
        blocks: Its blocks.
    """

    name: str
    blocks: tuple[nn.Module, ...]


def find_block_lists(model: nn.Module) -> list[BlockList]:
    """Every outermost ``ModuleList`` whose entries all hold attention, in the order of the model.

    diffusers names such lists in twenty ways (``blocks``, ``transformer_blocks``, ``layers``,
    ``double_stream_blocks``...), so what they hold decides, not what they are called.

    Example:
        >>> class Block(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.attn = nn.Identity()
        >>> model = nn.Module()
        >>> model.layers = nn.ModuleList([Block(), Block()])
        >>> model.projections = nn.ModuleList([nn.Linear(1, 1)])
        >>> [(found.name, len(found.blocks)) for found in find_block_lists(model)]
        [('layers', 2)]
    """
    found: list[BlockList] = []

    def visit(module: nn.Module, path: str) -> None:
        for name, child in module.named_children():
            child_path = f"{path}.{name}" if path else name
            if isinstance(child, nn.ModuleList) and len(child) and all(map(_has_attention, child)):
                found.append(BlockList(child_path, tuple(child)))
            else:
                visit(child, child_path)

    visit(model, "")
    return found


def _has_attention(block: nn.Module) -> bool:
    if isinstance(block, nn.ModuleList):
        return False
    return any(
        "attn" in name.rpartition(".")[2].lower() or "attention" in type(module).__name__.lower()
        for name, module in block.named_modules()
        if name
    )


class Parameters:
    """Names and positions of a module's arguments, so that keyword and positional calls are one.

    Args:
        module: Its class says the names, as hooks replace the ``forward`` of the instance.
    """

    __slots__ = ("names", "position")

    def __init__(self, module: nn.Module) -> None:
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        parameters = list(inspect.signature(type(module).forward).parameters.values())[1:]
        self.names = tuple(p.name for p in parameters if p.kind in kinds)
        self.position = {name: i for i, name in enumerate(self.names)}

    def get(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The argument of that name, or None where the call leaves it out."""
        position = self.position.get(name, len(args))
        return args[position] if position < len(args) else kwargs.get(name)

    def tensors(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Tensor]:
        """Arguments that are tensors, by name, in the order of the signature."""
        named = {**dict(zip(self.names, args, strict=False)), **kwargs}
        ordered = sorted(named, key=lambda name: self.position.get(name, len(self.names)))
        return {n: value for n in ordered if isinstance(value := named[n], Tensor)}

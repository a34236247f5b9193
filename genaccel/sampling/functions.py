# SPDX-License-Identifier: Apache-2.0
"""Functions named on a command line: ``file.py:function`` or ``package.module:function``."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from genaccel.errors import listing


@contextmanager
def search_path() -> Iterator[None]:
    """Let modules be found in the working directory, as ``python -m`` does; put ``sys.path`` back after."""
    before = list(sys.path)
    sys.path.insert(0, os.getcwd())
    try:
        yield
    finally:
        sys.path[:] = before


class CallableLoader:
    """Finds functions by their text; imports each file once, so that its functions share its globals.

    A file is imported with its folder on ``sys.path``, as ``python file.py`` does; :func:`search_path`
    takes it off again.

    Example:
        >>> CallableLoader().load("math:sqrt")(4.0)
        2.0
    """

    def __init__(self) -> None:
        self._files: dict[Path, ModuleType] = {}

    def load(self, text: str) -> Callable[..., Any]:
        """The function.

        Args:
            text: ``file.py:function`` or ``package.module:function``.

        Raises:
            ValueError: If the text has another form, or the file, the module or the function is missing,
                cannot be imported or cannot be called.
        """
        source, colon, name = text.rpartition(":")
        if not (source and colon and name):
            raise ValueError(f"{text!r} must look like file.py:function or package.module:function")
        is_file = source.endswith(".py") or "/" in source or os.sep in source
        module = self._import_file(source) if is_file else _import_module(source)
        if not hasattr(module, name):
            raise ValueError(f"{source} has no {name!r}; {_what_it_has(module)}")
        found = getattr(module, name)
        if not callable(found):
            raise ValueError(f"{text} must be a function, got {type(found).__name__}")
        return found

    def _import_file(self, source: str) -> ModuleType:
        path = Path(source).resolve()
        if path in self._files:
            return self._files[path]
        if not path.is_file():
            raise ValueError(f"{source} is not a file")
        # A name of our own: a script called torch.py must not take the place of torch.
        name = f"_genaccel_file_{len(self._files)}_{path.stem}"
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise ValueError(f"{source} is not a Python file: its name must end in .py")
        module = importlib.util.module_from_spec(spec)
        sys.path.insert(0, str(path.parent))
        sys.modules[name] = module  # dataclasses and pickle look modules up here
        try:
            spec.loader.exec_module(module)
        # SystemExit: a script that parses its arguments outside ``if __name__ == "__main__"``.
        except (Exception, SystemExit) as error:
            del sys.modules[name]
            raise _import_failure(source, error) from error
        self._files[path] = module
        return module


def _import_module(source: str) -> ModuleType:
    try:
        return importlib.import_module(source)
    except (Exception, SystemExit) as error:
        raise _import_failure(source, error) from error


def _import_failure(source: str, error: BaseException) -> ValueError:
    return ValueError(f"{source} cannot be imported: {type(error).__name__}: {error}")


def _what_it_has(module: ModuleType) -> str:
    names = [
        name
        for name, value in vars(module).items()
        if inspect.isfunction(value)
        and value.__module__ == module.__name__
        and not name.startswith("_")
    ]
    return f"it has {listing(sorted(names))}" if names else "it defines no function"


def check_side(name: str, run: object) -> None:
    """Refuse what a call without arguments would not run.

    Raises:
        ValueError: Naming the side and what is wrong with it.
    """
    if not callable(run):
        raise ValueError(f"side {name!r} must be a function, got {type(run).__name__}")
    if inspect.iscoroutinefunction(run) or inspect.isgeneratorfunction(run):
        raise ValueError(
            f"side {name!r} is a coroutine or a generator, which does nothing when it is called: "
            "wrap it in a function that runs it to its end"
        )
    try:
        parameters = inspect.signature(run).parameters.values()
    except (TypeError, ValueError):
        return  # some builtins do not say
    needed = [
        p.name
        for p in parameters
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if needed:
        raise ValueError(
            f"side {name!r} needs {', '.join(needed)}, but sides are called without arguments: "
            "wrap it in a function that supplies them"
        )

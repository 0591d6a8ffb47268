"""Loading users' Python code: factories of models and data, tasks."""

from __future__ import annotations

import importlib
import importlib.util
import linecache
import sys
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import torch

from mcc.errors import MccError, UsageError
from mcc.files import readable_file

_TORCH = str(Path(torch.__file__).parent)
_HERE = str(Path(__file__).parent)


@contextmanager
def neighbours_importable(spec: str) -> Generator[None]:
    """Make the neighbours of the file of `path/file.py:name` importable, as when Python runs it; for
    `package.module:name`, the modules of the working folder.

    Later imports, inside a function, still find them afterwards, after everything else.
    """
    source = spec.rpartition(":")[0]
    folder = str(Path(source).expanduser().resolve().parent if source.endswith(".py") else Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)
        if folder not in sys.path:
            sys.path.append(folder)


def load_object(spec: str, forms: str) -> Any:
    """The object that `package.module:name` or `path/to/file.py:name` names; see `neighbours_importable`.

    Args:
        forms: What can be named, for the hint.

    Raises:
        UsageError: There is no such file, module or name, or importing it fails.
    """
    source, _, name = spec.rpartition(":")
    if not source or not name:
        raise UsageError(f"{spec!r} names nothing", hint=f"give {forms}")
    module = import_module(source, forms)
    if not hasattr(module, name):
        raise UsageError(f"has no {name}", where=source, hint=f"give {forms}")
    return getattr(module, name)


def import_module(source: str, forms: str) -> ModuleType:
    """The module with a dotted name, or the Python file at a path ending in `.py`.

    Args:
        forms: What can be named, for the hint.

    Raises:
        UsageError: There is no such file or module, or importing it fails.
    """
    try:
        if source.endswith(".py"):
            return _import_file(Path(source).expanduser())
        return importlib.import_module(source)
    except MccError:
        raise
    except ModuleNotFoundError as error:
        hint = f"give {forms}" if error.name and source.startswith(error.name) else f"install {error.name}"
        raise UsageError(f"cannot be imported: {error}", where=source, hint=hint) from error
    except (Exception, SystemExit) as error:  # a user's file may raise any exception
        raise UsageError(f"cannot be imported: {reason_of(error)}", where=source) from error


def _import_file(path: Path) -> ModuleType:
    readable_file(path, raising=UsageError)
    name = f"mcc_file_{path.stem}_{zlib.crc32(str(path.resolve()).encode()):08x}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError("is no Python file", where=str(path))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up while it is being executed
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def reason_of(error: BaseException) -> str:
    """One line for an exception of a user's code, with the place in that code."""
    lines = str(error).strip().splitlines()
    place = user_place(error.__traceback__)
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}" + (
        f" ({place[0]})" if place else ""
    )


def user_place(traceback: TracebackType | None) -> tuple[str, str] | None:
    """The innermost line that is neither torch's nor mcc's: its place, e.g. `file.py:12`, and its text."""
    found: tuple[str, str] | None = None
    while traceback is not None:
        name = traceback.tb_frame.f_code.co_filename
        if not name.startswith((_TORCH, _HERE, "<")):
            line = linecache.getline(name, traceback.tb_lineno).strip()
            found = f"{Path(name).name}:{traceback.tb_lineno}", line
        traceback = traceback.tb_next
    return found

"""Name of mcc on the package index, and the commands that install its extras."""

from __future__ import annotations

import sys
from pathlib import Path

NAME = "mcc-compiler"
"""On the package index, `mcc` is another project. The import name, the command and the folders are `mcc`."""

VERSION = "0.1.0"

_ROOT = Path(__file__).absolute().parents[1]


def how_to_install(extra: str, *, root: Path = _ROOT) -> str:
    """The command that adds an extra to the Python in use: from the checkout, or from the package index.

    Args:
        extra: Name of the extra in pyproject.toml, e.g. `executorch`.
        root: Folder that holds the package; site-packages where a wheel was installed.
    """
    python = _from_here(Path(sys.executable))
    if not (root / "pyproject.toml").is_file():
        return f'{python} -m pip install "{NAME}[{extra}]"'
    return f'{python} -m pip install -e "{_from_here(root)}[{extra}]"'


def _from_here(path: Path) -> str:
    """A path as the user would type it; quoted where a shell would split it."""
    here = Path.cwd()
    text = str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
    return f"'{text}'" if " " in text and path.is_file() else text

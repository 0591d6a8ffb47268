"""The strategies that every job compares: one file each, found by scanning this folder.

A file `my_strategy.py` holds one `mcc.compress.strategy_api.Strategy`, whose name is `my-strategy`, as
`STRATEGY`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from mcc.errors import UsageError

if TYPE_CHECKING:  # a request is checked before anything heavy is loaded
    from mcc.compress.strategy_api import Strategy

FOLDER = Path(__file__).parent


@cache
def strategies() -> dict[str, Strategy]:
    """All strategies by name, in the order of reports."""
    found: dict[str, Strategy] = {}
    for name in _names():
        module = import_module(f"{__name__}.{name.replace('-', '_')}")
        strategy = module.STRATEGY
        if strategy.name != name:
            raise ValueError(
                f"{module.__name__}: a strategy of that file is named {name}, not {strategy.name}"
            )
        found[name] = strategy
    return dict(sorted(found.items(), key=lambda item: (item[1].order, item[0])))


def _names() -> list[str]:
    return sorted(f.stem.replace("_", "-") for f in FOLDER.glob("*.py") if not f.stem.startswith("_"))


def known_strategies(names: Sequence[str]) -> tuple[str, ...]:
    """The names, without repetition. Raises UsageError for an unknown one."""
    if isinstance(names, str):
        raise UsageError("is one text, not a list of names", where="strategies", hint=f"write [{names!r}]")
    known = _names()
    for name in names:
        if name not in known:
            raise UsageError(
                f"there is no strategy {name!r}", where="--strategies", hint=f"choose of {', '.join(known)}"
            )
    return tuple(dict.fromkeys(names))

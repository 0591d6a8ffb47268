"""Passes, which rewrite the graph, one per file; files are found by name, without registration.

Each pass is also an attribute here: `passes.PruneChannels(keep=0.5)`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcc.pass_api import Pass


def __getattr__(name: str) -> Any:
    """The class of a pass. Raises AttributeError for any other name, even of a submodule not yet imported."""
    kind = _classes().get(name) if name[:1].isupper() else None
    if kind is None:
        raise AttributeError(f"module 'passes' has no attribute {name!r}")
    return kind


def __dir__() -> list[str]:
    return sorted((*globals(), *_classes()))


def _classes() -> dict[str, type[Pass]]:
    from mcc.pass_api import all_passes

    return {kind.__name__: kind for kind in all_passes().values()}

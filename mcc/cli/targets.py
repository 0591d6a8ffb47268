"""The command `mcc targets`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from mcc.cli.output import print_json, print_table
from mcc.cli.settings import Settings, common_options

if TYPE_CHECKING:
    from mcc.runtime.target import Target


@click.command(short_help="List the targets.")
@common_options
def targets(settings: Settings) -> None:
    """List the targets: formats, availability on this machine, and options."""
    from mcc.runtime.registry import targets as all_targets

    described = [describe(target) for target in all_targets().values()]
    if settings.json:
        return print_json(described)
    rows: list[Sequence[object]] = []
    for entry in described:
        state = f"{entry['runtime']} {entry['version']}" if entry["available"] else entry["reason"]
        rows.append([entry["name"], entry["format"], "yes" if entry["available"] else "no", state])
        rows += [[f"  {entry['name']}:{key}", "", "", text] for key, text in entry["options"].items()]
    print_table(["target", "runs", "usable", "runtime"], rows)
    if not all(entry["available"] for entry in described):
        click.echo("\nmcc doctor says how to get what is missing.")
    return None


def describe(target: Target) -> dict[str, Any]:
    """A target as plain values; the runtime's version only if it is installed."""
    state = target.available()
    return {
        "name": target.name,
        "format": target.format,
        "runtime": target.runtime,
        "available": state.ok,
        "version": target.runtime_version() if state.ok else None,
        "reason": state.reason or None,
        "how_to_get": state.how_to_get or None,
        "options": dict(target.options),
    }

"""The command `mcc passes`."""

from __future__ import annotations

import dataclasses
import inspect
from typing import TYPE_CHECKING, Any

import click

from mcc.cli.output import print_json, print_table
from mcc.cli.settings import Settings, common_options
from mcc.errors import UsageError

if TYPE_CHECKING:
    from mcc.pass_api import Pass


@click.command(short_help="List the passes, or explain one.")
@click.argument("name", required=False)
@common_options
def passes(name: str | None, settings: Settings) -> None:
    """List the passes, or explain one: description, options and defaults."""
    from mcc.pass_api import all_passes
    from mcc.pipeline import PRESETS

    found = all_passes()
    if name is not None:
        if name not in found:
            raise UsageError(f"there is no pass {name!r}", hint=f"known: {', '.join(found)}")
        return _explain(found[name], settings)
    described = [describe(kind) for kind in found.values()]
    if settings.json:
        return print_json({"passes": described, "presets": PRESETS})
    print_table(["pass", "does"], [[d["name"], d["summary"]] for d in described])
    click.echo("")
    print_table(["preset", "is"], [[key, text or "(nothing)"] for key, text in PRESETS.items()])
    return None


def describe(kind: type[Pass]) -> dict[str, Any]:
    """A pass as plain values: name, summary, documentation, options."""
    text = inspect.getdoc(kind) or ""
    summary = " ".join(text.split("\n\n")[0].split())
    options = [
        {"name": f.name.replace("_", "-"), "type": str(f.type), "default": f.default}
        for f in dataclasses.fields(kind)
    ]
    return {"name": kind.name, "summary": summary, "documentation": text, "options": options}


def _explain(kind: type[Pass], settings: Settings) -> None:
    described = describe(kind)
    if settings.json:
        return print_json(described)
    click.echo(f"{described['name']}\n\n{described['documentation']}\n")
    if described["options"]:
        rows = [[option["name"], option["type"], option["default"]] for option in described["options"]]
        print_table(["option", "type", "default"], rows)
    else:
        click.echo("It has no options.")
    return None

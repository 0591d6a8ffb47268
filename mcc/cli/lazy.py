"""A group of commands that imports a command's file only when that command runs.

`mcc --help` lists all commands without importing any: their one-line descriptions are in the table, and a
test compares them with those of the commands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module

import click


@dataclass(frozen=True)
class Entry:
    """Location of a command (`module:attribute`) and its one-line description."""

    place: str
    summary: str


class LazyGroup(click.Group):
    """A click group whose subcommands are looked up in a table."""

    def __init__(self, table: Mapping[str, Entry], **options: object) -> None:
        super().__init__(**options)  # pyright: ignore[reportArgumentType]
        self.table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names in the order of the table, the main job first."""
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command; None for an unknown name."""
        entry = self.table.get(cmd_name)
        if entry is None:
            return None
        module, attribute = entry.place.split(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As in click, but the error for an unknown command names the nearest one."""
        if args and not args[0].startswith("-") and args[0] not in self.table:
            near = get_close_matches(args[0], self.table, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "mcc --help lists the commands"
            ctx.fail(f"there is no command {args[0]!r}; {hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Format the table, without importing a command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in self.table.items()])

"""Every numeric option of every command: what is no number ends in one sentence, before anything is done."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from mcc.cli import main
from mcc.cli.quantities import NAMES, Quantity

VALUES = ("nan", "inf", "-inf", "-1", "0", "", "1e400", "٣", "1e308", "9" * 5000, "1_0", "0x10", "1,", "½")
UNITS = ("", "s", "GB", "x", "Gcycles")
LEGITIMATE = {"0", "٣", "-1", "1e308", "9" * 5000, "1_0", "½"}
"""What is a number somewhere: a mean may be below zero, a tolerance as large as one likes."""


def numeric_options() -> list[tuple[str, str]]:
    """Each numeric option as (command, option), the kinds of others being known."""
    found: list[tuple[str, str]] = []
    for name in main.COMMANDS:
        for option in command(name).params:
            kind = option.type
            if isinstance(option, click.Option) and (option.count or option.is_flag):
                continue
            if isinstance(kind, click.types.IntParamType | click.types.FloatParamType) or (
                isinstance(kind, Quantity) and kind is not NAMES
            ):
                found.append((name, option.opts[0]))
            else:
                assert isinstance(
                    kind, click.Path | click.Choice | click.types.StringParamType | click.types.BoolParamType
                    | Quantity
                ), (name, option.opts, kind)  # fmt: skip
    return found


def command(name: str) -> click.Command:
    found = main.GROUP.get_command(click.Context(main.GROUP), name)
    assert found is not None
    return found


def required(name: str, file: Path) -> list[str]:
    """Arguments without which the command is not read at all."""
    words: list[str] = []
    for option in command(name).params:
        if option.required:
            word = option.type.choices[0] if isinstance(option.type, click.Choice) else str(file)
            words += [word] if isinstance(option, click.Argument) else [option.opts[0], word]
    return words


def numbers(value: Any) -> Iterator[float]:
    """The numbers in what an option was read as."""
    if isinstance(value, int | float):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:  # pyright: ignore[reportUnknownVariableType]
            yield from numbers(item)
    elif value is not None:
        for item in vars(value).values():
            yield from numbers(item)


def read(ctx: click.Context, parameter: click.Parameter) -> Any:
    """What an option was read as; those of pictures are kept with the command line."""
    assert parameter.name is not None
    kept: dict[str, Any] = next((v for k, v in ctx.meta.items() if k == "mcc.pictures"), {})
    return ctx.params[parameter.name] if parameter.expose_value else kept[parameter.name]


@pytest.mark.parametrize(("name", "option"), numeric_options())
def test_values_that_are_no_numbers(
    name: str,
    option: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """They are refused where options are read: the command's own code is never reached."""
    file = tmp_path / "model.onnx"
    file.touch()
    monkeypatch.chdir(tmp_path)
    seen: list[Any] = []
    parameter = next(p for p in command(name).params if option in p.opts)

    def note(ctx: click.Context) -> None:
        seen.append(read(ctx, parameter))

    monkeypatch.setattr(command(name), "invoke", note)
    for text in dict.fromkeys(
        v + u for v in VALUES for u in (UNITS if isinstance(parameter.type, Quantity) else ("",))
    ):
        seen.clear()
        status = main.run(
            [name, *required(name, file), f"{option}={text}" if option.startswith("--") else option + text]
        )
        told = capsys.readouterr()
        if not seen:
            assert status == 2, (text, told.err)
            assert len(told.err.strip().splitlines()) == 1
            assert "internal error" not in told.err
            assert len(told.err) < 700, "a value of any length must not fill the terminal"
        else:
            assert any(text.startswith(legitimate) for legitimate in LEGITIMATE), (text, seen)
            assert all(math.isfinite(number) for number in numbers(seen[0])), (text, seen)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_there_are_numeric_options() -> None:
    assert {("compress", "--latency"), ("bench", "--threads"), ("verify", "--tolerance")} <= set(
        numeric_options()
    )

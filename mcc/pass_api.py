"""Base classes of passes, and their discovery.

A pass is one file in `passes/` with one frozen dataclass: its fields are its options, its `name` is a verb
and noun in kebab case, its file has the same name in snake case. Nothing else has to be edited to add one.
"""

from __future__ import annotations

import dataclasses
import importlib
import logging
import pkgutil
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import fx

from mcc.errors import UsageError, VerificationError
from mcc.ir.feed import Feed
from mcc.ir.graph import Graph, calls, clean, copy_graph, infer
from mcc.ir.notes import note
from mcc.user_code import import_module

log = logging.getLogger(__name__)

PLAIN_VALUE = re.compile(r"[^\s{}(),=\"]+")
"""Values of options that need no quotes in a pipeline; others are written in double quotes."""


@dataclass
class PassContext:
    """Context of a pass: its data and random numbers, and the record of its actions.

    Attributes:
        calibration: Batches of the graph's inputs, for data-aware passes; empty without data.
        seed: Seed of `generator`, the source of all randomness of the pass.
        counts: Numbers of actions of the pass, by name.
        refusals: Nodes left unchanged, with the reason.
        measured: Errors stated by a pass that changes numbers by intent: node, name of the error, value.
    """

    calibration: tuple[Feed, ...] = ()
    seed: int = 0
    counts: Counter[str] = field(default_factory=lambda: Counter())
    refusals: list[tuple[str, str]] = field(default_factory=lambda: [])
    measured: list[tuple[str, str, float]] = field(default_factory=lambda: [])

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(self.seed)

    def count(self, what: str, by: int = 1) -> None:
        """Count an action."""
        self.counts[what] += by

    def refuse(self, node: fx.Node | str, reason: str) -> None:
        """Record that a node is left unchanged, with the reason."""
        name = node if isinstance(node, str) else node.name
        self.refusals.append((name, reason))
        log.info("%s left alone: %s", name, reason)

    def measure(self, node: fx.Node, what: str, value: float) -> None:
        """Record an error that the pass introduces at a node by intent."""
        self.measured.append((node.name, what, value))


@dataclass(frozen=True)
class Pass:
    """Base of all passes. See docs/passes.md for a worked example."""

    name: ClassVar[str] = ""
    sees_dead_code: ClassVar[bool] = False
    """Whether the pass sees dead code, operators that no output depends on.

    The driver removes it before any other pass runs: a value that only dead code reads counts as unread.
    """

    def requires(self, graph: Graph) -> None:
        """Raise Refusal, naming the node and the reason, if the pass cannot be applied to the graph."""

    def run(self, graph: Graph, ctx: PassContext) -> None:
        """Rewrite the graph, a private copy, in place. The driver removes dead code and re-infers shapes."""
        raise TypeError(f"pass {self.name} does not define run")

    def ensures(self, graph: Graph) -> None:
        """Raise VerificationError if the rewritten graph violates the postcondition of the pass."""

    def reference(self, before: Graph, ctx: PassContext) -> Graph | None:
        """The exact twin: a graph in the old structure whose outputs must equal those of the rewritten one.

        The default, for lossless passes, is the graph before the pass. None means that the numbers change by
        intent and are verified elsewhere (on the lowered file and against the integer simulator).
        """
        return before

    def variants(self, twin: Graph, before: Graph, ctx: PassContext) -> Iterator[Graph]:
        """Further graphs whose outputs must equal the twin's (e.g. removed channels filled at random)."""
        return iter(())

    def __str__(self) -> str:
        return self.name + print_options(self)


@dataclass(frozen=True)
class NodeRewrite(Pass):
    """Base of passes that rewrite one operator at a time: a match, a reason for refusal, and the rewrite.

    `run` rewrites every operator that matches and is not refused, in graph order; `ensures` then checks that
    none is left. A subclass with state between rewrites overrides `run`, and keeps `ensures`.
    """

    def matches(self, graph: Graph, node: fx.Node) -> bool:
        """Whether the pass applies to this operator (a `call_function` node)."""
        raise TypeError(f"pass {self.name} does not define matches")

    def refusal(self, graph: Graph, node: fx.Node) -> str | None:
        """The reason to leave a matching operator unchanged, or None to rewrite it."""
        return note(node).frozen

    def rewrite(self, graph: Graph, node: fx.Node, ctx: PassContext) -> None:
        """Rewrite one operator; it may be erased, and operators after it may match as a result."""
        raise TypeError(f"pass {self.name} does not define rewrite")

    def run(self, graph: Graph, ctx: PassContext) -> None:
        """Rewrite each operator that matches, or record the reason for leaving it unchanged."""
        for node in calls(graph):
            if not self.matches(graph, node):
                continue
            reason = self.refusal(graph, node)
            if reason is None:
                self.rewrite(graph, node, ctx)
            else:
                ctx.refuse(node, reason)

    def ensures(self, graph: Graph) -> None:
        """Raise VerificationError if an operator is left that matches and is not refused."""
        for node in calls(graph):
            if self.matches(graph, node) and self.refusal(graph, node) is None:
                raise VerificationError(f"was not rewritten by {self.name}", where=node.name)


def apply_pass(step: Pass, graph: Graph, ctx: PassContext) -> Graph:
    """Run a pass on a private copy: `requires`, the rewrite, dead code removed, shapes inferred again.

    Dead code is removed before the pass, too (`Pass.sees_dead_code`).

    Raises:
        Refusal: The graph does not meet the requirements of the pass.
        GraphError: The rewritten graph is inconsistent.
    """
    private = as_seen_by(step, graph)
    step.requires(private)
    step.run(private, ctx)
    return infer(clean(private))


def as_seen_by(step: Pass, graph: Graph) -> Graph:
    """A private copy of a graph, without the dead code that the driver removes before this pass."""
    private = copy_graph(graph)
    if not step.sees_dead_code and len(clean(private).graph.nodes) < len(graph.graph.nodes):
        private = copy_graph(private)  # in it the names of removed nodes are free for new nodes
    return private


def print_options(of: Pass) -> str:
    """The options that differ from their defaults, as text: `{keep=0.5 round=8}`."""
    parts = [
        f"{f.name.replace('_', '-')}={_print_value(getattr(of, f.name))}"
        for f in dataclasses.fields(of)
        if getattr(of, f.name) != f.default
    ]
    return "{" + " ".join(parts) + "}" if parts else ""


def _print_value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "none"
    text = str(value)
    return text if PLAIN_VALUE.fullmatch(text) else '"' + text.replace('"', "'") + '"'


def make_pass(kind: type[Pass], options: dict[str, str]) -> Pass:
    """A pass from its options as text. Raises UsageError naming the option that is unknown or malformed."""
    fields = {f.name.replace("_", "-"): f for f in dataclasses.fields(kind)}
    values: dict[str, Any] = {}
    for key, text in options.items():
        if key not in fields:
            known = ", ".join(fields) or "none"
            raise UsageError(f"pass {kind.name} has no option {key!r}", hint=f"its options: {known}")
        values[fields[key].name] = _parse_value(kind, fields[key], text)
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise UsageError(f"pass {kind.name}: {error}") from error


_OPTION_TYPES: dict[str, Callable[[str], object]] = {
    "bool": lambda text: {"true": True, "false": False}[text.lower()],
    "int": int,
    "float": float,
    "str": str,
}


def _parse_value(kind: type[Pass], field_: dataclasses.Field[Any], text: str) -> object:
    wanted = _spelled(field_.type)
    if text == "none" and "None" in wanted:
        return None
    try:
        return _OPTION_TYPES[wanted[0]](text)
    except (ValueError, KeyError):
        name = field_.name.replace("_", "-")
        raise UsageError(
            f"option {name} of pass {kind.name} cannot be {text!r}", hint=f"give {' or '.join(wanted)}"
        ) from None


def _spelled(annotation: object) -> list[str]:
    """The alternatives of an option's type: `int | None` is `int` and `None`."""
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    return [part.strip() for part in text.split("|")]


def all_passes() -> dict[str, type[Pass]]:
    """Every pass in `passes/`, by name. Raises UsageError for a misnamed pass or a name taken twice."""
    package = importlib.import_module("passes")
    found: dict[str, type[Pass]] = {}
    for entry in pkgutil.iter_modules(package.__path__):
        kind = pass_in(importlib.import_module(f"passes.{entry.name}"), entry.name)
        if kind.name in found:
            raise UsageError(f"pass {kind.name} is defined twice", where=entry.name)
        found[kind.name] = kind
    return dict(sorted(found.items()))


def pass_in(module: ModuleType, stem: str) -> type[Pass]:
    """The one pass a file defines.

    Raises UsageError where there is none, several, one with another name, or one that is no frozen dataclass
    with options that a pipeline can spell.
    """
    kinds = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Pass) and value.__module__ == module.__name__
    ]
    if len(kinds) != 1:
        raise UsageError(f"defines {len(kinds)} passes instead of one", where=f"{stem}.py")
    kind = kinds[0]
    if kind.name != stem.replace("_", "-"):
        raise UsageError(f"holds pass {kind.name!r}; name and file must agree", where=f"{stem}.py")
    parameters = vars(kind).get("__dataclass_params__")
    if parameters is None or not parameters.frozen:
        raise UsageError(
            f"pass {kind.name} is no frozen dataclass",
            where=f"{stem}.py",
            hint="write @dataclass(frozen=True)",
        )
    for option in dataclasses.fields(kind):
        if _spelled(option.type)[0] not in _OPTION_TYPES or option.default is dataclasses.MISSING:
            raise UsageError(
                f"option {option.name} of pass {kind.name} needs a default and a type that text can give",
                where=f"{stem}.py",
                hint=f"one of {', '.join(_OPTION_TYPES)}, or one of them | None",
            )
    return kind


def load_pass(path: Path) -> type[Pass]:
    """A user's own pass from a Python file, which is run. Raises UsageError when it cannot be loaded."""
    if path.suffix != ".py":
        raise UsageError("is no Python file with a pass", where=str(path))
    return pass_in(import_module(str(path), "a Python file with a pass"), path.stem)


def load_passes(paths: Iterable[Path]) -> dict[str, type[Pass]]:
    """Users' own passes, by name. Raises UsageError for a name used twice, here or in `passes/`."""
    found: dict[str, type[Pass]] = {}
    for path in paths:
        kind = load_pass(path)
        if kind.name in found or kind.name in all_passes():
            raise UsageError(f"holds pass {kind.name}, a name that is taken", where=str(path))
        found[kind.name] = kind
    return found

"""What a pass is, and how passes are found.

A pass is one file in `passes/` with one frozen dataclass: its fields are its options, its `name` a kebab-case
verb and noun, its file the same name in snake case. Nothing else has to be edited to add one.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import logging
import pkgutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from mcc.errors import UsageError
from mcc.ir.graph import Graph, clean, copy_graph, infer

log = logging.getLogger(__name__)


@dataclass
class PassContext:
    """What a pass is given beside the graph.

    Attributes:
        calibration: batches of the graph's input, for data-aware passes; empty where there is no data.
        seed: seed of `generator`, from which all randomness of the pass comes.
        counts: what the pass did, by name.
        refusals: nodes left alone, with the reason.
    """

    calibration: tuple[Tensor, ...] = ()
    seed: int = 0
    counts: Counter[str] = field(default_factory=lambda: Counter())
    refusals: list[tuple[str, str]] = field(default_factory=lambda: [])

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(self.seed)

    def count(self, what: str, by: int = 1) -> None:
        """Count something done."""
        self.counts[what] += by

    def refuse(self, node: fx.Node | str, reason: str) -> None:
        """Record that a node is left alone, and why."""
        name = node if isinstance(node, str) else node.name
        self.refusals.append((name, reason))
        log.info("%s left alone: %s", name, reason)


@dataclass(frozen=True)
class Pass:
    """Base of all passes. See docs/passes.md for a worked example."""

    name: ClassVar[str] = ""

    def requires(self, graph: Graph) -> None:
        """Raise Refusal, naming the node and the reason, where the pass cannot work on the graph."""

    def run(self, graph: Graph, ctx: PassContext) -> None:
        """Rewrite the graph in place; it is a private copy. The driver cleans and re-infers shapes."""
        raise TypeError(f"pass {self.name} does not say what it does")

    def ensures(self, graph: Graph) -> None:
        """Raise VerificationError where the rewritten graph is not as promised."""

    def reference(self, before: Graph, ctx: PassContext) -> Graph | None:
        """The exact twin: a graph in the old structure whose outputs must equal those of the rewritten one.

        The default, for lossless passes, is the graph as it was. None says that the numbers change by intent
        and are proved elsewhere (on the lowered file and against the integer simulator).
        """
        return before

    def variants(self, twin: Graph, before: Graph, ctx: PassContext) -> Iterator[Graph]:
        """Further graphs whose outputs must equal the twin's (removed channels filled at random, say)."""
        return iter(())

    def __str__(self) -> str:
        return self.name + print_options(self)


def apply_pass(step: Pass, graph: Graph, ctx: PassContext) -> Graph:
    """Run a pass on a private copy: what it needs, the rewrite, dead nodes dropped, shapes inferred anew.

    Raises:
        Refusal: the graph does not have what the pass requires.
        GraphError: the rewritten graph does not fit together.
    """
    step.requires(graph)
    private = copy_graph(graph)
    step.run(private, ctx)
    return infer(clean(private))


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
    return str(value)


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


def _parse_value(kind: type[Pass], field_: dataclasses.Field[Any], text: str) -> object:
    wanted = str(field_.type)
    try:
        if "bool" in wanted:
            return {"true": True, "false": False}[text.lower()]
        if "int" in wanted and "float" not in wanted:
            return int(text)
        if "float" in wanted:
            return float(text)
    except (ValueError, KeyError):
        raise UsageError(
            f"option {field_.name} of pass {kind.name} cannot be {text!r}", hint=f"give {wanted}"
        ) from None
    return text


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
    """The one pass a file defines. Raises UsageError where there is none, several, or another name."""
    kinds = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Pass) and value.__module__ == module.__name__
    ]
    if len(kinds) != 1:
        raise UsageError(f"defines {len(kinds)} passes instead of one", where=f"{stem}.py")
    if kinds[0].name != stem.replace("_", "-"):
        raise UsageError(f"holds pass {kinds[0].name!r}; name and file must agree", where=f"{stem}.py")
    return kinds[0]


def load_pass(path: Path) -> type[Pass]:
    """A user's own pass from a Python file. Raises UsageError when it cannot be loaded."""
    spec = importlib.util.spec_from_file_location(f"user_pass_{path.stem}", path)
    if spec is None or spec.loader is None or not path.exists():
        raise UsageError("is no Python file with a pass", where=str(path))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return pass_in(module, path.stem)

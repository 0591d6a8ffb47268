"""Pipelines: `fold-batch-norm,prune-channels{keep=0.75 round=8},fix(fuse-activation,drop-identity)`.

A pipeline of passes is parsed from text and printed as text; presets expand to it; every step can be logged
and run again by itself. The driver decides whether a pass changed anything, notes origins, verifies and
times.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import fx

from mcc.errors import MccError, Refusal, UsageError, VerificationError
from mcc.ir.graph import Graph, constants, copy_graph, first_line, operands
from mcc.ir.notes import annotate, note
from mcc.ir.outputs import written_with
from mcc.ir.storage import load_graph, save_graph
from mcc.ir.text import print_graph
from mcc.pass_api import PLAIN_VALUE, Pass, PassContext, all_passes, apply_pass, as_seen_by, make_pass
from mcc.verify import check_pass

log = logging.getLogger(__name__)

# The form in which layers are compressed and lowered: the runtimes' optimisations, done once and verified.
_FORM = "drop-dead-code,fold-constants,drop-identity,fold-batch-norm,fold-pad,fuse-activation"
PRESETS: dict[str, str] = {
    "-O0": "",
    "-O1": _FORM,
    "-O2": f"fix({_FORM})",
    "-O3": f"fix({_FORM}),insert-qdq",
}
MAX_ROUNDS = 20  # without a fixpoint by then, a pass undoes itself or another one


@dataclass(frozen=True)
class Fix:
    """Steps repeated until nothing changes."""

    steps: tuple[Pass | Fix, ...]

    def __str__(self) -> str:
        return f"fix({','.join(map(str, self.steps))})"


@dataclass(frozen=True)
class StepReport:
    """Report of one pass.

    Attributes:
        step: The pass with its options, as the text of a pipeline.
        changed: Whether the graph or a constant differs.
        seconds: Time of the pass, and of its verification.
        counts: Numbers of actions, by name.
        refusals: Nodes left unchanged, with the reasons.
        worst: Largest difference from the exact twin as a share of the output range; None if not compared.
        measured: Errors that the pass introduces by intent: node, name of the error, value.
    """

    step: str
    changed: bool
    seconds: float
    verify_seconds: float
    counts: Mapping[str, int]
    refusals: tuple[tuple[str, str], ...]
    worst: float | None
    measured: tuple[tuple[str, str, float], ...] = ()


@dataclass(frozen=True)
class RunOptions:
    """Options of a run.

    Attributes:
        verify: Whether each pass is checked against its exact twin.
        bisect_limit: Number of passes to run (to find the first bad one); all if None.
        reproducer: Folder for the graph before a failing pass; none is written if None.
        after: Callback for each report and the graph after the pass.
        repeat: Further words of the command that repeats a failure, e.g. `("--data", "digits")`.
    """

    verify: bool = True
    bisect_limit: int | None = None
    reproducer: Path | None = None
    after: Callable[[StepReport, Graph], None] | None = None
    repeat: tuple[str, ...] = ()


@dataclass(frozen=True)
class PipelineResult:
    """The graph after a pipeline and a report for every pass that ran."""

    graph: Graph
    reports: tuple[StepReport, ...]


@dataclass(frozen=True)
class Pipeline:
    """A sequence of passes."""

    steps: tuple[Pass | Fix, ...]

    @staticmethod
    def parse(text: str, extra: Mapping[str, type[Pass]] | None = None) -> Pipeline:
        """Parse a pipeline or preset. Raises UsageError naming the place and the known passes.

        Args:
            extra: Further passes by name, from a user's file.
        """
        known = all_passes()
        for name, kind in (extra or {}).items():
            if known.setdefault(name, kind) is not kind:
                raise UsageError(
                    f"there is a pass {name} already", hint="give yours, and its file, another name"
                )
        return Pipeline(_Parser(PRESETS.get(text.strip(), text), known).pipeline())

    def __str__(self) -> str:
        return ",".join(map(str, self.steps))

    def run(
        self, graph: Graph, ctx: PassContext | None = None, options: RunOptions | None = None
    ) -> PipelineResult:
        """Run the passes; the given graph is not modified.

        Raises:
            Refusal: A pass cannot be applied to the graph.
            VerificationError: A check or a pass failed; a reproducer was written if requested.
        """
        runner = _Runner(ctx or PassContext(), options or RunOptions())
        # Dead code and missing origins are handled by the driver, and are no change by the first pass.
        first = next(iter(self.steps), None)
        while isinstance(first, Fix):
            first = next(iter(first.steps), None)
        given = copy_graph(graph) if first is None else as_seen_by(first, graph)
        stamp_origins(given, given)
        return PipelineResult(runner.sequence(self.steps, given), tuple(runner.reports))


def deployment_form(graph: Graph, options: RunOptions | None = None) -> Graph:
    """The graph as it is lowered: batch norms folded, activations fused, identities removed (`-O2`).

    Args:
        options: Options of the run; if None, passes are not verified one by one, since `mcc opt` does that.
    """
    return Pipeline.parse("-O2").run(graph, options=options or RunOptions(verify=False)).graph


class _Parser:
    _TOKEN = re.compile(rf'\s*("[^"]*"|[{{}}(),=]|{PLAIN_VALUE.pattern}|")')

    def __init__(self, text: str, known: Mapping[str, type[Pass]]) -> None:
        self.text = text
        self.known = known
        self.tokens: list[str] = self._TOKEN.findall(text)
        self.at = 0

    def pipeline(self) -> tuple[Pass | Fix, ...]:
        steps = self._steps() if self.tokens else ()
        if self.at != len(self.tokens):
            raise self._error(f"{self.tokens[self.at]!r} is unexpected")
        return steps

    def _error(self, what: str) -> UsageError:
        before = " ".join(self.tokens[max(0, self.at - 3) : self.at])
        return UsageError(f"pipeline {self.text!r}: {what}" + (f" after {before!r}" if before else ""))

    def _next(self, wanted: str | None = None) -> str:
        token = self.tokens[self.at] if self.at < len(self.tokens) else ""
        if not token or (wanted is not None and token != wanted):
            raise self._error(f"{wanted or 'a name'!r} is expected")
        self.at += 1
        return token

    def _peek(self, token: str) -> bool:
        return self.at < len(self.tokens) and self.tokens[self.at] == token

    def _steps(self) -> tuple[Pass | Fix, ...]:
        steps = [self._step()]
        while self._peek(","):
            self._next(",")
            steps.append(self._step())
        return tuple(steps)

    def _step(self) -> Pass | Fix:
        name = self._next()
        if name == "fix" and self._peek("("):
            self._next("(")
            steps = self._steps()
            self._next(")")
            return Fix(steps)
        if name not in self.known:
            raise UsageError(f"unknown pass {name!r}", hint=f"known: {', '.join(self.known)}")
        options: dict[str, str] = {}
        if self._peek("{"):
            self._next("{")
            while not self._peek("}"):
                key = self._next()
                if key in options:
                    raise self._error(f"option {key!r} is given twice")
                self._next("=")
                value = self._next()
                options[key] = value[1:-1] if value.startswith('"') and len(value) > 1 else value
            self._next("}")
        return make_pass(self.known[name], options)


class _Runner:
    def __init__(self, ctx: PassContext, options: RunOptions) -> None:
        self.ctx = ctx
        self.options = options
        self.reports: list[StepReport] = []

    def sequence(self, steps: tuple[Pass | Fix, ...], graph: Graph) -> Graph:
        for step in steps:
            graph = self.fix(step, graph) if isinstance(step, Fix) else self.step(step, graph)
        return graph

    def fix(self, fix: Fix, graph: Graph) -> Graph:
        for _ in range(MAX_ROUNDS):
            count = len(self.reports)
            graph = self.sequence(fix.steps, graph)
            if not any(report.changed for report in self.reports[count:]):
                return graph
        raise VerificationError(f"still changes the graph after {MAX_ROUNDS} rounds", where=str(fix))

    def step(self, step: Pass, graph: Graph) -> Graph:
        if self.options.bisect_limit is not None and len(self.reports) >= self.options.bisect_limit:
            return graph
        ctx = PassContext(self.ctx.calibration, self.ctx.seed)
        worst, verify_seconds = None, 0.0
        start = time.perf_counter()
        try:
            after = apply_pass(step, graph, ctx)
            stamp_origins(graph, after)
            seconds = time.perf_counter() - start
            changed = differs(graph, after)
            # A pass that changed neither graph nor constants needs no verification.
            if self.options.verify and changed:
                found = check_pass(step, graph, after, ctx)
                worst = found.worst if found else None
                verify_seconds = time.perf_counter() - start - seconds
            elif self.options.verify:
                step.ensures(after)
        except Refusal:
            raise
        except MccError as error:
            self._reproducible(step, graph, error)
            raise
        except Exception as error:  # a bug in the pass: reported without a traceback and with a reproducer
            reason = f"{type(error).__name__}: {first_line(error)}"
            failure = VerificationError(f"pass fails: {reason}", where=str(step))
            self._reproducible(step, graph, failure)
            raise failure from error
        report = StepReport(
            str(step),
            changed,
            seconds,
            verify_seconds,
            dict(ctx.counts),
            tuple(ctx.refusals),
            worst,
            tuple(ctx.measured),
        )
        self.reports.append(report)
        log.info("%s: %s in %.3f s", step, "changed" if report.changed else "no change", seconds)
        if self.options.after:
            self.options.after(report, after)
        return after

    def _reproducible(self, step: Pass, graph: Graph, error: MccError) -> None:
        """Write the graph before the failure, and add the command that repeats it to the error's hint."""
        if self.options.reproducer is None:
            return
        path = self.options.reproducer / f"before-{step.name}.mcc"
        number, taken = 1, any(map(os.path.lexists, written_with(path)))
        while taken and not _holds(path, graph):  # one that holds it is being repeated
            number += 1
            path = path.with_name(f"before-{step.name}.{number}.mcc")
            taken = any(map(os.path.lexists, written_with(path)))
        try:
            if not taken:
                save_graph(graph, path)
        except MccError as unwritten:
            log.warning("no reproducer: %s", unwritten)
            return
        command = ["mcc", "opt", str(path), "-p", str(step)]
        if type(step).__module__ in sys.modules and step.name not in all_passes():
            command += ["--load", str(sys.modules[type(step).__module__].__file__)]
        if self.ctx.seed:
            command += ["--seed", str(self.ctx.seed)]
        repeat = f"repeat with: {shlex.join([*command, *self.options.repeat])}"
        if self.ctx.calibration and "--data" not in self.options.repeat:
            repeat += " and the same --data"
        error.hint = f"{error.hint}; {repeat}" if error.hint else repeat


def _holds(path: Path, graph: Graph) -> bool:
    """Whether a file already holds a graph."""
    try:
        return not differs(load_graph(path), graph)
    except (MccError, KeyError):  # damaged, or with other constants
        return False


def differs(before: Graph, after: Graph) -> bool:
    """Whether two graphs differ in text or in any constant."""
    if print_graph(before) != print_graph(after):
        return True
    old, new = constants(before), constants(after)
    return any(not torch.equal(old[name], new[name]) for name in new)


def stamp_origins(before: Graph, after: Graph) -> None:
    """Note the origin of new nodes: the node they were named after, else their operands' origins."""
    known = {node.name: note(node).origin or (node.name,) for node in before.graph.nodes}
    for node in after.graph.nodes:
        if note(node).origin or node.op == "output":
            continue
        annotate(node, origin=_origin(node, known))


def _origin(node: fx.Node, known: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    if node.name in known:
        return known[node.name]
    base = re.sub(r"_\d+$", "", node.name)
    if base in known:
        return known[base]
    found: list[str] = []
    for operand in operands(node):
        found += [name for name in note(operand).origin if name not in found]
    return tuple(found)

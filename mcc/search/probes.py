"""Measures the sensitivity of single decisions: one probe for each, independent of all others.

    width   a group at half and at a quarter of its channels, the least important ones removed
    rank    a 1x1 convolution as the product of its low-rank pair
    sparse  a 1x1 convolution with that share of zeros, the remaining weights fitted to the data
    noise   a region of the network on integers, ranges from the same images
    pair    two groups that meet in a layer, both at half of their channels

Each probe changes a copy of the network and compares its outputs with the original's, on training images and
before any fine-tuning, by the divergence of the task: for classification, the mean Kullback-Leibler
divergence in nats. Workers do not know the task: they return the outputs, which are compared here.
"""

from __future__ import annotations

import base64
import json
import logging
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import load, load_file, save, save_file
from torch import Tensor

from mcc.analysis.channel_groups import analyse_channels
from mcc.analysis.low_rank import factors
from mcc.analysis.pointwise import pointwise
from mcc.analysis.remove_channels import mask_out
from mcc.analysis.second_moments import input_moments
from mcc.analysis.thinning import thin
from mcc.errors import NotFiniteError
from mcc.files import write_text
from mcc.ir.feed import Feed, feed_from, tensors_of
from mcc.ir.graph import Graph, calls, constant, copy_graph, operand, run, set_constant
from mcc.ir.notes import SparseNote, annotate
from mcc.ir.storage import load_graph, save_graph
from mcc.pass_api import PassContext
from mcc.pipeline import Pipeline, RunOptions, deployment_form
from mcc.search.regions import Region, precision_regions
from mcc.search.sensitivity import REFERENCE_SHARE, kept
from mcc.search.worker_pool import WorkerPool

log = logging.getLogger(__name__)

Divergence = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]
"""Divergence of outputs from a reference, a scalar; see `mcc.data.Task.divergence`."""

Kind = Literal["width", "rank", "sparse", "noise", "pair"]
LEAST = 1e-9  # divergence of a probe that changes nothing, so that no decision has zero loss
RANGE_BATCH = 32


@dataclass(frozen=True)
class Probe:
    """One decision to measure.

    Attributes:
        kind: Kind of decision, see the module.
        names: Name of the group, layer or region; two for a pair.
        level: Kept channels, rank, or share of zeros; 0 if the kind determines everything.
    """

    kind: Kind
    names: tuple[str, ...]
    level: float = 0.0

    def __str__(self) -> str:
        return f"{self.kind} {' '.join(self.names)} {self.level:g}"


@dataclass(frozen=True)
class Subject:
    """The network under test, and its test images.

    Attributes:
        graph: The network as captured.
        x: Inputs [N, ...].
        order: For each group, its channels from the least to the most important, as indices into its classes.
        divergence: Divergence of outputs from a reference, by the task; None in a worker, whose outputs are
            compared by another process.
        block: Number of output channels that share a pattern of zeros.
        integer: Nodes of the deployment form that can run on integers, if precision is decided.
        base: Kept channels of groups that are already pruned, in `width` probes of other groups.
        teacher: Reference outputs of the divergence; None: those of `graph`.
    """

    graph: Graph
    x: Feed
    order: dict[str, tuple[int, ...]]
    divergence: Divergence | None
    block: int = 1
    integer: tuple[str, ...] = ()
    base: dict[str, int] = field(default_factory=lambda: {})
    teacher: tuple[Tensor, ...] | None = None

    @cached_property
    def _analysis(self) -> Any:
        return analyse_channels(self.graph)

    @cached_property
    def _reference(self) -> tuple[Tensor, ...]:
        return self.teacher or run(self.graph, self.x)

    @cached_property
    def _deployed(self) -> Graph:
        return deployment_form(self.graph)

    @cached_property
    def _moments(self) -> dict[str, Tensor]:
        return input_moments(self.graph, pointwise(self.graph), (self.x,))

    @cached_property
    def regions(self) -> tuple[Region, ...]:
        """The regions whose precision is open."""
        return precision_regions(self._deployed, self.integer)

    def measure(self, probe: Probe) -> float:
        """Divergence of the network with that one decision taken; at least `LEAST`."""
        return self.loss_of(probe, self.outputs(probe))

    def outputs(self, probe: Probe) -> tuple[Tensor, ...]:
        """Outputs of the network for the images, with that one decision taken."""
        changed = self._quantised(probe) if probe.kind == "noise" else self._changed(probe)
        return run(changed, self.x)

    def loss_of(self, probe: Probe, outputs: Sequence[Tensor]) -> float:
        """Divergence of these outputs of a probe. Raises NotFiniteError if it is NaN or infinite."""
        assert self.divergence is not None, "a worker's outputs are compared by who asked for them"
        found = float(self.divergence(outputs, self._reference))
        if math.isnan(found):
            raise NotFiniteError("the divergence is not a number", where=f"probe {probe}")
        return max(found, LEAST)

    def _changed(self, probe: Probe) -> Graph:
        private = copy_graph(self.graph)
        if probe.kind in ("width", "pair"):
            mask_out(private, self._analysis, self._removed(probe))
            return private
        (name,) = probe.names
        layer = operand(next(node for node in calls(private) if node.name == name), 1)
        weight, moment = constant(private, layer).detach(), self._moments.get(name)
        if probe.kind == "sparse":
            replaced = thin(weight, SparseNote(self.block, probe.level), moment)
        else:
            u, v = factors(weight, moment, round(probe.level))
            replaced = (u[:, :, 0, 0] @ v[:, :, 0, 0]).reshape(weight.shape)
        set_constant(private, str(layer.target), replaced)
        return private

    def _removed(self, probe: Probe) -> frozenset[int]:
        removed: set[int] = set()
        for name, stay in self.base.items():
            if name not in probe.names:
                group = self._analysis.group(name)
                removed |= {group.classes[i] for i in self.order[name][: group.width - stay]}
        for name in probe.names:
            group = self._analysis.group(name)
            stay = round(probe.level) if probe.kind == "width" else kept(group.width, REFERENCE_SHARE)
            removed |= {group.classes[i] for i in self.order[name][: group.width - stay]}
        return frozenset(removed)

    def _quantised(self, probe: Probe) -> Graph:
        """The deployment form with quantisers in one region."""
        inside = next(region for region in self.regions if (region.name,) == probe.names).nodes
        private = copy_graph(self._deployed)
        for node in calls(private):
            if node.name not in inside:
                annotate(node, precision="float")
        ctx = PassContext(tuple(self.x.split(RANGE_BATCH)))
        return Pipeline.parse("insert-qdq").run(private, ctx, RunOptions(verify=False)).graph

    def save(self, folder: Path) -> None:
        """Write everything into a folder, for `measure_there`."""
        folder.mkdir(parents=True, exist_ok=True)
        save_graph(self.graph, folder / "graph.mcc")
        stored = {str(place): x.contiguous() for place, x in enumerate(tensors_of(self.x))}
        save_file(stored, folder / "images.safetensors")
        content = {"order": self.order, "block": self.block, "integer": self.integer, "base": self.base}
        write_text(folder / "subject.json", json.dumps(content))

    @staticmethod
    def load(folder: Path) -> Subject:
        """Read the result of `save`, to compute outputs; divergence and teacher are not transferred."""
        raw: dict[str, Any] = json.loads((folder / "subject.json").read_text(encoding="utf-8"))
        order = {name: tuple(places) for name, places in raw["order"].items()}
        stored = load_file(folder / "images.safetensors")
        x = feed_from([stored[str(place)] for place in range(len(stored))])
        graph, integer = load_graph(folder / "graph.mcc"), tuple(raw["integer"])
        return Subject(graph, x, order, None, raw["block"], integer, dict(raw["base"]))


@cache
def _subject_in(folder: Path) -> Subject:
    return Subject.load(folder)


def measure_there(folder: Path, item: dict[str, Any]) -> dict[str, Any]:
    """Run one probe in a worker: `item` holds the fields of a `Probe`; the result is under `outputs`."""
    made = _subject_in(folder).outputs(Probe(item["kind"], tuple(item["names"]), item["level"]))
    tensors = {str(place): value.detach().contiguous() for place, value in enumerate(made)}
    return {"outputs": base64.b64encode(save(tensors)).decode("ascii")}


def outputs_in(result: dict[str, Any]) -> tuple[Tensor, ...]:
    """The outputs in a result of `measure_there`."""
    tensors = load(base64.b64decode(result["outputs"]))
    return tuple(tensors[str(place)] for place in range(len(tensors)))


class ProbeFile:
    """Results of probes in a file, one line per probe, appended as they are computed.

    A line truncated by an interruption is ignored, and measured again.

    Args:
        path: Path of the file; None: nothing is stored.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.known: dict[str, float] = {}
        if path is not None and path.exists():
            try:
                lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            except OSError as error:
                self._keep_nothing(error)
                lines = []
            for line in lines:
                self._read(line)

    def _read(self, line: str) -> None:
        try:
            key, value = json.loads(line)
            loss = float(value)
        except (ValueError, TypeError):
            return
        if math.isfinite(loss):
            self.known[str(key)] = loss

    def _keep_nothing(self, error: OSError) -> None:
        """Continue without the file: its content can be measured again."""
        log.warning("%s cannot be used (%s): sensitivities are not kept", self.path, error.strerror or error)
        self.path = None

    def add(self, probe: Probe, loss: float) -> None:
        """Store a result, on disk when the call returns."""
        self.known[str(probe)] = loss
        if self.path is not None:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("a", encoding="utf-8") as stream:
                    stream.write("\n" + json.dumps([str(probe), loss]))  # separated from a truncated line
            except OSError as error:
                self._keep_nothing(error)


Runner = Callable[[Subject, Sequence[Probe], Callable[[Probe, float], None]], None]


def one_by_one(subject: Subject, probes: Sequence[Probe], done: Callable[[Probe, float], None]) -> None:
    """Measure probes sequentially, in this process."""
    for probe in probes:
        done(probe, subject.measure(probe))


def by_pool(pool: WorkerPool) -> Runner:
    """A runner that gives each probe to a worker."""

    def measure(subject: Subject, probes: Sequence[Probe], done: Callable[[Probe, float], None]) -> None:
        if not probes:
            return
        items = [{"kind": p.kind, "names": list(p.names), "level": p.level} for p in probes]
        with tempfile.TemporaryDirectory(prefix="mcc-probes-") as folder:
            subject.save(Path(folder))
            for index, result in pool.run(f"{__name__}:measure_there", Path(folder), items):
                done(probes[index], subject.loss_of(probes[index], outputs_in(result)))

    return measure

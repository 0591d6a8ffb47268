"""The alternatives of each layer, with cost and loss, and the reason for the choice of the plan."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pydantic import TypeAdapter, ValidationError
from torch import fx

from mcc.analysis.channel_groups import analyse_channels
from mcc.analysis.pointwise import pointwise
from mcc.calibrate.api import table_model
from mcc.calibrate.store import Store
from mcc.compress.bench import period_words
from mcc.compress.build import Structure
from mcc.compress.configurations import available_configurations, planned_integers, target_cluster
from mcc.compress.planning import Planner
from mcc.cost_api import Source
from mcc.cost_sum import summed
from mcc.errors import DataError, UsageError
from mcc.ir import table
from mcc.ir.graph import Graph, calls, operand
from mcc.ir.json_file import first_problem
from mcc.ir.notes import shape_of
from mcc.lower.formats import get_format
from mcc.report.layers import kind_words
from mcc.runtime.target import Target
from mcc.search.problem import FLOAT, INTEGER, Option
from mcc.search.sensitivity import Sensitivities
from mcc.search.solver import Limits, solve
from mcc.search.space import SPARSITIES, Configuration, rank_levels
from mcc.search.tables import Setting, Tables

STEP = 0.03  # of the latency, to either side, over which the price of time is computed
NATS = "nats"  # unit of the divergence of class probabilities
NO_DATES: Mapping[str, str] = {}
SAME_US = 0.05  # below which two latencies are called equal


@dataclass(frozen=True)
class Alternative:
    """One possible decision.

    Attributes:
        what: Description.
        latency_us: Predicted cost of the layer, or for a width, of all layers that it changes, in the
            target's unit.
        error_us: Standard deviation of the cost.
        source: `measured` if every kernel itself was timed.
        size_bytes: Size of the constants.
        loss: Added divergence (for classification, in nats); None if not measured.
        taken: Whether the plan took it.
        why: Reason for or against it.
        measured_on: Day or days on which its kernels were timed, for those that were.
    """

    what: str
    latency_us: float
    error_us: float
    source: Source
    size_bytes: float
    loss: float | None
    taken: bool
    why: str = ""
    measured_on: str | None = None

    def __post_init__(self) -> None:
        for name in ("latency_us", "error_us", "size_bytes"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")


@dataclass(frozen=True)
class Choice:
    """The alternatives of one layer.

    Attributes:
        node, kind: Name of the layer; description of its operator and kernel.
        forms: Ways to run the layer at the planned widths.
        group: Channel group of its output; None if its width is fixed.
        widths: Alternative widths of that group, with everything else as planned.
    """

    node: str
    kind: str
    forms: tuple[Alternative, ...]
    group: str | None
    widths: tuple[Alternative, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @staticmethod
    def from_dict(raw: object, where: str) -> Choice:
        """Parse the result of `to_dict`. Raises DataError for anything else."""
        try:
            return TypeAdapter(Choice).validate_json(json.dumps(raw), strict=True)
        except ValidationError as error:
            raise DataError(
                f"holds no alternatives: {first_problem(error)}", where=where, hint="make the plan again"
            ) from error


def unmeasured(graph: Graph, sparse: Sequence[str]) -> Sensitivities:
    """Sensitivities for a network with unknown losses: every choice is allowed, at a loss of zero."""
    groups = analyse_channels(graph).prunable()
    ranks = {n.name: dict.fromkeys(rank_levels(*shape_of(operand(n, 1))[:2]), 0.0) for n in pointwise(graph)}
    return Sensitivities(
        {g.name: tuple(range(g.width)) for g in groups},
        {g.name: (0.0,) * g.width for g in groups},
        {g.name: 0.0 for g in groups},
        ranks,
        sparse={name: dict.fromkeys(SPARSITIES, 0.0) for name in sparse},
    )


def price_of_time(tables: Tables, structure: Structure, latency_us: float) -> float | None:
    """Loss in nats of the best plan for each unit of cost saved, around a cost; None if unknown.

    Args:
        latency_us: Predicted cost, without correction, in the target's unit.
    """
    problem = tables.problem()
    if not structure.widths and not structure.ranks:
        return None
    ends = [solve(problem, Limits(latency_us * (1 + step))) for step in (-STEP, STEP)]
    if ends[0] is None or ends[1] is None or ends[1].cost <= ends[0].cost:
        return None
    return max(0.0, (ends[0].loss - ends[1].loss) / (ends[1].cost - ends[0].cost))


def explained(
    planner: Planner,
    structure: Structure,
    configurations: Sequence[Configuration],
    unit: str = NATS,
    dates: Mapping[str, str] = NO_DATES,
) -> dict[str, Choice]:
    """The alternatives of every layer around the decisions; see `Explainer` for unit and dates."""
    setting, configuration = planner.setting, structure.configuration
    tables = Tables(setting, configuration, widths=True, low_rank=configuration.sparse is None, mixed=True)
    # Only with a limit on time: without one, time has no price.
    price = None
    if planner.cost_limit is not None:
        price = price_of_time(tables, structure, planner.predict(structure))
    return Explainer(setting, structure, configurations, price=price, unit=unit, dates=dates).all()


def explainer_of(deployed: Graph, target: Target, *, threads: int = 1) -> Explainer:
    """The alternatives around an unchanged network, from the user's table; losses are unknown.

    Args:
        deployed: The float network in deployment form.

    Raises:
        UsageError: The table has no measurements of the target.
    """
    fingerprint = target.fingerprint(threads).key()
    with Store() as store:
        model = table_model(deployed, store, fingerprint)
    if not model.rows:
        raise UsageError(
            f"no operator was measured for {target.spec}",
            hint=f"mcc calibrate --target {target.spec} --model MODEL",
        )
    facts, integer = target.facts(), planned_integers(deployed)
    cluster = target_cluster(deployed, facts)
    known = unmeasured(deployed, cluster.pointwise)
    form = get_format(target.format).storage
    setting = Setting(deployed, integer, cluster, model, known, facts.channel_multiple, form)
    open_ = available_configurations(cluster, integer, facts)
    dates = {str(row.kernel): row.date for row in model.rows}
    return Explainer(setting, Structure(), open_, losses=False, dates=dates)


class Explainer:
    """Lists the alternatives of layers around a structure.

    Args:
        setting: Costs and losses.
        structure: The decisions.
        configurations: Configurations that target and network allow.
        price: Loss per unit of cost, see `price_of_time`.
        losses: Whether the losses in the setting were measured.
        unit: Unit of the losses, from the task's divergence.
        dates: Times of the measurements, ISO 8601, by name of the kernel.
    """

    def __init__(
        self,
        setting: Setting,
        structure: Structure,
        configurations: Sequence[Configuration],
        *,
        price: float | None = None,
        losses: bool = True,
        unit: str = NATS,
        dates: Mapping[str, str] = NO_DATES,
    ) -> None:
        self.unit = unit
        self.dates = dates
        self.setting = setting
        self.structure = structure
        self.price = price
        self.known = losses
        wanted = dict.fromkeys((structure.configuration, *configurations))
        self.tables = {
            r: Tables(setting, r, widths=True, low_rank=r.sparse is None, mixed=True) for r in wanted
        }
        own = self.tables[structure.configuration]
        self.levels = own.levels
        self.at = {name: structure.widths.get(name, levels[0]) for name, levels in own.levels.items()}
        for region in own.regions:
            self.at[region.name] = FLOAT if set(region.nodes) & set(structure.floats) else INTEGER
        self.nodes = {node.name: node for node in calls(setting.graph) if node.name in own.kernels}

    def all(self) -> dict[str, Choice]:
        """Every layer with weights, in order."""
        weighted = [n for n, node in self.nodes.items() if table.row_of(node).scales == "weighted"]
        return {name: self.choice(name) for name in weighted}

    def choice(self, name: str) -> Choice:
        """The alternatives of one layer. Raises UsageError for a name that is not in the network."""
        node = self.nodes.get(name)
        if node is None or table.row_of(node).scales != "weighted":
            raise unknown(name, [n for n, v in self.nodes.items() if table.row_of(v).scales == "weighted"])
        group = self._group(node)
        widths = () if group is None else tuple(self._width(group, level) for level in self.levels[group])
        return Choice(
            name, kind_words(node), self._reasoned(self._forms(node)), group, self._reasoned(widths)
        )

    # -- forms ---------------------------------------------------------------------------------------------

    def _forms(self, node: fx.Node) -> tuple[Alternative, ...]:
        found: dict[str, Alternative] = {}
        for configuration, tables in self.tables.items():
            at = {**self.at, **{r.name: INTEGER for r in tables.regions}}
            for option in tables.options(node, at):
                what = form_words(option)
                if what not in found:
                    found[what] = self._form(node, configuration, option, what)
        return tuple(found.values())

    def _form(self, node: fx.Node, configuration: Configuration, option: Option, what: str) -> Alternative:
        cost = self._cost([option])
        loss = option.loss if self.known else None
        if option.kernels[0].precision != "float":
            loss = None  # measured for the whole region only
        taken = what == form_words(self._taken(node, self.at))
        day = self._measured_on([option])
        return Alternative(what, *cost, option.size_bytes, loss, taken, measured_on=day)

    def _taken(self, node: fx.Node, at: Mapping[str, int]) -> Option:
        """The option that the structure selects, at given widths."""
        options = self.tables[self.structure.configuration].options(node, at)
        rank = self.structure.ranks.get(node.name)
        zeros = self.structure.sparsities.get(node.name)
        for option in options:
            if option.rank == rank and (zeros is None or option.sparsity == zeros):
                return option
        return options[0]

    def _cost(self, options: Sequence[Option]) -> tuple[float, float, Source]:
        found = summed((k, self.setting.model.kernel(k)) for option in options for k in option.kernels)
        return found.cost, found.error, found.source

    def _measured_on(self, options: Sequence[Option]) -> str | None:
        names = [str(kernel) for option in options for kernel in option.kernels]
        dates = [self.dates[name] for name in names if name in self.dates]
        return period_words(dates) if dates else None

    # -- widths --------------------------------------------------------------------------------------------

    def _group(self, node: fx.Node) -> str | None:
        tables = self.tables[self.structure.configuration]
        names = [name for width in tables.families.axes(node).values() for name in width.groups]
        return next((name for name in names if len(self.levels.get(name, ())) > 1), None)

    def _width(self, group: str, level: int) -> Alternative:
        tables, at = self.tables[self.structure.configuration], {**self.at, group: level}
        touched = [n for n in self.nodes.values() if group in tables.family(n).groups]
        options = [self._taken(node, at) for node in touched]
        loss = tables.losses[group][self.levels[group].index(level)] if self.known else None
        size = sum(option.size_bytes for option in options)
        what = f"{level} of {self.levels[group][0]} channels"
        day = self._measured_on(options)
        cost = self._cost(options)
        return Alternative(what, *cost, size, loss, level == self.at[group], measured_on=day)

    # -- reasons -------------------------------------------------------------------------------------------

    def _reasoned(self, found: tuple[Alternative, ...]) -> tuple[Alternative, ...]:
        taken = next((one for one in found if one.taken), None)
        if taken is None:
            return found
        return tuple(replace(one, why=reason(one, taken, self.price, self.unit)) for one in found)


def reason(one: Alternative, taken: Alternative, price: float | None, unit: str = NATS) -> str:
    """The reason why an alternative was not taken, from the figures of both."""
    if one.taken:
        return "taken"
    saved = taken.latency_us - one.latency_us
    if saved < -SAME_US and (one.loss is None or taken.loss is None or one.loss >= taken.loss):
        return f"slower here, by {-saved:.1f} us"
    if abs(saved) <= SAME_US:
        return "no faster here"
    if one.loss is None or taken.loss is None:
        return f"saves {saved:.1f} us; its own loss was not measured"
    lost = one.loss - taken.loss
    if saved > 0 and lost <= 0:
        return f"saves {saved:.1f} us and loses no more by itself: excluded by coupled layers"
    each = 1000 * abs(lost / saved)
    paid = "" if price is None else f"; the plan pays {1000 * price:.3g} for a ms at the margin"
    if saved > 0:
        return f"saves {saved:.1f} us for {lost:.4f} {unit}, {each:.3g} for a ms{paid}"
    return f"loses {-lost:.4f} {unit} less for {-saved:.1f} us, {each:.3g} for a ms{paid}"


def form_words(option: Option) -> str:
    """A way to run a layer, as text."""
    kernel = option.kernels[0]
    if option.sparsity is not None:
        block = kernel.sparse.block if kernel.sparse else 1
        pattern = "" if block == 1 else f" in blocks of {block}"
        return f"sparse, {option.sparsity:.0%} zeros{pattern}"
    form = "dense" if option.rank is None else f"low-rank pair of {option.rank}"
    inside = ", inside a sparse cluster" if kernel.layout == "nchw" else ""
    return f"{form}, {kernel.precision}{inside}"


def unknown(name: str, known: Sequence[str]) -> UsageError:
    """The error for an unknown layer, with similar names."""
    import difflib

    near = difflib.get_close_matches(name, known, 3, 0.4) or list(known[:3])
    return UsageError(
        f"the network has no layer {name!r} with weights",
        hint=f"such as {', '.join(near)}; mcc inspect lists all" if near else "mcc inspect lists all",
    )

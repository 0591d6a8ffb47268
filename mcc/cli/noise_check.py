"""The check of integer graphs against the float network, for `mcc opt` and `mcc lower`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from mcc.cli.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

    from mcc.ir.graph import Graph
    from mcc.quant.params import QuantParams
    from mcc.quant.simulator import Flavour


def noise_option(callback: Callable[..., Any]) -> Callable[..., Any]:
    """`--allow-noise`, for commands that write integer files."""
    return click.option(
        "--allow-noise", is_flag=True,
        help="Only warn if an integer graph loses the signal of its float network.",
    )(callback)  # fmt: skip


def came_as_integers(model: str, graph: Graph, result: Graph | None = None) -> bool:
    """Whether the integers of a graph are those of the file that it was read from: their losses are not mcc's
    doing, and are only said.

    Args:
        graph: As read from MODEL.
        result: What passes made of it; None: the same. Any other scale in it is mcc's.
    """
    from mcc.quant.noise import is_integer

    if not model.endswith(".tflite") or not is_integer(graph):
        return False
    return result is None or _grids(result) <= _grids(graph)


def _grids(graph: Graph) -> set[QuantParams]:
    from mcc.ir.graph import calls
    from mcc.quant.params import quant_params

    return {quant_params(graph, node) for node in calls(graph, "fake_quantize")}


def check_integers(
    graph: Graph,
    batch: Sequence[Tensor] | None,
    *,
    allow_noise: bool,
    settings: Settings,
    flavour: Flavour = "xnnpack",
) -> str | None:
    """Compare a quantised graph with the float network of its weights; returns the result as one line.

    Args:
        batch: Calibration data for each input; None: random inputs.

    Returns:
        The line, with a warning if there is one; None for a float graph.

    Raises:
        VerificationError: The signal is lost in a node, and noise is not allowed.
    """
    from mcc.quant.noise import check_noise, is_integer

    if not is_integer(graph):
        return None
    report = check_noise(graph, batch, flavour=flavour, seed=settings.seed)
    failure = report.failure()
    if failure is not None and not allow_noise:
        raise failure
    words = report.words if failure is None else f"warning: {failure.where}: {failure.message}"
    if not settings.quiet and not settings.json:
        click.echo(f"mcc: {words}", err=True)
    return words

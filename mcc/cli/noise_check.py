"""The check of integer graphs against the float network, for `mcc opt` and `mcc lower`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from mcc.cli.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

    from mcc.ir.graph import Graph
    from mcc.quant.simulator import Flavour


def noise_option(callback: Callable[..., Any]) -> Callable[..., Any]:
    """`--allow-noise`, for commands that write integer files."""
    return click.option(
        "--allow-noise", is_flag=True,
        help="Only warn if an integer graph loses the signal of its float network.",
    )(callback)  # fmt: skip


def came_as_integers(model: str, graph: Graph) -> bool:
    """Whether a MODEL is a file of integers, whose losses are not mcc's doing: they are only said."""
    from mcc.quant.noise import is_integer

    return model.endswith(".tflite") and is_integer(graph)


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

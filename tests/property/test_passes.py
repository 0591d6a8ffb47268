"""Every pass on random graphs: proved, a second run changes nothing. `tools.random_graphs` runs thousands."""

from __future__ import annotations

import pytest

from tests.property.graphs import LATER
from tools.random_graphs import graph_number, pipelines, print_and_parse, prove

SEEDS = range(40, 52)


@pytest.mark.parametrize("text", pipelines())
def test_every_pass_is_proved_on_random_graphs(text: str) -> None:
    outcomes = {seed: prove(graph_number(seed, 12), text, seed) for seed in SEEDS}
    assert {seed: said for seed, said in outcomes.items() if said.startswith("FAILED")} == {}


@pytest.mark.parametrize(
    ("seed", "text"),
    [
        *((85, text) for text in ("equalise-cross-layer", "prune-channels{keep=0.5}")),  # dead readers
        *((55, "fold-batch-norm"), (200, "fuse-activation"), (71, "sparsify-1x1{sparsity=0.5}")),
        *((284, "prune-channels{keep=0.5}"), (293, "prune-channels")),  # a frozen quantiser of a weight
        *((1420, "decompose{of=all}"), (3189, "decompose"), (3830, "factorize-1x1{rank=0.3}")),  # rounding
    ],
)
def test_graphs_that_failed_once_are_proved(seed: int, text: str) -> None:
    assert prove(graph_number(seed, 12, without=LATER), text, seed) == "changed"


def test_random_graphs_print_and_parse() -> None:
    assert {print_and_parse(graph_number(seed, 12)) for seed in SEEDS} == {"unchanged"}


@pytest.mark.slow
@pytest.mark.parametrize("text", pipelines())
def test_every_pass_is_proved_on_many_random_graphs(text: str) -> None:
    outcomes = {seed: prove(graph_number(seed, 16), text, seed) for seed in range(100, 200)}
    assert {seed: said for seed, said in outcomes.items() if said.startswith("FAILED")} == {}
    assert "changed" in outcomes.values(), "the pass had nothing to do on any graph"

"""Every pass has goldens, and every golden is what its pass does today."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from mcc.errors import Refusal
from mcc.ir.graph import Graph, inputs
from mcc.ir.notes import note, shape_of
from mcc.ir.text import parse_graph, print_graph, print_node
from mcc.pass_api import PassContext, all_passes
from mcc.pipeline import Pipeline

ROOT = Path(__file__).parents[1] / "golden_graphs"
CASES = sorted(ROOT.glob("*/*.mcc"))


def split(path: Path) -> tuple[dict[str, str], str, str, str]:
    """Header fields, the graph before, the kind of ending (`after` or `refused: ...`) and its text."""
    header, rest = path.read_text().split("=== before\n", 1)
    before, ending = rest.split("=== ", 1)
    kind, _, text = ending.partition("\n")
    fields = dict(line.split(": ", 1) for line in header.splitlines() if ": " in line)
    return fields, before, kind.strip(), text


def context(fields: dict[str, str], graph: Graph) -> PassContext:
    """Calibration batches as the golden asks for them."""
    if "calibration" not in fields:
        return PassContext()
    seed, count = map(int, fields["calibration"].split())
    generator = torch.Generator().manual_seed(seed)
    shape = shape_of(inputs(graph)[0])[1:]
    return PassContext((torch.randn((count, *shape), generator=generator),))


@pytest.mark.parametrize("path", CASES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_golden(path: Path, request: pytest.FixtureRequest) -> None:
    fields, text, kind, expected = split(path)
    before = parse_graph(text, where=path.name)
    pipeline = Pipeline.parse(fields["pipeline"])
    ctx = context(fields, before)
    if kind.startswith("refused:"):
        with pytest.raises(Refusal, match=kind.removeprefix("refused:").strip()):
            pipeline.run(before, ctx)
        return
    result = pipeline.run(before, ctx)
    printed = print_graph(result.graph)
    if request.config.getoption("--update-golden"):
        if os.environ.get("CI"):
            pytest.fail("--update-golden is refused in CI")
        head = path.read_text().split("=== after\n", 1)[0]
        path.write_text(f"{head}=== after\n{printed}")
        expected = printed
    assert printed == expected
    again = pipeline.run(result.graph, ctx)
    assert print_graph(again.graph) == printed, "a second run changes the graph"
    frozen = {n.name: print_node(n) for n in before.graph.nodes if note(n).frozen}
    after = {
        n.name: print_node(n) for n in result.graph.graph.nodes if n.op in ("call_function", "placeholder")
    }
    assert {name: after.get(name) for name in frozen} == frozen, "a frozen node was touched"


@pytest.mark.parametrize("name", sorted(all_passes()))
def test_every_pass_has_a_golden(name: str) -> None:
    assert list((ROOT / name).glob("*.mcc")), f"add golden_graphs/{name}/<case>.mcc"


def test_no_golden_is_orphaned() -> None:
    assert {path.parent.name for path in CASES} <= set(all_passes())

"""Read the test models of the ONNX package, and hold each against the outputs that are stored with it.

    python -m tools.checks.onnx_backend                      # pytorch-converted, pytorch-operator and light
    python -m tools.checks.onnx_backend --only Conv1d --verbose

In scope are models on maps [N, C, H, W] and rows [N, C, L] of real numbers with one batch axis; the others
are run as well, and must be read rightly or refused in a sentence. The bounds are those of ONNX's own runner.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from mcc.errors import MccError
from mcc.frontend import load_model
from mcc.ir.graph import run

GROUPS = ("pytorch-converted", "pytorch-operator", "light")
WANTED_SHARE = 0.95

# onnx.backend.test.runner: `rtol=1e-3, atol=1e-7`.
RELATIVE, ABSOLUTE = 1e-3, 1e-7

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Outcome:
    """What became of a model.

    Attributes:
        in_scope: whether it is on maps or rows of one batch axis.
        kind: `equal`, `refused`, `wrong` or `crashed`.
        said: the refusal, or what is wrong.
    """

    group: str
    name: str
    in_scope: bool
    kind: str
    said: str = ""


@dataclass(frozen=True)
class Stored:
    """A model, its inputs and its outputs."""

    group: str
    name: str
    path: Path
    inputs: Sequence[Array]
    outputs: Sequence[Array]


def stored_models(groups: Sequence[str] = GROUPS) -> Iterator[Stored]:
    """The models of these groups with one set of data each."""
    import onnx.backend.test

    data = Path(onnx.backend.test.__file__).parent / "data"
    for group in groups:
        for path in sorted(data.glob(f"{group}/*/model.onnx")):
            values = path.parent / "test_data_set_0"
            yield Stored(group, path.parent.name, path, _read(values, "input_"), _read(values, "output_"))
        for path in sorted(data.glob(f"{group}/*.onnx")):
            outputs = _read(path.parent, f"{path.stem}_output_")
            yield Stored(group, path.stem, path, _made_inputs(path), outputs)


def _read(folder: Path, prefix: str) -> list[Array]:
    count = len(list(folder.glob(f"{prefix}*.pb")))
    return [
        numpy_helper.to_array(onnx.load_tensor(str(folder / f"{prefix}{index}.pb"))) for index in range(count)
    ]


def _made_inputs(path: Path) -> list[Array]:
    """What ONNX's runner feeds the light models with."""
    from onnx.backend.test.runner import Runner

    graph = onnx.load(str(path)).graph
    held = {tensor.name for tensor in graph.initializer}
    return [Runner.generate_dummy_data(value) for value in graph.input if value.name not in held]


def outcome(model: Stored) -> Outcome:
    """Read a model, run it on its inputs, and compare with its outputs."""
    scope = _in_scope(model)
    try:
        graph = load_model(str(model.path)).graph
        got = run(graph, *(torch.from_numpy(value.copy()) for value in model.inputs))
    except MccError as error:
        return Outcome(model.group, model.name, scope, "refused", str(error))
    except Exception as error:  # which is what is looked for
        return Outcome(model.group, model.name, scope, "crashed", f"{type(error).__name__}: {error}")
    said = _difference([value.detach().numpy() for value in got], model.outputs)
    return Outcome(model.group, model.name, scope, "wrong" if said else "equal", said)


def _in_scope(model: Stored) -> bool:
    graph = onnx.load(str(model.path)).graph
    held = {tensor.name for tensor in graph.initializer}
    fed = [value.type.tensor_type for value in graph.input if value.name not in held]
    ranks = all(len(kind.shape.dim) in (3, 4) and kind.elem_type == TensorProto.FLOAT for kind in fed)
    return ranks and len({kind.shape.dim[0].dim_value for kind in fed}) == 1


def _difference(got: Sequence[Array], wanted: Sequence[Array]) -> str:
    if len(got) != len(wanted):
        return f"{len(got)} outputs for {len(wanted)}"
    for index, (a, b) in enumerate(zip(got, wanted, strict=True)):
        if a.size != b.size:
            return f"output {index} of shape {a.shape} for {b.shape}"
        if not np.allclose(a.reshape(b.shape), b, rtol=RELATIVE, atol=ABSOLUTE, equal_nan=True):
            return f"output {index} differs by {np.abs(a.reshape(b.shape) - b).max():.2g}"
    return ""


def table(outcomes: Sequence[Outcome]) -> list[str]:
    """A row for each group, in Markdown."""
    lines = [
        "| models | in scope | equal | refused | wrong | crashed |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    rows = [(group, [o for o in outcomes if o.in_scope and o.group == group]) for group in GROUPS]
    rows.append(("in scope, all", [o for o in outcomes if o.in_scope]))
    rows.append(("outside of it", [o for o in outcomes if not o.in_scope]))
    for name, found in rows:
        counts = [sum(o.kind == kind for o in found) for kind in ("equal", "refused", "wrong", "crashed")]
        lines.append(f"| {name} | {len(found)} | " + " | ".join(map(str, counts)) + " |")
    return lines


def is_met(outcomes: Sequence[Outcome]) -> bool:
    """Whether enough of what is in scope is equal, and nothing is wrong or crashes."""
    scope = [o for o in outcomes if o.in_scope]
    equal = sum(o.kind == "equal" for o in scope)
    return equal >= WANTED_SHARE * len(scope) and not any(o.kind in ("wrong", "crashed") for o in outcomes)


@click.command()
@click.option("--only", default="", help="Part of the names of the models to read.")
@click.option("--verbose", is_flag=True, help="Name every model that is not equal.")
def main(only: str, verbose: bool) -> None:
    """Read ONNX's own test models and compare with the outputs stored beside them."""
    warnings.simplefilter("ignore")
    outcomes = [outcome(model) for model in stored_models() if only in model.name]
    for found in outcomes:
        if found.kind != "equal" and (verbose or found.in_scope or found.kind in ("wrong", "crashed")):
            click.echo(f"{found.group}/{found.name}: {found.kind}: {found.said}")
    click.echo("\n".join(table(outcomes)))
    sys.exit(0 if is_met(outcomes) else 1)


if __name__ == "__main__":
    main()

"""Options for models, reading models, and lowering them for a target, shared by the commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mcc.cli.quantities import SHAPE
from mcc.cli.settings import current_settings
from mcc.errors import UsageError, VerificationError
from mcc.files import readable_file
from mcc.ir.first_look import check_model
from mcc.lower.formats import format_of, formats

if TYPE_CHECKING:
    from mcc.data.outputs import Output
    from mcc.data.preprocessing import Preprocessing
    from mcc.frontend.load import LoadedModel
    from mcc.ir.graph import Graph
    from mcc.runtime.target import Target

Callback = Callable[..., Any]

FEW_STEPS = 0.05

_CUT = "mcc.cut"


def model_options(callback: Callback) -> Callback:
    """`--input-shape`, `--weights` and `--cut`, for commands that read a MODEL."""
    shape = click.option(
        "--input-shape", type=SHAPE, metavar="N,C,H,W", help="Input shape, if the model does not state it."
    )
    weights = click.option(
        "--weights", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE[#KEY]",
        help="Weights: .safetensors, or a checkpoint of torch.save; KEY names one of several sets in it.",
    )  # fmt: skip
    cut = click.option(
        "--cut", multiple=True, metavar="PLACE", expose_value=False, callback=_note_cut,
        help="End of the model: a module's path or a node's name. Repeatable.",
    )  # fmt: skip
    return shape(weights(cut(callback)))


def _note_cut(ctx: click.Context, parameter: click.Parameter, places: tuple[str, ...]) -> None:
    """Store --cut for the whole command: every model that it names ends there."""
    ctx.meta[_CUT] = places


def current_cut() -> tuple[str, ...]:
    """The values of --cut, or none."""
    ctx = click.get_current_context(silent=True)
    return ctx.meta.get(_CUT, ()) if ctx is not None else ()


def load_model(
    spec: str, input_shape: tuple[int, ...] | None = None, weights: Path | None = None
) -> LoadedModel:
    """Read a MODEL; random weights of a factory follow --seed. Raises MccError for an unusable model."""
    check_model(spec, weights)  # before torch is imported, which takes seconds
    import torch

    from mcc.frontend.load import load_model as load

    torch.manual_seed(current_settings().seed)
    loaded = load(spec, input_shape=input_shape, weights=weights, cut=current_cut())
    for remark in loaded.remarks:
        if not current_settings().quiet:
            click.echo(remark, err=True)
    return loaded


def deployment_form(graph: Graph) -> Graph:
    """The graph with batch norms folded and activations fused, as the lowerings require.

    The passes are not verified one by one here (`mcc opt` does that): the result is compared with the
    original graph, which costs two inferences.

    Raises:
        VerificationError: The two differ by more than float32 rounding.
    """
    from mcc.pipeline import deployment_form as unchecked

    deployed = unchecked(graph)
    _check_same(graph, deployed)
    return deployed


def _check_same(graph: Graph, deployed: Graph) -> None:
    from mcc.frontend.finite import finite_inputs
    from mcc.ir.graph import calls, run
    from mcc.report.compare import compare_outputs

    values = finite_inputs(graph)
    before, after = ([value.numpy() for value in run(g, *values)] for g in (graph, deployed))
    # A value between two steps of a quantiser may be rounded either way: a few of 255 steps are rounding.
    found = compare_outputs(
        after, before, integer=False, tolerance=FEW_STEPS if calls(graph, "fake_quantize") else None
    )
    if not found.passed:
        worst = (
            "values that are not finite" if found.worst is None else f"{found.worst:.2g} of the output range"
        )
        raise VerificationError(
            f"preparing it for the runtime changed its outputs by {worst}",
            where="model",
            hint="find the pass with: mcc opt MODEL -p -O2",
        )


def stated_normalisation(preprocessing: Preprocessing | None) -> dict[str, Any]:
    """The option of a lowering that stores in the file how an app has to preprocess an image."""
    if preprocessing is None:
        return {}
    from mcc.lower.tflite.metadata import Normalisation

    given = preprocessing.per_channel()
    return {"normalisation": Normalisation(given.byte_mean, given.byte_std, given.crop, given.channels)}


def stated_labels(spec: str, loaded: LoadedModel) -> dict[str, Any]:
    """The options of a lowering that store the class names of a MODEL, if it is a file that has them."""
    from mcc.data.outputs import named_output
    from mcc.report.file_metadata import describe

    found = describe(spec) if Path(spec).is_file() else None
    if found is None or found.labels is None or current_cut():
        return {}
    judged = 0 if found.output is None else named_output(outputs_of(loaded), found.output)
    return {"labels": found.labels, "judged": judged}


def outputs_of(loaded: LoadedModel) -> tuple[Output, ...]:
    """The outputs of a model, with their original names."""
    from mcc.data.outputs import Output
    from mcc.ir.graph import outputs
    from mcc.ir.notes import shape_of

    pairs = zip(loaded.output_names, outputs(loaded.graph), strict=True)
    return tuple(Output(name, shape_of(node)) for name, node in pairs)


def get_target(spec: str) -> Target:
    """The target of that name. Raises UsageError."""
    from mcc.runtime.registry import get_target as find

    return find(spec)


def default_target(file: Path) -> str:
    """The default target for a kind of file. Raises UsageError for an unknown kind."""
    form = format_of(file)
    if form is None:
        readable_file(file, raising=UsageError)
        known = ", ".join(one.suffix for one in formats().values())
        raise UsageError(f"is no lowered file ({known})", where=str(file), hint="mcc lower writes one")
    return form.host

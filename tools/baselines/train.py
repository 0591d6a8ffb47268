"""Train one of the benchmark networks of mcc.

    python -m tools.baselines.train mobilenet_v2 --data cifar10:DIR -o mobilenet_v2.safetensors
    python -m tools.baselines.train digits -o digits.safetensors

The weights written are those of the last step, never selected by a metric. The test split is used once, after
it. Ctrl-C or a kill leaves a state beside the output; the same command with --resume continues from it and
ends in the same weights, bit for bit. Training waits while mcc measures latency on this machine.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

# Before torch starts its threads: with spinning ones, two threads beside another busy process took ten times
# as long as one (2026-11-23, two cores).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# So that `python tools/baselines/train.py` finds its neighbours as `python -m tools.baselines.train` does.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import click
import torch
from rich.console import Console

from mcc.data import load_data
from mcc.errors import MccError, UsageError
from mcc.user_code import load_object
from tools.baselines.networks import NETWORKS
from tools.baselines.training import Recipe, Training, load_weights, run, take_up, write

RECIPES = {
    "bccd_detector": Recipe(100, 8, 0.05, 4e-4, average=True),
    "camvid_segmenter": Recipe(80, 16, 0.1, 4e-4, average=True),
    "digits": Recipe(8, 64, 0.1, 5e-4, smoothing=0.05),
    "mobilenet_v2": Recipe(60, 128, 0.2, 2e-4, smoothing=0.1, average=True),
    # He 2015, section 4.2, with a cosine for its steps: 64,000 iterations of 128 images.
    "resnet20": Recipe(180, 128, 0.1, 1e-4),
    "resnet56": Recipe(180, 128, 0.1, 1e-4),
}


# The mark keeps click from filling the two command lines into a paragraph.
HELP = (__doc__ or "").replace("\n\n    python", "\n\n\b\n    python")


@click.command(help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("network")
@click.option("--data", "source", help="DATA as for mcc --data: digits, cifar10:DIR, detection:DIR.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True, help="FILE.safetensors"
)
@click.option(
    "--weights", type=click.Path(path_type=Path, dir_okay=False), help="Initial weights (safetensors)."
)
@click.option("--epochs", type=click.IntRange(1), help="Epochs, instead of the recipe's.")
@click.option("--batch-size", type=click.IntRange(1), help="Images per step.")
@click.option("--peak", type=click.FloatRange(0, min_open=True), help="Highest learning rate.")
@click.option(
    "--average/--no-average", default=None, help="Whether to write the running average of the weights."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--threads", type=click.IntRange(1), help="Threads of torch.")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda")
@click.option("--half", is_flag=True, help="Write the weights in half precision, and score them so.")
@click.option("--resume", is_flag=True, help="Continue from the state of an interrupted run.")
def main(
    network: str,
    source: str | None,
    output: Path,
    weights: Path | None,
    seed: int,
    threads: int | None,
    device: str,
    half: bool,
    resume: bool,
    **changes: Any,
) -> None:
    """The command line of `train`."""
    console = Console(stderr=True)
    if threads:
        torch.set_num_threads(threads)
    try:
        finished = train(
            network,
            source,
            output,
            console,
            weights=weights,
            seed=seed,
            device=device,
            half=half,
            resume=resume,
            changes=changes,
        )
    except MccError as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_status)
    if not finished:
        console.print("stopped; the same command with --resume continues", highlight=False)
        sys.exit(1)


def train(
    network: str,
    source: str | None,
    output: Path,
    console: Console,
    *,
    weights: Path | None = None,
    seed: int = 0,
    device: str = "cpu",
    half: bool = False,
    resume: bool = False,
    changes: Mapping[str, Any] = MappingProxyType({}),
) -> bool:
    """Train `network` and write its weights; returns False if interrupted.

    Args:
        network: Name in `networks.py`, or `package.module:factory`.
        source: DATA as for `mcc --data`; None: digits for the digits network.
        weights: Safetensors file to start from; None: random initialisation.
        half: Whether the weights are written in half precision, as those in `weights/` are.
        changes: Fields of the recipe to change; None keeps a field.

    Raises:
        UsageError, DataError: An invalid network, data or state.
    """
    if network not in NETWORKS and ":" not in network:
        raise UsageError(
            f"there is no network {network!r}", hint=f"there is {', '.join(NETWORKS)}, or package:factory"
        )
    if source is None:
        if network != "digits":
            raise UsageError(f"{network} needs data", where="--data", hint="as in --data cifar10:DIR")
        source = "digits"
    recipe = replace(
        RECIPES.get(network, RECIPES["mobilenet_v2"]), **{k: v for k, v in changes.items() if v is not None}
    )
    torch.manual_seed(seed)
    module, example, *rest = (NETWORKS.get(network) or load_object(network, "package.module:factory"))()
    data = load_data(
        source, seed=seed, input_shape=tuple(example.shape), preprocessing=rest[0] if rest else None,
        train_unseen=True,  # it is trained here, without the images that are held out
    )  # fmt: skip
    start = load_weights(module, weights) if weights else None
    training = Training(module, data, recipe, seed, device)
    names = sorted((k, tuple(v.shape)) for k, v in module.state_dict().items())
    identity = hashlib.sha256(
        repr((network, names, start, recipe, seed, data.digest())).encode()
    ).hexdigest()[:16]
    state = output.with_name(f"{output.name}.state")
    if resume:
        take_up(training, state, identity)
    if not run(training, state, identity, console):
        return False
    facts = finish(training, network, output, half)
    state.unlink(missing_ok=True)
    console.print(f"{output}: {facts['summary']}", highlight=False, soft_wrap=True)
    return True


def finish(training: Training, network: str, output: Path, half: bool) -> dict[str, Any]:
    """Evaluate once on validation and test, and write the weights with the results as metadata."""
    tensors = training.result.state_dict()
    if half:
        tensors = {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}
        training.result.load_state_dict(tensors)
    validation, test = training.score("validation"), training.score("test")
    facts = {
        "network": network,
        "data": training.data.name,
        "data_digest": training.data.digest(),
        "seed": training.seed,
        "recipe": asdict(training.recipe),
        "torch": torch.__version__,
        "validation": asdict(validation),
        "test": asdict(test),
        "summary": f"validation {validation}; test {test}",
    }
    write(output, tensors, facts)
    return facts


if __name__ == "__main__":
    main()

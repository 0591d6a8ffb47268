import json
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from mcc.data import load_data
from mcc.errors import DataError, UsageError
from tests.data.detections import write_roboflow
from tests.data.samples import write_binary
from tools.baselines import networks, training
from tools.baselines.train import RECIPES, main, train

FILE = """
import torch
from torch import nn
from tests.data.samples import module as data

def network():
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Dropout(0.3), nn.Linear(8, 3)).eval(), torch.zeros(1, 3, 8, 8)
"""
DETECTOR = """
import torch
from mcc.data import Preprocessing
from tools.baselines.networks import Detector

def network():
    return Detector(2, 16), torch.zeros(1, 3, 32, 48), Preprocessing((0.5,), (0.25,))
"""
# 64 images, 12 of them held out: three steps an epoch, twelve in all.
CHANGES = {"epochs": 4, "batch_size": 16, "average": True}


@pytest.fixture(autouse=True)
def never_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether another process measures on this machine is no business of these tests."""
    monkeypatch.setattr(training, "wait_while_measuring", lambda: 0.0)


@pytest.fixture
def attempt(tmp_path: Path) -> Callable[..., bool]:
    file = tmp_path / "mine.py"
    file.write_text(FILE)

    def run(
        output: Path,
        *,
        weights: Path | None = None,
        seed: int = 0,
        resume: bool = False,
        half: bool = False,
        **changes: float,
    ) -> bool:
        return train(
            f"{file}:network", f"{file}:data", output, Console(quiet=True), weights=weights, seed=seed,
            resume=resume, half=half, changes=CHANGES | changes,
        )  # fmt: skip

    return run


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int, action: Callable[[], object]) -> None:
    """Call `action` when step number `step` (from zero) of the next run begins."""
    count = iter(range(10_000))
    monkeypatch.setattr(training, "wait_while_measuring", lambda: action() if next(count) == step else None)


def die() -> None:
    raise MemoryError("killed")


@pytest.mark.parametrize("step", [0, 4, 7, 11])
def test_a_run_stopped_by_ctrl_c_ends_in_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attempt: Callable[..., bool], step: int
) -> None:
    assert attempt(tmp_path / "whole.safetensors")
    with monkeypatch.context() as patch:
        interrupt_at(patch, step, lambda: signal.raise_signal(signal.SIGINT))
        assert attempt(tmp_path / "resumed.safetensors") is (step == 11), "the last step ends the run anyway"
    assert attempt(tmp_path / "resumed.safetensors", resume=True)
    assert (tmp_path / "resumed.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    assert not list(tmp_path.glob("*.state"))


def test_a_run_that_died_goes_on_from_its_last_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attempt: Callable[..., bool]
) -> None:
    assert attempt(tmp_path / "whole.safetensors")
    with monkeypatch.context() as patch:
        patch.setattr(training, "SAVE_EVERY_S", -1.0)
        interrupt_at(patch, 5, die)
        with pytest.raises(MemoryError):
            attempt(tmp_path / "resumed.safetensors")
    with safe_open(tmp_path / "resumed.safetensors.state", "pt") as file:
        assert json.loads(file.metadata()["mcc"])["step"] == 5
    assert not (tmp_path / "resumed.safetensors").exists()
    assert attempt(tmp_path / "resumed.safetensors", resume=True)
    assert (tmp_path / "resumed.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


def test_the_seed_decides_the_weights(tmp_path: Path, attempt: Callable[..., bool]) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        attempt(tmp_path / name, seed=seed)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    one, other = load_file(tmp_path / "a"), load_file(tmp_path / "c")
    assert not torch.equal(one["0.weight"], other["0.weight"])


@pytest.mark.parametrize("steps", [50, 1840, 2500, 100_000])
def test_the_average_is_one_of_the_last_steps(steps: int) -> None:
    """What it still holds of the steps before the last quarter, whose learning rate is large, is little."""
    decay = training.average_decay(steps)
    assert 0 <= decay < 1
    assert decay ** (steps / 4) < 0.01


def test_the_average_differs_from_the_last_weights(tmp_path: Path, attempt: Callable[..., bool]) -> None:
    attempt(tmp_path / "average")
    attempt(tmp_path / "last", average=False)
    assert not torch.equal(
        load_file(tmp_path / "average")["0.weight"], load_file(tmp_path / "last")["0.weight"]
    )


def test_a_state_of_another_run_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attempt: Callable[..., bool]
) -> None:
    output = tmp_path / "out.safetensors"
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2, lambda: signal.raise_signal(signal.SIGTERM))
        assert not attempt(output)
    with pytest.raises(UsageError, match=r"out\.safetensors\.state: was left by a run with another network"):
        attempt(output, seed=1, resume=True)
    with pytest.raises(UsageError, match="was left by a run with another"):
        attempt(output, epochs=5, resume=True)
    (tmp_path / "out.safetensors.state").write_bytes(b"something else")
    with pytest.raises(DataError, match="is not a state of this program"):
        attempt(output, resume=True)


def test_the_file_says_how_it_came_about(tmp_path: Path, attempt: Callable[..., bool]) -> None:
    attempt(tmp_path / "out.safetensors")
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        facts = json.loads(file.metadata()["mcc"])
    assert facts["test"]["count"] == 12
    assert facts["recipe"]["epochs"] == 4
    assert 0 <= facts["validation"]["low"] <= facts["validation"]["value"] <= facts["validation"]["high"] <= 1


def test_training_goes_on_from_given_weights(tmp_path: Path, attempt: Callable[..., bool]) -> None:
    attempt(tmp_path / "first")
    attempt(tmp_path / "second", weights=tmp_path / "first", epochs=1, peak=1e-9, average=False)
    one, other = load_file(tmp_path / "first"), load_file(tmp_path / "second")
    assert torch.allclose(one["6.weight"], other["6.weight"], atol=1e-6)
    with pytest.raises(DataError, match=r"second: does not hold this network's weights .+Missing key"):
        train("digits", None, tmp_path / "third", Console(quiet=True), weights=tmp_path / "second")
    (tmp_path / "first").write_bytes(b"no weights")
    with pytest.raises(DataError, match="first: does not hold this network's weights"):
        attempt(tmp_path / "third", weights=tmp_path / "first")


def test_the_learning_rate_has_one_cycle() -> None:
    recipe = RECIPES["resnet20"]
    rates = [recipe.learning_rate(step, 1000) for step in range(1000)]
    top = int(np.argmax(rates))
    assert max(rates) == recipe.peak
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[0] > 0
    assert rates[-1] < recipe.peak * 1e-4


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["vgg"], "error: there is no network 'vgg'; there is bccd_detector, camvid_segmenter, mobilenet_v2"),
        (["resnet20"], "error: --data: resnet20 needs data; as in --data cifar10:DIR"),
        (["resnet20", "--data", "cifar10:/nowhere"], "error: /nowhere: there is no such folder"),
        (["digits", "--epochs", "0"], "Invalid value for '--epochs'"),
    ],
)
def test_wrong_use_ends_with_a_sentence_and_status_2(
    tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    result = CliRunner().invoke(main, [*arguments, "-o", str(tmp_path / "x.safetensors")])
    assert result.exit_code == 2
    assert sentence in result.output
    assert not list(tmp_path.iterdir())


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


# Counted in the published weights; He 2015, table 6, gives 0.27 and 0.85 million for the ResNets.
@pytest.mark.parametrize(
    ("name", "count", "entries"),
    [
        ("mobilenet_v2", 590_410, 314),
        ("resnet20", 269_722, 116),
        ("resnet56", 853_018, 332),
        ("digits", 501_218, 0),
    ],
)
def test_networks_have_their_size(name: str, count: int, entries: int) -> None:
    network, example, preprocessing = networks.NETWORKS[name]()
    assert parameters(network) == count
    assert network(example).shape == (1, 10)
    assert not network.training
    if entries:
        assert len(network.state_dict()) == entries
    assert preprocessing.size in (None, tuple(example.shape[2:]))


def test_the_detector_names_its_heads() -> None:
    network, example, preprocessing = networks.NETWORKS["bccd_detector"]()
    assert parameters(network) == 306_469
    shapes = {name: tuple(value.shape) for name, value in network(example).items()}
    assert shapes == {
        "cls_8": (1, 3, 30, 40), "box_8": (1, 4, 30, 40), "cls_16": (1, 3, 15, 20), "box_16": (1, 4, 15, 20),
        "cls_32": (1, 3, 8, 10), "box_32": (1, 4, 8, 10),
    }  # fmt: skip
    assert preprocessing.size == (240, 320)


@pytest.mark.slow
def test_a_detector_is_trained_on_its_boxes(tmp_path: Path) -> None:
    folder = write_roboflow(tmp_path / "scenes", train=24, val=4, test=4)
    (tmp_path / "mine.py").write_text(DETECTOR)
    output = tmp_path / "detector.safetensors"
    spec, changes = f"{tmp_path / 'mine.py'}:network", {"epochs": 30, "batch_size": 8, "peak": 0.05}
    assert train(spec, f"detection:{folder}", output, Console(quiet=True), changes=changes)
    with safe_open(output, "pt") as file:
        facts = json.loads(file.metadata()["mcc"])
    assert facts["test"]["metric"] == "mAP@50"
    assert facts["test"]["value"] > 0.2


def test_mobilenet_v2_has_torchvisions_names() -> None:
    shapes = {k: tuple(v.shape) for k, v in networks.MobileNetV2().state_dict().items()}
    assert shapes["features.0.0.weight"] == (16, 3, 3, 3)
    assert shapes["features.1.conv.1.weight"] == (8, 16, 1, 1)
    assert shapes["features.2.conv.0.0.weight"] == (48, 8, 1, 1)
    assert shapes["features.17.conv.2.weight"] == (160, 480, 1, 1)
    assert shapes["features.18.0.weight"] == (640, 160, 1, 1)
    assert shapes["classifier.1.weight"] == (10, 640)
    strides = [
        m.stride[0] for m in networks.MobileNetV2().modules() if isinstance(m, nn.Conv2d) and m.stride[0] > 1
    ]
    assert strides == [2, 2, 2, 2]


def test_the_shortcut_of_the_resnets_has_no_parameters() -> None:
    block = networks.BasicBlock(4, 8, 2).eval()
    nn.init.zeros_(block.bn2.weight)
    x = torch.rand(1, 4, 6, 6)
    expected = torch.zeros(1, 8, 3, 3)
    expected[:, 2:6] = x[:, :, ::2, ::2]
    assert torch.equal(block(x), expected)


def test_published_resnet_weights_load_without_counters() -> None:
    """Old weights lack batch norm's `num_batches_tracked`; they must load strictly all the same."""
    network = networks.ResNet(3)
    weights: dict[str, Tensor] = {k: v for k, v in network.state_dict().items() if "num_batches" not in k}
    assert len(weights) == 97
    network.load_state_dict(weights, strict=True)


def test_the_digits_network_is_a_mobile_one() -> None:
    network, example, _ = networks.digits_net()
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert tuple(example.shape) == (1, 3, 32, 32)
    assert sum(c.kernel_size == (1, 1) and c.stride == (1, 1) for c in convolutions) >= 8
    assert (convolutions[0].in_channels, convolutions[0].stride, convolutions[0].padding) == (
        3,
        (2, 2),
        (1, 1),
    )
    assert any(c.groups == c.in_channels > 1 for c in convolutions)


def test_cifar_networks_take_the_data_as_it_is(tmp_path: Path) -> None:
    write_binary(tmp_path)
    for name in ("mobilenet_v2", "resnet20"):
        network, example, preprocessing = networks.NETWORKS[name]()
        data = load_data(f"cifar10:{tmp_path}", input_shape=tuple(example.shape), preprocessing=preprocessing)
        batch = next(iter(data.batches("test", 4)))
        assert network(torch.from_numpy(batch.inputs)).shape == (4, 10)


@pytest.mark.slow
def test_the_digits_are_learnt_in_the_demo(tmp_path: Path) -> None:
    output = tmp_path / "digits.safetensors"
    assert train("digits", None, output, Console(quiet=True))
    with safe_open(output, "pt") as file:
        facts = json.loads(file.metadata()["mcc"])
    assert facts["test"]["value"] >= 0.975
    assert facts["validation"]["value"] >= 0.975


def test_weights_in_half_precision_are_scored_as_they_are(
    tmp_path: Path, attempt: Callable[..., bool]
) -> None:
    attempt(tmp_path / "whole")
    attempt(tmp_path / "half", half=True)
    whole, half = load_file(tmp_path / "whole"), load_file(tmp_path / "half")
    for name, value in whole.items():
        assert torch.equal(half[name], value.half() if value.is_floating_point() else value)

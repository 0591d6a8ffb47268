"""What cannot be captured is refused in one sentence that names what, where, and what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcc.errors import MccError, UnsupportedError, UsageError, VerificationError
from mcc.frontend import capture
from mcc.frontend import torch_module as subject
from mcc.frontend.importer import Imported
from mcc.ir.graph import calls
from tests.frontend.constructs import MAP, Of


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        return x + self.calls


class Inner(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cummax(x, 1)[0]


CASES: list[tuple[str, Callable[[], nn.Module], tuple[int, ...], tuple[str, ...]]] = [
    ("branch", Branch, MAP, ("depends on the values", "test_refusals.py:", "x.sum() > 0", "both branches")),
    ("number read", lambda: Of(lambda s, x: x * x.max().item()), MAP, ("batch axis",)),
    ("mask", lambda: Of(lambda s, x: x[x > 0]), MAP, ("batch axis",)),
    (
        "infinity by values",
        lambda: Of(lambda s, x: torch.where(x > 0, x, float("-inf"))),
        MAP,
        ("chooses an infinity", "a large number"),
    ),
    (
        "unknown",
        lambda: nn.Sequential(nn.ReLU(), Inner()),
        MAP,
        ("aten.cummax", "1 (test_refusals.py:", "rewrite"),
    ),
    ("3-d", lambda: nn.Conv3d(4, 4, 3), (1, 4, 8, 8, 8), ("aten.conv3d", "rows [N, C, L]")),
    (
        "einsum over the batch",
        lambda: Of(lambda s, x: torch.einsum("nchw,mchw->nm", x, x)),
        MAP,
        ("sums or moves the batch axis",),
    ),
    (
        "einsum of three",
        lambda: Of(lambda s, x: torch.einsum("nc,nc,nc->n", *[x.mean((2, 3))] * 3)),
        MAP,
        ("two operands",),
    ),
    ("state", Counter, MAP, ("buffer calls", "changed by every call")),
    ("noise", lambda: Of(lambda s, x: x + torch.randn(4, 8, 8)), MAP, ("draws random numbers",)),
    (
        "dropout",
        lambda: Of(lambda s, x: F.dropout(x, 0.5)),
        MAP,
        ("dropout in eval mode", "training=self.training"),
    ),
    (
        "batch statistics",
        lambda: nn.BatchNorm2d(4, track_running_stats=False),
        MAP,
        ("statistics of the batch",),
    ),
    ("two lists", lambda: Of(lambda s, x: x[:, [0, 2], [1, 3]]), MAP, ("constructs.py:", "several axes")),
    ("table of positions", lambda: Of(lambda s, x: x[:, [[0, 1], [1, 2]]]), MAP, ("shape (2, 2)",)),
    ("batch picked", lambda: Of(lambda s, x: x[[0]]), MAP, ("batch axis",)),
    (
        "computed positions",
        lambda: Of(lambda s, x: torch.index_select(x, 1, (x[0, 0, 0] > 9).long()[:2])),
        MAP,
        ("constructs.py:",),
    ),
    ("batch reduced", lambda: Of(lambda s, x: x - x.mean()), MAP, ("batch axis", "name the axes")),
    (
        "batch moved",
        lambda: Of(lambda s, x: F.max_pool2d(x.permute(1, 0, 2, 3), 2)),
        MAP,
        ("moves the batch axis",),
    ),
    (
        "batch folded",
        lambda: Of(lambda s, x: F.max_pool2d(x.reshape(-1, 1, 8, 8), 2)),
        MAP,
        ("folds the batch axis",),
    ),
    ("constant output", lambda: Of(lambda s, x: torch.ones(1, 4)), MAP, ("does not depend on the input",)),
    ("double", lambda: Of(lambda s, x: x.double()), MAP, ("converts to torch.float64",)),
    (
        "half weights",
        lambda: Of(lambda s, x: x * s.w, w=torch.ones(4, 1, 1).half()),
        MAP,
        ("float16", ".float()"),
    ),
    (
        "wrong shape",
        lambda: nn.Conv2d(3, 4, 3),
        MAP,
        ("does not run on inputs of shape (1, 4, 8, 8)", "--input-shape"),
    ),
    ("no map", lambda: nn.Conv2d(4, 4, 3), (4, 8, 8), ("",)),
]


@pytest.mark.parametrize(
    ("factory", "shape", "parts"), [c[1:] for c in CASES[:-1]], ids=[c[0] for c in CASES[:-1]]
)
def test_refused(factory: Callable[[], nn.Module], shape: tuple[int, ...], parts: tuple[str, ...]) -> None:
    with pytest.raises(MccError) as caught:
        capture(factory(), (torch.zeros(shape),))
    sentence = str(caught.value)
    assert isinstance(caught.value, UnsupportedError | UsageError)
    assert "\n" not in sentence
    for part in parts:
        assert part in sentence, sentence


@pytest.mark.parametrize("channels", [1, 3])
def test_an_example_without_a_batch_axis_is_told_with_the_shape_that_was_given(channels: int) -> None:
    network = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    with pytest.raises(UsageError, match=rf"has the shape \({channels}, 8, 8\)") as caught:
        capture(network, (torch.zeros(channels, 8, 8),))
    assert caught.value.hint == f"give it a batch axis: (1, {channels}, 8, 8)"


@pytest.mark.parametrize(
    ("example", "part"),
    [
        (torch.zeros(1, 4, dtype=torch.int64), "torch.int64"),
        (torch.zeros(4), "batch axis"),
        ("x", "is a str"),
    ],
)
def test_inputs(example: Any, part: str) -> None:
    with pytest.raises(MccError, match=part):
        capture(nn.Identity(), (example,))


def _made_in_inference_mode() -> nn.Module:
    with torch.inference_mode():
        return nn.Conv2d(3, 4, 3)


KINDS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "TorchScript": (lambda: torch.jit.ScriptModule(), "a TorchScript module"),
    "made in inference mode": (_made_in_inference_mode, "weight was made under torch.inference_mode"),
    "quantised": (lambda: torch.ao.nn.quantized.ReLU6(), "quantised already"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_modules_that_cannot_be_captured_are_named(kind: str) -> None:
    make, part = KINDS[kind]
    with pytest.raises(UnsupportedError, match=part) as caught:
        capture(make(), (torch.zeros(1, 3, 8, 8),))
    assert caught.value.hint


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UnsupportedError):
        capture(Branch(), (torch.zeros(MAP),))
    assert capfd.readouterr() == ("", "")


def test_the_module_stays_as_it_was() -> None:
    module = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5))
    module[1].eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    graph = capture(module, (torch.zeros(MAP),))
    assert [part.training for part in module] == [True, False, True]
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    with torch.no_grad():
        graph.get_parameter("m0_weight").zero_()
    assert torch.equal(module[0].weight, before["0.weight"])


def test_a_model_of_batch_one_only_is_captured() -> None:
    graph = capture(Of(lambda s, x: x.view(1, -1)[:, :7]), (torch.zeros(MAP),))
    assert graph(torch.randn(3, 4, 8, 8))[0].shape == (3, 7)


def test_a_wrong_translation_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right = subject.import_program

    def wrong(program: Any) -> Imported:
        imported = right(program)
        for node in calls(imported.graph, "conv2d"):
            node.kwargs = {**node.kwargs, "activation": "relu"}
        imported.graph.recompile()
        return imported

    monkeypatch.setattr(subject, "import_program", wrong)
    with pytest.raises(VerificationError, match="differs from the model"):
        capture(nn.Conv2d(4, 4, 1), (torch.zeros(MAP),))


def test_a_drift_of_one_percent_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right = subject.import_program

    def wrong(program: Any) -> Imported:
        imported = right(program)
        with torch.no_grad():
            next(iter(imported.graph.parameters())).mul_(1.01)
        return imported

    monkeypatch.setattr(subject, "import_program", wrong)
    with pytest.raises(VerificationError, match="differs from the model"):
        capture(nn.Conv2d(4, 4, 1), (torch.zeros(MAP),))


def test_noise_in_eval_mode_is_caught() -> None:
    class Noisy(nn.Module):
        count = 0

        def forward(self, x: Tensor) -> Tensor:
            self.count += 1
            return x * self.count

    with pytest.raises(MccError):
        capture(Noisy(), (torch.zeros(MAP),))

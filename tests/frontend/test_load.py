"""Models by name, and weights that fit or are refused without running any code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import mcc
from mcc.data import Preprocessing
from mcc.errors import DataError, MccError, UsageError
from mcc.frontend import load_model
from mcc.ir.graph import inputs, run
from mcc.ir.notes import shape_of
from mcc.ir.storage import save_graph

NET = """
import torch
from dataclasses import dataclass
from torch import nn
from mcc.data import Preprocessing
from neighbour import WIDTH

@dataclass
class Options:
    width: int = WIDTH

def bare():
    return nn.Sequential(nn.Conv2d(3, Options().width, 3), nn.BatchNorm2d(Options().width))

def one():
    return bare(), torch.zeros(1, 3, 8, 8)

def all():
    return bare(), (torch.zeros(4, 3, 8, 8),), Preprocessing((0.5,), (0.25,))

def transform():
    return bare(), torch.zeros(1, 3, 8, 8), "imagenet"

def two_inputs():
    class Two(nn.Module):
        def forward(self, a, b):
            return a + b
    return Two(), (torch.zeros(1, 3), torch.zeros(1, 3))

def broken():
    raise KeyError("no weights")

def number():
    return 3

instance = bare()
"""


@pytest.fixture
def net(tmp_path: Path) -> str:
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "neighbour.py").write_text("WIDTH = 4\n")
    return str(tmp_path / "net.py")


def test_factories(net: str) -> None:
    loaded = load_model(f"{net}:all")
    assert (loaded.name, loaded.preprocessing) == ("all", Preprocessing((0.5,), (0.25,)))
    assert isinstance(loaded.module, nn.Sequential)
    assert shape_of(inputs(loaded.graph)[0]) == (1, 3, 8, 8)
    assert load_model(f"{net}:one").preprocessing is None
    assert shape_of(inputs(load_model(f"{net}:bare", input_shape=(1, 3, 6, 6)).graph)[0]) == (1, 3, 6, 6)
    assert shape_of(inputs(load_model(f"{net}:one", input_shape=(2, 3, 6, 6)).graph)[0]) == (1, 3, 6, 6)
    assert len(inputs(load_model(f"{net}:two_inputs").graph)) == 2
    assert load_model(f"{net}:instance", input_shape=(1, 3, 6, 6)).name == "instance"
    assert mcc.load is load_model


def test_a_factory_by_dotted_name(net: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(net).parent)
    (Path(net).parent / "mcc_test_dotted.py").write_text(NET)
    assert load_model("mcc_test_dotted:one").name == "one"


@pytest.mark.parametrize(
    ("factory", "options", "parts"),
    [
        ("bare", {}, ("does not say the shape", "--input-shape 1,3,224,224")),
        ("missing", {}, ("has no missing",)),
        ("broken", {}, ("cannot be built", "KeyError", "net.py:")),
        ("number", {}, ("returns int, not a module",)),
        ("transform", {}, ("returns str as its third value", "mcc.data.Preprocessing(mean")),
        ("two_inputs", {"input_shape": (1, 3)}, ("2 inputs", "--input-shape")),
        ("one", {"input_shape": (1, 5, 8, 8)}, ("does not run on inputs of shape (1, 5, 8, 8)",)),
    ],
)
def test_wrong_use(net: str, factory: str, options: dict[str, Any], parts: tuple[str, ...]) -> None:
    with pytest.raises(UsageError) as caught:
        load_model(f"{net}:{factory}", **options)
    assert all(part in str(caught.value) for part in parts), str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "part"),
    [
        ("model", "is no model"),
        ("no_such_package.net:make", "No module named"),
        ("nowhere.py:make", "no such file"),
        ("nowhere.pt2", "no such file"),
        ("nowhere.onnx", "no such file"),
        ("nowhere.mcc", "no such file"),
    ],
)
def test_no_such_model(spec: str, part: str) -> None:
    with pytest.raises(UsageError, match=part):
        load_model(spec)


def test_a_file_with_a_mistake(tmp_path: Path) -> None:
    path = tmp_path / "wrong.py"
    path.write_text("x = 1\ny = x / 0\n")
    with pytest.raises(UsageError, match=r"cannot be imported: ZeroDivisionError.*wrong.py:2"):
        load_model(f"{path}:make")


def test_stored_graphs(net: str, tmp_path: Path) -> None:
    graph = load_model(f"{net}:one").graph
    save_graph(graph, tmp_path / "stored.mcc")
    loaded = load_model(str(tmp_path / "stored.mcc"))
    x = torch.randn(2, 3, 8, 8)
    assert loaded.name == "stored"
    assert torch.equal(run(loaded.graph, x)[0], run(graph, x)[0])
    with pytest.raises(UsageError, match="holds its own"):
        load_model(str(tmp_path / "stored.mcc"), weights=tmp_path / "w.safetensors")


# -- weights -----------------------------------------------------------------------------------------------


def state(net: str) -> dict[str, torch.Tensor]:
    loaded = load_model(f"{net}:one").module
    assert loaded is not None
    return {
        name: torch.randn_like(v).abs() if v.is_floating_point() else v
        for name, v in loaded.state_dict().items()
    }


def nested(value: dict[str, torch.Tensor]) -> dict[str, Any]:
    return {"epoch": 3, "state_dict": {f"module.{name}": tensor for name, tensor in value.items()}}


@pytest.mark.parametrize("form", ["safetensors", "plain", "nested", "without counters", "half"])
def test_weights(net: str, tmp_path: Path, form: str) -> None:
    given = state(net)
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pt")
    if form == "safetensors":
        save_file(given, path)
    elif form == "nested":
        torch.save(nested(given), path)
    elif form == "without counters":
        torch.save({name: v for name, v in given.items() if "num_batches" not in name}, path)
    else:
        given = {
            name: v.half() if form == "half" and v.is_floating_point() else v for name, v in given.items()
        }
        torch.save(given, path)
    loaded = load_model(f"{net}:one", weights=path)
    assert torch.equal(loaded.graph.get_parameter("m0_weight"), given["0.weight"].float())
    assert torch.equal(loaded.graph.get_buffer("m1_running_mean"), given["1.running_mean"].float())


def change(given: dict[str, torch.Tensor], how: str) -> None:
    if how == "shape":
        given["0.weight"] = torch.zeros(5, 3, 3, 3)
    elif how == "missing":
        del given["1.running_var"]
    elif how == "unexpected":
        given["2.weight"] = torch.zeros(3)
    elif how == "not finite":
        given["0.bias"] = torch.full((4,), float("nan"))


@pytest.mark.parametrize(
    ("how", "parts"),
    [
        ("shape", ("0.weight of shape (5, 3, 3, 3)", "the model's is (4, 3, 3, 3)")),
        ("missing", ("no weights for 1 of the model's 6 tensors (1.running_var)",)),
        ("unexpected", ("holds 2.weight", "1 such in all")),
        ("not finite", ("0.bias", "not finite")),
    ],
)
def test_weights_that_do_not_fit(net: str, tmp_path: Path, how: str, parts: tuple[str, ...]) -> None:
    given = state(net)
    change(given, how)
    save_file(given, tmp_path / "w.safetensors")
    with pytest.raises(DataError) as caught:
        load_model(f"{net}:one", weights=tmp_path / "w.safetensors")
    assert all(part in str(caught.value) for part in parts), str(caught.value)


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_weights_with_code_run_none(net: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    torch.save({"0.weight": Payload(trace)}, tmp_path / "w.pt")
    with pytest.raises(DataError, match="without running code"):
        load_model(f"{net}:one", weights=tmp_path / "w.pt")
    assert not trace.exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"\x80\x04}.", b"{}", bytes(range(64))])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_torn_weights(net: str, tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(MccError):
        load_model(f"{net}:one", weights=path)


def test_weights_that_are_not_there(net: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        load_model(f"{net}:one", weights=tmp_path / "w.pt")


def test_a_file_of_no_tensors_says_what_it_holds(net: str, tmp_path: Path) -> None:
    torch.save({"epoch": 3, "best": 0.5}, tmp_path / "w.pt")
    with pytest.raises(DataError, match="is no state dict: it holds 'epoch', 'best'"):
        load_model(f"{net}:one", weights=tmp_path / "w.pt")


WRONG_TENSORS: dict[str, tuple[Any, str]] = {
    "integers": (torch.ones(4, 3, 3, 3, dtype=torch.int8), "as int8, but the model's is float32; dequantise"),
    "booleans": (torch.ones(4, 3, 3, 3, dtype=torch.bool), "as bool, but the model's is float32"),
    "complex": (torch.ones(4, 3, 3, 3, dtype=torch.complex64), "as complex64, but the model's is float32"),
    "sparse": (torch.ones(4, 3, 3, 3).to_sparse(), "0.weight as a sparse tensor (sparse_coo)"),
    "without values": (torch.ones(4, 3, 3, 3, device="meta"), "as a tensor without values (device meta)"),
    "too large": (torch.full((4, 3, 3, 3), 1e300, dtype=torch.float64), "too large for float32"),
    "infinite": (torch.full((4, 3, 3, 3), torch.inf), "values in 0.weight that are not finite"),
}


@pytest.mark.parametrize("kind", WRONG_TENSORS)
def test_weights_are_plain_numbers_of_the_models_kind(net: str, tmp_path: Path, kind: str) -> None:
    value, sentence = WRONG_TENSORS[kind]
    weights = load_model(f"{net}:one").module
    assert weights is not None
    torch.save({**weights.state_dict(), "0.weight": value}, tmp_path / "wrong.pt")
    with pytest.raises(DataError) as caught:
        load_model(f"{net}:one", weights=tmp_path / "wrong.pt")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_are_those_weights(net: str, tmp_path: Path, kind: Any) -> None:
    module = load_model(f"{net}:one").module
    assert module is not None
    state = {
        name: value.to(kind) if value.is_floating_point() else value
        for name, value in module.state_dict().items()
    }
    torch.save(state, tmp_path / "other.pt")
    loaded = load_model(f"{net}:one", weights=tmp_path / "other.pt").module
    assert loaded is not None
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, state[name].to(value.dtype)), name

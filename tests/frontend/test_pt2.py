"""Exported programs are read without torch's loader; what needs a pickle is refused and nothing runs."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mcc.errors import DataError, MccError, UnsupportedError
from mcc.frontend import capture, load_model
from mcc.ir.graph import inputs, run
from mcc.ir.notes import shape_of
from mcc.ir.text import print_graph
from tests.frontend.constructs import ALL, trained

Entries = dict[str, bytes]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.same = self.conv
        self.register_buffer("scale", torch.randn(8, 1, 1), persistent=False)
        self.plain = torch.randn(8, 1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.relu_(self.norm(self.conv(x))) * self.scale + self.plain
        left, right = y.chunk(2, 1)
        return torch.cat([right, left], 1).mean((2, 3)), y.flatten(1)


def save(module: nn.Module, path: Path, shape: tuple[int, ...], dynamic: bool = False) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        axes = ({0: torch.export.Dim("batch", min=1, max=8)},) if dynamic else None
        program = torch.export.export(module, (torch.randn(shape),), dynamic_shapes=axes)
        torch.export.save(program, path)


@pytest.mark.parametrize(("batch", "dynamic"), [(1, False), (2, False), (2, True)])
def test_same_numbers_as_the_module(tmp_path: Path, batch: int, dynamic: bool) -> None:
    module = trained(Net()).eval()
    save(module, tmp_path / "net.pt2", (batch, 3, 8, 8), dynamic)
    loaded = load_model(str(tmp_path / "net.pt2"))
    x = torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        expected = module(x)
    for a, b in zip(run(loaded.graph, x), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert shape_of(inputs(loaded.graph)[0]) == (1, 3, 8, 8)
    assert loaded.module is None
    assert print_graph(loaded.graph) == print_graph(capture(module, (x,)))


@pytest.mark.parametrize("name", [name for index, name in enumerate(ALL) if index % 6 == 0])
def test_constructs(tmp_path: Path, name: str) -> None:
    factory, shape = ALL[name]
    module = trained(factory()).eval()
    save(module, tmp_path / "net.pt2", (2, *shape[1:]))
    graph = load_model(str(tmp_path / "net.pt2")).graph
    assert print_graph(graph) == print_graph(capture(module, (torch.zeros(shape),)))


# -- hostile and damaged archives --------------------------------------------------------------------------


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


@pytest.fixture(scope="module")
def entries(tmp_path_factory: pytest.TempPathFactory) -> Entries:
    """The entries of a good archive."""
    path = tmp_path_factory.mktemp("pt2") / "net.pt2"
    torch.manual_seed(0)
    save(trained(Net()).eval(), path, (2, 3, 8, 8))
    with zipfile.ZipFile(path) as archive:
        return {name.split("/", 1)[1]: archive.read(name) for name in archive.namelist()}


def write(path: Path, entries: Entries, root: str = "net/", kind: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, content in entries.items():
            archive.writestr(root + name, content)
    return path


def torch_pickle(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def edited(entries: Entries, name: str, edit: Callable[[Any], None]) -> Entries:
    content = json.loads(entries[name])
    edit(content)
    return {**entries, name: json.dumps(content).encode()}


CONFIG = "data/weights/model_weights_config.json"
MODEL = "models/model.json"


def pickled_weight(entries: Entries, trace: Path) -> Entries:
    changed = edited(entries, CONFIG, lambda c: c["config"]["conv.weight"].update(use_pickle=True))
    return {**changed, "data/weights/weight_0": torch_pickle(Payload(trace))}


def custom_object(entries: Entries, trace: Path) -> Entries:
    return {**entries, "data/constants/custom_obj_0": pickle.dumps(Payload(trace))}


def opaque_object(entries: Entries, trace: Path) -> Entries:
    return {**entries, "data/constants/opaque_obj_0": pickle.dumps(Payload(trace))}


def legacy(entries: Entries, trace: Path) -> Entries:
    return {
        "version": b"8.20",
        "serialized_exported_program.json": entries[MODEL],
        "serialized_state_dict.pt": torch_pickle({"conv.weight": Payload(trace)}),
        "serialized_constants.pt": torch_pickle(Payload(trace)),
        "serialized_example_inputs.pt": torch_pickle(Payload(trace)),
    }


def compiled(entries: Entries, trace: Path) -> Entries:
    return {**entries, "data/aotinductor/model/model.so": b"\x7fELF"}


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (pickled_weight, "holds conv.weight as a pickle"),
        (custom_object, "custom object custom_obj_0"),
        (opaque_object, "custom object opaque_obj_0"),
        (legacy, "legacy format"),
        (compiled, "compiled code"),
    ],
)
def test_pickles_are_refused_and_leave_no_trace(
    tmp_path: Path, entries: Entries, make: Callable[[Entries, Path], Entries], part: str
) -> None:
    trace = tmp_path / "trace"
    path = write(tmp_path / "bad.pt2", make(entries, trace), "" if make is legacy else "net/")
    with pytest.raises(DataError, match=part) as caught:
        load_model(str(path))
    assert "\n" not in str(caught.value)
    assert not trace.exists()


def test_sample_inputs_are_never_read(tmp_path: Path, entries: Entries) -> None:
    trace = tmp_path / "trace"
    changed = {**entries, "data/sample_inputs/model.pt": torch_pickle(Payload(trace))}
    load_model(str(write(tmp_path / "net.pt2", changed)))
    assert not trace.exists()


def test_strings_are_never_evaluated(tmp_path: Path, entries: Entries) -> None:
    trace = tmp_path / "trace"
    code = f"__import__('os').mkdir({str(trace)!r})"

    def plant(model: Any) -> None:
        for meta in model["graph_module"]["graph"]["tensor_values"].values():
            if meta["sizes"]:
                meta["sizes"][0] = {"as_expr": {"expr_str": code, "hint": {"as_int": 2}}}
        model["guards_code"] = [code]
        model["range_constraints"] = {code: {"min_val": 1, "max_val": 2}}

    load_model(str(write(tmp_path / "net.pt2", edited(entries, MODEL, plant))))
    assert not trace.exists()


@pytest.mark.parametrize(
    "target",
    ["torch.hub.load", "torch.load", "_operator.methodcaller", "math.exp", "#os:system", "os.system",
     "torch.ops.aten.__class__.x", "torch.ops.load_library", "torch.ops.aten.from_file.default"],
)  # fmt: skip
def test_only_known_operators_are_called(tmp_path: Path, entries: Entries, target: str) -> None:
    def plant(model: Any) -> None:
        model["graph_module"]["graph"]["nodes"][0]["target"] = target

    with pytest.raises(MccError) as caught:
        load_model(str(write(tmp_path / "bad.pt2", edited(entries, MODEL, plant))))
    assert isinstance(caught.value, UnsupportedError | DataError)


def huge_weight(model: Any) -> None:
    meta = model["config"]["conv.weight"]["tensor_meta"]
    meta["sizes"] = [{"as_int": 1 << 20}, {"as_int": 1 << 20}]
    meta["strides"] = [{"as_int": 0}, {"as_int": 0}]


def short_weight(model: Any) -> None:
    model["config"]["conv.weight"]["tensor_meta"]["storage_offset"] = {"as_int": 1 << 40}


@pytest.mark.parametrize(
    ("edit", "part"), [(huge_weight, "impossible size"), (short_weight, "too few bytes")]
)
def test_weights_that_cannot_be(
    tmp_path: Path, entries: Entries, edit: Callable[[Any], None], part: str
) -> None:
    with pytest.raises(DataError, match=part):
        load_model(str(write(tmp_path / "bad.pt2", edited(entries, CONFIG, edit))))


def test_compressed_entries_are_refused(tmp_path: Path, entries: Entries) -> None:
    with pytest.raises(DataError, match="compressed"):
        load_model(str(write(tmp_path / "bad.pt2", entries, kind=zipfile.ZIP_DEFLATED)))


def test_other_zip_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no \\.pt2 archive"):
        load_model(str(write(tmp_path / "bad.pt2", {"readme.txt": b"hello"})))


def refusal(path: Path) -> str | None:
    """The one sentence with which a file is refused, or None when it loads; anything else fails the test."""
    try:
        load_model(str(path))
    except MccError as error:
        sentence = str(error)
    else:
        return None
    assert "\n" not in sentence
    return sentence


def test_damaged_archives(tmp_path: Path, entries: Entries) -> None:
    whole = write(tmp_path / "net.pt2", entries).read_bytes()
    dice = random.Random(0)
    refused = 0
    for _ in range(60):
        torn = bytearray(whole[: dice.choice([len(whole), dice.randrange(len(whole))])])
        for _ in range(dice.randrange(1, 20)):
            torn[dice.randrange(len(torn))] = dice.randrange(256)
        (tmp_path / "torn.pt2").write_bytes(torn)
        refused += refusal(tmp_path / "torn.pt2") is not None
    assert refused > 30


def test_programs_with_parts_missing(tmp_path: Path, entries: Entries) -> None:
    """Every key of the program taken out in turn gives a sentence, not a traceback."""
    model = json.loads(entries[MODEL])
    first = model["graph_module"]["graph"]["nodes"][0]
    for holder in (model, model["graph_module"], model["graph_module"]["graph"], first, first["inputs"][0]):
        for key in list(holder):
            value = holder.pop(key)
            path = write(tmp_path / "net.pt2", {**entries, MODEL: json.dumps(model).encode()})
            refusal(path)
            holder[key] = value

"""Mutations of files: at the level of bytes, and of the structures that readers parse."""

from __future__ import annotations

import io
import json
import pickle
import random
import re
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import onnx

NUMBERS = (0, 1, -1, 2, 7, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, -(2**63))
WORDS = (
    "none", "%x", "@w", "f32[1,3,8,8]", "f32[0]", "f32[-1]", "f32[99999999999]", "i64[1]", "return", "input",
    "()", "((1, 1), (1, 1))", "1e999", "nan", "-1e999", "'relu'", "True", "[]", "{}", "!{", "}", "{", "\\",
    "\x00", "é", "%", "@", "groups=0", "axis=9", "axes=(9,)", "shape=()", "seed(1)", "full(1e40)",
)  # fmt: skip
_PICKLED = (
    "data/constants/custom_obj_0", "serialized_exported_program.json", "data.pkl", "data/weights/weight_0",
    "data/sample_inputs/model.pt",
)  # fmt: skip
_MAKERS = (
    "= full(nan)",
    "= full(inf)",
    "= full(-1e38)",
    "= full(0)",
    "= seed(0)",
    "= integers(5)",
    "= full(1e-40)",
)
CANARY = "mcc-fuzz-canary"


class _Payload:
    """A pickle that writes a file when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (CANARY, "w")


def broken(kind: str, seeds: tuple[bytes, ...], number: int) -> bytes:
    """Broken file number `number` of a kind; deterministic."""
    dice = random.Random(f"{kind} {number}")
    data = dice.choice(seeds)
    ways: list[Callable[[bytes, random.Random], bytes]] = [_bytes, _SHAPED[kind], _SHAPED[kind]]
    for _ in range(dice.choice((1, 1, 2, 3))):
        way = dice.choice(ways)
        try:
            data = way(data, dice)
        except Exception:  # a broken file may not open again for a second mutation
            data = _bytes(data, dice)
    return data


def _bytes(data: bytes, dice: random.Random) -> bytes:
    """Cut, double, flip or overwrite a piece."""
    held = bytearray(data)
    at = dice.randrange(len(held) + 1)
    end = min(len(held), at + dice.choice((1, 2, 4, 8, 64, 4096)))
    match dice.randrange(7):
        case 0:
            return bytes(held[:at])
        case 1:
            held[at:end] = b""
        case 2:
            held[at:at] = held[at:end] * dice.choice((1, 2, 50))
        case 3:
            held[at:end] = bytes(dice.randrange(256) for _ in range(end - at))
        case 4:
            held[at : at + 4] = struct.pack("<I", dice.choice(NUMBERS) & 0xFFFFFFFF)
        case 5:
            held[at : at + 8] = struct.pack("<Q", dice.choice(NUMBERS) & (2**64 - 1))
        case _:
            for _ in range(dice.choice((1, 8, 64))):
                if held:
                    held[dice.randrange(len(held))] ^= 1 << dice.randrange(8)
    return bytes(held)


def _text(data: bytes, dice: random.Random) -> bytes:
    """Words, numbers and lines of a graph in other places; unbounded nesting and lines."""
    text = data.decode("utf-8", "replace")
    lines = text.splitlines() or [""]
    match dice.randrange(9):
        case 7 | 8:  # changes no type, so that the graph is read and processed
            makers = re.sub(
                r"= \w+\([^)]*\)", lambda _: dice.choice(_MAKERS), text, count=dice.randrange(1, 4)
            )
            text = makers.replace("'none'", dice.choice(("'relu'", "'relu6'", "'none'")))
        case 0:
            found = list(re.finditer(r"-?\d+", text)) or [None]
            spot = dice.choice(found)
            text = (
                text
                if spot is None
                else text[: spot.start()] + str(dice.choice(NUMBERS)) + text[spot.end() :]
            )
        case 1:
            words = re.findall(r"[\w%@.]+|\S", text) or [""]
            text = text.replace(
                dice.choice(words), dice.choice((*WORDS, dice.choice(words))), dice.choice((1, -1))
            )
        case 2:
            lines.insert(dice.randrange(len(lines) + 1), dice.choice(lines))
            text = "\n".join(lines)
        case 3:
            dice.shuffle(lines)
            text = "\n".join(lines)
        case 4:
            depth = dice.choice((50, 500, 20_000))
            text = (
                text.replace("(", "(" * depth, 1)
                if dice.random() < 0.5
                else text.replace("{", "{a=" + "[" * depth, 1)
            )
        case 5:
            text = text.replace(dice.choice(lines), dice.choice(lines) * dice.choice((3, 3000)), 1)
        case _:
            at = dice.randrange(len(text) + 1)
            text = text[:at] + dice.choice(WORDS) + text[at:]
    return text.encode("utf-8", "replace")


def _tree(value: Any, dice: random.Random, depth: int = 0) -> Any:
    """A JSON value with one place changed: dropped, exchanged, of another type, or a nest."""
    if isinstance(value, dict) and value and dice.random() < 0.92:
        key = dice.choice(list(value))
        if dice.random() < 0.05 + 0.02 * depth:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: _tree(value[key], dice, depth + 1)}
    if isinstance(value, list) and value and dice.random() < 0.92:
        at = dice.randrange(len(value))
        return [*value[:at], _tree(value[at], dice, depth + 1), *value[at + 1 :]]
    nest: Any = []
    for _ in range(dice.choice((1, 5000))):
        nest = [nest]
    return dice.choice(
        (None, True, "", "x" * 100, *NUMBERS, 1e400, [], {}, [value, value], {"as_int": value}, nest)
    )


def _header(data: bytes, dice: random.Random) -> bytes:
    """A .safetensors with another header, or another length of it."""
    (length,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    changed = json.dumps(_tree(header, dice)).encode()
    said = len(changed) if dice.random() < 0.8 else dice.choice(NUMBERS) & (2**64 - 1)
    return struct.pack("<Q", said) + changed + body


def _archive(data: bytes, dice: random.Random) -> bytes:
    """A .pt2 with an entry changed, added, dropped, renamed or packed."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    root = next(iter(entries)).split("/")[0]
    names = list(entries)
    chosen = dice.choice([n for n in names if n.endswith(".json")] if dice.random() < 0.7 else names)
    packed = zipfile.ZIP_STORED
    match dice.randrange(8):
        case 0 | 1 | 2 if chosen.endswith(".json"):
            entries[chosen] = json.dumps(_tree(json.loads(entries[chosen]), dice)).encode()
        case 3:
            entries[chosen] = _bytes(entries[chosen], dice)
        case 4:
            del entries[chosen]
        case 5:
            entries[f"{root}/{dice.choice(_PICKLED)}"] = pickle.dumps(_Payload())
        case 6:
            text = entries[chosen].replace(b'"use_pickle": false', b'"use_pickle": true')
            entries[chosen] = text.replace(b'"use_pickle":false', b'"use_pickle":true')
        case _:
            entries[f"{root}/bomb"] = bytes(1 << 24)
            entries[chosen], packed = bytes(1 << 26), zipfile.ZIP_DEFLATED
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", packed) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return held.getvalue()


def _protobuf(data: bytes, dice: random.Random) -> bytes:
    """An ONNX model with a node, an attribute, a shape or a tensor changed."""
    model = onnx.load_from_string(data)
    graph, node = model.graph, dice.choice(model.graph.node)
    match dice.randrange(9):
        case 0 if node.attribute:
            attribute = dice.choice(node.attribute)
            attribute.i = dice.choice(NUMBERS) if abs(dice.choice(NUMBERS)) < 2**63 else 0
            attribute.ints[:] = [dice.choice(NUMBERS) % 2**62 for _ in range(dice.randrange(6))]
        case 1:
            node.op_type = dice.choice(
                ("Conv", "Add", "Loop", "If", "Reshape", "Gemm", "Concat", "", "QuantizeLinear")
            )
        case 2 if node.input:
            node.input[dice.randrange(len(node.input))] = dice.choice(
                [*node.output, "", "nowhere", graph.input[0].name]
            )
        case 3 if graph.initializer:
            tensor = dice.choice(graph.initializer)
            tensor.dims[:] = [dice.choice(NUMBERS) % 2**40 for _ in range(dice.randrange(5))]
        case 4 if graph.initializer:
            tensor = dice.choice(graph.initializer)
            tensor.raw_data = _bytes(tensor.raw_data, dice)
        case 5 if graph.initializer:
            tensor = dice.choice(graph.initializer)
            tensor.data_type = dice.randrange(25)
        case 6:
            shape = dice.choice((*graph.input, *graph.output)).type.tensor_type.shape
            for length in shape.dim:
                length.dim_value = dice.choice(NUMBERS) % 2**62
        case 7 if graph.initializer:
            tensor = dice.choice(graph.initializer)
            tensor.data_location = onnx.TensorProto.EXTERNAL
            entry = tensor.external_data.add()
            entry.key, entry.value = "location", dice.choice(("/etc/passwd", "../../x", "x" * 5000))
        case _:
            model.opset_import[0].version = dice.choice((0, 1, 7, 12, 99, 2**31 - 1))
    return model.SerializeToString()


_SHAPED: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "mcc": _text,
    "onnx": _protobuf,
    "pt2": _archive,
    "safetensors": _header,
    "tflite": _bytes,
}

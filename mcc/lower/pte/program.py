"""Writing and reading of ExecuTorch programs with one method and one XNNPACK delegate.

    flatbuffer (`schema/program.fbs`), an extended header after its first 8 bytes | segments

Constant methods return data for an app (labels, normalisation). The result is that of ExecuTorch's own
`exir`, of which only the schema is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mcc.flatc import compile_json, read_json

SCHEMA = "schema/program.fbs"
SEGMENT_ALIGNMENT = 16  # required by XNNPACK for constants
MEMORY_ALIGNMENT = 16
HEADER_MAGIC, HEADER_BYTES = b"eh00", 32
SCALAR_TYPES = {"float32": "FLOAT", "int8": "CHAR", "int32": "INT", "int64": "LONG", "bool": "BOOL"}
ITEM_BYTES = {"float32": 4, "int8": 1, "int32": 4, "int64": 8, "bool": 1}
BACKEND = "XnnpackBackend"


@dataclass(frozen=True)
class Port:
    """An input or output of the method."""

    shape: tuple[int, ...]
    dtype: str


def write_program(
    delegate: bytes,
    constants: Mapping[str, bytes],
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    answers: Mapping[str, str | list[float]],
) -> bytes:
    """The bytes of a `.pte` program.

    Args:
        delegate: Result of `XnnGraph.finish`, with the inputs and outputs in this order.
        constants: Constants of the delegate, by name.
        answers: Constant methods by name: a text, or a list of numbers.

    Raises:
        TargetError: The wheel is missing.
    """
    plans = [_forward(inputs, outputs), *(_constant_method(name, value) for name, value in answers.items())]
    places, data = _laid_out([delegate, *constants.values()])
    program = {
        "version": 0,
        "execution_plan": plans,
        "constant_buffer": [],
        "backend_delegate_data": [],
        # The runtime requires a segment of constants, even an empty one; its first entry means "none".
        "segments": [{"offset": 0, "size": 0}, *places],
        "constant_segment": {"segment_index": 0, "offsets": [0]},
        "named_data": [{"key": name, "segment_index": 2 + i} for i, name in enumerate(constants)],
    }
    flat = compile_json(SCHEMA, program)
    program_bytes = len(flat) + HEADER_BYTES
    base = -(-program_bytes // SEGMENT_ALIGNMENT) * SEGMENT_ALIGNMENT
    header = b"".join(
        [
            HEADER_MAGIC,
            HEADER_BYTES.to_bytes(4, "little"),
            *(value.to_bytes(8, "little") for value in (program_bytes, base, len(data))),
        ]
    )
    root = int.from_bytes(flat[:4], "little") + HEADER_BYTES
    whole = root.to_bytes(4, "little") + flat[4:8] + header + flat[8:]
    return whole.ljust(base, b"\0") + data


def _laid_out(parts: Sequence[bytes]) -> tuple[list[dict[str, int]], bytes]:
    """Offset and size of each part, and their aligned concatenation."""
    places: list[dict[str, int]] = []
    data = bytearray()
    for part in parts:
        data += b"\0" * (-len(data) % SEGMENT_ALIGNMENT)
        places.append({"offset": len(data), "size": len(part)})
        data += part
    return places, bytes(data)


def read_answers(raw: bytes) -> dict[str, str | list[float]]:
    """The constant methods of a program that return a text or a list of numbers, by name.

    Raises:
        TargetError: The wheel is missing, or the bytes are no program.
    """
    found: dict[str, str | list[float]] = {}
    for plan in read_json(SCHEMA, raw)["execution_plan"]:
        if plan["inputs"] or len(plan["outputs"]) != 1:
            continue
        answer = plan["values"][plan["outputs"][0]]
        if answer["val_type"] == "String":
            found[plan["name"]] = str(answer["val"]["string_val"])
        elif answer["val_type"] == "DoubleList":
            found[plan["name"]] = [float(value) for value in answer["val"]["items"]]
    return found


def _forward(inputs: Sequence[Port], outputs: Sequence[Port]) -> dict[str, Any]:
    values: list[dict[str, Any]] = []
    end = 0  # of the memory of inputs and outputs
    for port in (*inputs, *outputs):
        values.append(_tensor(port, end))
        size = ITEM_BYTES[port.dtype]
        for length in port.shape:
            size *= length
        end += -(-size // MEMORY_ALIGNMENT) * MEMORY_ALIGNMENT
    order = list(range(len(values)))
    call = {"delegate_index": 0, "args": order}
    plan = _plan("forward", values, order[: len(inputs)], order[len(inputs) :])
    plan["chains"] = [_chain([{"instr_args_type": "DelegateCall", "instr_args": call}])]
    plan["delegates"] = [
        {"id": BACKEND, "processed": {"location": "SEGMENT", "index": 1}, "compile_specs": []}
    ]
    plan["non_const_buffer_sizes"] = [0, end]
    return plan


def _constant_method(name: str, answer: str | list[float]) -> dict[str, Any]:
    kind, fields = (
        ("String", {"string_val": answer}) if isinstance(answer, str) else ("DoubleList", {"items": answer})
    )
    return _plan(name, [{"val_type": kind, "val": fields}], [], [0])


def _plan(
    name: str, values: list[dict[str, Any]], inputs: Sequence[int], outputs: Sequence[int]
) -> dict[str, Any]:
    return {
        "name": name,
        "container_meta_type": {"encoded_inp_str": "", "encoded_out_str": ""},
        "values": values,
        "inputs": list(inputs),
        "outputs": list(outputs),
        "chains": [_chain([])],
        "operators": [],
        "delegates": [],
        "non_const_buffer_sizes": [0],
    }


def _chain(instructions: list[dict[str, Any]]) -> dict[str, Any]:
    return {"inputs": [], "outputs": [], "instructions": instructions}


def _tensor(port: Port, place: int) -> dict[str, Any]:
    tensor = {
        "scalar_type": SCALAR_TYPES[port.dtype],
        "storage_offset": 0,
        "sizes": list(port.shape),
        "dim_order": list(range(len(port.shape))),
        "requires_grad": False,
        "layout": 0,
        "data_buffer_idx": 0,
        "allocation_info": {
            "memory_id": 1,
            "memory_offset_low": place & 0xFFFFFFFF,
            "memory_offset_high": place >> 32,
        },
        "shape_dynamism": "STATIC",
    }
    return {"val_type": "Tensor", "val": tensor}

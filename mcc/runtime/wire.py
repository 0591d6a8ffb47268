"""Messages between mcc and a runner: a JSON header and the raw bytes of arrays, length-prefixed.

    uint32 header bytes | uint32 payload bytes | header (JSON, UTF-8) | payload      (little endian)

A request's header has `op` and its arguments; an answer's has `ok`, and `error` if it is false.
`tensors` in a header lists dtype and shape of the arrays stored consecutively in the payload. The protocol is
implemented by `worker.py` (Python runtimes) and `web/runner.mjs` (LiteRT.js under Node).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Header: TypeAlias = dict[str, Any]

PREFIX = struct.Struct("<II")


def encode(header: Header, arrays: Sequence[Array] = ()) -> bytes:
    """Encode a message; `arrays` are described in the header and appended in C order."""
    solid = [np.asarray(array, order="C") for array in arrays]
    described = [{"dtype": array.dtype.name, "shape": list(array.shape)} for array in solid]
    head = json.dumps({**header, "tensors": described}).encode()
    parts = [array.tobytes() for array in solid]
    return b"".join([PREFIX.pack(len(head), sum(map(len, parts))), head, *parts])


def read_message(read_exactly: Callable[[int], bytes]) -> tuple[Header, list[Array]]:
    """The next message.

    Args:
        read_exactly: Function that returns that many bytes; it raises EOFError at the end of the stream.

    Returns:
        The header and its arrays.
    """
    head_bytes, payload_bytes = PREFIX.unpack(read_exactly(PREFIX.size))
    header: Header = json.loads(read_exactly(head_bytes))
    return header, _split(header, read_exactly(payload_bytes))


def _split(header: Header, payload: bytes) -> list[Array]:
    arrays: list[Array] = []
    offset = 0
    for described in header.get("tensors", []):
        dtype, shape = np.dtype(described["dtype"]), tuple(described["shape"])
        count = int(np.prod(shape, dtype=np.int64))
        arrays.append(np.frombuffer(payload, dtype, count, offset).reshape(shape))
        offset += count * dtype.itemsize
    return arrays

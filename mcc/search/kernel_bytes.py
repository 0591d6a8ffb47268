"""Bytes of a kernel's constants in a file; the rest of the file hardly depends on the decisions.

TFLite aligns each constant to 16 bytes. An int8 weight has a scale (float32) and a zero point (int64) for
each output channel, and so has its int32 bias. A sparse weight has its values, a column index for each of
them (for each block) and row pointers, each in the narrowest type for its largest entry (see
`mcc.lower.tflite.sparse`). ONNX stores everything dense, zero points in one byte, without alignment.
ExecuTorch stores everything dense, aligned to 16 bytes, without zero points of weights.
"""

from __future__ import annotations

from math import prod

from mcc.cost_api import Kernel
from mcc.ir.table import WEIGHTED
from mcc.lower.formats import Storage

OPERATOR_BYTES = 300  # of one more convolution in files of mcc: its operator, tensors and their names


def constant_bytes(kernel: Kernel, storage: Storage) -> float:
    """Bytes of a kernel's constants in a file of a format with that storage."""
    unit = storage.alignment
    total = sum(
        _aligned(_operand_bytes(kernel, index, storage), unit)
        for index, shaped in enumerate(kernel.operands)
        if shaped is not None and shaped.constant
    )
    if kernel.op not in WEIGHTED:
        return total
    made = kernel.output[1] if kernel.op != "linear" else kernel.output[-1]
    biased = storage.always_bias or kernel.operands[2] is not None
    if biased and kernel.operands[2] is None:
        total += _aligned(4 * made, unit)  # TFLite's kernels need a bias, and our .pte files follow: zeros
    if kernel.precision != "float":
        total += (storage.weight_scale + storage.bias_scale * biased) * made
    return total


def _operand_bytes(kernel: Kernel, index: int, storage: Storage) -> int:
    shaped = kernel.operands[index]
    assert shaped is not None
    if index == 2 and kernel.op in WEIGHTED:
        return 4 * prod(shaped.shape)
    if kernel.precision != "float":
        return prod(shaped.shape)
    if index == 1 and kernel.sparse is not None and storage.sparse:
        return _sparse_bytes(shaped.shape, kernel.sparse.block, kernel.sparse.sparsity)
    return 4 * prod(shaped.shape)


def _sparse_bytes(shape: tuple[int, ...], block: int, sparsity: float) -> int:
    """Values, columns and row pointers of a sparse weight [O, I, 1, 1]."""
    out, width = shape[:2]
    block = 1 if out % block else block
    blocks = out // block * width
    kept = blocks - int(blocks * sparsity)
    return 4 * block * kept + _index_bytes(width - 1) * kept + _index_bytes(kept) * (out // block + 1)


def _index_bytes(largest: int) -> int:
    """Width of TFLite's narrowest index vector that holds a number."""
    return 1 if largest < 2**8 else 2 if largest < 2**16 else 4


def _aligned(amount: int, unit: int) -> int:
    return -(-amount // unit) * unit

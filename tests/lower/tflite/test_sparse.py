"""The sparse encoding: exact both ways for every pattern, and as LiteRT decodes it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mcc.ir.graph import Graph, GraphBuilder, constant, operand, outputs
from mcc.ir.notes import SparseNote, annotate
from mcc.lower.tflite.reader import read_tflite
from mcc.lower.tflite.sparse import Dimension, SparseWeight, decode, encode
from mcc.lower.tflite.writer import to_tflite
from tests.lower.tflite.running import RESOLVERS, execute


@st.composite
def weights(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    """A weight [O, 1, 1, I] of any pattern, all zeros and no zeros included, and a block size."""
    block = draw(st.sampled_from([1, 2, 4]))
    out_channels, in_channels = draw(st.integers(1, 24)), draw(st.integers(1, 40))
    seed = draw(st.integers(0, 2**32 - 1))
    density = draw(st.sampled_from([0.0, 0.05, 0.3, 1.0]))
    rng = np.random.default_rng(seed)
    value = rng.standard_normal((out_channels, 1, 1, in_channels)).astype(np.float32)
    return value * (rng.random(value.shape) < density), block


@given(weights())
def test_decoding_gives_the_weight_back(drawn: tuple[np.ndarray, int]) -> None:
    weight, block = drawn
    packed = encode(weight, block)
    assert np.array_equal(decode(packed), weight)
    assert packed.block == (block if weight.shape[0] % block == 0 else 1)
    assert packed.values.size <= weight.size


@given(st.integers(0, 2**32 - 1))
def test_pairs_that_share_a_pattern_store_no_zero(seed: int) -> None:
    rng = np.random.default_rng(seed)
    kept = np.repeat(rng.random((8, 1, 1, 12)) < 0.3, 2, axis=0)
    packed = encode(np.where(kept, 1.0, 0.0).astype(np.float32), block=2)
    assert (packed.values == 1).all()


def _conv(out_channels: int, in_channels: int, block: int, density: float) -> Graph:
    generator = torch.Generator().manual_seed(out_channels)
    weight = torch.randn(out_channels, in_channels, 1, 1, generator=generator)
    weight *= torch.rand(weight.shape, generator=generator) < density
    b = GraphBuilder()
    y = b.conv2d(b.input("x", (1, in_channels, 3, 3)), b.constant("w", weight), None)
    annotate(y, sparse=SparseNote(block, 1 - density))
    return b.finish(y)


# In channels beyond 256 and kept values beyond 65536 need wider index vectors.
@pytest.mark.parametrize(
    ("out_channels", "in_channels", "block", "density"),
    [
        (8, 16, 1, 0.3),
        (8, 16, 2, 0.3),
        (8, 16, 4, 0.3),
        (6, 300, 4, 0.2),
        (400, 300, 1, 0.7),
        (8, 16, 2, 0.0),
    ],
)
def test_litert_decodes_what_was_encoded(
    out_channels: int, in_channels: int, block: int, density: float
) -> None:
    graph = _conv(out_channels, in_channels, block, density)
    dense = _conv(out_channels, in_channels, block, density)
    annotate(outputs(dense)[0], sparse=None)
    raw, dense_raw = to_tflite(graph), to_tflite(dense)
    assert read_tflite(raw).op_counts() == {"DENSIFY": 1, "CONV_2D": 1}
    x = np.random.default_rng(0).standard_normal((1, in_channels, 3, 3)).astype(np.float32)
    for kernels in RESOLVERS:
        assert np.array_equal(execute(raw, [x], kernels)[0], execute(dense_raw, [x], kernels)[0])


def test_reader_decodes_the_file() -> None:
    graph = _conv(8, 16, 2, 0.3)
    model = read_tflite(to_tflite(graph))
    conv = model.operators[-1]
    weight = constant(graph, operand(outputs(graph)[0], 1)).detach().numpy().transpose(0, 2, 3, 1)
    assert np.array_equal(model.constant(conv.inputs[1]), weight)
    packed = next(tensor for tensor in model.tensors if tensor.sparse is not None)
    assert packed.sparse is not None
    assert packed.sparse.block == 2
    assert packed.stored_bytes < weight.nbytes


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_a_changed_value_is_noticed(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((4, 1, 1, 8)).astype(np.float32)
    packed = encode(weight)
    packed.values[rng.integers(packed.values.size)] += 1
    assert not np.array_equal(decode(packed), weight)


def test_metadata_that_contradict_the_values_are_refused() -> None:
    packed = encode(np.ones((4, 1, 1, 8), np.float32))
    with pytest.raises(ValueError, match="describe 32 values, the buffer holds 31"):
        decode(SparseWeight(packed.shape, packed.values[1:], packed.traversal_order, (), packed.dimensions))
    broken = (*packed.dimensions[:3], Dimension(segments=np.array([0, 1]), indices=np.array([0])))
    with pytest.raises(ValueError, match="segments do not fit"):
        decode(SparseWeight(packed.shape, packed.values, packed.traversal_order, (), broken))


@pytest.mark.parametrize(("shape", "block"), [((4, 3, 3, 8), 1), ((4, 8), 1), ((4, 1, 1, 8), 3)])
def test_other_shapes_and_blocks_are_refused(shape: tuple[int, ...], block: int) -> None:
    with pytest.raises(ValueError, match=r"only weights|block must be"):
        encode(np.ones(shape, np.float32), block)

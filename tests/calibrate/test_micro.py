"""Micro-networks hold the kernel that they claim to hold, and profiles are matched with the right ones."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from mcc.calibrate.files import write_graph
from mcc.calibrate.micro import KERNEL_NAME, chain, micro_network
from mcc.calibrate.replicated_kernels import copies_network
from mcc.calibrate.timing_by_profile import by_name, by_order, files_of
from mcc.cost_api import Kernel, graph_kernels
from mcc.errors import TargetError, UnsupportedError
from mcc.ir.graph import calls, op_name
from mcc.ir.notes import SparseNote, note
from mcc.lower.tflite.reader import read_tflite
from mcc.quant.regions import integer_nodes
from mcc.runtime.registry import get_target
from mcc.runtime.session import OpTime
from tests.calibrate.kernels import add, conv, linear, pool

KERNELS = [
    conv(8, 16, activation="relu6"), conv(16, 16, window=3, groups=16), conv(16, 8, window=3), add(24),
    pool(16), linear(32, 10),
]  # fmt: skip
SPARSE = replace(conv(16, 32), layout="nchw", sparse=SparseNote(1, 0.8))


@pytest.mark.parametrize("precision", ["float", "int8", "int7"])
def test_the_graph_holds_the_kernels_as_they_are(precision: str) -> None:
    kernels = [replace(kernel, precision=precision) for kernel in KERNELS]
    graph = micro_network(kernels).graph
    integer = [node.name for node in integer_nodes(graph)]
    found = graph_kernels(graph, integer)
    for index, kernel in enumerate(kernels):
        if kernel.op in ("conv2d", "linear") or precision != "int7":
            assert found[KERNEL_NAME.format(index)] == kernel


@pytest.mark.parametrize("precision", ["float", "int8"])
@pytest.mark.parametrize("spec", ["litert-host", "ort-host"])
def test_a_profile_is_matched_with_its_kernels(spec: str, precision: str, tmp_path: Path) -> None:
    target = get_target(spec)
    kernels = [replace(kernel, precision=precision) for kernel in KERNELS]
    onnx = target.format == "onnx"
    network = micro_network(kernels, blocked=onnx)
    ops = target.profile(write_graph(network.graph, target, tmp_path / "micro"), runs=2)
    shares = (by_name if onnx else by_order)(network, ops)
    words = {"conv2d": ("Conv", "Fully Connected"), "add": ("Add",), "mean": ("Mean", "Pool"),
             "linear": ("Fully Connected", "Gemm")}  # fmt: skip
    for kernel, own, fused_us in zip(kernels, shares.operators, shares.fused_us, strict=True):
        if own:
            assert any(word in op.kind for op in own for word in words[kernel.op]), (kernel, own)
        else:
            assert kernel.op == "add"
            assert fused_us >= 0.0


def times(*kinds: str) -> list[OpTime]:
    return [OpTime(str(index), kind, 1.0 + index) for index, kind in enumerate(kinds)]


def test_by_order_takes_what_lies_between_producers_and_sink() -> None:
    network = micro_network([conv(8, 8), add(8, activation="relu"), pool(8), linear(8, 4)])
    ops = times(
        "Add", "Conv", "Mean", "Add", "Add", "Add", "Clamp", "Mean", "Add", "Mean", "Reshape", "Add", "FC"
    )
    shares = by_order(network, ops)
    assert [[op.kind for op in own] for own in shares.operators] == [
        ["Conv"], ["Add", "Clamp"], ["Mean", "Reshape"], ["FC"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    "kinds",
    [
        ("Add", "Conv", "Mean", "Add", "Mean"),  # a kernel vanished
        ("Add", "Conv", "Mean", "Add", "Conv"),  # a sink vanished
        ("Add", "Conv", "Mean", "Convert", "Conv", "Mean"),  # another producer
        ("Add", "Conv", "Mean", "Add", "Conv", "Mean", "Convert"),  # something is left
    ],
)
def test_a_profile_that_does_not_fit_is_refused(kinds: tuple[str, ...]) -> None:
    with pytest.raises(TargetError):
        by_order(micro_network([conv(8, 8), conv(8, 16)]), times(*kinds))


def test_by_name_charges_a_fused_kernel_with_the_difference_of_its_producers() -> None:
    network = micro_network([add(16), conv(8, 8)], blocked=True)
    ops = [OpTime("kernel0_0_producer_nchwc", "Conv", 3.0), OpTime("kernel0_1_producer_nchwc", "Conv", 3.5),
           OpTime("kernel1_token_4", "QLinearConv", 7.0), OpTime("sink1", "Pool", 1.0)]  # fmt: skip
    shares = by_name(network, ops)
    assert shares.fused_us == (0.5, 0.0)
    assert [op.us for op in shares.operators[1]] == [7.0]
    with pytest.raises(TargetError, match="not in the profile"):
        by_name(network, ops[:2])


def test_files_hold_one_precision_and_keep_kernels_without_sink_for_the_end() -> None:
    mixed: list[Kernel] = [pool(8), conv(8, 8), replace(conv(8, 8), precision="int8"), conv(8, 16)]
    files = files_of(mixed)
    assert [len({kernel.precision for kernel in file}) for file in files] == [1, 1]
    assert files[0] == [conv(8, 8), conv(8, 16), pool(8)]


@pytest.mark.parametrize("blocked", [False, True])
@pytest.mark.parametrize("kernel", [conv(8, 16), conv(16, 16, window=3, groups=16), linear(8, 4)])
def test_both_files_of_a_difference_differ_by_the_copies_alone(kernel: Kernel, blocked: bool) -> None:
    many, one = (copies_network(kernel, 5, n, blocked=blocked) for n in (5, 1))
    names = [Counter(op_name(node) for node in calls(graph)) for graph in (many, one)]
    assert names[0] - names[1] == Counter({kernel.op: 4})
    assert not names[1] - names[0]
    found = graph_kernels(many)
    assert [found[KERNEL_NAME.format(index)] for index in range(5)] == [kernel] * 5


@pytest.mark.parametrize(
    "kernel", [SPARSE, replace(conv(16, 16, window=3, groups=16), layout="nchw"), add(16)]
)
def test_clusters_are_such_that_the_sparse_path_takes_them(kernel: Kernel, tmp_path: Path) -> None:
    from mcc.analysis.sparse_cluster import find_sparse_cluster

    graph = copies_network(replace(kernel, layout="nchw"), 4, 4)
    cluster = find_sparse_cluster(graph)
    assert cluster.reason is None
    assert {KERNEL_NAME.format(index) for index in range(4)} <= set(cluster.nodes)
    assert all(note(node).sparse for node in calls(graph) if node.name in cluster.pointwise)
    file = write_graph(graph, get_target("litert-web"), tmp_path / "copies")
    model = read_tflite(file.read_bytes())
    assert model.op_counts()["DENSIFY"] == len(cluster.pointwise)


def test_what_cannot_be_built_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="sparse clusters only"):
        micro_network([SPARSE])
    with pytest.raises(UnsupportedError, match="dense 1x1"):
        copies_network(replace(conv(8, 8), layout="nchw"), 4, 4)
    silu = Kernel("silu", add(8).operands[:1], (1, 8, 8, 8), (), "int8")
    with pytest.raises(UnsupportedError, match="no integer kernel"):
        micro_network([silu])


def test_a_chain_holds_its_copies() -> None:
    graph = chain(conv(8, 8), 6)
    assert sum(node.name.startswith("kernel") for node in calls(graph)) == 6

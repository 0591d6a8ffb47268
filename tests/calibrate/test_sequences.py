"""The kernels of a network on sequences at several widths: each of them can be built, and the widths vary."""

from __future__ import annotations

from mcc.calibrate.kernel_selection import Choices, kernels_for
from mcc.frontend.torch_module import capture
from mcc.pipeline import deployment_form
from mcc.runtime.registry import get_target
from tests.compress import sounds


def test_kernels_of_sequences_are_whole() -> None:
    network, example = sounds.network()
    graph = deployment_form(capture(network, (example,)))
    kernels = kernels_for(graph, get_target("litert-host"), Choices())
    for kernel in kernels:
        kernel.build()
    read = {kernel.operands[1].shape[1] for kernel in kernels if kernel.op == "gru" and kernel.operands[1]}
    assert len(read) >= len(Choices().ratios), "the features of the GRU follow the convolution"
    assert {kernel.output[2] for kernel in kernels if kernel.op == "gru"} == {12}

"""Facts about a target's runtime and kernels, for the planner."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TargetFacts:
    """Properties of a target that the planner needs before any measurement; times are always measured.

    Attributes:
        sparse_1x1: Whether zeros in 1x1 convolutions can save time, with the reason in `sparse_why`.
        sparse_block: Number of output channels that should share a pattern (1: unstructured).
        channel_multiple: Preferred divisor of channel numbers, the tile width of the float kernels.
        activation_dtype: Dtype of integer activations in the form that the runtime fuses: int8 or uint8.
        int8_io: Whether a file may have quantised inputs and outputs.
        blocked_layout: Whether values between float convolutions have a layout of channel blocks.
        coarse_profile: Whether its profile adds microseconds to each operator and merges equal ones.
        named_profile: Whether operators in the profile have the names of the graph's nodes.
    """

    sparse_1x1: bool
    sparse_why: str
    sparse_block: int
    channel_multiple: int
    activation_dtype: str
    int8_io: bool
    blocked_layout: bool = False
    coarse_profile: bool = False
    named_profile: bool = False


XNNPACK_ARM64 = TargetFacts(
    sparse_1x1=True,
    sparse_why="XNNPACK's sparse path, with vector kernels for pairs of output channels on ARM64",
    sparse_block=2,
    channel_multiple=8,
    activation_dtype="int8",
    int8_io=True,
)
"""LiteRT on a phone or an emulated core: sparse kernels are fastest for pairs of output channels."""

ONNXRUNTIME_CPU = TargetFacts(
    sparse_1x1=False,
    sparse_why="onnxruntime's CPU provider has no kernels for sparse convolutions",
    sparse_block=1,
    channel_multiple=8,
    activation_dtype="uint8",
    int8_io=True,
    blocked_layout=True,
    coarse_profile=True,
    named_profile=True,
)
"""onnxruntime on any device: float convolutions use blocks of 8 or 16 channels (NCHWc)."""

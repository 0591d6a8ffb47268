"""What a runtime's kernels reward: what the planner must know before it has measured anything."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TargetFacts:
    """What the planner must know before it has measured anything; times are always measured.

    Attributes:
        sparse_1x1: whether zeros in 1x1 convolutions can save time here at all, and `sparse_why`.
        sparse_block: output channels that should share a pattern (1: unstructured).
        channel_multiple: of which kept channels should be a multiple, the width of the float kernels' tiles.
        activation_dtype: of integer activations in the form that the runtime fuses: int8 or uint8.
        int8_io: whether a file may have quantised inputs and outputs.
        blocked_layout: whether float convolutions hand each other values in blocks of channels.
        coarse_profile: whether its profile adds microseconds to each operator and merges equal ones.
        named_profile: whether operators in the profile have the names of the graph's nodes.
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
"""LiteRT on a phone or an imitated core: sparse kernels are fastest for pairs of output channels."""

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
"""onnxruntime anywhere: float convolutions work on blocks of 8 or 16 channels (NCHWc)."""

"""Writes the page of the zoo, docs/results/zoo.md, from the results of the runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

Stages = Mapping[str, Mapping[str, Any]]

STAGES = ("captured", "deployed", "pruned", "sparse", "low-rank", "int8", "tflite", "onnx")
"""The stages of a complete run."""

STATES = {"ok": "yes", "refused": "refused", "failed": "FAILED", "limit": "limit", "begun": "FAILED"}

INTRODUCTION = """# The zoo

Public architectures with random weights, built from torchvision and timm, through the complete toolchain:
capture (compared with the module), `-O2`, `prune-channels{keep=0.5}`, and on what that left
`sparsify-1x1{sparsity=0.7}`, `factorize-1x1{rank=0.5}` and `insert-qdq`; every pass is verified against
its exact twin in float64. Each of the four graphs is then lowered to TFLite and ONNX and run in LiteRT
and onnxruntime on this host: float outputs must agree with the graph to 1e-4 of their range, int8
outputs with the integer simulator (how closely says `tools/public_models/chain.py`).

Parameters and statistics that a fresh network holds at one value (gates at zero, batch norms at the
identity) are moved away from it at random, so that no branch is dead. Pictures are 64 pixels high and
wide unless a network needs more: the operators are the same. Each network has its own process and
one thread, limited to 2.5 GB of memory and 180 s of processor time unless its row shows more.

* pruned: the share of the prunable parameters that went (of tensors in which a channel may go); at
  least 40 %.
* sparse, low-rank: the number of layers; a dash where there is no plain 1x1 convolution.
* int8: signal to noise of the quantised graph against the float one, on 4 random pictures.
* worst error: largest difference between a pass's result and its exact twin, as a share of the output
  range.
* seconds: processor time of the whole run, imports left out; peak memory: of the process.

This page is written by `python -m tools.zoo`, which is resumable.
"""

PRUNING = """
## Torch-Pruning's list

The convolutional networks among the 85 torchvision models that Torch-Pruning tries to prune (its
`examples/torchvision_models`; the others are five vision transformers, three Swin transformers and
RAFT). Each loses half of the channels of every group that may shrink, and must equal its exact twin. By
`python -m tools.zoo --pruning --memory 12 --seconds 900`; rows without a peak memory are the same stages of
the whole chain above.
"""


def whole_way(stages: Stages) -> bool:
    """Whether all stages succeeded."""
    return all(stages.get(name, {}).get("state") == "ok" for name in STAGES)


def write_page(path: Path, chain: Mapping[str, Stages], pruning: Mapping[str, Stages], total: int) -> None:
    """Write the page.

    Args:
        chain: Results of the complete toolchain, by architecture.
        pruning: Results of pruning alone, for Torch-Pruning's list.
        total: Number of architectures.
    """
    done = sum(whole_way(stages) for stages in chain.values())
    lines = [
        INTRODUCTION,
        f"**{done} of {len(chain)} architectures complete all stages**; "
        f"{total - len(chain)} of the {total} listed have not been run yet.",
        "",
        "| architecture | captured | groups | pruned | sparse | low-rank | int8 | tflite | onnx "
        "| worst error | seconds | peak memory |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- | --- | --- | ---: | ---: | ---: |",
        *(_row(name, stages) for name, stages in sorted(chain.items())),
    ]
    lines += ["", "Incomplete runs, with reasons:", "", *_sentences(chain)]
    if pruning:
        well = sum(_pruned(stages) for stages in pruning.values())
        lines += [
            PRUNING,
            f"**{well} of {len(pruning)} are pruned and equal their twin.**",
            "",
            "| architecture | groups | pruned | worst error | seconds | peak memory |",
            "| --- | ---: | ---: | ---: | ---: | ---: |",
            *(_pruning_row(name, stages) for name, stages in sorted(pruning.items())),
            "",
            *_sentences(pruning),
        ]
    path.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


def pruning_part(stages: Stages) -> Stages:
    """The stages of `--pruning`, taken from a run of the complete toolchain."""
    part = {name: stages[name] for name in ("captured", "groups", "deployed", "pruned") if name in stages}
    seconds = sum(float(found.get("seconds", 0.0)) for found in part.values())
    return {**part, "twin": stages.get("twin", {}), "end": {"seconds": seconds}}


def _pruned(stages: Stages) -> bool:
    return stages.get("pruned", {}).get("state") == "ok"


def _state(stages: Stages, name: str) -> str:
    return STATES.get(stages.get(name, {}).get("state", ""), "")


def _layers(stages: Stages, name: str) -> str:
    found = stages.get(name, {})
    return str(found["layers"] or "–") if found.get("state") == "ok" else _state(stages, name)


def _share(stages: Stages) -> str:
    found = stages.get("pruned", {})
    if found.get("state") == "ok":
        return f"{100 * found['share']:.0f} %"
    return _state(stages, "pruned")


def _int8(stages: Stages) -> str:
    found = stages.get("int8", {})
    return f"{found['signal_db']:.0f} dB" if found.get("state") == "ok" else _state(stages, "int8")


def _groups(stages: Stages) -> str:
    found = stages.get("groups", {})
    return f"{found['prunable']} of {found['groups']}" if "groups" in found else ""


def _figures(stages: Stages) -> list[str]:
    worst, end = stages.get("twin", {}).get("worst"), stages.get("end", {})
    return [
        "" if worst is None else f"{worst:.0e}",
        f"{end['seconds']:.0f}" if "seconds" in end else "",
        f"{end['peak_bytes'] / 1e9:.1f} GB" if "peak_bytes" in end else "",
    ]


def _row(name: str, stages: Stages) -> str:
    cells = [name, _state(stages, "captured"), _groups(stages), _share(stages)]
    cells += [_layers(stages, "sparse"), _layers(stages, "low-rank")]
    cells += [_int8(stages), *(_state(stages, key) for key in ("tflite", "onnx"))]
    return f"| {' | '.join(cells + _figures(stages))} |"


def _pruning_row(name: str, stages: Stages) -> str:
    return f"| {' | '.join([name, _groups(stages), _share(stages), *_figures(stages)])} |"


def _sentences(found: Mapping[str, Stages]) -> list[str]:
    """One line for each stage that failed."""
    lines: list[str] = []
    for name, stages in sorted(found.items()):
        for stage, result in stages.items():
            if result.get("state") in ("refused", "failed", "limit", "begun"):
                why = str(result.get("why", "the process ended before the stage did"))
                lines.append(f"* {name}, {stage}: {why.replace('|', '/')}")
    return lines or ["* nothing"]

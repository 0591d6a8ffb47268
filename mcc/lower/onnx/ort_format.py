"""Conversion of ONNX models to onnxruntime's own format (.ort), optimised, for its mobile builds."""

from __future__ import annotations

import tempfile
from pathlib import Path

from mcc.errors import TargetError, UsageError

PLATFORMS = ("arm", "amd64")
PRECISE_KEY = "session.x64quantprecision"  # "1": 16-bit intermediate sums of u8 x s8 products cannot saturate


def to_ort(raw: bytes, *, platform: str = "arm") -> bytes:
    """Convert a serialised ONNX model.

    Args:
        raw: Bytes returned by `to_onnx`.
        platform: `arm` excludes the blocked layout (NCHWc) of x86 kernels. `amd64` uses it, and stores int8
            weights such that sums cannot saturate on processors without VNNI: onnxruntime does this in its
            optimisation, so no option at load time can request it.

    Raises:
        UsageError: The platform is unknown.
        TargetError: onnxruntime is missing or rejects the model.
    """
    if platform not in PLATFORMS:
        raise UsageError(f"platform must be {' or '.join(PLATFORMS)}, not {platform!r}")
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise TargetError("onnxruntime is not installed", hint="pip install onnxruntime") from error
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.save_model_format", "ORT")
    # The format has no kernels of the machine that writes it: they are chosen when it is loaded.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    if platform == "amd64":
        options.add_session_config_entry(PRECISE_KEY, "1")
    left_out = ["NchwcTransformer"] if platform == "arm" else []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.ort"
        options.optimized_model_filepath = str(path)
        try:
            ort.InferenceSession(
                raw, options, providers=["CPUExecutionProvider"], disabled_optimizers=left_out
            )
        except Exception as error:  # onnxruntime's own exceptions have no common base
            raise TargetError(f"onnxruntime does not take the model: {str(error).splitlines()[0]}") from error
        return path.read_bytes()

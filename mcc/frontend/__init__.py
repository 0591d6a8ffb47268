"""Ways in: PyTorch modules, exported programs, ONNX files and stored graphs into canonical form."""

from mcc.frontend.load import LoadedModel, load_model
from mcc.frontend.torch_module import capture

load = load_model

__all__ = ["LoadedModel", "capture", "load", "load_model"]

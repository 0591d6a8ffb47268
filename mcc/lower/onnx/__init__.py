"""ONNX: written node by node from the canonical graph, quantised as QDQ in the form that onnxruntime fuses.

`writer.to_onnx` lowers a graph. One emit function per row of the op table stands in the `emit_*` files;
`builder` is the only file that makes protocol buffers.
"""

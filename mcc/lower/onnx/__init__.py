"""ONNX: lowering node by node from the canonical graph, quantised as QDQ in the form that onnxruntime fuses.

`writer.to_onnx` lowers a graph. The `emit_*` files have one emit function per row of the op table;
`builder` is the only file that creates protocol buffers.
"""

"""TFLite: direct writer of the flatbuffer, and reader.

`writer.to_tflite` lowers a graph, `reader.read_tflite` reads any file. The `emit_*` files have one emit
function per row of the op table; `builder` is the only file that writes with the generated schema code and
`reader` the only one that reads with it.
"""

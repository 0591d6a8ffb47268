"""TFLite: written directly as a flatbuffer, and read back.

`writer.to_tflite` lowers a graph, `reader.read_tflite` reads any file. One emit function per row of the op
table stands in the `emit_*` files; `builder` is the only file that writes through the generated schema and
`reader` the only one that reads through it.
"""

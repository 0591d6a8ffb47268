"""TensorFlow's converter: a second, independent lowering of a canonical graph to a float `.tflite` file.

`converter.convert` rewrites the graph as a TensorFlow function (`functions`) and calls the converter. It is
the reference for the direct writer, and the fallback where that lacks an operator.
"""

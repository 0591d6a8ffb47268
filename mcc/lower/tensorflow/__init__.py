"""TensorFlow's converter: the second, independent way from a canonical graph to a float `.tflite` file.

`converter.convert` rewrites the graph as a TensorFlow function (`functions`) and leaves the rest to it. It is
what the direct writer is held against, and the way out where that lacks an operator.
"""

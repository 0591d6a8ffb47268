"""ExecuTorch: lowering of a canonical graph to a `.pte` program with one XNNPACK delegate.

`writer.to_pte` lowers a graph. `delegate`, `program` and the `translate_*` files write XNNPACK's graph
directly, from the operators of the TFLite lowering, in a fraction of a second. Graphs with operators that
XNNPACK lacks are lowered with `torch.export` and ExecuTorch's own partitioner (`exportable`, `exported`),
which also serves as a test oracle.
"""

"""ExecuTorch: a canonical graph as a `.pte` program whose work is done by XNNPACK, in one delegate.

`writer.to_pte` lowers a graph. `delegate`, `program` and the `translate_*` files write XNNPACK's graph
directly, from the operators of the TFLite lowering, in a fraction of a second. What XNNPACK lacks goes
through `torch.export` and ExecuTorch's own partitioner (`exportable`, `exported`), also an oracle.
"""

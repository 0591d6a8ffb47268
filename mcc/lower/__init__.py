"""Lowering: canonical graphs into the formats that mobile runtimes load."""

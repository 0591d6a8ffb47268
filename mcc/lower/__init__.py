"""Lowering of canonical graphs to the file formats of mobile runtimes."""

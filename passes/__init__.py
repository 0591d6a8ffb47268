"""Rewrites of the graph, one per file; a file is found by its name, and needs no entry anywhere."""

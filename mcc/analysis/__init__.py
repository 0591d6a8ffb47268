"""Analyses: computed from the graph, never stored in it."""

"""Analyses of graphs: computed when needed, never stored in the graph."""

"""Quantised graphs: their scale table, which operators run on integers, and a simulator that is bit-exact."""

"""Quantised graphs: scale table, selection of integer operators, and a bit-exact simulator."""

"""The graph: canonical operators, the op table, notes on nodes, the text form and its storage."""

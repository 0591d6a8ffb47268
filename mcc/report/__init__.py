"""Reports of compression runs: figures, the choice among strategies, and the HTML page."""

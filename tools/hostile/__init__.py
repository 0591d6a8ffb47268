"""Hostile inputs: each must end in one sentence, with the right exit status, and nothing overwritten."""

"""Hostile inputs: what becomes of each is one sentence, the right exit status, and nothing overwritten."""

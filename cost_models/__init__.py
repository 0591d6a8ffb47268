"""Cost models, one per file, with what was measured for them; they predict and never measure."""

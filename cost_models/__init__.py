"""Cost models, one per file, with their stored measurements; they predict and never measure."""

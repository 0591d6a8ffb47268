"""The command line, one file per command; heavy packages are only imported by the commands that need them."""

"""Example networks that ship with mcc, so that a first command needs no file of one's own."""

"""What a compression run leaves behind: the figures, the choice among strategies, the page for people."""

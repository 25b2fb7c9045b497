"""Floor 5: published numbers measured again: what is pinned, which files it takes, what was found."""

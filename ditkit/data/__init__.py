"""Floor 3: where images come from."""

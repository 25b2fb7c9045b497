"""Floor 3: one file per foreign checkpoint layout, both ways."""

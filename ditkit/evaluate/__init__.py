"""Floor 4: metrics and the feature networks that they live in."""

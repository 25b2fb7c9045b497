"""Floor 1: layers that backbones are made of."""

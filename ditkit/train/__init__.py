"""Floor 4: the training loop, optimiser, EMA and checkpoints."""

"""Floor 0: the mathematics of the diffusion process (FACTS: conventions, paths, predictions)."""

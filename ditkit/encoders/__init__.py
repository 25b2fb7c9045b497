"""Floor 2: frozen networks around the diffusion."""

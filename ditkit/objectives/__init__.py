"""Floor 3: training objectives, (denoiser, batch, draws) -> Loss."""

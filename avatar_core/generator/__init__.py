"""From sound to motion latents: diffusion transformer, refiner, sampling, calibration, training."""

"""Motion: the deformation's local frames, its latent codec, and the generator that drives it from speech."""

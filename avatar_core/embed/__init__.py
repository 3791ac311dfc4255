"""The motion code: latents of a deformation, their codec, and the embedding shared with sound."""

"""The deformation of a canonical avatar to a clip."""

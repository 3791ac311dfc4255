"""Fitting: a canonical avatar from a portrait, and its deformation to a clip."""

"""Rotations and cameras (numpy and torch)."""

"""Weights of published nets: read from named packages, checked by hash, kept as assets that torch alone runs."""

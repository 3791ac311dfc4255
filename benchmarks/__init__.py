"""Benchmarks: `python -m benchmarks.render --help`."""

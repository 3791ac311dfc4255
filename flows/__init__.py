"""Prefect: when stages run, and on which machine. What they do is in `stages/`."""

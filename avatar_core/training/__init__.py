"""Training shared by all learnt parts: one loop, and its state on disk."""

"""Training of the perception nets on procedural people."""

"""The procedural world: people made from parameters, and how they perform a sentence."""

"""Recorded clips: talking videos as people have them become clips that the pipeline learns from, each refusal with its reason."""

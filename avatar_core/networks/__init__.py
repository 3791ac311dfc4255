"""Network blocks shared by the models."""

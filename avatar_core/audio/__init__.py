"""Audio: log-mel features at 100 Hz, their augmentation, and the registry of what the generator hears."""

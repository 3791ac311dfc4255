"""Speaking: a student drives an avatar with sound."""

"""The score teacher of video score distillation."""

"""Distillation: end-to-end fine-tuning of the generator through decoder and renderer."""

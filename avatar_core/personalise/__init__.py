"""A canonical avatar from a single portrait."""

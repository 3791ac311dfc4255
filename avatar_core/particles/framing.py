"""What a framing shows: the regions of a person that can be learnt from, and the field of view in degrees."""

from __future__ import annotations

# Which regions a framing shows well enough to learn from.
VISIBLE = {
    "face": {"body": False, "head": True, "face": True, "hand": False},
    "waist_up": {"body": True, "head": True, "face": False, "hand": True},
    "full_body": {"body": True, "head": True, "face": False, "hand": True},
}
FIELD_OF_VIEW = {"face": 9.0, "waist_up": 16.0, "full_body": 20.0}  # degrees, a convention

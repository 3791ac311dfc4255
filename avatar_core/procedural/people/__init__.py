"""Procedural people: sampled identities, bodies, clothes, hair, and a deterministic software renderer."""

from avatar_core.procedural.people.body_model import load_body_model
from avatar_core.procedural.people.framing import DEFAULT_SIZE, FRAMINGS, Shot, framing_camera, sample_shot
from avatar_core.procedural.people.identity import Identity, sample_identities
from avatar_core.procedural.people.person import Person
from avatar_core.procedural.people.poses import face_vector, finger_curl, neutral_face, relaxed_pose
from avatar_core.procedural.people.sheet import contact_sheet

__all__ = [
    "DEFAULT_SIZE",
    "FRAMINGS",
    "Identity",
    "Person",
    "Shot",
    "contact_sheet",
    "face_vector",
    "finger_curl",
    "framing_camera",
    "load_body_model",
    "neutral_face",
    "relaxed_pose",
    "sample_identities",
    "sample_shot",
]

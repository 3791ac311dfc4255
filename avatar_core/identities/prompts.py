"""A sampled person in words, for models that draw a portrait from a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

HAIR = {
    "long": "long {} hair", "crop": "short cropped {} hair", "bob": "{} hair in a bob", "side": "{} side-parted hair",
    "bun": "{} hair in a bun", "buzz": "{} buzz cut", "afro": "{} afro", "short_afro": "short {} afro", "bald": "a bald head",
}  # fmt: skip
TOPS = {
    "long": "long-sleeved shirt", "tee": "T-shirt", "sweater": "sweater", "shirt": "button-up shirt", "polo": "polo shirt",
    "blouse": "blouse",
}  # fmt: skip
BOTTOMS = {"longskirt": "long skirt"}
PATTERNS = {
    "stripes": "{}-and-{} striped", "band": "{} chest-striped", "checks": "{}-and-{} checked", "vertical": "{}-and-{} pinstriped",
    "blobs": "{}-and-{} patterned", "dots": "{} dotted", "ribs": "{} ribbed",
}  # fmt: skip
SHOT = (
    "Full-body studio photograph, the whole person from head to shoes in the frame with space around, standing upright and "
    "facing the camera, arms hanging relaxed and a little away from the body, both hands open and visible, mouth closed, neutral "
    "expression, looking into the camera. Plain light grey background, nothing else in the picture, soft even light, sharp focus."
)
BRIEF = "full-body studio photo, head to shoes in frame, facing the camera, open hands away from the body, plain grey background"
NEGATIVE = (
    "cropped, close-up, several people, hands hidden, crossed arms, open mouth, sunglasses, hat, props, text, watermark, "
    "blurry"
)  # fmt: skip


def portrait_prompt(attributes: Mapping[str, Any], dictionary: Mapping[str, Any], brief: bool = False) -> str:
    """What a person of `procedural.people.identity` looks like, and how the picture is to be taken.

    brief: for text encoders that read 77 tokens; the shot comes first, so that clothes are lost if something is.
    """
    a = attributes
    clothes, hairs = dictionary["cloth_colors"], dictionary["hair"]["colors"]
    noun = {"female": "woman", "male": "man"}[a["sex"]]
    shade = "grey" if a["grey"] > 0.5 else _nearest(hairs, a["hair_color"]).replace("_", " ")
    hair = HAIR[a["hair_style"]].format(shade)
    if 0.1 < a["grey"] <= 0.5 and not a["bald"]:
        hair += " with some grey"
    eyes = _nearest(dictionary["eyes"], a["eye_color"]).replace("_", " ")
    face = [
        hair,
        f"{eyes} eyes",
        *(["stubble"] if a["stubble"] else []),
        *(["freckles"] if a["freckles"] else []),
    ]
    worn = [_garment(clothes, a["top"], TOPS), _garment(clothes, a["bottom"], BOTTOMS)]
    if a["over"]:
        worn.insert(1, _garment(clothes, a["over"], {}))
    shoes = f"{_nearest(clothes, a['shoes']['color'])} {a['shoes']['kind']}s"
    if brief:
        about = f"{noun} aged {a['age']:.0f}, {a['build']}, {a['skin_tone']} skin, {hair}, {eyes} eyes"
        return f"{BRIEF}, {about}, {', '.join(worn)}, {shoes}"
    return (
        f"A {a['age']:.0f}-year-old {noun} of {a['build']} build with {a['skin_tone']} skin, {', '.join(face)}, "
        f"wearing {_listed([_article(w) for w in worn])} and {shoes}. {SHOT}"
    )


def _garment(
    colors: Mapping[str, Sequence[float]], garment: Mapping[str, Any], names: Mapping[str, str]
) -> str:
    first, second = (_nearest(colors, garment[key]) for key in ("color", "color2"))
    name = names.get(garment["kind"], garment["kind"])
    if garment["pattern"] == "denim":
        return f"{'blue' if first == 'denim' else first} denim {name}"
    return f"{PATTERNS.get(garment['pattern'], '{}').format(first, second)} {name}"


def _nearest(colors: Mapping[str, Sequence[float]], color: Sequence[float]) -> str:
    return min(colors, key=lambda name: float(np.abs(np.subtract(colors[name], color)).sum()))


def _article(words: str) -> str:
    plural = words.endswith(("jeans", "trousers", "shorts"))
    return words if plural else f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _listed(words: list[str]) -> str:
    return ", ".join(words)

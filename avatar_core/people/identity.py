"""Who a person is: sampled attributes, drawn so that small groups already differ in everything that one sees.

`data/attributes.yaml` is the dictionary. Categories are dealt like cards: every block of `block` people gets distinct values
(sex alternates; age bands, skin tones, hair styles, tops and backdrops do not repeat until they have all been used).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import yaml

from avatar_core.errors import UserError
from avatar_core.people.body_model import RestShape, local_change_names, phenotype_for_stature, rest_shape

ATTRIBUTES_FILE = Path(__file__).resolve().parents[2] / "data" / "attributes.yaml"


@dataclass(frozen=True)
class Identity:
    """id: unique name "<namespace>-<k>-<hash>"; attributes: JSON-able description (see data/attributes.yaml)."""

    id: str
    seed: int
    attributes: dict


@lru_cache(maxsize=4)
def load_dictionary(path: Path = ATTRIBUTES_FILE) -> dict:
    """The attribute dictionary; raises UserError when it is missing or malformed."""
    if not path.exists():
        raise UserError(f"{path}: expected the attribute dictionary, found no such file")
    with open(path, encoding="utf-8") as stream:
        content = yaml.safe_load(stream)
    needed = {"ages", "skins", "hair", "tops", "bottoms", "shoes", "backdrops", "eyes", "cloth_colors", "face"}
    missing = sorted(needed - set(content or {}))
    if missing:
        raise UserError(f"{path}: expected the keys {sorted(needed)}, missing {missing}")
    return content


def _stream(seed: int, namespace: str, name: str) -> np.random.Generator:
    """An independent generator per (seed, namespace, name)."""
    digest = hashlib.sha256(f"{namespace}/{name}".encode()).digest()
    return np.random.default_rng([seed, *np.frombuffer(digest[:16], np.uint32).tolist()])


def _deal(n: int, count: int, rng: np.random.Generator) -> list[int]:
    """n choices out of `count`, every value used once before any repeats; no equal neighbours across rounds."""
    out: list[int] = []
    while len(out) < n:
        round_ = rng.permutation(count).tolist()
        if out and count > 1 and round_[0] == out[-1]:
            round_[0], round_[1] = round_[1], round_[0]
        out += round_
    return out[:n]


def _colors(d: Mapping, names: list[str]) -> list[list[int]]:
    return [d["cloth_colors"][name] for name in names]


def _garment(d: Mapping, entry: Mapping, color: str, rng: np.random.Generator) -> dict:
    """A garment with its colours; the second colour contrasts with the first."""
    base = d["cloth_colors"][color]
    pattern = entry["patterns"][int(rng.integers(len(entry["patterns"])))]
    options = entry.get("seconds") or list(d["cloth_colors"])
    others = [name for name in options if np.abs(np.subtract(d["cloth_colors"][name], base)).sum() > 170]
    second = d["cloth_colors"][others[int(rng.integers(len(others)))]] if others else [230, 228, 222]
    if pattern in ("denim", "ribs"):
        second = [min(255, int(c * 1.25 + 14)) for c in base]
    scale = {"stripes": 210, "checks": 230, "blobs": 55, "vertical": 240, "dots": 34, "ribs": 900}.get(pattern, 0)
    return {
        "kind": entry["kind"],
        "color": list(base),
        "color2": list(second),
        "pattern": pattern,
        "scale": float(scale * rng.uniform(0.85, 1.2)),
        "offset": entry["offset"],
        "smooth": entry["smooth"],
        "fold": entry.get("fold", 0.55),
    }


def _wardrobe(d: Mapping, sex: str, top_entry: Mapping, color: str, rng: np.random.Generator) -> dict:
    top = _garment(d, top_entry, color, rng)
    bottoms = [b for b in d["bottoms"] if sex in b["sex"]]
    entry = bottoms[int(rng.integers(len(bottoms)))]
    palette = [c for c in entry["colors"] if np.abs(np.subtract(d["cloth_colors"][c], top["color"])).sum() > 120]
    palette = palette or list(entry["colors"])  # a top close to all of them: any will do
    bottom = _garment(d, entry, palette[int(rng.integers(len(palette)))], rng)
    out = {"top": top, "bottom": bottom, "over": None}
    overs = top_entry.get("over")
    if overs and rng.random() < overs["chance"]:
        colors = [c for c in overs["colors"] if np.abs(np.subtract(d["cloth_colors"][c], top["color"])).sum() > 170]
        colors = colors or list(overs["colors"])
        chosen = overs["kinds"][int(rng.integers(len(overs["kinds"])))]
        over = {"kind": chosen, "offset": 0.016, "smooth": 7, "patterns": ["plain"], "fold": 0.5}
        out["over"] = _garment(d, over, colors[int(rng.integers(len(colors)))], rng)
    shoes = d["shoes"][int(rng.integers(len(d["shoes"])))]
    return {**out, "shoes": {"kind": shoes["kind"], "color": shoes["color"], "sole": shoes["sole"]}}


def _face_changes(d: Mapping, rng: np.random.Generator) -> dict[str, float]:
    """Symmetric random local changes: the same amount left and right, clipped to two sigma."""
    out: dict[str, float] = {}
    for name in local_change_names():
        base = name.removeprefix("l-").removeprefix("r-")
        twin = "l-" + base
        amount = float(np.clip(rng.normal(), -2, 2))
        group = base.split("-")[0]
        sigma = d["face"]["sigma"] * d["face"]["groups"].get(group, 1.0) * d["face"]["names"].get(base, 1.0)
        out[name] = out[twin] if name.startswith("r-") and twin in out else round(amount * sigma, 4)
    return out


def _person(d: Mapping, k: int, deck: Mapping[str, list[int]], rng: np.random.Generator) -> dict:
    sex = ("female", "male")[deck["sex"][k]]
    age = d["ages"][deck["age"][k]]
    skin = d["skins"][deck["skin"][k]]
    styles = [h for h in d["hair"]["styles"] if sex in h["sex"] and skin["ancestry"] in h.get("ancestry", [skin["ancestry"]])]
    style = styles[deck["hair"][k] % len(styles)]
    years = float(rng.uniform(*age["years"]))
    grey = float(np.clip(rng.uniform(*age["grey"]), 0, 1))
    colors = skin["hair_colors"]
    hair_color = np.array(d["hair"]["colors"][colors[deck["hair_color"][k] % len(colors)]], float)
    hair_color = hair_color * (1 - 0.8 * grey) + np.array([176, 173, 168]) * 0.8 * grey
    tone = np.clip(np.array(skin["color"], float) * rng.uniform(0.95, 1.05) + rng.normal(size=3) * 2, 0, 255)
    lips = np.array(skin["lips"], float) + (np.array([14, -8, -4]) if sex == "female" else 0)
    tops = [t for t in d["tops"] if sex in t["sex"]]
    top = tops[deck["top"][k] % len(tops)]
    color_names = list(top["colors"])
    build = d["builds"][deck["build"][k]]
    race = skin["race"]
    female = sex == "female"
    phenotype = {
        "gender": float(rng.uniform(0.85, 1.0) if female else rng.uniform(0.0, 0.12)),
        "age": float(2 / 3 + (1 / 3) * np.clip((years - 25) / 55, 0, 1)),
        "muscle": float(np.clip(build["muscle"] + rng.normal() * 0.05, 0.1, 0.95)),
        "weight": float(np.clip(build["weight"] + rng.normal() * 0.05, 0.1, 0.95)),
        "proportions": float(rng.uniform(0.45, 0.9)),
        "cupsize": float(rng.uniform(0.35, 0.6)),
        "firmness": 0.6,
        **{name: float(max(0.0, value + rng.uniform(0, 0.12))) for name, value in race.items()},
    }
    eyes = [d["eyes"][name] for name in skin["eye_colors"]]
    stubble = float(rng.uniform(0.25, 0.75)) if not female and rng.random() < 0.55 else 0.0
    makeup = female and rng.random() < 0.5
    backdrop = d["backdrops"][deck["backdrop"][k]]
    mean, spread = d["stature"][sex]
    return {
        "sex": sex,
        "age": round(years, 1),
        "build": build["name"],
        "stature": round(float(np.clip(rng.normal(mean, spread), mean - 2 * spread, mean + 2 * spread)), 3),
        "phenotype": {name: round(value, 4) for name, value in phenotype.items()},
        "face": _face_changes(d, rng),
        "skin_tone": skin["name"],
        "skin": [round(float(c), 1) for c in tone],
        "lips": [round(float(c), 1) for c in np.clip(lips, 0, 255)],
        "eye_color": eyes[int(rng.integers(len(eyes)))],
        "hair_style": style["kind"],
        "hair_color": [round(float(c), 1) for c in hair_color],
        "hair_length": round(float(rng.uniform(*style.get("length", (0.9, 1.1)))), 3),
        "grey": round(grey, 3),
        "part": round(float(rng.choice([-0.025, 0.0, 0.025])), 3),
        "wave": round(float(rng.uniform(0, style.get("wave", 0.0))), 3),
        "volume": round(float(rng.uniform(0.85, 1.2)), 3),
        "shine": style.get("shine", 0.7),
        "receding": round(float(0.014 * (not female and years > 45) * rng.uniform(0.3, 1.2)), 4),
        "bald": style["kind"] == "bald",
        "brow": round(float(rng.uniform(0.75, 0.95) if female else rng.uniform(1.0, 1.25)), 3),
        "arch": round(float(rng.uniform(0.8, 1.5) if female else rng.uniform(0.4, 1.0)), 3),
        "stubble": round(stubble, 3),
        "freckles": round(float(rng.uniform(0.4, 1.0)), 3) if rng.random() < skin.get("freckles", 0.0) else 0.0,
        "roughness": round(float(np.interp(years, [20, 75], [0.8, 2.0])), 3),
        "blush": round(float(rng.uniform(0.7, 1.2)), 3),
        "gloss": round(float(rng.uniform(18, 26)), 2),
        "eye_shadow": round(float(rng.uniform(0.15, 0.35)), 3) if makeup else 0.0,
        "eye_shadow_color": [110, 70, 60],
        "lash": 1.3 if makeup else (1.05 if female else 0.8),
        "backdrop": backdrop,
        **_wardrobe(d, sex, top, color_names[int(rng.integers(len(color_names)))], rng),
    }


def sample_identities(n: int, seed: int, namespace: str) -> list[Identity]:
    """n identities; the same (seed, namespace) always starts with the same people, different namespaces share nobody."""
    if n < 0:
        raise ValueError(f"n: expected a count of 0 or more, found {n}")
    d = load_dictionary()
    length = -(-max(n, 1) // 64) * 64  # decks do not depend on n within 64 people
    sizes = {
        "age": len(d["ages"]),
        "skin": len(d["skins"]),
        "hair": 12,
        "hair_color": 12,
        "top": 12,
        "build": len(d["builds"]),
        "backdrop": len(d["backdrops"]),
    }
    deck = {name: _deal(length, size, _stream(seed, namespace, name)) for name, size in sizes.items()}
    first = int(_stream(seed, namespace, "sex").integers(2))
    deck["sex"] = [(first + k) % 2 for k in range(length)]
    out = []
    for k in range(n):
        rng = _stream(seed, namespace, f"person {k}")
        tag = hashlib.sha256(f"{seed}/{namespace}/{k}".encode()).hexdigest()[:4]
        attributes = _person(d, k, deck, rng)
        out.append(Identity(f"{namespace}-{k:03d}-{tag}", int(rng.integers(2**31)), attributes))
    return out


def body_of(identity: Identity) -> RestShape:
    """Rest body of an identity."""
    a = identity.attributes
    return rest_shape(phenotype_for_stature(a["phenotype"], a["stature"]), a["face"])

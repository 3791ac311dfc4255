"""Who a person is: sampled attributes, drawn so that small groups already differ in everything that one sees.

`data/attributes.yaml` is the dictionary. Sex alternates; age bands, skin tones, builds, hair, clothes and backdrops are dealt so
that the least used and longest unused options come first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import yaml

from avatar_core.errors import UserError
from avatar_core.procedural.people.body_model import (
    RestShape,
    local_change_names,
    phenotype_for_stature,
    rest_shape,
    seal_lips,
)

ATTRIBUTES_FILE = Path(__file__).resolve().parents[3] / "data" / "attributes.yaml"


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
    needed = {
        "ages",
        "skins",
        "hair",
        "tops",
        "bottoms",
        "shoes",
        "backdrops",
        "eyes",
        "cloth_colors",
        "face",
    }
    missing = sorted(needed - set(content or {}))
    if missing:
        raise UserError(f"{path}: expected the keys {sorted(needed)}, missing {missing}")
    return content


def _stream(seed: int, namespace: str, name: str) -> np.random.Generator:
    """An independent generator per (seed, namespace, name)."""
    digest = hashlib.sha256(f"{namespace}/{name}".encode()).digest()
    return np.random.default_rng([seed, *np.frombuffer(digest[:16], np.uint32).tolist()])


class _Dealer:
    """Deals options so that rarely and long-ago used ones come first: small groups do not repeat themselves."""

    def __init__(self) -> None:
        self.used: dict[str, list[str]] = {}

    def pick(self, category: str, options: Sequence[str], rng: np.random.Generator) -> str:
        past = self.used.setdefault(category, [])
        recent = past[-(len(set(options)) // 2) :] if len(set(options)) > 1 else []
        fresh = [name for name in options if name not in recent] or list(options)
        least = min(past.count(name) for name in fresh)
        best = [name for name in fresh if past.count(name) == least]
        chosen = best[int(rng.integers(len(best)))]
        past.append(chosen)
        return chosen


def _contrasting(d: Mapping, names: Sequence[str], color: Sequence[float], least: float) -> list[str]:
    """Colour names at least this far (sum of absolute channel differences) from a colour; all when none is."""
    far = [name for name in names if np.abs(np.subtract(d["cloth_colors"][name], color)).sum() > least]
    return far or list(names)


def _garment(d: Mapping, entry: Mapping, color: str, rng: np.random.Generator) -> dict:
    """A garment with its colours; the second colour contrasts with the first."""
    base = d["cloth_colors"][color]
    pattern = entry["patterns"][int(rng.integers(len(entry["patterns"])))]
    options = _contrasting(d, entry.get("seconds") or list(d["cloth_colors"]), base, 170)
    second = d["cloth_colors"][options[int(rng.integers(len(options)))]]
    if pattern in ("denim", "ribs"):
        second = [min(255, int(c * 1.25 + 14)) for c in base]
    scale = {"stripes": 210, "checks": 230, "blobs": 55, "vertical": 240, "dots": 34, "ribs": 900}.get(
        pattern, 0
    )
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


def _wardrobe(d: Mapping, sex: str, dealer: _Dealer, rng: np.random.Generator) -> dict:
    tops = {t["kind"]: t for t in d["tops"] if sex in t["sex"]}
    entry = tops[dealer.pick("top", list(tops), rng)]
    top = _garment(d, entry, dealer.pick("top color", entry["colors"], rng), rng)
    bottoms = {g["kind"]: g for g in d["bottoms"] if sex in g["sex"]}
    below = bottoms[dealer.pick("bottom", list(bottoms), rng)]
    palette = _contrasting(d, below["colors"], top["color"], 120)
    bottom = _garment(d, below, dealer.pick("bottom color", palette, rng), rng)
    out = {"top": top, "bottom": bottom, "over": None}
    overs = entry.get("over")
    if (
        overs and rng.random() < overs["chance"] and "skirt" not in bottom["kind"]
    ):  # skirts stand out under a jacket
        colors = _contrasting(d, overs["colors"], top["color"], 170)
        kind = overs["kinds"][int(rng.integers(len(overs["kinds"])))]
        over = {"kind": kind, "offset": 0.016, "smooth": 7, "patterns": ["plain"], "fold": 0.5}
        out["over"] = _garment(d, over, colors[int(rng.integers(len(colors)))], rng)
    shoes = {str(i): shoe for i, shoe in enumerate(d["shoes"])}
    return {**out, "shoes": dict(shoes[dealer.pick("shoes", list(shoes), rng)])}


def _face_changes(d: Mapping, rng: np.random.Generator, ears_flat: bool) -> dict[str, float]:
    """Symmetric random local changes: the same amount left and right, clipped to two sigma. Hair that falls over the ears
    needs them flat."""
    out: dict[str, float] = {}
    for name in local_change_names():
        base = name.removeprefix("l-").removeprefix("r-")
        twin = "l-" + base
        amount = float(np.clip(rng.normal(), -2, 2))
        group = base.split("-")[0]
        sigma = d["face"]["sigma"] * d["face"]["groups"].get(group, 1.0) * d["face"]["names"].get(base, 1.0)
        if ears_flat and base == "ear-wing-incr":
            amount, sigma = -1.0, 0.9
        out[name] = out[twin] if name.startswith("r-") and twin in out else round(amount * sigma, 4)
    return out


def _person(d: Mapping, sex: str, dealer: _Dealer, rng: np.random.Generator) -> dict:
    def deal(category: str, entries: Sequence[Mapping]) -> Mapping:
        return entries[
            [e["name"] for e in entries].index(dealer.pick(category, [e["name"] for e in entries], rng))
        ]

    age, skin, build = deal("age", d["ages"]), deal("skin", d["skins"]), deal("build", d["builds"])
    ancestry = skin["ancestry"]
    styles = {
        h["kind"]: h
        for h in d["hair"]["styles"]
        if sex in h["sex"] and ancestry in h.get("ancestry", [ancestry])
    }
    style = styles[dealer.pick("hair", list(styles), rng)]
    years = float(rng.uniform(*age["years"]))
    grey = float(np.clip(rng.uniform(*age["grey"]), 0, 1))
    hair_color = np.array(d["hair"]["colors"][dealer.pick("hair color", skin["hair_colors"], rng)], float)
    hair_color = hair_color * (1 - 0.8 * grey) + np.array([176, 173, 168]) * 0.8 * grey
    tone = np.clip(np.array(skin["color"], float) * rng.uniform(0.95, 1.05) + rng.normal(size=3) * 2, 0, 255)
    lips = np.array(skin["lips"], float) + (np.array([14, -8, -4]) if sex == "female" else 0)
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
    stubble = float(rng.uniform(0.25, 0.75)) if not female and rng.random() < 0.55 else 0.0
    makeup = female and rng.random() < 0.5
    backdrops = {str(i): color for i, color in enumerate(d["backdrops"])}
    mean, spread = d["stature"][sex]
    return {
        "sex": sex,
        "age": round(years, 1),
        "build": build["name"],
        "stature": round(float(np.clip(rng.normal(mean, spread), mean - 2 * spread, mean + 2 * spread)), 3),
        "phenotype": {name: round(value, 4) for name, value in phenotype.items()},
        "face": _face_changes(d, rng, ears_flat=style["kind"] in ("long", "bob")),
        "skin_tone": skin["name"],
        "skin": [round(float(c), 1) for c in tone],
        "lips": [round(float(c), 1) for c in np.clip(lips, 0, 255)],
        "eye_color": d["eyes"][dealer.pick("eyes", skin["eye_colors"], rng)],
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
        "freckles": round(float(rng.uniform(0.4, 1.0)), 3)
        if rng.random() < skin.get("freckles", 0.0)
        else 0.0,
        "roughness": round(float(np.interp(years, [20, 75], [0.8, 2.0])), 3),
        "blush": round(float(rng.uniform(0.7, 1.2)), 3),
        "gloss": round(float(rng.uniform(18, 26)), 2),
        "eye_shadow": round(float(rng.uniform(0.15, 0.35)), 3) if makeup else 0.0,
        "eye_shadow_color": [110, 70, 60],
        "lash": 1.3 if makeup else (1.05 if female else 0.8),
        "backdrop": backdrops[dealer.pick("backdrop", list(backdrops), rng)],
        **_wardrobe(d, sex, dealer, rng),
    }


def sample_identities(n: int, seed: int, namespace: str) -> list[Identity]:
    """n identities; the same (seed, namespace) always starts with the same people, different namespaces share nobody."""
    if n < 0:
        raise ValueError(f"n: expected a count of 0 or more, found {n}")
    d = load_dictionary()
    dealer = _Dealer()
    first = int(_stream(seed, namespace, "sex").integers(2))
    out = []
    for k in range(n):
        rng = _stream(seed, namespace, f"person {k}")
        tag = hashlib.sha256(f"{seed}/{namespace}/{k}".encode()).hexdigest()[:4]
        attributes = _person(d, ("female", "male")[(first + k) % 2], dealer, rng)
        out.append(Identity(f"{namespace}-{k:03d}-{tag}", int(rng.integers(2**31)), attributes))
    return out


def body_of(identity: Identity) -> RestShape:
    """Rest body of an identity, lips just touching."""
    a = identity.attributes
    return seal_lips(rest_shape(phenotype_for_stature(a["phenotype"], a["stature"]), a["face"]))

"""IPA symbols -> mouth shapes (visemes).

The shapes are the fifteen common visemes (as in Oculus/MPEG-4 tables) plus a weak schwa, a front rounded vowel and a
neutral shape for sounds made in the throat. A symbol may need more than one shape: diphthongs, "pf", rhotic vowels.
"""

from __future__ import annotations

from avatar_core.speech.types import Phoneme

_TABLE = {
    "PP": "p b m ɓ",
    "FF": "f v ɱ ʋ ⱱ",
    "TH": "θ ð",
    "DD": "t d n l ɾ ɫ ʈ ɖ ɳ ɭ ɬ",
    "kk": "k ɡ g ŋ x ɣ c ɟ q χ ʁ ʀ ɴ ç",
    "hh": "h ɦ ħ ʔ ʕ",
    "SS": "s z ɕ ʑ",
    "CH": "ʃ ʒ ʂ ʐ tʃ dʒ tɕ ts. dz. s. z.",
    "RR": "ɹ r ɻ ɚ ɝ",
    "aa": "ɑ a æ ɒ",
    "ah": "ʌ ɐ",
    "ax": "ə ɜ ɘ ɵ",
    "E": "e ɛ",
    "ih": "i ɪ ᵻ ɨ j ɲ ʎ ʝ",
    "oh": "o ɔ ɤ",
    "ou": "u ʊ w ʉ ɯ ɥ",
    "uy": "y ʏ ø œ",
    "VB": "β",  # Spanish b between vowels: the lips come close but do not touch
}

SYMBOLS: dict[str, str] = {symbol: shape for shape, symbols in _TABLE.items() for symbol in symbols.split()}
VISEMES: tuple[str, ...] = ("sil", *_TABLE)

CLOSED_SHARE = 0.6  # of a plosive's time; the rest is burst and breath
_PLOSIVES = "pbɓ"
_LONGEST = max(map(len, SYMBOLS))
_VOWELS = frozenset({"aa", "ah", "ax", "E", "ih", "oh", "ou", "uy", "RR"})


def visemes_of(ipa: str) -> list[str]:
    """The shapes of one symbol, in order, neighbours distinct; [] for a pause or a symbol without a shape.

    >>> visemes_of("aɪ"), visemes_of("pf"), visemes_of("tɕh"), visemes_of("")
    (['aa', 'ih'], ['PP', 'FF'], ['CH'], [])
    """
    shapes: list[str] = []
    i = 0
    while i < len(ipa):
        for length in range(min(_LONGEST, len(ipa) - i), 0, -1):
            shape = SYMBOLS.get(ipa[i : i + length])
            if shape is not None:
                break
        else:
            i += 1  # length marks, ties, tones
            continue
        i += length
        aspiration = shape == "hh" and shapes  # "ph", "tɕh": the breath keeps the shape before it
        if not aspiration and (not shapes or shapes[-1] != shape):
            shapes.append(shape)
    if len(shapes) > 1 and shapes[0] == "DD" and shapes[1] in ("SS", "CH"):
        shapes = shapes[1:]  # ts: one shape
    return shapes


def segments(phonemes: list[Phoneme]) -> list[tuple[float, float, str, bool]]:
    """(start_s, end_s, viseme, stressed) of every shape; the parts of a symbol share its time, the first a little more.

    A p or b at the end of a symbol closes the lips for `CLOSED_SHARE` of its part.
    """
    found: list[tuple[float, float, str, bool]] = []
    for phoneme in phonemes:
        shapes = visemes_of(phoneme.ipa) or ["sil"]
        parts = [1.2 if i == 0 and s in _VOWELS else 1.0 for i, s in enumerate(shapes)]
        start, length = phoneme.start_s, phoneme.end_s - phoneme.start_s
        if length <= 0:
            continue
        if (
            shapes[-1] == "PP" and phoneme.ipa[0] in _PLOSIVES
        ):  # the lips part at the burst; what follows it is breath
            shapes, parts = [*shapes, "hh"], [*parts[:-1], CLOSED_SHARE, 1 - CLOSED_SHARE]
        for shape, part in zip(shapes, parts, strict=True):
            end = start + length * part / sum(parts)
            found.append((start, end, shape, phoneme.stress))
            start = end
    return found

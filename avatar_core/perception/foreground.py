"""Foreground mask and smooth background of a portrait or of a video with a fixed camera.

A plain backdrop is a smooth function of the position: a low-order polynomial is fitted robustly to what looks the same
as the picture's border, and what differs from it is foreground. Where the border is not smooth (a photo of a room),
GrabCut separates the two by colour, seeded from a central person-shaped prior.

Legend: H height, W width, C polynomial terms, T frames. Images are float [0, 1] or uint8, RGB.
Source: Rother et al., "GrabCut" (SIGGRAPH 2004) for the second case.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from avatar_core.particles.background import Backdrop, Background, polynomial_terms

DEGREE = 4
DIFFERENCE = 0.035  # largest channel difference to the backdrop that still counts as backdrop
ROUGH_BORDER = 0.06  # a border this far from smooth is no plain backdrop


def _solve(terms: np.ndarray, colors: np.ndarray, tolerances: tuple[float, ...]) -> tuple[np.ndarray, float]:
    """Trimmed least squares -> coefficients (C, 3) and the mean absolute error of the points kept."""
    step = 1 + len(terms) // 8000  # a smooth surface needs no more points than this
    terms, colors = terms[::step], colors[::step]
    keep = np.ones(len(terms), bool)
    coefficients = np.zeros((terms.shape[1], 3))
    for tolerance in tolerances:
        if keep.sum() < 4 * terms.shape[1]:
            break
        coefficients = np.linalg.lstsq(terms[keep], colors[keep], rcond=None)[0]
        keep = np.abs(colors - terms @ coefficients).max(1) < tolerance
    error = np.abs(colors - terms @ coefficients).mean()
    return coefficients, float(error)


def plain_backdrop(image: np.ndarray, rough: float = ROUGH_BORDER) -> tuple[np.ndarray, Background] | None:
    """What differs from a smooth backdrop (H,W) bool, and that backdrop; None where the picture's border is not smooth.

    rough: largest mean error of a smooth border.
    """
    image = as_float(image)
    height, width = image.shape[:2]
    small = _small(image)
    h, w = small.shape[:2]
    band = max(2, round(0.04 * min(h, w)))
    border = np.zeros((h, w), bool)
    border[:band] = True
    border[: int(0.8 * h), :band] = border[: int(0.8 * h), -band:] = True
    first, error = _solve(polynomial_terms(h, w, 2)[border], small[border], (0.25, 0.12, 0.08))
    if error > rough:
        return None
    # The person's own pale clothes must not pull the backdrop up: nothing inside the convex hull takes part.
    person = largest(np.abs(small - polynomial_terms(h, w, 2) @ first).max(-1) > 2 * DIFFERENCE).astype(
        np.uint8
    )
    hull = np.zeros_like(person)
    contours, _ = cv2.findContours(person, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if contours:
        cv2.fillConvexPoly(hull, cv2.convexHull(np.concatenate(contours)), 1)
    outside = cv2.dilate(hull, np.ones((5, 5), np.uint8)) == 0
    coefficients, _ = _solve(
        polynomial_terms(h, w, DEGREE)[outside], small[outside], (0.08, 0.05, 0.035, 0.025)
    )
    background = Background(coefficients.astype(np.float32))
    # A pixel on its own proves nothing: half a pixel of blur takes the coding noise of a video down.
    difference = np.abs(cv2.GaussianBlur(image, (0, 0), 0.6) - background.image(width, height)).max(-1)
    return largest(difference > DIFFERENCE), background


def separate(image: np.ndarray) -> tuple[np.ndarray, Background]:
    """One picture (H, W, 3) -> mask (H, W) bool of the largest foreground object, and its backdrop."""
    image = as_float(image)
    plain = plain_backdrop(image)
    if plain is not None:
        return plain
    height, width = image.shape[:2]
    small = _small(image)
    mask = _grab_cut(small)
    color = np.median(small[~mask], 0) if (~mask).any() else np.full(3, 0.75)
    mask = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_LINEAR) > 0
    return largest(mask), Background.plain(color)


def as_float(image: np.ndarray) -> np.ndarray:
    """uint8 or float picture -> float32 in [0, 1]."""
    return np.asarray(image, np.float32) / (255.0 if image.dtype == np.uint8 else 1.0)


def _small(image: np.ndarray) -> np.ndarray:
    scale = min(1.0, 384 / max(image.shape[:2]))
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else image


@dataclass(frozen=True)
class Matte:
    """A person cut out of a picture.

    alpha (H,W) float32 in [0,1]: share of each pixel that is the person. core (H,W) bool: pixels that show the person and nothing
    else. colors (H,W,3): the person's own, in the pixels `pure` (H,W) bool at least. picture (H,W,3): the person before
    `background`, which is what an avatar should show.
    """

    alpha: np.ndarray
    core: np.ndarray
    pure: np.ndarray
    colors: np.ndarray
    picture: np.ndarray
    background: Backdrop


def hard_matte(image: np.ndarray, mask: np.ndarray, background: Background) -> Matte:
    """The matte of a mask (H,W) bool before a smooth backdrop."""
    # The outermost pixels are half backdrop: they would give the outline the backdrop's colour.
    core = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8))
    alpha = cv2.GaussianBlur(core.astype(np.float32), (0, 0), 0.7)
    # Neither the mask's blurred rim is.
    pure = cv2.erode(core, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3)), iterations=2)
    return Matte(alpha, core > 0, pure > 0, image, image, background)


@dataclass(frozen=True)
class GrabCutMasks:
    """Foreground by a smooth backdrop where there is one, else by GrabCut."""

    def mask(self, image: np.ndarray) -> np.ndarray:
        """See `separate`."""
        return separate(image)[0]

    def matte(self, image: np.ndarray, xy: np.ndarray, confidence: np.ndarray) -> Matte:
        """The mask of `separate` with a soft rim; the keypoints are not looked at."""
        return hard_matte(image, *separate(image))


def largest(mask: np.ndarray) -> np.ndarray:
    """Closed, opened, holes filled, the largest piece only."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
    clean = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, kernel, iterations=2)
    clean = cv2.morphologyEx(clean, cv2.MORPH_OPEN, kernel)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(clean, connectivity=4)
    if count < 2:
        return np.zeros(mask.shape, bool)
    person = labels == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    # Small holes are clothes that look like the backdrop; large ones are the space between arm and body.
    holes, hole_labels, hole_stats, _ = cv2.connectedComponentsWithStats(
        (~person).astype(np.uint8), connectivity=4
    )
    small = [k for k in range(1, holes) if hole_stats[k, cv2.CC_STAT_AREA] < 1.5e-3 * mask.size]
    return person | np.isin(hole_labels, small)


def _grab_cut(small: np.ndarray) -> np.ndarray:
    h, w = small.shape[:2]
    labels = np.full((h, w), cv2.GC_BGD, np.uint8)
    labels[int(0.04 * h) :, int(0.12 * w) : int(0.88 * w)] = cv2.GC_PR_BGD
    cv2.ellipse(labels, (w // 2, int(0.35 * h)), (int(0.14 * w), int(0.22 * h)), 0, 0, 360, cv2.GC_PR_FGD, -1)
    cv2.ellipse(labels, (w // 2, h), (int(0.24 * w), int(0.5 * h)), 0, 0, 360, cv2.GC_PR_FGD, -1)
    cv2.setRNGSeed(0)  # its colour models start from a random clustering
    bgr = np.ascontiguousarray((small[..., ::-1] * 255).astype(np.uint8))
    cv2.grabCut(bgr, labels, None, np.zeros((1, 65)), np.zeros((1, 65)), 5, cv2.GC_INIT_WITH_MASK)  # type: ignore[call-overload]
    return (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)

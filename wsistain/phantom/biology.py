"""What ties the look of a cell to what it expresses: one latent field, partly visible.

Each tumour cell has visible latents, which decide its morphology, and hidden ones, which decide nothing that
H&E shows. An expression is  visibility * visible + sqrt(1 - visibility^2) * hidden, both of the same variance,
so `visibility` is their correlation. A marker is positive above a cut, and the best score that any reader of
morphology can have is the probability of that, given the visible latent.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from wsistain.markers import Marker, find_marker, panel
from wsistain.phantom.noise import F32, U64, Floats, draw, normal, salt_of, smooth_noise

# Weak, moderate and strong staining begin at these levels (density of the chromogen in a nucleus cut whole, or in the
# cytoplasm).
POSITIVE_LEVEL, MODERATE_LEVEL, STRONG_LEVEL = 0.30, 0.55, 0.85
RING_POSITIVE = 1.5
"""Ring score from which a cell counts as positive for a membranous marker: its rings are complete."""


@dataclass(frozen=True)
class Clone:
    """Slide-wide biology, drawn from the seed.

    grade      : visible mean of the differentiation latent; positive is well differentiated.
    hidden     : hidden mean of each marker.
    her2_score : 0..3, the score of the marker whose slides have one.
    cycling    : cut of what follows the cell cycle, so that the share differs between slides.
    """

    grade: float
    hidden: dict[str, float]
    her2_score: int
    cycling: float


def draw_clone(seed: int, her2_score: int | None, markers: Sequence[Marker]) -> Clone:
    """The biology of slide `seed`; `her2_score` None draws it (30, 25, 25, 20 %)."""
    ids = np.arange(8, dtype=np.uint64)
    g, u = normal(ids, salt_of(seed, "clone.g")), draw(ids, salt_of(seed, "clone.u"))
    drawn = int(np.searchsorted(np.cumsum(HER2_PRIOR)[:3], u[0], side="right"))

    def mean(marker: Marker) -> np.floating:
        at = marker.expression.draw
        found: np.floating = g[at] if at else normal(ids[:1], salt_of(seed, f"clone.{marker.name}"))[0]
        return found

    return Clone(
        grade=float(0.55 * np.clip(g[0], -1.6, 1.6)),
        hidden={m.name: float(0.55 * mean(m)) for m in markers},
        her2_score=drawn if her2_score is None else her2_score,
        cycling=float(0.85 + 0.7 * u[1]),
    )


@dataclass
class Latents:
    """Of n tumour cells, float32: visible ones (differentiation, cycle, apocrine) and expression by marker."""

    differentiation: F32
    cycle: F32
    apocrine: F32
    level: dict[str, F32]
    positive: dict[str, NDArray[np.bool_]]
    score: dict[str, F32]
    mitosis: NDArray[np.bool_]


# Share of slides of each score, the mean ring level of their cells, and how it spreads with the latents.
HER2_PRIOR = (0.30, 0.25, 0.25, 0.20)
HER2_CENTRE = (0.25, 0.95, 1.75, 2.75)
HER2_MIDDLE, HER2_SPREAD = 1.475, 0.7

SPREAD, SLIDE_SPREAD = 0.46**2 + 0.70**2, 0.55**2
"""Variance of a latent within a slide, and between slides."""

TINY = 1e-4


def _field(seed: int, name: str, y: Floats, x: Floats, period: float) -> F32:
    return smooth_noise(salt_of(seed, name), y, x, period)


def _mixed(seed: int, name: str, ids: U64, y: Floats, x: Floats) -> F32:
    """A latent of variance about 0.70 within a slide: a clone field and the cell's own part."""
    return np.float32(0.70) * _field(seed, name, y, x, 260.0) + np.float32(0.46) * normal(
        ids, salt_of(seed, name + ".cell")
    )


def _hidden(seed: int, marker: Marker, clone: Clone, ids: U64, y: Floats, x: Floats) -> F32:
    """What decides an expression and shows nowhere on H&E: the marker's own part, and what it shares with another."""
    expression, name = marker.expression, f"hidden.{marker.expression.salt or marker.name}"
    if expression.follows == "cycle":  # a matter of moments: cells side by side differ
        return normal(ids, salt_of(seed, name)) + np.float32(0.5 * clone.hidden[marker.name])
    own = _mixed(seed, name, ids, y, x) + np.float32(clone.hidden[marker.name])
    if expression.shares is None:
        return own
    other, weight = find_marker(expression.shares[0]), expression.shares[1]
    theirs = _hidden(seed, other, clone, ids, y, x)
    return np.float32(weight) * theirs + np.float32(np.sqrt(1 - weight**2)) * own


def _graded(
    seed: int, marker: Marker, clone: Clone, visibility: float, seen: dict[str, F32], ids: U64, y: Floats, x: Floats
) -> tuple[F32, NDArray[np.bool_], F32]:
    """(level, positive, score) of a marker whose cells are positive where one latent passes a cut."""
    v, w = np.float32(visibility), np.float32(np.sqrt(1 - visibility**2))
    expression = marker.expression
    visible = v * seen[expression.follows] * np.float32(-1 if expression.against else 1)
    latent = visible + w * _hidden(seed, marker, clone, ids, y, x) + np.float32(expression.shift)
    # A reader of morphology knows the visible latents and the population of slides, but no slide's hidden part.
    if expression.follows == "cycle":
        latent = latent - np.float32(clone.cycling)
        score = ndtr((visible - 1.2 + expression.shift) / np.sqrt(w * w * (1 + 0.25 * SLIDE_SPREAD) + 0.2**2))
    else:
        score = ndtr((visible + expression.shift) / (w * np.sqrt(SPREAD + SLIDE_SPREAD) + TINY))
    positive = latent > 0
    if marker.compartment == "membranous":
        level = np.clip(RING_POSITIVE + HER2_SPREAD * latent, 0, 3)
        positive = level > RING_POSITIVE
    else:
        rise = 1 - np.exp(-np.abs(latent) / np.float32(0.9))
        negative = 0.09 * draw(ids, salt_of(seed, marker.name)) ** 2
        level = np.where(positive, POSITIVE_LEVEL + np.float32(1.0) * rise, negative)
    return level, positive, score.astype(np.float32)


def _ringed(
    seed: int, marker: Marker, clone: Clone, visibility: float, q: F32, ids: U64, y: Floats, x: Floats
) -> tuple[F32, F32, NDArray[np.bool_], F32]:
    """(apocrine latent, level, positive, score) of the marker whose slides have a score 0..3 that H&E shows."""
    v, w = np.float32(visibility), np.float32(np.sqrt(1 - visibility**2))
    shift = (HER2_CENTRE[clone.her2_score] - HER2_MIDDLE) / HER2_SPREAD
    hidden = _mixed(seed, f"hidden.{marker.expression.salt or marker.name}", ids, y, x)
    ring = np.float32(HER2_MIDDLE) + np.float32(HER2_SPREAD) * (v * q + w * hidden + np.float32(shift))
    q = q + v * np.float32(shift)
    # Bayes' rule over the slide scores that could have given this visible latent.
    total, weight = np.zeros(len(ids)), np.full(len(ids), 1e-12)
    for prior, centre in zip(HER2_PRIOR, HER2_CENTRE, strict=True):
        there = (centre - HER2_MIDDLE) / HER2_SPREAD
        likely = prior * np.exp(-0.5 * (q - v * there) ** 2 / SPREAD)
        mean = HER2_MIDDLE + HER2_SPREAD * (v * (q - v * there) + there)
        total += likely * ndtr((mean - RING_POSITIVE) / (HER2_SPREAD * w * np.sqrt(SPREAD) + TINY))
        weight += likely
    return q, np.clip(ring, 0, 3).astype(np.float32), ring >= RING_POSITIVE, (total / weight).astype(np.float32)


def express(
    seed: int, clone: Clone, visibility: float, markers: Sequence[Marker], ids: U64, y: Floats, x: Floats
) -> Latents:
    """Latents and expression of tumour cells `ids` at (y, x) um.

    level, nuclear and cytoplasmic: density of the chromogen in a nucleus cut whole, or in the cytoplasm: 0..0.09 where
    negative, 0.30..1.3 where positive (the gap is the detection limit of the chromogen). level, membranous: 0..3, ring
    score of the cell. score: probability of being positive given the visible latents alone, over all slides that could be.
    """
    m = _mixed(seed, "m", ids, y, x) + np.float32(clone.grade)
    cycle = np.float32(-0.45) * m + normal(ids, salt_of(seed, "g"))
    q = _mixed(seed, "q", ids, y, x)
    level: dict[str, F32] = {}
    positive: dict[str, NDArray[np.bool_]] = {}
    score: dict[str, F32] = {}
    for k in (one for one in markers if one.expression.slide_score):
        q, level[k.name], positive[k.name], score[k.name] = _ringed(seed, k, clone, visibility, q, ids, y, x)
    seen = {"differentiation": m, "cycle": cycle, "apocrine": q}
    for k in (one for one in markers if not one.expression.slide_score):
        level[k.name], positive[k.name], score[k.name] = _graded(seed, k, clone, visibility, seen, ids, y, x)
    # Only cells that every marker of the cycle in the panel shows as cycling divide.
    dividing = draw(ids, salt_of(seed, "mitosis")) < 0.05
    for k in (one for one in panel() if one.expression.follows == "cycle"):
        dividing &= positive[k.name]
    return Latents(m, cycle, q, level, positive, score, dividing)


def rank_auc(score: NDArray[np.floating], positive: NDArray[np.bool_]) -> float | None:
    """Area under the ROC curve (probability that a positive outranks a negative, ties half); None if one class is absent."""
    from scipy.stats import rankdata

    n_pos, n_neg = int(positive.sum()), int((~positive).sum())
    if not n_pos or not n_neg:
        return None
    ranks = rankdata(score)
    return float((ranks[positive].sum() - n_pos * (n_pos + 1) / 2) / (n_pos * n_neg))

"""What ties the look of a cell to what it expresses: one latent field, partly visible.

Each tumour cell has visible latents, which decide its morphology, and hidden ones, which decide nothing that
H&E shows. An expression is  visibility * visible + sqrt(1 - visibility^2) * hidden, both of the same variance,
so `visibility` is their correlation. A marker is positive above a cut, and the best score that any reader of
morphology can have is the probability of that, given the visible latent.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from wsistain.phantom.noise import F32, U64, Floats, draw, normal, salt_of, smooth_noise

NUCLEAR = ("ER", "PR", "Ki67")
# Weak, moderate and strong staining begin at these levels (DAB optical density of a nucleus cut whole).
POSITIVE_LEVEL, MODERATE_LEVEL, STRONG_LEVEL = 0.30, 0.55, 0.85


@dataclass(frozen=True)
class Clone:
    """Slide-wide biology, drawn from the seed.

    grade      : visible mean of the differentiation latent; positive is well differentiated.
    hidden     : hidden means for ER, PR, Ki67, HER2.
    her2_score : 0..3.
    cycling    : cut of Ki67, so that the share differs between slides.
    """

    grade: float
    hidden: tuple[float, float, float, float]
    her2_score: int
    cycling: float


def draw_clone(seed: int, her2_score: int | None) -> Clone:
    """The biology of slide `seed`; `her2_score` None draws it (30, 25, 25, 20 %)."""
    ids = np.arange(8, dtype=np.uint64)
    g, u = normal(ids, salt_of(seed, "clone.g")), draw(ids, salt_of(seed, "clone.u"))
    drawn = int(np.searchsorted(np.cumsum(HER2_PRIOR)[:3], u[0], side="right"))
    return Clone(
        grade=float(0.55 * np.clip(g[0], -1.6, 1.6)),
        hidden=tuple(float(0.55 * v) for v in g[1:5]),  # type: ignore[arg-type]
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


def _field(seed: int, name: str, y: Floats, x: Floats, period: float) -> F32:
    return smooth_noise(salt_of(seed, name), y, x, period)


def _mixed(seed: int, name: str, ids: U64, y: Floats, x: Floats) -> F32:
    """A latent of variance about 0.70 within a slide: a clone field and the cell's own part."""
    return np.float32(0.70) * _field(seed, name, y, x, 260.0) + np.float32(0.46) * normal(
        ids, salt_of(seed, name + ".cell")
    )


def express(seed: int, clone: Clone, visibility: float, ids: U64, y: Floats, x: Floats) -> Latents:
    """Latents and expression of tumour cells `ids` at (y, x) um.

    level of ER, PR, Ki67: DAB optical density of the nucleus cut whole: 0..0.09 where negative, 0.30..1.3 where
    positive (the gap is the detection limit of the chromogen). level of HER2: 0..3, ring score of the cell.
    score: probability of being positive given the visible latents alone, over all slides that could be.
    """
    v, w = np.float32(visibility), np.float32(np.sqrt(1 - visibility**2))
    m = _mixed(seed, "m", ids, y, x) + np.float32(clone.grade)
    g = normal(ids, salt_of(seed, "g"))
    q = _mixed(seed, "q", ids, y, x)
    shift = (HER2_CENTRE[clone.her2_score] - HER2_MIDDLE) / HER2_SPREAD
    spread = 0.46**2 + 0.70**2
    level: dict[str, F32] = {}
    positive: dict[str, NDArray[np.bool_]] = {}
    score: dict[str, F32] = {}

    hidden = {
        n: _mixed(seed, f"hidden.{n}", ids, y, x) + np.float32(clone.hidden[k]) for k, n in enumerate(("ER", "PR"))
    }
    er = v * m + w * hidden["ER"] + np.float32(0.25)
    pr = v * m + w * (np.float32(0.8) * hidden["ER"] + np.float32(0.6) * hidden["PR"]) - np.float32(0.05)
    cycle = np.float32(-0.45) * m + g
    ki = (
        v * cycle
        + w * (normal(ids, salt_of(seed, "hidden.g")) + np.float32(0.5 * clone.hidden[2]))
        - np.float32(clone.cycling)
    )
    for name, latent in (("ER", er), ("PR", pr), ("Ki67", ki)):
        positive[name] = latent > 0
        rise = 1 - np.exp(-np.abs(latent) / np.float32(0.9))
        level[name] = np.where(
            latent > 0, POSITIVE_LEVEL + np.float32(1.0) * rise, 0.09 * draw(ids, salt_of(seed, name)) ** 2
        )
    # A reader of morphology knows the visible latents and the population of slides, but no slide's hidden part.
    tiny, slide = 1e-4, 0.55**2
    score["ER"] = ndtr((v * m + 0.25) / (w * np.sqrt(spread + slide) + tiny)).astype(np.float32)
    score["PR"] = ndtr((v * m - 0.05) / (w * np.sqrt(spread + slide) + tiny)).astype(np.float32)
    score["Ki67"] = ndtr((v * cycle - 1.2) / np.sqrt(w * w * (1 + 0.25 * slide) + 0.2**2)).astype(np.float32)

    latent = v * q + w * _mixed(seed, "hidden.q", ids, y, x) + np.float32(shift)
    ring = np.float32(HER2_MIDDLE) + np.float32(HER2_SPREAD) * latent
    q = q + v * np.float32(shift)
    level["HER2"] = np.clip(ring, 0, 3).astype(np.float32)
    positive["HER2"] = ring >= 1.5
    # Bayes' rule over the slide scores that could have given this visible latent.
    total, weight = np.zeros(len(ids)), np.full(len(ids), 1e-12)
    for prior, centre in zip(HER2_PRIOR, HER2_CENTRE, strict=True):
        there = (centre - HER2_MIDDLE) / HER2_SPREAD
        likely = prior * np.exp(-0.5 * (q - v * there) ** 2 / spread)
        mean = HER2_MIDDLE + HER2_SPREAD * (v * (q - v * there) + there)
        total += likely * ndtr((mean - 1.5) / (HER2_SPREAD * w * np.sqrt(spread) + tiny))
        weight += likely
    score["HER2"] = (total / weight).astype(np.float32)
    mitosis = positive["Ki67"] & (draw(ids, salt_of(seed, "mitosis")) < 0.05)
    return Latents(m, cycle, q, level, positive, score, mitosis)


def rank_auc(score: NDArray[np.floating], positive: NDArray[np.bool_]) -> float | None:
    """Area under the ROC curve (probability that a positive outranks a negative, ties half); None if one class is absent."""
    from scipy.stats import rankdata

    n_pos, n_neg = int(positive.sum()), int((~positive).sum())
    if not n_pos or not n_neg:
        return None
    ranks = rankdata(score)
    return float((ranks[positive].sum() - n_pos * (n_pos + 1) / 2) / (n_pos * n_neg))

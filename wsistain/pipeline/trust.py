"""Is the slide like what the weights were trained on? A look at windows all over the tissue, before anybody believes a stain."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from wsistain.generators.known import known_of
from wsistain.generators.spec import GeneratorSpec
from wsistain.optics.familiar import looks_of, verdict
from wsistain.slide.base import Slide
from wsistain.slide.inside import phantom_of
from wsistain.tiling.plan import RunPlan

WINDOWS, WINDOW_UM = 48, 192.0
LEAST_SQUARES = 8


@dataclass(frozen=True)
class Trust:
    """How a slide looks to weights.

    verdict  : "like training", "partly unlike training", "unlike training", or "not known".
    unlike   : share of the squares of 32 um that are further off than training pictures are, 0..1; None where not known.
    distance : median distance, 1 is as far as the furthest hundredth of training squares; None where not known.
    squares  : how many were looked at.
    why      : why it is not known, or unlike training whatever it looks like; "" otherwise.
    """

    verdict: str
    unlike: float | None = None
    distance: float | None = None
    squares: int = 0
    why: str = ""

    def describe(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    def warnings(self) -> tuple[str, ...]:
        """A sentence for whoever stains the slide; none where it looks like training."""
        if self.unlike is None or self.verdict == "like training":
            return ()
        if self.why:
            return (f"{self.verdict}: {self.why}; do not believe the stain",)
        return (
            f"{self.verdict}: {self.unlike:.0%} of the tissue looks like nothing that these weights were trained on; "
            "do not believe the stain there",
        )


def judge(slide: Slide, plan: RunPlan, spec: GeneratorSpec) -> Trust:
    """How the tissue of `slide` looks to the weights of `spec`, from up to 48 windows spread evenly over it."""
    known = known_of(spec.weights, spec.training_data)
    if known.looks is None:
        return Trust("not known", why=known.why)
    mpp = plan.sampling.mpp
    places = np.argwhere(plan.has_tissue)
    chosen = places[np.linspace(0, len(places) - 1, min(WINDOWS, len(places))).astype(int)]
    t, edge = plan.tiling, max(1, round(WINDOW_UM / mpp))
    distances = []
    for row, col in chosen:
        # the middle of the tile, inside the slide
        y, x = (
            int(np.clip(n * t.stride + (t.core - edge) // 2, 0, max(size - edge, 0)))
            for n, size in zip((row, col), plan.sampling.shape, strict=True)
        )
        height, width = (min(edge, size) for size in plan.sampling.shape)
        distances.append(known.looks.distance(looks_of(plan.read(slide, y, x, height, width), mpp)).ravel())
    found = np.concatenate([*distances, np.zeros(0)])
    found = found[np.isfinite(found)]
    if len(found) < LEAST_SQUARES:
        return Trust("not known", squares=len(found), why="too little tissue was found to tell")
    unlike = float((found > 1).mean())
    why = known.never_on(is_phantom=phantom_of(slide.info.path) is not None)
    said = "unlike training" if why else verdict(unlike)
    return Trust(said, round(unlike, 4), round(float(np.median(found)), 3), len(found), why)

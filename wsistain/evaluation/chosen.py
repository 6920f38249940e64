"""Which patches are measured, and at which scale: what the weights were trained on decides where the data set does not.

A patient that was trained on and a scale that is another one both give tables that look right.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsistain.data.layouts import SPLIT_HERE, PatchRef, Split, list_patches
from wsistain.data.patches import all_patches
from wsistain.data.stated import check_stated, published_mpp, stated_mpp
from wsistain.errors import ConfigError, DataError
from wsistain.evaluation.rows import Candidate
from wsistain.evaluation.seen import copied, leaks, unseen
from wsistain.markers import Marker

VAL_SHARE, SPLIT_SEED = 0.1, 0
"""Of a layout without a split where neither weights nor user say anything: those of training."""

_ALIKE = 0.01


@dataclass(frozen=True)
class Wanted:
    """What the user asked for; None: what the weights or the data set say.

    mpp       : um per px of the patches as stored.
    val_share : share of the patients that is held out, and `split_seed` which, in layouts without a split.
    limit     : at most so many patches, evenly spaced.
    """

    root: Path
    layout: str
    marker: Marker
    split: str
    limit: int | None = None
    mpp: float | None = None
    val_share: float | None = None
    split_seed: int | None = None


@dataclass(frozen=True)
class Chosen:
    """The patches to be measured.

    refs     : of the split that was asked for; train: of the training split, for the mean-colour baseline (may be empty).
    mpp      : um per px of the patches as stored; None only where no network has to know it.
    warnings : what cannot be known, in sentences.
    """

    refs: list[PatchRef]
    train: list[PatchRef]
    mpp: float | None
    val_share: float | None
    split_seed: int | None
    warnings: tuple[str, ...]


def choose_patches(wanted: Wanted, candidates: Sequence[Candidate]) -> Chosen:
    """The patches, split and scaled as the weights of `candidates` were trained.

    Raises DataError for data that are not there, ConfigError where weights disagree with each other or with what the
    user says, and where a network would stain patches of unknown scale.
    """
    if wanted.split not in ("train", "val", "test", "slide"):
        raise ConfigError(f"split {wanted.split!r} is not known; wanted train, val, test or slide")
    share, seed, warnings = _split(wanted, candidates)
    if wanted.split == "slide":
        refs = all_patches(lambda part: _listed(wanted, part, share, seed, paired=True))
    else:
        refs = _listed(wanted, wanted.split, share, seed, paired=True)  # type: ignore[arg-type]
    check_stated(refs, wanted.root, wanted.marker, wanted.mpp)
    mpp = _scale(wanted, refs, candidates)
    try:
        train = [r for r in _listed(wanted, "train", share, seed, paired=False) if r.he and r.ihc]
    except DataError:
        train = []
    if wanted.split == "slide":
        refs = unseen(refs, candidates, train)
        kept = {ref.name for ref in refs}
        train = [ref for ref in train if ref.name not in kept]
    elif wanted.split != "train":
        warnings = (*warnings, *leaks(refs, candidates, train), *copied(refs, train))
    if wanted.limit is not None:
        if wanted.limit < 1:
            raise ConfigError(f"limit {wanted.limit} leaves no patch; wanted at least 1")
        refs = [refs[i] for i in spread(len(refs), wanted.limit)]
    return Chosen(refs, train, mpp, share, seed, warnings)


def spread(n: int, wanted: int) -> list[int]:
    """At most `wanted` evenly spaced indices of a list of `n`, first and last included."""
    return [int(i) for i in np.unique(np.linspace(0, n - 1, min(wanted, n)).round())] if wanted > 0 else []


def _listed(wanted: Wanted, split: Split, share: float | None, seed: int | None, *, paired: bool) -> list[PatchRef]:
    return list_patches(
        wanted.layout,
        wanted.root,
        wanted.marker,
        split,
        paired=paired,
        val_share=VAL_SHARE if share is None else share,
        split_seed=SPLIT_SEED if seed is None else seed,
    )


def _split(wanted: Wanted, candidates: Sequence[Candidate]) -> tuple[float | None, int | None, tuple[str, ...]]:
    """Share and seed of the patients that are held out, None where the data set has a split of its own, and warnings."""
    asked = {"val_share": wanted.val_share, "split_seed": wanted.split_seed}
    if wanted.layout not in SPLIT_HERE:
        given = [f"--{name.replace('_', '-')}" for name, value in asked.items() if value is not None]
        if given:
            raise ConfigError(f"layout {wanted.layout} comes with a split; {given[0]} is for {', '.join(SPLIT_HERE)}")
        return None, None, ()
    if wanted.val_share is not None and not 0 < wanted.val_share < 1:
        raise ConfigError(f"val share {wanted.val_share:g} is not between 0 and 1")
    if wanted.split_seed is not None and wanted.split_seed < 0:
        raise ConfigError(f"split seed {wanted.split_seed} is negative; wanted 0 or more")

    # What the weights say must be one thing, and what the user says must not contradict it.
    stated = {}
    for c in candidates:
        on = c.trained_on
        if on is not None and on.layout == wanted.layout and on.val_share is not None and on.split_seed is not None:
            stated[c.name] = (on.val_share, on.split_seed)
    if len(set(stated.values())) > 1:
        told = ", ".join(f"{name} (val_share {a:g}, split_seed {b})" for name, (a, b) in stated.items())
        raise ConfigError(f"the weights held out different patients: {told}; evaluate them one by one")
    share, seed = next(iter(stated.values()), (VAL_SHARE, SPLIT_SEED))
    for name, value, theirs in (("val_share", wanted.val_share, share), ("split_seed", wanted.split_seed, seed)):
        if stated and value is not None and value != theirs:
            raise ConfigError(
                f"{name} {value:g} is not that of {next(iter(stated))} ({theirs:g}): patients it was trained on would be "
                f"measured; leave out --{name.replace('_', '-')}"
            )
    share = share if wanted.val_share is None else wanted.val_share
    seed = seed if wanted.split_seed is None else wanted.split_seed

    # Weights that learned from this data set and do not say which patients.
    silent = [c.name for c in candidates if c.name not in stated and _learned_here(c, wanted.layout)]
    warnings = tuple(
        f"{name} was trained on {wanted.layout} and does not say which patients it held out: some of those measured "
        f"here (val_share {share:g}, split_seed {seed}) may be among its training patients"
        for name in silent
    )
    return share, seed, warnings


def _learned_here(candidate: Candidate, layout: str) -> bool:
    return layout in candidate.spec.training_data.lower()


def _scale(wanted: Wanted, refs: Sequence[PatchRef], candidates: Sequence[Candidate]) -> float | None:
    """um per px of the patches as stored; ConfigError where a network needs it and nobody says it."""
    found = wanted.mpp or stated_mpp(refs) or published_mpp(refs, wanted.layout)
    is_said = found is not None
    for c in candidates:
        # What weights took the scale of these patches to be is all there is where nobody else says it. IHC4BC is one
        # data set, so that it holds there in any case.
        if (
            c.trained_on is None
            or c.trained_on.layout != wanted.layout
            or (is_said and wanted.layout not in SPLIT_HERE)
        ):
            continue
        found = found or c.trained_on.mpp
        if abs(c.trained_on.mpp / found - 1) > _ALIKE:
            raise ConfigError(
                f"{c.name} was trained on {wanted.layout} patches taken for {c.trained_on.mpp:g} um per px, found "
                f"{found:g}: evaluate weights of one scale at a time, without --mpp"
            )
    if found is None and candidates:
        raise ConfigError(
            f"the um per px of these patches is stated nowhere (layout {wanted.layout}, no manifest.json, not in the "
            f"weights): pass --mpp, or {candidates[0].name} would stain patches of another scale than its own"
        )
    return found

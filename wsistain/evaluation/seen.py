"""Slides that weights were trained on, among those that they are measured on: told, or left out."""

from collections.abc import Sequence

from wsistain.data.layouts import PatchRef, copied_names
from wsistain.data.splits import slide_hash
from wsistain.errors import DataError
from wsistain.evaluation.rows import Candidate


def seen_slides(candidate: Candidate, train: Sequence[PatchRef]) -> frozenset[str]:
    """Hashes of the slides that weights saw, as their header says; else of all in the data set's training part."""
    return candidate.slides or frozenset(slide_hash(ref.slide) for ref in train if ref.slide is not None)


def unseen(refs: Sequence[PatchRef], candidates: Sequence[Candidate], train: Sequence[PatchRef]) -> list[PatchRef]:
    """Those of `refs` whose slide none of the weights was trained on; without weights, none of the training part.

    Raises DataError where names tell no slides, or nothing is left.
    """
    unknown = [ref.name for ref in refs if ref.slide is None]
    if unknown:
        raise DataError(f"the names of {len(unknown)} patches do not tell their slide ({unknown[0]}); use --split val")
    seen = frozenset().union(*(seen_slides(c, train) for c in candidates)) if candidates else None
    if seen is None:
        seen = frozenset(slide_hash(str(ref.slide)) for ref in train)
    left = [ref for ref in refs if slide_hash(str(ref.slide)) not in seen]
    if not left:
        n = len({ref.slide for ref in refs})
        raise DataError(
            f"each of the {n} slides was trained on by some of the weights: nothing is left to measure; train with "
            "data.split slide, or measure them one by one"
        )
    return left


def copied(refs: Sequence[PatchRef], train: Sequence[PatchRef]) -> list[str]:
    """A sentence where H&E pictures that are measured lie in the training part too, under whatever name."""
    names = copied_names(train, refs)
    if not names:
        return []
    return [
        f"{len(names)} of {len(refs)} patches measured here are, byte for byte, in the training part of the data set too "
        f"({', '.join(names[:3])}): what was trained on it has seen them"
    ]


def leaks(refs: Sequence[PatchRef], candidates: Sequence[Candidate], train: Sequence[PatchRef]) -> list[str]:
    """A sentence for each of the weights that were, or may have been, trained on slides of `refs`."""
    slides = {slide_hash(ref.slide): ref.slide for ref in refs if ref.slide is not None}
    told = []
    for candidate in candidates:
        both = slides.keys() & seen_slides(candidate, train)
        if not both or not (candidate.slides or candidate.spec.training_data != "unstated"):
            continue
        n = sum(ref.slide is not None and slide_hash(ref.slide) in both for ref in refs)
        names = ", ".join(sorted(str(slides[h]) for h in both)[:3])
        was = "was" if candidate.slides else "may have been (its weights do not say)"
        told.append(
            f"{candidate.name} {was} trained on {len(both)} of the {len(slides)} slides measured here ({n} of {len(refs)} "
            f"patches; {names}): --split slide measures only slides that no weights saw"
        )
    return told

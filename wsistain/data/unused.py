"""Which files beside the patches of a run are not among them, and why: what is left out in silence is never missed."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsistain.data.layouts import PatchRef
from wsistain.data.pictures import SUFFIXES


@dataclass(frozen=True)
class Unused:
    """A file or folder among the patches that nothing is read from, and why."""

    path: Path
    why: str


def unused_files(refs: Sequence[PatchRef], *, deep: bool) -> list[Unused]:
    """What lies in the folders of `refs` (all splits of them) and is none of their pictures, sorted by path.

    deep : the layout reads folders below folders.
    """
    used = {path for ref in refs for path in (ref.he, ref.ihc, ref.truth, ref.mask) if path is not None}
    if not used:
        return []
    folders = {path.parent for path in used}
    if deep:
        tops = {p.parents[ref.name.count("/")] for ref in refs for p in (ref.he, ref.ihc) if p is not None}
        folders |= {Path(root) for top in tops for root, _, _ in os.walk(top, followlinks=True)}
    return sorted(
        (Unused(path, why) for folder in folders for path, why in _left(folder, used, deep=deep)),
        key=lambda found: str(found.path),
    )


def _left(folder: Path, used: set[Path], *, deep: bool) -> Iterator[tuple[Path, str]]:
    for path in folder.iterdir():
        if path in used:
            continue
        if path.is_dir():
            if not deep:
                yield path, "a folder: this layout reads none below"
        elif path.name.startswith("."):
            yield path, "hidden"
        elif path.suffix.lower() not in SUFFIXES:
            yield path, f"no picture by its name ({path.suffix or 'no suffix'})"
        elif not path.exists():
            yield path, "a link to nothing"
        else:
            yield path, "not among the patches that were chosen"


def by_reason(unused: Sequence[Unused]) -> str:
    """How many are left out for which reason, in words: "3 hidden, 1 no picture by its name (.txt)"."""
    return ", ".join(f"{n} {why}" for why, n in Counter(found.why for found in unused).most_common(6))

"""Folder layouts of the published patch data sets, as lists of patches.

Layouts: MIST (Li et al. 2023), BCI in folders and side by side (Liu et al. 2022), IHC4BC (Akbarnejad et al. 2023) and
plain side-by-side pairs. H&E is A, IHC is B. A patch is paired with the one of the same name, never by position in a
list. Splits are those the data set came with; where there is none (IHC4BC), whole patients are held out.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from wsistain.data.copies import copies
from wsistain.data.pictures import SUFFIXES
from wsistain.errors import DataError
from wsistain.markers import Marker, find_marker

Split = Literal["train", "val", "test"]


SPLIT_HERE = ("ihc4bc",)
"""Layouts that came without a split: patients are held out by share and seed."""


@dataclass(frozen=True)
class PatchRef:
    """One training image and what belongs to it.

    name      : relative path below the H&E folder without its suffix; no two patches of a split share it.
    he, ihc   : picture files; one of them is None only in lists for unpaired training.
    is_joined : both lie side by side in one file, H&E left.
    slide     : slide or patient it was cut from; None where the name does not tell.
    level     : HER2 score of the slide in BCI's names ("0", "1+", "2+", "3+"), else None.
    truth     : IHC of the very same section (phantom only), else None.
    mask      : annotation, else None.
    marker    : name of the marker of `ihc`, None where the list is of one marker.
    """

    name: str
    he: Path | None
    ihc: Path | None
    is_joined: bool = False
    slide: str | None = None
    level: str | None = None
    truth: Path | None = None
    mask: Path | None = None
    marker: str | None = None


def list_patches(
    layout: str,
    root: Path,
    marker: Marker | str,
    split: Split,
    *,
    paired: bool = True,
    val_share: float = 0.1,
    split_seed: int = 0,
) -> list[PatchRef]:
    """The patches of one split, sorted by name.

    layout    : "mist", "bci", "bci_ab", "ihc4bc" or "ab".
    split     : "train", "val" or "test"; data sets with a single held-out part give it for both of the latter.
    paired    : every H&E must have an IHC of the same name and the reverse; False lists both sides as they are.
    val_share : share of the patients that is held out, about, and `split_seed` which; IHC4BC only.

    Raises DataError for folders that are missing or empty and for names that do not match.
    """
    if layout not in LAYOUTS:
        raise DataError(f"layout {layout!r} is not known; wanted one of {', '.join(LAYOUTS)}")
    if not root.is_dir():
        raise DataError(f"there is no folder {root}; data.root must be the folder of the {layout} patches")
    found = marker if isinstance(marker, Marker) else find_marker(marker)
    refs = LAYOUTS[layout](_Wanted(root, found, split, paired, val_share, split_seed))
    return sorted(refs, key=lambda ref: ref.name)


@dataclass(frozen=True)
class _Wanted:
    root: Path
    marker: Marker
    split: Split
    paired: bool
    val_share: float
    split_seed: int


def slide_of(name: str) -> str | None:
    """The slide in a name such as `<slide>_<x>_<y>` or `<slide>_<x>_<y>_<row>_<column>`, None where there is none.

    >>> slide_of("10M2102916_10_15"), slide_of("10M2102916_10_15_0_1"), slide_of("tile")
    ('10M2102916', '10M2102916', None)
    """
    parts = name.rsplit("/", 1)[-1].split("_")
    n_numbers = 0
    while n_numbers < len(parts) - 1 and parts[-1 - n_numbers].isdigit():
        n_numbers += 1
    drop = 4 if n_numbers >= 4 else 2
    return "_".join(parts[:-drop]) if n_numbers >= 2 else None


class NoPartError(DataError):
    """A data set has nothing of the part that is wanted, training or held-out; of another part it may have."""


def _pictures(folder: Path, *, deep: bool = False) -> dict[str, Path]:
    """Name to file of every picture in `folder` (and below, with `deep`); DataError when missing, empty or doubled."""
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}")
    found: dict[str, Path] = {}
    for path in sorted(_below(folder) if deep else folder.iterdir()):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise DataError(f"{folder} holds {found[name].name} and {path.name}: two pictures of one name")
        found[name] = path
    if not found:
        raise DataError(f"{folder} holds no pictures ({', '.join(SUFFIXES)})")
    return found


def _below(folder: Path) -> Iterator[Path]:
    """Every file in a folder and in those below it, also behind links to folders; DataError for a link to a folder above."""
    for root, folders, files in os.walk(folder, followlinks=True):
        here = Path(root)
        for name in folders:
            if (here / name).is_symlink() and here.resolve().is_relative_to((here / name).resolve()):
                raise DataError(f"{here / name} is a link to a folder above it; remove it")
        yield from (here / name for name in files)


def _first(names: Iterable[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:3]) + (" ..." if len(listed) > 3 else "")


def _match(a: dict[str, Path], b: dict[str, Path], a_folder: Path, b_folder: Path) -> None:
    """DataError with counts and first names unless both hold the same names."""
    only_a, only_b = set(a) - set(b), set(b) - set(a)
    if not only_a and not only_b:
        return
    faults = [f"{len(n)} only in {f.name} ({_first(n)})" for n, f in ((only_a, a_folder), (only_b, b_folder)) if n]
    raise DataError(
        f"{a_folder} holds {len(a)} pictures and {b_folder} {len(b)}, but their names do not match: "
        f"{', '.join(faults)}; name both files of a pair alike, or set data.pairing to none"
    )


def _join(wanted: _Wanted, a_folder: Path, b_folder: Path, *, deep: bool = False) -> list[PatchRef]:
    """Patches of two folders, paired by name where that is wanted."""
    a, b = _pictures(a_folder, deep=deep), _pictures(b_folder, deep=deep)
    if wanted.paired:
        _match(a, b, a_folder, b_folder)
    return [PatchRef(n, a.get(n), b.get(n), slide=slide_of(n)) for n in {**a, **b}]


def _one_of(candidates: Sequence[Path], what: str) -> Path:
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise DataError(f"{what}: found none of {', '.join(str(c) for c in candidates)}")


def _marker_folder(parent: Path, marker: Marker) -> Path | None:
    """The folder of a marker in any spelling (`HER2`, `Her2`), None where there is none."""
    names = {marker.name.lower(), *marker.aliases}
    folders = [p for p in sorted(parent.iterdir()) if p.is_dir() and p.name.lower() in names]
    return folders[0] if folders else None


def _mist(wanted: _Wanted) -> list[PatchRef]:
    """`<root>/<marker>/TrainValAB/{trainA,trainB,valA,valB}`; `root` may also be one of the folders on that way."""
    own = _marker_folder(wanted.root, wanted.marker)
    tops = ([own] if own else []) + [wanted.root]
    part = "train" if wanted.split == "train" else "val"  # MIST's val is the published test set
    candidates = [f for top in tops for f in (top / "TrainValAB", top)]
    base = next((c for c in candidates if (c / f"{part}A").is_dir()), None)
    if base is None:
        wish = wanted.root / wanted.marker.name / "TrainValAB" / f"{part}A"
        other = next((c for c in candidates if part == "val" and (c / "trainA").is_dir()), None)
        raise NoPartError(
            f"there is no folder {wish}; layout mist wants <root>/<marker>/TrainValAB/{part}A and {part}B"
            + ("" if other is None else "; to hold out some of the slides in trainA, set data.split to slide")
        )
    refs = _join(wanted, base / f"{part}A", base / f"{part}B")
    truth_folder = base / f"{part}TruthB"
    if not truth_folder.is_dir():
        return refs
    truth = _pictures(truth_folder)
    missing = [r.name for r in refs if r.he is not None and r.name not in truth]
    if missing:
        raise DataError(f"{truth_folder} lacks {len(missing)} of {len(refs)} patches ({_first(missing)})")
    return [replace(r, truth=truth.get(r.name)) for r in refs]


_BCI_NAME = re.compile(r"\d+_(?:train|test)_(0|1\+|2\+|3\+)")


def _with_levels(refs: list[PatchRef], folder: Path) -> list[PatchRef]:
    """BCI patches with the HER2 level of their names; the names hold no slide."""
    odd = [r.name for r in refs if not _BCI_NAME.fullmatch(r.name)]
    if odd:
        raise DataError(
            f"{len(odd)} of {len(refs)} names in {folder} are not BCI's NNNNN_train_2+ ({_first(odd)}); "
            "for other side-by-side pairs use layout ab"
        )
    return [replace(r, slide=None, level=r.name.rsplit("_", 1)[1]) for r in refs]


def _only_her2(wanted: _Wanted) -> None:
    if wanted.marker.name != "HER2":
        raise DataError(f"BCI holds HER2 only, found marker {wanted.marker.name}")


def _bci(wanted: _Wanted) -> list[PatchRef]:
    """`<root>/{HE,IHC}/{train,test}/NNNNN_train_2+.png`; `root` may also be the folder above."""
    _only_her2(wanted)
    base = _one_of([wanted.root / "HE", wanted.root / "BCI_dataset" / "HE"], "layout bci").parent
    part = "train" if wanted.split == "train" else "test"
    if not any((base / side / part).is_dir() for side in ("HE", "IHC")):
        raise NoPartError(f"there is no folder {base / 'HE' / part}")
    return _with_levels(_join(wanted, base / "HE" / part, base / "IHC" / part), base / "HE" / part)


def _joined(wanted: _Wanted, parts: Sequence[str]) -> tuple[list[PatchRef], Path]:
    tops = [wanted.root, wanted.root / "AB"]
    places = [top / p for p in parts for top in tops]
    if not any(place.is_dir() for place in places):
        listed = ", ".join(map(str, places))
        raise NoPartError(f"layout {'/'.join(parts)} of side-by-side pairs: found none of {listed}")
    folder = next(place for place in places if place.is_dir())
    found = _pictures(folder)
    return [PatchRef(n, p, p, is_joined=True, slide=slide_of(n)) for n, p in found.items()], folder


def _bci_ab(wanted: _Wanted) -> list[PatchRef]:
    """`<root>/{train,test}/NNNNN_train_2+.png`, H&E and IHC side by side in one picture."""
    _only_her2(wanted)
    return _with_levels(*_joined(wanted, ["train"] if wanted.split == "train" else ["test", "val"]))


def _ab(wanted: _Wanted) -> list[PatchRef]:
    """`<root>/{train,val,test}/*`, H&E and IHC side by side in one picture."""
    others = {"train": ["train"], "val": ["val", "test"], "test": ["test", "val"]}
    return _joined(wanted, others[wanted.split])[0]


def _ihc4bc(wanted: _Wanted) -> list[PatchRef]:
    """`<root>/{HandE,IHC}/<marker>/<patient>/<subregion>/*.jpg`; patients are held out by `split_seed`."""
    tops = [wanted.root, wanted.root / "Images", wanted.root / "IHC4BC_Compressed" / "Images"]
    base = _one_of([top / "HandE" for top in tops], "layout ihc4bc").parent
    sides = []
    for side in ("HandE", "IHC"):
        if not (base / side).is_dir():
            raise DataError(f"there is no folder {base / side}")
        folder = _marker_folder(base / side, wanted.marker)
        if folder is None:
            raise DataError(f"there is no folder {base / side / wanted.marker.name}")
        sides.append(folder)
    refs = [replace(r, slide=r.name.split("/")[0]) for r in _join(wanted, *sides, deep=True)]
    loose = [r.name for r in refs if "/" not in r.name]
    if loose:
        raise DataError(f"{len(loose)} pictures in {sides[0]} lie in no patient's folder ({_first(loose)})")
    held = held_out({str(r.slide) for r in refs}, wanted.val_share, wanted.split_seed)
    return [r for r in refs if (r.slide in held) == (wanted.split != "train")]


def place_of(name: str, seed: int) -> float:
    """Where a slide or patient stands between 0 and 1: the first 52 bits of a SHA-256 of name and seed.

    >>> round(place_of("10M2102916", 0), 4)
    0.4664
    """
    return int(hashlib.sha256(f"{name} {seed}".encode()).hexdigest()[:13], 16) / 16**13


def held_out(names: set[str], share: float, seed: int) -> set[str]:
    """Which slides or patients are held out: those whose `place_of` is below `share`, whoever the others are.

    Where that would hold out none, or all, of a handful, the one that is nearest is moved: only then does a name decide
    about another. Raises DataError where there are fewer than two.
    """
    if len(names) < 2:
        raise DataError(f"found {len(names)} slide or patient, wanted at least 2: one has to be held out")
    places = {name: place_of(name, seed) for name in sorted(names)}
    held = {name for name, place in places.items() if place < share}
    if not held:
        return {min(places, key=lambda name: places[name])}
    return held if len(held) < len(places) else held - {max(places, key=lambda name: places[name])}


LAYOUTS: dict[str, Callable[[_Wanted], list[PatchRef]]] = {
    "mist": _mist,
    "bci": _bci,
    "bci_ab": _bci_ab,
    "ihc4bc": _ihc4bc,
    "ab": _ab,
}


def with_masks(refs: Sequence[PatchRef], folder: Path) -> list[PatchRef]:
    """`refs` with the mask of the same name in `folder`; DataError where some have none."""
    masks = _pictures(folder, deep=True)
    missing = [r.name for r in refs if r.he is not None and r.name not in masks]
    if missing:
        raise DataError(f"{folder} lacks the masks of {len(missing)} of {len(refs)} patches ({_first(missing)})")
    return [replace(r, mask=masks.get(r.name)) for r in refs]


def copied_names(train: Sequence[PatchRef], held: Sequence[PatchRef]) -> list[str]:
    """Names of the held-out patches whose H&E is, byte for byte, that of a training patch, whatever it is called there."""
    found = copies((r.he for r in held if r.he is not None), {r.he for r in train if r.he is not None})
    return [r.name for r in held if r.he in found]


def split_report(train: Sequence[PatchRef], held: Sequence[PatchRef]) -> dict[str, Any]:
    """What was split how, for the record of a run: counts, and the slides and H&E files found on both sides (a leak)."""
    slides_train = {r.slide for r in train if r.slide is not None}
    slides_held = {r.slide for r in held if r.slide is not None}
    return {
        "train_patches": len(train),
        "held_out_patches": len(held),
        "train_slides": len(slides_train),
        "held_out_slides": sorted(slides_held),
        "slides_in_both": sorted(slides_train & slides_held),
        "patches_in_both": copied_names(train, held),
        "patches_without_slide": sum(r.slide is None for r in (*train, *held)),
    }

"""Which patches are trained on and which are held out, by whole slides or patients: a split that does not leak.

A slide is held out where a hash of its name (and a seed) falls below the share that is to be held out (`layouts.held_out`).
That asks nothing of the other slides, so one that is added or taken away moves none of them.
"""

import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from wsistain.data.layouts import PatchRef, Split, held_out
from wsistain.errors import DataError

_LEVELS_UP = 4
PATIENTS = "patients.csv"


def choose_part(
    refs: Sequence[PatchRef], by: str, split: Split, *, share: float, seed: int, root: Path, listing: Path | None
) -> list[PatchRef]:
    """Those of `refs` (all patches of a data set, whatever its own split says) that belong to `split`.

    by      : "slide", "patient" (of `patients.csv` in the root with columns slide and patient, of the manifest that
              `pair` writes, or of IHC4BC's folders) or "file".
    listing : for "file", a table with the columns slide (or patch) and part ("train", "val").

    Raises DataError where slides, patients or parts are not known.
    """
    wanted = "train" if split == "train" else "val"
    if by == "file":
        if listing is None:
            raise DataError("data.split is file: name the table with data.split_file")
        parts = read_parts(listing)
        where = [parts.get(ref.name) or parts.get(ref.slide or "") for ref in refs]
        lost = sorted({ref.slide or ref.name for ref, part in zip(refs, where, strict=True) if part is None})
        if lost:
            raise DataError(f"{listing} says nothing of {len(lost)} slides ({', '.join(lost[:3])})")
        chosen = [ref for ref, part in zip(refs, where, strict=True) if part == wanted]
    else:
        unknown = [ref.name for ref in refs if ref.slide is None]
        if unknown:
            raise DataError(
                f"the names of {len(unknown)} patches do not tell their slide ({unknown[0]}): they cannot be split by {by}; "
                "name them <slide>_<x>_<y>, or use data.split file"
            )
        owners = {str(ref.slide): str(ref.slide) for ref in refs}
        if by == "patient":
            owners = patients_of(refs, root)
        held = held_out(set(owners.values()), share, seed)
        chosen = [ref for ref in refs if (owners[str(ref.slide)] in held) == (wanted == "val")]
    if not chosen:
        raise DataError(f"the split by {by} leaves no patch for {split}; change data.val_share or data.split_seed")
    return chosen


def patients_of(refs: Sequence[PatchRef], root: Path) -> dict[str, str]:
    """Slide to patient of all slides of `refs`; DataError where nothing says it."""
    slides = {str(ref.slide) for ref in refs}
    if any("/" in ref.name and ref.name.split("/")[0] == ref.slide for ref in refs):
        return {slide: slide for slide in slides}  # IHC4BC's folders are patients
    table = root / PATIENTS
    known: dict[str, str] = {}
    if table.is_file():
        known = {row["slide"]: row["patient"] for row in _rows(table, ("slide", "patient"))}
    else:
        for manifest in {m for ref in refs if ref.he is not None for m in _manifests(ref.he)}:
            known |= _patients_in(manifest)
    lost = sorted(slides - known.keys())
    if lost:
        raise DataError(
            f"the patient of {len(lost)} of {len(slides)} slides is stated nowhere ({', '.join(lost[:3])}): write {table} with "
            "the columns slide and patient, or use data.split slide"
        )
    return {slide: known[slide] for slide in slides}


def _manifests(picture: Path) -> list[Path]:
    found = [folder / "manifest.json" for folder in picture.absolute().parents[:_LEVELS_UP]]
    return [path for path in found if path.is_file()][:1]


def _patients_in(manifest: Path) -> dict[str, str]:
    try:
        slides = json.loads(manifest.read_text(encoding="utf-8")).get("slides")
        return {name: str(facts["patient"]) for name, facts in slides.items()} if isinstance(slides, Mapping) else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}  # another program's, or it names none


def read_parts(path: Path) -> dict[str, str]:
    """Slide or patch to "train" or "val" in a table with the columns slide (or patch) and part. Raises DataError."""
    rows = _rows(path, ("slide|patch", "part"))
    parts: dict[str, str] = {}
    for row in rows:
        name, part = row.get("slide") or row.get("patch") or "", row["part"].strip().lower()
        if part not in ("train", "val", "test"):
            raise DataError(f"{path}: the part of {name} is {part!r}; wanted train or val")
        part = "val" if part == "test" else part
        if parts.setdefault(name, part) != part:
            raise DataError(f"{path}: {name} is in train and in val")
    return parts


def split_table(train: Sequence[PatchRef], held: Sequence[PatchRef]) -> str:
    """The parts as a table that `read_parts` reads: of slides where no slide is in both, else of patches."""
    of_train, of_held = ({ref.slide for ref in refs} for refs in (train, held))
    by_slide = None not in of_train | of_held and not of_train & of_held
    lines = ["slide,part" if by_slide else "patch,part"]
    for part, refs in (("train", train), ("val", held)):
        lines += [f"{name},{part}" for name in sorted({str(ref.slide) if by_slide else ref.name for ref in refs})]
    return "\n".join(lines) + "\n"


def _rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            header, rows = reader.fieldnames or [], [{k: v or "" for k, v in row.items() if k} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a table: {error}") from None
    for wish in columns:
        if not any(column in header for column in wish.split("|")):
            raise DataError(
                f"{path} has no column {wish.replace('|', ' or ')}; found {', '.join(map(str, header)) or 'none'}"
            )
    return rows


def slide_hashes(refs: Sequence[PatchRef]) -> list[str]:
    """What weights keep of the slides they were trained on: 12 hex digits of a hash of each name, sorted, no name."""
    return sorted({slide_hash(ref.slide) for ref in refs if ref.slide is not None})


def slide_hash(name: str) -> str:
    """12 hex digits of the SHA-256 of a slide's name: enough to know it again, not to read it."""
    return hashlib.sha256(f"slide {name}".encode()).hexdigest()[:12]

"""Who is who: the name of a slide and the place of its results, the same however often and with whatever else it comes.

A result belongs to the slide from whose bytes it was made: `run.json` says which. So a name follows from the slide's own
path; it is kept in the batch's sample sheet; and a place that holds the result of other bytes is never given to a slide
that did not hold it before. What comes later makes room for what is there, whatever the order of the names.
"""

import csv
import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from wsistain.batch.sheet import ID, Entry, fresh_name, safe_name
from wsistain.output.journal import begun_key
from wsistain.slide.place import local_place

WORK = "batch"
"""Folder below the output for configuration, sheet, logs and done markers; no slide's results lie in it."""

Place = tuple[str, str]
"""Folder below the output and stem of a slide's results, both folded: some file systems know but one case."""

_RESULT = re.compile(r"(.+\.[A-Za-z0-9_-]+)\.(?:run\.json|ome\.zarr)", re.DOTALL)
_MOST_BYTES = 16 << 20


def made_from(stain: Path) -> str:
    """Fingerprint of the slide from which a result, finished or begun, was made; "" where it does not say."""
    report = stain.with_name(f"{stain.name.removesuffix('.ome.zarr')}.run.json")
    try:
        if report.is_file() and report.stat().st_size <= _MOST_BYTES:
            found = json.loads(report.read_bytes())["provenance"]["slide"]["fingerprint"]
        else:
            found = (begun_key(stain) or {}).get("slide")
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return ""
    return found if isinstance(found, str) else ""


def _fold(name: str) -> str:
    """A name as the least distinguishing file system sees it: one case, one spelling of an accent."""
    return unicodedata.normalize("NFC", name).casefold()


@dataclass
class _Known:
    """What an output folder knows of earlier batches.

    rows    : of its sample sheet, by the slide's path and series: (name, folder, fingerprint).
    owners  : fingerprints of the slides whose results lie at a place.
    folders : names of its folders by their names in lower case.
    """

    rows: dict[tuple[str, int | None], list[tuple[str, str, str]]] = field(default_factory=lambda: defaultdict(list))
    owners: dict[Place, set[str]] = field(default_factory=lambda: defaultdict(set))
    folders: dict[str, str] = field(default_factory=lambda: {".": "."})


def _known(output: Path) -> _Known:
    found = _Known()
    try:
        with (output / WORK / "slides.tsv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                slide, path, folder = row.get("slide") or "", row.get("path") or "", row.get("folder") or "."
                if ID.fullmatch(slide) and (folder == "." or ID.fullmatch(folder)):
                    series = row.get("series") or ""
                    key = local_place(path), int(series) if series.isdecimal() else None
                    found.rows[key].append((slide, folder, row.get("fingerprint") or ""))
    except (OSError, csv.Error):
        pass  # the first batch here, or a sheet that is none: the results themselves say who they are
    if output.is_dir():
        names = [f.name for f in output.iterdir() if ID.fullmatch(f.name) and f.suffix != ".zarr" and f.is_dir()]
        found.folders |= {_fold(name): name for name in names}
    for lower, name in found.folders.items():
        here = output / name
        results = {m[1]: here / f"{m[1]}.ome.zarr" for f in _listed(here) if (m := _RESULT.fullmatch(f))}
        for result, stain in results.items():
            found.owners[lower, _fold(result.rpartition(".")[0])].add(made_from(stain))
    return found


def _listed(folder: Path) -> list[str]:
    try:
        return [item.name for item in folder.iterdir()]
    except OSError:
        return []


class _Naming:
    """Names and places as they are given out, one entry after another."""

    def __init__(self, entries: Sequence[Entry], known: _Known) -> None:
        self.entries, self.known = entries, known
        self.done: dict[int, Entry] = {}
        self.used = {e.slide.lower() for e in entries if e.is_named}
        self.places: set[Place] = set()
        self.older = {slide.lower() for rows in known.rows.values() for slide, _, _ in rows}
        self.stems = Counter(_fold(e.stem) for e in entries)

    def left(self) -> list[tuple[int, Entry]]:
        return [(k, entry) for k, entry in enumerate(self.entries) if k not in self.done]

    def settle(self, number: int, slide: str, folder: str) -> None:
        entry = self.entries[number]
        self.done[number] = replace(entry, slide=slide, folder=folder)
        self.used.add(slide.lower())
        self.places.add((_fold(folder), _fold(entry.stem)))

    def owners(self, folder: str, entry: Entry) -> set[str]:
        return self.known.owners.get((_fold(folder), _fold(entry.stem)), set())

    def is_free(self, folder: str, entry: Entry, fingerprint: str) -> bool:
        """Nobody has the place in this batch, and no result of other bytes than `fingerprint`'s lies there."""
        taken = (_fold(folder), _fold(entry.stem)) in self.places
        return not taken and self.owners(folder, entry) <= {fingerprint, ""}

    def by_path(self, *, with_results: bool) -> None:
        """Slides whose path the last batch's sheet names, with results there or without."""
        for number, entry in self.left():
            for slide, folder, before in self.known.rows.get((entry.path, entry.series), ()):
                same = slide == entry.slide if entry.is_named else slide.lower() not in self.used
                here = bool(self.owners(folder, entry)) == with_results
                if same and here and self.is_free(folder, entry, before or entry.fingerprint):
                    self.settle(number, slide, folder)
                    break

    def by_bytes(self) -> None:
        """Slides whose bytes have a result under their file name: those that were moved, or whose sheet was lost."""
        places: dict[tuple[str, str], list[str]] = defaultdict(list)
        for (folder, stem), prints in sorted(self.known.owners.items()):
            if len(prints) == 1:
                places[stem, next(iter(prints))].append(folder)
        for number, entry in self.left():
            if entry.series is not None:  # the bytes do not tell which picture of the file was stained
                continue
            for lower in places.get((_fold(entry.stem), entry.fingerprint), ()) if entry.fingerprint else ():
                folder = self.known.folders[lower]
                if self.is_free(folder, entry, entry.fingerprint):
                    wanted = entry.slide if folder == "." else folder
                    named = entry.slide if entry.is_named else fresh_name(wanted, self.used, entry.fingerprint)
                    self.settle(number, named, folder)
                    break

    def anew(self) -> None:
        """Everyone else: a name that nobody has or had, and a place that nobody has."""
        for number, entry in self.left():
            mark = entry.fingerprint[:8] or "x"
            slide = entry.slide if entry.is_named else fresh_name(entry.slide, self.used | self.older, mark)
            is_plain = entry.is_named or slide == safe_name(Path(entry.path).name)
            is_lone = is_plain and self.stems[_fold(entry.stem)] == 1
            folder, n = "." if is_lone and self.is_free(".", entry, entry.fingerprint) else slide, 1
            while folder.lower() == WORK or not self.is_free(folder, entry, entry.fingerprint):
                folder, n = f"{slide[:100]}-{mark}{'' if n == 1 else f'-{n}'}", n + 1
            self.settle(number, slide, folder)


def identify(entries: Sequence[Entry], output: Path) -> list[Entry]:
    """The entries with their names and the folders of their results, in the order given.

    entries : with `slide` a name if a sheet gives it (`is_named`), else a safe name made of the slide's relative path.
    output  : of the batch; what lies there is looked at, nothing is changed.

    A slide replaced under its own path keeps its place, where `run` refuses to mix the two. A slide below a folder
    has a folder of its own from the start, so that no slide of that file name can come in its way.
    """
    # Results decide before names do: a place that holds a slide's results is given out before any is given anew.
    naming = _Naming(entries, _known(output))
    naming.by_path(with_results=True)
    naming.by_bytes()
    naming.by_path(with_results=False)
    naming.anew()
    return [naming.done[number] for number in range(len(entries))]

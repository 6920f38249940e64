"""Everything that is shown, by name: results, their slides, the real IHC, and the maps over them, opened when asked for."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from wsistain import __version__
from wsistain.config import validate
from wsistain.errors import ConfigError, DataError, OutputError, WsistainError
from wsistain.markers import Marker, find_marker
from wsistain.output.trust import has_trust
from wsistain.slide.reader import open_slide
from wsistain.slide.roi_file import read_roi
from wsistain.slide.tissue import TissueMask, find_tissue
from wsistain.viewing.cells import Cells, read_cells
from wsistain.viewing.frame import Frame
from wsistain.viewing.maps import Affine, DifferencePicture, PositivityPicture, WarpedPicture, tissue_picture
from wsistain.viewing.pictures import BegunPicture, Picture, SlidePicture
from wsistain.viewing.reference import lay_over
from wsistain.viewing.results import Result, check_slide, id_of, look_at
from wsistain.viewing.samples import Sample, Wanted, places_of, samples_of, stamp_of
from wsistain.viewing.scores import Tissue, holds, ring_of, score_area
from wsistain.viewing.tables import cells_file, known_scores
from wsistain.viewing.trust import trust_picture

STATEMENT = "Virtual stains are for research, not for diagnosis."
MOST_OPEN = 24
"""Pictures that are held open at once."""

_CHECKED_AT_START = 6
_RESCAN_S = 1.0
_HE = "he-"


class Gallery:
    """What is shown; safe for several threads."""

    def __init__(self, wanted: Wanted) -> None:
        """Raises WsistainError children where something that was named cannot be shown."""
        self._wanted = wanted
        self._lock = threading.RLock()
        self._opening: dict[str, threading.Lock] = {}
        self._open: OrderedDict[str, tuple[str, Any]] = OrderedDict()
        self._scanned = 0.0
        self._results: dict[str, Result] = {}
        self._samples: dict[str, Sample] = {}
        self._problems: dict[str, str] = {}
        self._first = True
        self.scan(now=True)
        if wanted.roi is not None and not self._samples and not wanted.expected:
            raise ConfigError("there is nothing to draw --roi over")
        self._check_what_was_named()
        self._first = False

    # What there is.

    def scan(self, *, now: bool = False) -> None:
        """Look again at what was named; at most once a second, unless `now`."""
        with self._lock:
            if not now and time.monotonic() - self._scanned < _RESCAN_S:
                return
            found: dict[str, Result] = {}
            for path in places_of(self._wanted, must_exist=self._first and not self._wanted.expected):
                id = id_of(path)
                old = self._results.get(id)
                # What is finished does not change without its metadata being replaced, so it is not read again.
                is_same = old is not None and old.state == "finished" and old.stamp == stamp_of(path)
                found[id] = old if is_same and old is not None else look_at(path)
            self._results = found
            self._samples = samples_of(found.values(), self._wanted.slides)
            self._scanned = time.monotonic()
        for result in found.values():
            picture = self._open.get(result.id, ("", None))[1]
            if isinstance(picture, BegunPicture):
                picture.refresh()

    def _check_what_was_named(self) -> None:
        """Open what the user named, so that what is wrong with it is said at once."""
        w = self._wanted
        if w.slides or w.reference is not None:
            for sample in list(self._samples.values())[:_CHECKED_AT_START]:
                if sample.path is not None and w.slides:
                    self.picture(f"{_HE}{sample.id}")
        if w.slides and self._samples and not any(s.path is not None for s in self._samples.values()):
            names = sorted({s.name for s in self._samples.values()})
            raise ConfigError(
                f"--slide {w.slides[0]} holds none of the slides of these results ({', '.join(names[:3])})"
            )
        if w.reference is not None:
            open_slide(w.reference, mpp=w.mpp).close()
        for sample in list(self._samples.values())[:1]:
            self.shapes(sample.id)
        if w.cells is not None:
            for result in list(self._results.values())[:1]:
                self.cells(result.id)

    # Pictures by name.

    def picture(self, name: str) -> Picture | None:
        """A picture by its name: `<result>`, `<result>.positivity`, `.difference`, `.real`, `.trust`, `he-<sample>`,
        `he-<sample>.tissue`; None where there is none of that name. WsistainError children where it cannot be shown."""
        with self._lock:
            head, _, kind = name.partition(".")
            result = self._results.get(head)
            sample = self._samples.get(head.removeprefix(_HE)) if head.startswith(_HE) else None
        if result is not None and result.frame is not None and result.state != "damaged":
            stamp = "begun" if result.begun is not None else result.stamp
            makers: dict[str, Callable[[], Picture]] = {
                "": lambda: self._stain(result),
                "positivity": lambda: PositivityPicture(self._slide_picture(result), self.marker(result)),
                "real": lambda: self._real(result),
                "difference": lambda: DifferencePicture(
                    self._slide_picture(result), self._real(result), self.marker(result)
                ),
                "trust": lambda: trust_picture(result.path, stamp),
            }
            return self._held(name, stamp, makers[kind]) if kind in makers else None
        if sample is not None and sample.path is not None:
            found = sample
            makers = {"": lambda: self._slide(found), "tissue": lambda: self._tissue(found)}
            return self._held(name, str(sample.path), makers[kind]) if kind in makers else None
        return None

    def _held(self, name: str, stamp: str, make: Callable[[], Any]) -> Any:
        """What `make` gives, kept under `name` as long as `stamp` is the same; made by one thread at a time."""
        with self._lock:
            lock = self._opening.setdefault(name, threading.Lock())
        with lock:
            with self._lock:
                kept = self._open.get(name)
                if kept is not None and kept[0] == stamp:
                    self._open.move_to_end(name)
                    return kept[1]
            made = make()
            with self._lock:
                self._open[name] = (stamp, made)
                while len(self._open) > MOST_OPEN:
                    self._open.popitem(last=False)
        return made

    def _stain(self, result: Result) -> SlidePicture:
        if result.begun is not None:
            return BegunPicture(result.begun)
        frame = result.frame
        if frame is None:
            raise OutputError(f"{result.path} does not say where it lies")
        return SlidePicture(open_slide(result.path), frame.y_um, frame.x_um)

    def _slide_picture(self, result: Result) -> SlidePicture:
        found = self.picture(result.id)
        if not isinstance(found, SlidePicture):
            raise OutputError(f"{result.path} cannot be shown")
        return found

    def _slide(self, sample: Sample) -> SlidePicture:
        result, path = sample.results[0], sample.path
        if path is None:
            raise DataError(f"the slide {sample.name} is not known; name it with --slide")
        told = result.slide
        mpp = float(told["mpp"]) if told.get("mpp_source") == "given" else self._wanted.mpp
        series = result.about.get("series")
        slide = open_slide(path, mpp=mpp, series=series if isinstance(series, int) and series else None)
        try:
            for each in sample.results:
                note = check_slide(each, slide.info.size_l0, slide.info.mpp, slide.info.fingerprint, str(path))
                if note:
                    self._problems[sample.id] = note
        except WsistainError:
            slide.close()
            raise
        return SlidePicture(slide)

    def _tissue(self, sample: Sample) -> Picture:
        mask, frame = self._mask(sample)
        return tissue_picture(mask, frame, sample.id)

    def _real(self, result: Result) -> WarpedPicture:
        path = self._wanted.reference
        if path is None:
            raise ConfigError("no real IHC was named; name it with --reference")
        real = self._held("reference", str(path), lambda: SlidePicture(open_slide(path, mpp=self._wanted.mpp)))
        stain = self._slide_picture(result)

        def register() -> tuple[Affine, float]:
            return lay_over(stain.slide, stain.frame, real.slide)

        affine, _ = self._held(f"{result.id}.affine", result.stamp, register)
        return WarpedPicture(real, stain.frame, affine)

    def marker(self, result: Result) -> Marker:
        """The marker of a result, as it is known here, else as the result itself describes it."""
        described = result.about.get("marker_definition")
        try:
            return find_marker(result.marker)
        except ConfigError:
            if not isinstance(described, dict):
                raise
            return validate(Marker, described, f"the marker of {result.name}")

    # Cells, drawn areas, scores.

    def result(self, id: str) -> Result | None:
        """The result of that name."""
        with self._lock:
            return self._results.get(id)

    def cells(self, id: str) -> Cells | None:
        """The cells of a result; None where there are none. ConfigError where they cannot be read."""
        result = self.result(id)
        path = None if result is None else cells_file(result.path, self._wanted.cells)
        if result is None or path is None:
            return None
        mpp = float(result.slide.get("mpp") or self._wanted.mpp or (result.frame.mpp if result.frame else 1.0))
        return self._held(f"{id}.cells", f"{path}{path.stat().st_mtime_ns}", lambda: read_cells(path, mpp))  # type: ignore[no-any-return]

    def shapes(self, sample_id: str) -> list[dict[str, Any]]:
        """Areas drawn over a slide: those of `--roi`, as [x, y] um; [] where there are none."""
        path = self._wanted.roi
        with self._lock:
            sample = self._samples.get(sample_id)
        if path is None or sample is None:
            return []
        mpp = sample.frame.mpp if sample.frame else self._wanted.mpp
        if mpp is None:
            raise ConfigError(f"--roi {path} is in px of a slide whose um per px are not known; give --mpp")
        roi = self._held("roi", str(path), lambda: read_roi(path))
        kinds = [("area", roi.polygons), ("left out", roi.ignored)]
        return [
            {"name": kind, "rings": [[[float(x) * mpp, float(y) * mpp] for y, x in ring] for ring in polygon]}
            for kind, polygons in kinds
            for polygon in polygons
        ]

    def score(self, id: str, corners: Any) -> dict[str, Any] | None:
        """Scores of an area of a finished result, and its cells; None where there is no such result."""
        result = self.result(id)
        if result is None or result.frame is None:
            return None
        if result.state != "finished":
            raise ConfigError(f"{result.name} is {result.state}; areas are scored once it is finished")
        ring = ring_of(corners)
        stain = self._slide_picture(result)
        tissue, of = self._tissue_under(result, stain)
        scores = {**score_area(stain, tissue, self.marker(result), ring), "tissue_of": of}
        cells = self.cells(id)
        if cells is not None:
            scores["cells"] = cells.counted(holds(ring, cells.y, cells.x))
        return scores

    def _tissue_under(self, result: Result, stain: SlidePicture) -> tuple[Tissue, str]:
        """The tissue of the result's H&E where that can be opened, else of the stain; and which of them it is."""
        with self._lock:
            sample = next((s for s in self._samples.values() if any(r.id == result.id for r in s.results)), None)
        if sample is not None and sample.path is not None:
            return Tissue(*self._mask(sample)), "H&E"
        mask = self._held(f"{result.id}.mask", result.stamp, lambda: find_tissue(stain.slide))
        return Tissue(mask, stain.frame), "stain"

    def _mask(self, sample: Sample) -> tuple[TissueMask, Frame]:
        slide = self.picture(f"{_HE}{sample.id}")
        if not isinstance(slide, SlidePicture):
            raise DataError(f"the slide {sample.name} cannot be shown")
        return self._held(f"{_HE}{sample.id}.mask", str(sample.path), lambda: find_tissue(slide.slide)), slide.frame

    # What a page is told.

    def listing(self) -> dict[str, Any]:
        """All that is shown, as plain JSON values: what `/api/results` answers."""
        self.scan()
        with self._lock:
            results, samples = list(self._results.values()), list(self._samples.values())
        return {
            "wsistain": __version__,
            "statement": STATEMENT,
            "has_reference": self._wanted.reference is not None,
            "results": [self._told(r, sample) for sample in samples for r in sample.results],
            "samples": [self._sample_told(sample) for sample in samples],
            "is_live": any(r.state == "running" for r in results) or self.is_waiting,
        }

    @property
    def is_waiting(self) -> bool:
        """Whether a run is still to begin a result."""
        return any(id_of(p) not in self._results for p in self._wanted.expected)

    def _told(self, result: Result, sample: Sample) -> dict[str, Any]:
        told: dict[str, Any] = {
            "id": result.id,
            "name": result.name,
            "path": str(result.path),
            "marker": result.marker,
            "state": result.state,
            "sample": sample.id,
            "slide": result.slide.get("name"),
            "about": result.about,
            "scores": known_scores(result.path) if result.state == "finished" else {},
        }
        if result.problem:
            told["problem"] = result.problem
        if result.blocks is not None:
            told["blocks"] = {"done": result.blocks[0], "total": result.blocks[1]}
        if result.frame is None or result.state == "damaged":
            return told
        told["picture"] = _picture_told(result.id, result.frame, "jpg", result.stamp)
        told["layers"] = {"positivity": _picture_told(f"{result.id}.positivity", result.frame, "png", result.stamp)}
        # What takes a while to prepare is told without its frame: the page asks for that once, not for every tile.
        if self._wanted.reference is not None and result.state == "finished":
            told["layers"]["difference"] = {"name": f"{result.id}.difference", "form": "png", "version": result.stamp}
            told["real"] = {"name": f"{result.id}.real", "form": "jpg", "version": result.stamp}
        if result.state == "finished" and has_trust(result.path):
            told["layers"]["trust"] = {"name": f"{result.id}.trust", "form": "png", "version": result.stamp}
        told["cells"] = cells_file(result.path, self._wanted.cells) is not None
        return told

    def _sample_told(self, sample: Sample) -> dict[str, Any]:
        told: dict[str, Any] = {"id": sample.id, "name": sample.name, "results": [r.id for r in sample.results]}
        if sample.path is not None and sample.frame is None:
            picture = self.picture(f"{_HE}{sample.id}")
            sample.frame = picture.frame if picture is not None else None
        if sample.path is not None and sample.frame is not None:
            told["picture"] = _picture_told(f"{_HE}{sample.id}", sample.frame, "jpg", sample.id)
            told["tissue"] = True
        if sample.frame is not None:
            told["mpp"] = sample.frame.mpp
        if sample.id in self._problems:
            told["note"] = self._problems[sample.id]
        return told


def _picture_told(name: str, frame: Frame, form: str, version: str) -> dict[str, Any]:
    return {"name": name, "form": form, "version": version, **frame.facts()}

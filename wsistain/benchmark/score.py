"""Scoring pictures that any program made of the test H&E: by the truth of every cell, and as the papers do."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsistain import __version__
from wsistain.benchmark.cells import cell_metrics, packed
from wsistain.benchmark.edition import Condition, Edition
from wsistain.benchmark.entry import BASELINES, Entry, read_entry
from wsistain.benchmark.make import edition_of, made
from wsistain.benchmark.sights import places_of, sights
from wsistain.data.layouts import PatchRef, list_patches
from wsistain.data.pictures import SUFFIXES, read_grey, read_picture
from wsistain.errors import DataError, OutputError
from wsistain.evaluation.chances import BINS, calibration_error, information
from wsistain.evaluation.deep import DeepMetrics, find_nets, load_deep
from wsistain.evaluation.given import GivenPictures
from wsistain.evaluation.orientation import check_places
from wsistain.evaluation.pathology import cell_od
from wsistain.evaluation.report import Runs, finite, results_of
from wsistain.evaluation.rows import Identity, Stainer, mean_colour
from wsistain.evaluation.truth import CellScores, PhantomTruth, gather_cells, h_score_errors, read_truth
from wsistain.markers import Marker
from wsistain.runtime.files import local_path, reporting, write_text
from wsistain.runtime.progress import OnProgress

FORMAT = 1
PER_PICTURE = (
    "ssim", "ssim_truth", "psnr", "css", "vif", "hist_corr", "lpips_alex", "stlpips_alex", "phv_avg", "r_c", "dice",
    "dice_truth", "positive_error",
)  # fmt: skip
"""Metrics of which a row keeps every picture's number, so that rows can be compared slide by slide."""


@dataclass(frozen=True)
class Asked:
    """What is scored: pictures (or a baseline), and maps of probability and of trust where there are any."""

    pictures: Path | str
    chances: Path | None = None
    trust: Path | None = None


@dataclass(frozen=True)
class HeldOut:
    """The test part of one condition: what its data hash to, its patches and the truth of their cells."""

    edition: Edition
    task: Condition
    sha256: str
    refs: list[PatchRef]
    truth: PhantomTruth

    @property
    def marker(self) -> Marker:
        """The condition's marker."""
        return self.task.known()


def score(
    pictures: str | Path,
    root: str | Path,
    condition: str,
    *,
    output: str | Path,
    chances: str | Path | None = None,
    trust: str | Path | None = None,
    entry: str | Path | None = None,
    nets: str | Path | None = None,
    device: str = "cpu",
    workers: int | None = None,
    edition: Edition | None = None,
    overwrite: bool = False,
    progress: OnProgress | None = None,
) -> dict[str, Any]:
    """The row of a folder of pictures, one a test patch of the same name and size, written as JSON to `output`.

    pictures : the folder; "identity" or "mean_colour": the H&E itself, and the H&E moved to the mean colour of training IHC.
    chances  : folder of grey pictures of the same names, 0 to 255 for a probability 0 to 1 of a positive cell at each place.
    trust    : the same, for how far each place is to be trusted; the unit does not matter, only the order.
    entry    : the entry form (`Entry`); None: entry.yaml beside the pictures, where there is one.
    edition  : of the data; None: the one of the folder's card.

    Raises DataError for data that are not the edition's and for pictures that are missing, too many, of another size, or that
    plainly fit another H&E or a mirrored one.
    """
    # What is there, before anything is measured.
    root, path = Path(root), local_path(output)
    test = test_of(root, condition, edition)
    if path.suffix != ".json":
        raise OutputError(
            f"{path} is no name of a row, which 'wsistain benchmark table' reads from *.json; give one such as row.json"
        )
    if path.exists() and not overwrite:
        raise OutputError(f"{path} is there already; choose another --output or pass --overwrite")
    asked = Asked(pictures, None if chances is None else Path(chances), None if trust is None else Path(trust))
    form = _form(pictures, None if entry is None else Path(entry))
    stainer = _stainer(asked, test, root)
    maps = {"chance": _maps(asked.chances, test.refs), "trust": _maps(asked.trust, test.refs)}
    if isinstance(stainer, GivenPictures):
        check_places(test.refs, lambda ref: _picture_of(stainer, ref))

    # The pictures, as `wsistain evaluate` measures them, then their cells.
    folder = None if nets is None else Path(nets)
    runs = _measured(test, stainer, load_deep(folder, device), device, workers, progress)
    row = {
        "format": FORMAT,
        "edition": test.edition.name,
        "condition": test.task.name,
        "data_sha256": test.sha256,
        "entry": form.model_dump(),
        "made": {"wsistain": __version__, "date": datetime.now(UTC).isoformat(timespec="seconds")},
        **_scores(test, runs, stainer, maps, folder),
        "sights": _sights(test, stainer, whole=str(pictures) == "identity"),
    }
    row = {name: finite(value) for name, value in row.items()}
    with reporting(path, retry="run again"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(row, allow_nan=False) + "\n")
    return row


def test_of(root: Path, condition: str, edition: Edition | None) -> HeldOut:
    """The test of a condition, whole and checked. Raises DataError where it is not, ConfigError for no condition."""
    edition = edition or edition_of(root)
    task = edition.condition(condition)
    facts = made(root, edition, task)
    refs = list_patches("mist", task.folder(root, "test"), task.known(), "val")
    truth = read_truth(refs, task.known(), "val")
    if truth is None or len(refs) != edition.test:
        raise DataError(f"the test patches of {task.name} are not whole; run 'wsistain benchmark make' on {root} again")
    return HeldOut(edition, task, facts["sha256"], refs, truth)


def _measured(
    test: HeldOut,
    stainer: Stainer,
    deep: DeepMetrics,
    device: str,
    workers: int | None,
    progress: OnProgress | None,
) -> Runs:
    """All test patches measured with one stainer. DataError for one that cannot be."""
    runs = Runs(test.refs, test.marker, deep, test.truth, None, workers, progress, 0)
    runs.add([stainer], [], device, test.edition.mpp)
    if runs.unusable:
        raise DataError(f"{runs.unusable[0].name} of the test patches cannot be used: {runs.unusable[0].why}")
    return runs


def _scores(
    test: HeldOut, runs: Runs, stainer: Stainer, maps: Mapping[str, Mapping[str, Path]], nets: Path | None
) -> dict[str, Any]:
    """What a row says of its pictures: metrics, what is missing, what could be reached, the numbers of every picture and cell."""
    truth, marker, name = test.truth, test.marker, stainer.name
    results = results_of(runs, runs.deep, truth, marker, 0)
    slides = [r.ref.slide for r in runs.results]
    gathered = gather_cells(truth, [r.ref for r in runs.results], [r.measures.cell_od for r in runs.results])
    cells = _cells(runs, gathered, name, truth, maps)
    by_picture = _by_picture(runs, name)
    by_picture["cell_h_error"] = h_score_errors(gathered, name, len(test.refs), marker).round(6).tolist()
    return {
        "metrics": {**results["systems"][name]["metrics"], **cell_metrics(cells, slides, marker.positive_cell_od)},
        # A row is sent to others: without the name of a folder of this machine.
        "missing": {
            metric: lack["reason"].replace(str(find_nets(nets)[1]), "the folder of networks")
            for metric, lack in results["missing"].items()
        },
        "attainable": attainable(truth, test.refs, results["truth"]),
        "cutoff": marker.positive_cell_od,
        "pictures": {"names": [r.name for r in test.refs], "slides": slides, **by_picture},
        "cells": cells,
    }


def _sights(test: HeldOut, stainer: Stainer, *, whole: bool) -> list[dict[str, Any]]:
    places = places_of(test.truth, test.refs)
    return sights(places, test.refs, lambda ref: _picture_of(stainer, ref), whole=whole)


def _form(pictures: Path | str, form: Path | None) -> Entry:
    if str(pictures) in BASELINES and form is None:
        return Entry(system=str(pictures), budget="none")
    return read_entry(Path(pictures), form)


def _stainer(asked: Asked, test: HeldOut, root: Path) -> Stainer:
    if asked.pictures == "identity":
        return Identity()
    if asked.pictures == "mean_colour":
        learn = list_patches("mist", test.task.folder(root, "learn"), test.marker, "train")
        return mean_colour(learn, f"training of {test.task.name}")
    _files(Path(asked.pictures), test.refs)
    return GivenPictures("entry", Path(asked.pictures), test.refs)


def _picture_of(stainer: Stainer, ref: PatchRef) -> NDArray[np.uint8]:
    if ref.he is None:
        raise DataError(f"the test patch {ref.name} has no H&E")
    he = read_picture(ref.he)
    if isinstance(stainer, GivenPictures):
        return stainer.picture(ref, he.shape[0], he.shape[1], None)
    return stainer.stain(he)


def _files(folder: Path, refs: Sequence[PatchRef]) -> dict[str, Path]:
    """The picture of each patch; DataError unless there is exactly one for each, and no other."""
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder} of pictures")
    wanted = {ref.name for ref in refs}
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
            found.setdefault(path.relative_to(folder).with_suffix("").as_posix(), []).append(path)
    faults = {
        "missing": sorted(wanted - found.keys()),
        "too many": sorted(found.keys() - wanted),
        "there twice": sorted(n for n, paths in found.items() if len(paths) > 1),
    }
    told = [f"{len(names)} {how} ({', '.join(names[:3])})" for how, names in faults.items() if names]
    if told:
        raise DataError(
            f"{folder} does not hold one picture for each of the {len(refs)} test patches: {', '.join(told)}; name each as its "
            "H&E, and keep other pictures elsewhere"
        )
    return {name: paths[0] for name, paths in found.items()}


def _maps(folder: Path | None, refs: Sequence[PatchRef]) -> dict[str, Path]:
    return {} if folder is None else _files(folder, refs)


def _cells(
    runs: Runs, cells: CellScores, name: str, truth: PhantomTruth, maps: Mapping[str, Mapping[str, Path]]
) -> dict[str, Any]:
    """Of every tumour cell that can be read: picture, whether it is positive, density, and what the maps say there."""
    od = cells.score[name]
    seen = cells.tumour & np.isfinite(od) & np.isfinite(cells.score["truth"])
    found = {"picture": cells.patch[seen], "positive": cells.positive[seen], "od": od[seen]}
    for key, files in maps.items():
        if not files:
            continue
        parts = []
        for result in runs.results:
            values, places = read_grey(files[result.ref.name]), truth.places[result.ref.name]
            if values.shape != result.size:
                h, w = values.shape
                raise DataError(
                    f"{files[result.ref.name]} is {h} x {w} px, its patch {result.size[0]} x {result.size[1]}; give it that size"
                )
            light = values.astype(np.float32) / 255
            parts.append(cell_od(light, places.y, places.x, compartment=places.compartment, mpp=places.mpp))
        found[key] = np.concatenate(parts)[seen]
    return packed(found, len(runs.results))


def attainable(truth: PhantomTruth, refs: Sequence[PatchRef], facts: Mapping[str, Any]) -> dict[str, Any]:
    """What could be reached: by the best reader of the H&E, and by the aligned truth read as every picture is."""
    chance = np.concatenate([truth.chance[r.name][truth.tumour[r.name]] for r in refs])
    positive = np.concatenate([truth.positive[r.name][truth.tumour[r.name]] for r in refs])
    return {
        "cell_auc": facts["best_attainable_auc"],
        "information": information(chance, positive),
        "calibration_error": calibration_error(chance, positive),
        "truth_cell_auc": facts["truth_auc"],
        "positive_share": facts["positive_share"],
        "bins": BINS,
    }


def _by_picture(runs: Runs, name: str) -> dict[str, list[float]]:
    found = {m: runs.column(name, m) for m in PER_PICTURE}
    return {m: values.round(6).tolist() for m, values in found.items() if np.isfinite(values).any()}

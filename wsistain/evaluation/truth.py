"""The truth of phantom patches: where each cell of section A lies, whether it is positive, and what can be reached.

The phantom writes `<root>/<MARKER>/TrainValAB/{train,val}CellsA/<patch>.parquet` and `<root>/<MARKER>/manifest.json`
(see docs/phantom.md). A data set without them has no truth, and nothing here applies.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from wsistain.data.layouts import PatchRef
from wsistain.errors import DataError
from wsistain.evaluation.pair import CellPlaces
from wsistain.evaluation.pathology import area_under_curve
from wsistain.evaluation.summary import Estimate, SlideBootstrap, mean_estimate, summarise_cells
from wsistain.markers import Marker
from wsistain.optics.scoring import count_stain

TUMOUR = "tumour"


@dataclass(frozen=True)
class PhantomTruth:
    """Truth of the patches of one split.

    places          : patch name to the cells of section A in it.
    positive, tumour: patch name to bool (n,), whether each cell is positive, and whether it is a tumour cell.
    chance          : patch name to float (n,), probability that each cell is positive given what its morphology shows.
    best_auc        : best AUC over tumour cells that any reader of the H&E could reach, None where not stated.
    mpp             : um per px of the patches.
    parameters      : how the phantom was made.
    """

    places: Mapping[str, CellPlaces]
    positive: Mapping[str, NDArray[np.bool_]]
    tumour: Mapping[str, NDArray[np.bool_]]
    chance: Mapping[str, NDArray[np.float64]]
    best_auc: float | None
    mpp: float
    parameters: Mapping[str, Any]


def _manifest(ref: PatchRef) -> Path | None:
    """The phantom's manifest above a patch of MIST's layout (`<MARKER>/TrainValAB/valA/x.jpg`), None without."""
    if ref.he is None or len(ref.he.parents) < 3:
        return None
    path = ref.he.parents[2] / "manifest.json"
    return path if path.is_file() else None


def read_truth(refs: Sequence[PatchRef], marker: Marker, split: str) -> PhantomTruth | None:
    """The truth that lies beside `refs`, None where they are no phantom patches, or of its training part, which has none.

    Raises DataError when the manifest or a cell table cannot be read, or a patch has no table.
    """
    # The manifest, which says whether these are phantom patches.
    path = _manifest(refs[0]) if refs else None
    if path is None or any(ref.he is not None and ref.truth is None for ref in refs):
        return None  # without the picture of the same section there is nothing to read the cells in
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        parameters = manifest["parameters"]
        mpp = float(parameters["mpp"])
        if str(parameters["kind"]) != "patches":
            return None  # patches of another making: nobody knows their cells
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path} is no manifest of phantom patches ({type(error).__name__}: {error})") from None

    # The cells of the H&E's own section, patch by patch: they are where the stain is looked for.
    part = "train" if split == "train" else "val"
    places: dict[str, CellPlaces] = {}
    positive: dict[str, NDArray[np.bool_]] = {}
    tumour: dict[str, NDArray[np.bool_]] = {}
    chance: dict[str, NDArray[np.float64]] = {}
    for ref in refs:
        if ref.he is None:
            continue
        table = _read_table(ref.he.parents[1] / f"{part}CellsA" / f"{ref.name}.parquet", marker)
        here = table["in_a"].to_numpy()
        y, x = table["y_px"].to_numpy()[here], table["x_px"].to_numpy()[here]
        places[ref.name] = CellPlaces(y.astype(np.float64), x.astype(np.float64), marker.compartment, mpp)
        positive[ref.name] = table[f"positive_{marker.name}"].to_numpy()[here]
        chance[ref.name] = table[f"score_{marker.name}"].to_numpy()[here].astype(np.float64)
        tumour[ref.name] = np.array(table["type"].to_pylist(), dtype=object)[here] == TUMOUR
    best = manifest.get("truth", {}).get(part, {}).get("attainable_auc")
    return PhantomTruth(places, positive, tumour, chance, best, mpp, parameters)


def _read_table(path: Path, marker: Marker) -> pa.Table:
    columns = ["type", "y_px", "x_px", "in_a", f"positive_{marker.name}", f"score_{marker.name}"]
    try:
        return pq.read_table(path, columns=columns)
    except (OSError, pa.ArrowException, KeyError) as error:
        first = (str(error).splitlines() or ["damaged"])[0]
        raise DataError(f"the cell table {path} cannot be read ({first}); make the phantom again") from None


@dataclass(frozen=True)
class CellScores:
    """All cells of all readable patches, patch after patch, and what was read at them.

    patch, slide : of each cell; score: system (and "truth") to mean DAB optical density, NaN where it cannot be read.
    """

    patch: NDArray[np.int64]
    slide: NDArray[Any]
    positive: NDArray[np.bool_]
    tumour: NDArray[np.bool_]
    score: Mapping[str, NDArray[np.float64]]


def gather_cells(
    truth: PhantomTruth, refs: Sequence[PatchRef], cell_od: Sequence[Mapping[str, NDArray[np.float64]]]
) -> CellScores:
    """The cells of `refs` with what `cell_od` (one a patch, from `measure_pair`) says of them."""
    sizes = [len(truth.positive[r.name]) for r in refs]
    return CellScores(
        patch=np.repeat(np.arange(len(refs)), sizes),
        slide=np.repeat(np.array([r.slide or "" for r in refs], dtype=object), sizes),
        positive=np.concatenate([truth.positive[r.name] for r in refs]),
        tumour=np.concatenate([truth.tumour[r.name] for r in refs]),
        score={name: np.concatenate([od[name] for od in cell_od]) for name in cell_od[0]},
    )


def cell_table(
    cells: CellScores, system: str, slides: Sequence[str | None], marker: Marker, *, seed: int = 0
) -> dict[str, Estimate]:
    """Cell-level AUC (tumour cells, and all), precision, recall and H-score error of one system."""
    # Cells whose stain can be read in the system's picture and in the truth.
    score = cells.score[system]
    seen = np.isfinite(score) & np.isfinite(cells.score["truth"])
    pick = seen & cells.tumour

    def summary(which: NDArray[np.bool_]) -> dict[str, Estimate]:
        at = list(cells.slide[which])
        return summarise_cells(
            score[which], cells.positive[which], at, slides, cutoff=marker.positive_cell_od, seed=seed
        )

    everyone = summary(seen)

    errors = h_score_errors(cells, system, len(slides), marker)
    return {
        "cell_auc": summary(pick)["cell_auc"],
        "cell_auc_all": everyone["cell_auc"],
        "cell_precision": everyone["cell_precision"],
        "cell_recall": everyone["cell_recall"],
        "cell_h_error": mean_estimate(errors, SlideBootstrap(slides, seed=seed)),
    }


def h_score_errors(cells: CellScores, system: str, n_patches: int, marker: Marker) -> NDArray[np.float64]:
    """|H-score of a patch's cells - that of the truth read in the same way|, float (n_patches,); NaN without cells."""
    score, real = cells.score[system], cells.score["truth"]
    seen = np.isfinite(score) & np.isfinite(real)
    errors = np.full(n_patches, np.nan)
    for patch in range(n_patches):
        here = seen & (cells.patch == patch)
        if here.any():
            ours, theirs = (count_stain(values[here], marker.at_cells) for values in (score, real))
            errors[patch] = abs(ours.h_score - theirs.h_score)
    return errors


def truth_facts(truth: PhantomTruth, cells: CellScores) -> dict[str, Any]:
    """What can be reached: the best AUC from H&E, and that of the aligned truth read in the same way."""
    score = cells.score["truth"]
    pick = np.isfinite(score) & cells.tumour
    return {
        "best_attainable_auc": truth.best_auc,
        "truth_auc": area_under_curve(score[pick], cells.positive[pick]),
        "n_cells": len(cells.positive),
        "n_tumour_cells": int(cells.tumour.sum()),
        "positive_share": float(cells.positive[cells.tumour].mean()) if cells.tumour.any() else None,
        "phantom": dict(truth.parameters),
    }

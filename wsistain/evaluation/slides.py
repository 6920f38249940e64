"""Finished slides: seams, stain map, tissue area, and how they compare with a real IHC slide of the same block."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from wsistain import __version__
from wsistain.config import validate
from wsistain.errors import ConfigError, DataError, OutputError
from wsistain.evaluation.registration import Registration, register, resample
from wsistain.evaluation.slide_page import CONVENTIONS, Facts, SlideReport, flat_facts, paint_maps, table_rows, to_html
from wsistain.evaluation.stain_map import StainMap, map_stain
from wsistain.evaluation.tables import markdown_table
from wsistain.markers import Marker, find_marker
from wsistain.output.reading import read_stain
from wsistain.output.recognise import png_of
from wsistain.runtime.files import local_path, refuse_url, replacing, reporting, write_bytes, write_text
from wsistain.runtime.progress import OnProgress
from wsistain.runtime.spreadsheet import csv_text
from wsistain.slide.base import RGB, Slide
from wsistain.slide.place import local_place
from wsistain.slide.reader import open_slide
from wsistain.slide.resample import choose_sampling, read_window
from wsistain.slide.tissue import TissueMask, find_tissue
from wsistain.tiling.seams import SeamCounter

REGISTRATION_PX = 900
_LEAST_TISSUE = 0.25
_COARSE = 4


def evaluate_slides(
    slides: Sequence[str | Path],
    *,
    reference: str | Path | None = None,
    output: str | Path | None = None,
    marker: str = "ER",
    mpp: float | None = None,
    overwrite: bool = False,
    progress: OnProgress | None = None,
) -> dict[str, Any]:
    """Seam score, positive fraction, H-score and tissue area of finished slides, beside a real IHC where one is given.

    slides    : OME-Zarr folders that `wsistain run` wrote.
    reference : a real IHC slide of the same block; registered to every slide (rigid, then affine), and compared.
    output    : folder that receives results.json, results.csv, results.md, report.html and maps; None: no files.
    marker    : used for slides that do not say which they are of.
    mpp       : um per px of `reference`, where it has none.
    progress  : called with (what, rows done, of how many).

    Raises OutputError, SlideError, DataError (nothing to register) or ConfigError.
    """
    # What is in the way shows before a slide is read.
    folder = None if output is None else local_path(output)
    if not slides:
        raise ConfigError("there are no slides to evaluate")
    if folder is not None and (folder / "results.json").exists() and not overwrite:
        raise OutputError(f"{folder} holds results already; choose another --output or pass --overwrite")
    slides = [local_place(str(s)) for s in slides]
    for slide in slides:
        refuse_url(slide)
    names = _names([Path(s) for s in slides])
    reports = [_evaluate_slide(Path(s), n, marker, progress) for s, n in zip(slides, names, strict=True)]
    # The real slide is opened once for all.
    if reference is not None:
        real = open_slide(reference, mpp=mpp)
        try:
            for report, slide in zip(reports, slides, strict=True):
                _compare(report, Path(slide), real, progress)
        finally:
            real.close()
    results = {
        "wsistain_version": __version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "reference": None if reference is None else str(reference),
        "slides": [r.facts for r in reports],
        "conventions": CONVENTIONS,
    }
    if folder is not None:
        _write(results, reports, folder)
    return results


def _names(paths: Sequence[Path]) -> list[str]:
    """What each slide is called in the report: its file name, and where two meet the folders above it that tell them apart.

    Raises ConfigError for a slide that is given twice.
    """
    places = [path.resolve() for path in paths]
    twice = [str(path) for path, place in zip(paths, places, strict=True) if places.count(place) > 1]
    if twice:
        raise ConfigError(
            f"two slides are called alike, since they are one: {twice[0]} is given twice; name every slide once"
        )
    places = [path.absolute() for path in paths]
    names = [_name(place) for place in places]
    for above in range(2, max(len(place.parts) for place in places)):
        lowered = [name.lower() for name in names]
        if len(set(lowered)) == len(lowered):
            break
        names = [
            ".".join((*place.parts[-above:-1], _name(place)))[-160:] if lowered.count(name.lower()) > 1 else name
            for place, name in zip(places, names, strict=True)
        ]
    return [name if names.count(name) == 1 else f"{name}.{k + 1}" for k, name in enumerate(names)]


def _name(path: Path) -> str:
    return path.name.removesuffix(".zarr").removesuffix(".ome")


def _tiling(path: Path) -> tuple[dict[str, int] | None, str]:
    """The tiling in the run.json beside an output, or None and why."""
    beside = path.with_name(f"{_name(path)}.run.json")
    try:
        tiling = json.loads(beside.read_text(encoding="utf-8"))["plan"]["tiling"]
        return {name: int(tiling[name]) for name in ("stride", "overlap", "block")}, ""
    except FileNotFoundError:
        return None, f"{beside.name} is not beside the slide, so the tile borders are not known"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return None, f"{beside.name} does not say how the slide was tiled ({type(error).__name__}: {error})"


def _evaluate_slide(path: Path, name: str, marker: str, progress: OnProgress | None) -> SlideReport:
    # One pass over the slide for stain and seams.
    stain = read_stain(path)
    slide = open_slide(path)
    try:
        tissue = find_tissue(slide)
        tiling, why_not = _tiling(path)
        seams = None
        if tiling is not None:
            seams = SeamCounter(slide.info.size_l0[1], tiling["stride"], tiling["overlap"], tiling["block"])
        report = None if progress is None else (lambda done, n: progress(name, done, n))
        of = _marker_of(stain.provenance, marker)
        stain_map = map_stain(slide, tissue, of, seams=seams, progress=report)
        thumbnail, _ = _thumbnail(slide, tissue, 640, masked=False)
        if slide.unreadable_tiles:
            n = slide.unreadable_tiles
            raise OutputError(
                f"{path} is damaged: {n} of its chunks cannot be decoded; stain it again with --overwrite"
            )
    finally:
        slide.close()

    # What is told of it.
    score = None if seams is None else seams.sums.score
    facts: Facts = {
        "name": name,
        "path": str(path),
        "marker": of.name,
        "cutoffs": list(of.cutoffs),
        "system": stain.provenance.get("system"),
        "mpp": stain.mpp,
        "height_px": slide.info.size_l0[0],
        "width_px": slide.info.size_l0[1],
        "seam_score": None if score is None else round(score, 4),
        "seam_score_missing": why_not or (None if score is not None else "no tile border was seen"),
        "tissue_mm2": stain_map.tissue_mm2,
        "positive_fraction": _or_none(stain_map.total.positive_fraction),
        "h_score": _or_none(stain_map.total.h_score),
    }
    return SlideReport(facts, stain_map, of, {"virtual": thumbnail})


def _marker_of(provenance: Facts, otherwise: str) -> Marker:
    """The marker of a finished slide: as it is known here, else as the slide itself describes it."""
    name, described = provenance.get("marker", otherwise), provenance.get("marker_definition")
    try:
        return find_marker(str(name))
    except ConfigError:
        if not isinstance(described, dict):
            raise
        return validate(Marker, described, f"the marker of the slide, {name}")


def _or_none(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _thumbnail(
    slide: Slide, tissue: TissueMask, px: int, *, masked: bool, mpp: float | None = None
) -> tuple[RGB, float]:
    """The slide at `mpp`, or with its longer side at most about `px`; with `masked`, white where there is no tissue."""
    longest = max(slide.info.size_l0) * slide.info.mpp
    sampling = choose_sampling(slide.info, max(mpp or longest / px, slide.info.mpp))
    rgb = read_window(slide, sampling, 0, 0, *sampling.shape)
    if masked and tissue.mask.any():
        rgb = rgb.copy()
        rgb[~tissue.window(0, 0, *sampling.shape, px_l0=sampling.mpp / slide.info.mpp)] = 255
    return rgb, sampling.mpp


def _compare(report: SlideReport, path: Path, real: Slide, progress: OnProgress | None) -> None:
    """Register the real IHC to one slide and add what the comparison says."""
    virtual = open_slide(path)
    try:
        # Registered on coarse pictures of one scale, tissue alone.
        tissue_v, tissue_r = find_tissue(virtual), find_tissue(real)
        longest = max(max(s.info.size_l0) * s.info.mpp for s in (virtual, real))
        mpp = max(longest / REGISTRATION_PX, virtual.info.mpp, real.info.mpp)
        fixed, mpp_v = _thumbnail(virtual, tissue_v, 0, masked=True, mpp=mpp)
        moving, mpp_r = _thumbnail(real, tissue_r, 0, masked=True, mpp=mpp)
        name = report.facts["name"]
        try:
            found = register(fixed, moving)
        except ValueError as error:
            raise DataError(f"{real.info.path} cannot be registered to {name}: {error}") from None
        shown = None if progress is None else (lambda done, n: progress("reference", done, n))
        # Counted at the coarser of the two scales, which both have.
        mpp = max(virtual.info.mpp, real.info.mpp)
        real_map = map_stain(real, tissue_r, report.marker, mpp=mpp, progress=shown)
        report.facts["notes"] = (
            [f"{real.unreadable_tiles} native tiles of {real.info.path} could not be decoded and count as glass"]
            if real.unreadable_tiles
            else []
        )
    finally:
        virtual.close()

    # What the comparison says, square by square, and how well the two lie on each other.
    at = _map_to_map(found, mpp_v, mpp_r, report.map, real_map)
    report.facts["reference"] = {
        "mpp": mpp_v,
        "matrix_yx_px": found.matrix.round(6).tolist(),
        "correlation": found.correlation,
        "correlation_rigid": found.correlation_rigid,
        "residual_um_median": _or_none(float(np.median(found.residual_px)) * mpp_v) if found.residual_px.size else None,
        "residual_um_p90": _or_none(float(np.quantile(found.residual_px, 0.9)) * mpp_v)
        if found.residual_px.size
        else None,
        "residual_windows": int(found.residual_px.size),
        **compare_maps(report.map, real_map, at),
    }
    warped = resample(moving, found.matrix, fixed.shape[:2], fill=255.0).round().clip(0, 255).astype(np.uint8)
    report.pictures |= {"real": warped, "checker": _checkerboard(fixed, warped)}


def _map_to_map(
    found: Registration, mpp_v: float, mpp_r: float, virtual: StainMap, real: StainMap
) -> NDArray[np.float64]:
    """Where the squares of the virtual map lie in the real map, float (2, h, w), squares."""
    i, j = np.indices(virtual.tissue.shape, dtype=np.float64)
    px = np.stack([(k + 0.5) * virtual.cell_um / mpp_v - 0.5 for k in (i, j)], axis=-1)
    there = found.map(px.reshape(-1, 2)).reshape(px.shape)
    return np.moveaxis((there + 0.5) * mpp_r / real.cell_um - 0.5, -1, 0)


def _coarser(values: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    h, w = (n // k * k for n in values.shape)
    return np.asarray(values[:h, :w].reshape(h // k, k, w // k, k).sum(axis=(1, 3)))


def compare_maps(virtual: StainMap, real: StainMap, at: NDArray[np.float64]) -> Facts:
    """Agreement of two stain maps where both have tissue; `at` float (2, h, w) is where virtual squares lie in `real`."""
    # The real map under the virtual one's squares; both count only where both are tissue.
    tissue = np.asarray(map_coordinates(real.tissue, at, order=1))
    counts = np.stack([map_coordinates(c, at, order=1) for c in real.counts])
    facts: Facts = {}
    both = (virtual.tissue >= _LEAST_TISSUE) & (tissue >= _LEAST_TISSUE)
    facts["overlap_mm2"] = float(virtual.tissue[both].sum()) * (virtual.cell_um / 1000) ** 2
    for label, v_area, v_counts, r_area, r_counts in (
        ("64um", virtual.tissue * both, virtual.counts * both, tissue * both, counts * both),
        (
            "256um",
            _coarser(virtual.tissue * both, _COARSE),
            np.stack([_coarser(c * both, _COARSE) for c in virtual.counts]),
            _coarser(tissue * both, _COARSE),
            np.stack([_coarser(c * both, _COARSE) for c in counts]),
        ),
    ):
        seen = (v_area > 0) & (r_area > 0)
        x, y = v_counts[0][seen] / v_area[seen], r_counts[0][seen] / r_area[seen]
        varied = len(x) > 2 and float(np.ptp(x)) > 0 and float(np.ptp(y)) > 0
        facts[f"area_r_{label}"] = float(np.corrcoef(x, y)[0, 1]) if varied else None

    # The same over all that overlaps.
    areas = (float(virtual.tissue[both].sum()), float(tissue[both].sum()))
    if min(areas) > 0:
        facts["positive_fraction_virtual"] = float(virtual.counts[0][both].sum()) / areas[0]
        facts["positive_fraction_real"] = float(counts[0][both].sum()) / areas[1]
        facts["h_score_virtual"] = 100 * float(virtual.counts[:, both].sum()) / areas[0]
        facts["h_score_real"] = 100 * float(counts[:, both].sum()) / areas[1]
    return facts


def _checkerboard(a: RGB, b: RGB, square: int = 64) -> RGB:
    """Two registered pictures in alternating squares: structures run on across the edges where they agree."""
    y, x = np.indices(a.shape[:2])
    return np.where((((y // square) + (x // square)) % 2 == 0)[..., None], a, b)


def _write(results: dict[str, Any], reports: Sequence[SlideReport], folder: Path) -> None:
    """The files of a slide report, results.json last. Raises OutputError."""
    header, rows = table_rows(results)
    flat = [flat_facts(s) for s in results["slides"]]
    conventions = "".join(f"- `{k}`: {v}.\n" for k, v in CONVENTIONS.items())
    texts = {
        "results.csv": csv_text(list(dict.fromkeys(k for f in flat for k in f)), flat),
        "results.md": f"# Virtual slides\n\n{markdown_table(header, rows)}\n## Conventions\n\n{conventions}",
        "report.html": to_html(results, reports, paint_maps(reports)),
        "results.json": json.dumps(results, indent=2, allow_nan=False) + "\n",
    }
    with reporting(folder, retry="run again"):
        folder.mkdir(parents=True, exist_ok=True)
        for report in reports:
            for kind in ("positive", "h_score"):
                data = png_of(report.pictures[kind], f"{kind} map of a virtual stain")
                write_bytes(folder / f"{report.facts['name']}.{kind}.png", data)
            with replacing(folder / f"{report.facts['name']}.map.npz") as part, part.open("wb") as file:
                np.savez_compressed(
                    file,
                    positive_fraction=report.map.positive_map(),
                    h_score=report.map.h_score_map(),
                    tissue=report.map.tissue,
                    cell_um=report.map.cell_um,
                )
        for name, text in texts.items():
            write_text(folder / name, text)

"""How far `wsistain pair` leaves two sections from each other: on phantom slides, whose displacement is known, on landmarks of
real serial sections, and beside other registrations where they are installed.

    python benchmarks/pair.py --work runs/pair --output benchmarks/results/pair.json

Per pairing: error in um, median and 90th percentile over tissue, against the place of the block (`glass`) and against where
section B shows the structures of section A (`structures`): they lean in the block, and no picture tells the difference.

    --landmarks FOLDER   the folder cima_lung_lesion3: he/, ihc/, landmarks/
    --others             elastix (itk-elastix) and SimpleITK's demons beside ours
"""

import csv
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import common
import numpy as np
from skimage.registration import optical_flow_ilk

from wsistain.errors import DataError
from wsistain.evaluation import registration
from wsistain.markers import find_marker
from wsistain.pairing import smooth
from wsistain.pairing.align import place_pieces
from wsistain.pairing.cut import Cutter
from wsistain.pairing.run import register_slides
from wsistain.pairing.sections import look_at_slide
from wsistain.pairing.transform import PieceMap
from wsistain.phantom.config import PhantomConfig
from wsistain.phantom.render import Phantom
from wsistain.phantom.tiff import write_pyramid
from wsistain.slide.reader import open_slide
from wsistain.slide.tissue import read_thumbnail

PAIRS = [
    ("adjacent", 1, "ER"),
    ("mist", 1, "ER"),
    ("mist", 2, "ER"),
    ("mist", 3, "HER2"),
    ("far", 1, "ER"),
    ("far", 2, "ER"),
]
MPP, SIDE = 1.0, 4000
LANDMARK_MPP = 3.48
"""0.174 um at full size, as quoted for this data, times 20: a unit to tell errors in, not a claim."""

Place = Callable[[Any, Any], tuple[Any, Any]]


def phantom_pair(folder: Path, pairing: str, seed: int, marker: str) -> tuple[Phantom, Path, Path]:
    """A phantom, and its H&E and the other section's IHC as slides, made once."""
    config = PhantomConfig(height=SIDE, width=SIDE, mpp=MPP, marker=marker, seed=seed, pairing=pairing)
    phantom = Phantom(config)
    home = folder / f"{pairing}_{seed}_{marker}"
    home.mkdir(parents=True, exist_ok=True)
    for product in ("he_a", "ihc_b"):
        path = home / f"{product}.tiff"
        if not path.is_file():
            write_pyramid(path, config.shape, MPP, partial(phantom.render, product), quality=config.quality)
    return phantom, home / "he_a.tiff", home / "ihc_b.tiff"


def truth_of(phantom: Phantom) -> dict[str, Any]:
    """Places on tissue of section A, every 16 um, and where B has them."""
    at = np.arange(8.0, SIDE * MPP, 16.0)
    y, x = np.meshgrid(at, at, indexing="ij")
    inside = phantom.anatomy.at(y, x).inside > 0
    y, x = y[inside], x[inside]
    glass, structures = phantom.place_on_b(y, x), phantom.place_on_b(y, x, structures=True)
    seen = (np.stack(glass) > 0).all(0) & (np.stack(glass) < SIDE * MPP).all(0)
    return {"y": y[seen], "x": x[seen], "glass": np.stack(glass)[:, seen], "structures": np.stack(structures)[:, seen]}


def errors(truth: dict[str, Any], place: Place) -> dict[str, list[float]]:
    """Median and 90th percentile of the distance to both truths, um."""
    found = np.stack(place(truth["y"], truth["x"]))
    told = {}
    for name in ("glass", "structures"):
        distance = np.hypot(*(found - truth[name]))
        told[name] = [round(float(np.quantile(distance, q)), 2) for q in (0.5, 0.9)]
    return told


def affine(matrix: Any) -> Place:
    return lambda y, x: tuple(matrix[k, 0] * y + matrix[k, 1] * x + matrix[k, 2] for k in range(2))


def today(he: Any, ihc: Any) -> Place:
    """The affine map of `evaluate --slides`: gray optical density, no mirroring."""
    (a, mpp), (b, _) = read_thumbnail(he), read_thumbnail(ihc)
    m = registration.register(a, b).matrix
    return lambda y, x: tuple(
        (m[k, 0] * (y / mpp - 0.5) + m[k, 1] * (x / mpp - 0.5) + m[k, 2] + 0.5) * mpp for k in range(2)
    )


def stages(
    he: Any, ihc: Any, truth: dict[str, Any], marker: str, others: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Errors after every stage, and of other registrations from the same affine map; and what took how long."""
    told = {"as scanned": errors(truth, lambda y, x: (y, x)), "affine of evaluate": errors(truth, today(he, ihc))}
    seconds = {}
    began = time.perf_counter()
    sides = look_at_slide(he, None), look_at_slide(ihc, find_marker(marker).chromogen)
    (placed,) = place_pieces(*sides)
    seconds["orientation, rigid, affine"] = time.perf_counter() - began
    told["rigid"], told["affine"] = errors(truth, affine(placed.rigid)), errors(truth, affine(placed.matrix))
    given = sides[0], sides[1], placed
    began = time.perf_counter()
    piece = smooth.smooth_map(*given)
    seconds["smooth"] = time.perf_counter() - began
    told["smooth"] = errors(truth, piece.map)
    for name, mpp, method in OTHERS if others else OTHERS[:1]:
        began = time.perf_counter()
        told[f"other: {name}"] = errors(truth, _with(sides, placed, method, mpp).map)
        seconds[name] = time.perf_counter() - began
    return told, {name: round(value, 1) for name, value in seconds.items()}


def _with(sides: Any, placed: Any, method: Callable[..., Any], mpp: float) -> PieceMap:
    """The map that another registration of the same charts gives, from the same affine map."""
    ours, at = smooth.smooth_flow, smooth.SMOOTH_MPP
    smooth.smooth_flow, smooth.SMOOTH_MPP = (lambda f, m, a, b, px: method(f, m, px)), mpp
    try:
        return smooth.smooth_map(sides[0], sides[1], placed)
    finally:
        smooth.smooth_flow, smooth.SMOOTH_MPP = ours, at


ELASTIX = {
    "Metric": "AdvancedMattesMutualInformation",
    "Registration": "MultiResolutionRegistration",
    "MaximumNumberOfIterations": "400",
    "NumberOfSpatialSamples": "4000",
    "RandomSeed": "1",
    "ImageSampler": "RandomCoordinate",
    "FinalGridSpacingInPhysicalUnits": "200",
}


def elastix(fixed: Any, moved: Any, mpp: float) -> Any:
    """B-splines of 200 um by Mattes mutual information, seeded, one thread."""
    import itk

    parameters = itk.ParameterObject.New()
    values = parameters.GetDefaultParameterMap("bspline", 4, 200)
    for name, value in ELASTIX.items():  # a mapping of C++, without update
        values[name] = [value]
    parameters.AddParameterMap(values)
    f, m = (itk.image_view_from_array(np.ascontiguousarray(p, np.float32)) for p in (fixed, moved))
    f.SetSpacing([mpp, mpp]), m.SetSpacing([mpp, mpp])
    _, found = itk.elastix_registration_method(f, m, parameter_object=parameters, number_of_threads=1)
    with TemporaryDirectory() as folder:  # it writes a copy of the field where it stands
        field = itk.array_from_image(itk.transformix_deformation_field(m, found, output_directory=folder))
    return np.stack([field[..., 1], field[..., 0]]).astype(np.float32) / mpp


def demons(fixed: Any, moved: Any, mpp: float) -> Any:
    """SimpleITK's diffeomorphic demons, three levels, field smoothed by 40 um, histograms matched, one thread."""
    import SimpleITK as sitk  # noqa: N813 - its own habit

    field = None
    for shrink in (4, 2, 1):
        pictures = []
        for p in (fixed, moved):
            image = sitk.GetImageFromArray(smooth._shrunk(p, shrink))
            image.SetSpacing((mpp * shrink,) * 2), image.SetOrigin((mpp * (shrink - 1) / 2,) * 2)
            pictures.append(image)
        pictures[1] = sitk.HistogramMatching(pictures[1], pictures[0], 128, 9)
        method = sitk.DiffeomorphicDemonsRegistrationFilter()
        method.SetNumberOfIterations(50), method.SetSmoothDisplacementField(True), method.SetNumberOfThreads(1)
        method.SetStandardDeviations(40 / (mpp * shrink))
        if field is None:
            field = method.Execute(*pictures)
        else:
            start = sitk.Resample(field, pictures[0], sitk.Transform(), sitk.sitkLinear, 0.0, field.GetPixelID())
            field = method.Execute(*pictures, start)
    array = sitk.GetArrayFromImage(field)
    whole = np.stack([array[..., 1], array[..., 0]]).astype(np.float32) / mpp
    return whole[:, : fixed.shape[0], : fixed.shape[1]]


def flow_ilk(fixed: Any, moved: Any, mpp: float) -> Any:
    """scikit-image's Lucas-Kanade, which takes no mask: levelled, at 8 um over windows of 80 um, then at 4 over 50."""
    flow, everywhere = np.zeros((2, *fixed.shape), np.float32), np.ones(fixed.shape, np.float32)
    for shrink, radius, warps, even in ((2, 80.0, 10, 40.0), (1, 50.0, 5, 20.0)):
        px = mpp * shrink
        a, b, weight = (smooth._shrunk(p, shrink) for p in (fixed, smooth._warped(moved, flow), everywhere))
        a, b = (smooth._levelled(p, weight, 150.0 / px) for p in (a, b))
        step = np.asarray(optical_flow_ilk(a, b, radius=round(radius / px), num_warp=warps, dtype=np.float32))
        step = smooth._evened(step, (np.hypot(*step) < 400.0 / px).astype(np.float32), even / px)
        step = np.stack([smooth._enlarged(plane, shrink, fixed.shape) * shrink for plane in step])
        flow = np.stack([smooth._warped(plane, step) for plane in flow]) + step
    return flow


OTHERS = (
    ("scikit-image, optical_flow_ilk, 8 and 4 um", 4.0, flow_ilk),
    ("elastix, B-splines, mutual information, 8 um", 8.0, elastix),
    ("SimpleITK, demons, 8 um", 8.0, demons),
)


def filtered(he: Any, ihc: Any, truth: dict[str, Any], marker: str) -> Iterator[dict[str, float]]:
    """Of every patch of 256 um: what was measured, and its true error against the structures."""
    found = register_slides(he, ihc, find_marker(marker))
    cutter = Cutter(found.he, found.ihc, find_marker(marker), found.pieces, found.fits, MPP, 256, 0.5)
    for row, col, number in cutter.places()[0]:
        measured = cutter.cut((row, col, number)).measured
        y0, x0 = measured.y_l0 * MPP, measured.x_l0 * MPP
        here = (truth["y"] >= y0) & (truth["y"] < y0 + 256) & (truth["x"] >= x0) & (truth["x"] < x0 + 256)
        if here.sum() < 20:
            continue
        place = np.stack(found.pieces[number].map(truth["y"][here], truth["x"][here]))
        error = float(np.median(np.hypot(*(place - truth["structures"][:, here]))))
        yield {
            "error_um": error,
            "residual_um": measured.residual_um or np.nan,
            "agreement": measured.agreement or np.nan,
        }


def limits(rows: list[dict[str, float]]) -> list[dict[str, Any]]:
    """What limits of `data.filter` keep, and how far off what they keep is."""
    error, residual, agreement = (np.array([r[k] for r in rows]) for k in ("error_um", "residual_um", "agreement"))
    told = []
    for most, least in ((None, None), (10, None), (5, None), (None, 0.5), (None, 0.7), (5, 0.5), (5, 0.7)):
        keep = np.ones(len(rows), bool)
        keep &= True if most is None else residual <= most
        keep &= True if least is None else agreement >= least
        e = error[keep]
        told.append({
            "max_residual_um": most, "min_agreement": least, "kept": round(float(keep.mean()), 3),
            "error_um": [round(float(np.quantile(e, q)), 2) for q in (0.5, 0.9)] if e.size else None,
            "over_10_um": round(float((e > 10).mean()), 3) if e.size else None,
        })  # fmt: skip
    return told


def landmarks(folder: Path) -> dict[str, Any]:
    """Errors at hand-placed landmarks of real serial sections, um (of `LANDMARK_MPP`)."""

    def points(name: str) -> Any:
        with (folder / "landmarks" / f"lesion3_{name}.csv").open() as file:
            return np.array([[float(r["Y"]) / 10, float(r["X"]) / 10] for r in csv.DictReader(file)]) * LANDMARK_MPP

    told = {}
    he = open_slide(folder / "he" / "lesion3_HE.jpg", mpp=LANDMARK_MPP)
    for name in ("Ki67", "CD31", "proSPC", "CC10"):
        ihc = open_slide(folder / "ihc" / f"lesion3_{name}.jpg", mpp=LANDMARK_MPP)
        a, b = points("HE"), points(name)
        sides = look_at_slide(he, None), look_at_slide(ihc, find_marker("Ki67").chromogen)
        (placed, *_) = place_pieces(*sides)
        piece = smooth.smooth_map(sides[0], sides[1], placed)
        ones = np.column_stack([a, np.ones(len(a))])
        maps: dict[str, Place] = {"affine": affine(placed.matrix), "smooth": piece.map}
        for method, mpp, call in OTHERS[:1]:
            maps[f"other: {method}"] = _with(sides, placed, call, mpp).map
        told[name] = {"correlation": placed.correlation}
        best = np.hypot(*(ones @ np.linalg.lstsq(ones, b, rcond=None)[0] - b).T)
        told[name]["best affine of the landmarks"] = [round(float(np.quantile(best, q)), 1) for q in (0.5, 0.9)]
        for stage, place in maps.items():
            distance = np.hypot(*(np.stack(place(a[:, 0], a[:, 1]), axis=1) - b).T)
            told[name][stage] = [round(float(np.quantile(distance, q)), 1) for q in (0.5, 0.9)]
    return told


def main() -> None:
    options = common.parser(__doc__ or "")
    options.add_argument("--landmarks", type=Path)
    options.add_argument("--others", action="store_true")
    options.add_argument("--pairs", type=int, default=len(PAIRS), help="only the first so many")
    given = options.parse_args()
    results: dict[str, Any] = {"mpp": MPP, "side_px": SIDE, "error": "um: median, 90th percentile", "pairs": {}}
    rows: dict[str, list[dict[str, float]]] = {}
    opened = []
    for pairing, seed, marker in PAIRS[: given.pairs]:
        phantom, *paths = phantom_pair(given.work, pairing, seed, marker)
        he, ihc = (open_slide(p) for p in paths)
        opened.append((he, ihc))
        truth = truth_of(phantom)
        told, seconds = stages(he, ihc, truth, marker, given.others)
        results["pairs"][f"{pairing} {seed} {marker}"] = {"errors_um": told, "seconds": seconds}
        rows.setdefault(pairing, []).extend(filtered(he, ihc, truth, marker))
        common.report("pair", results, given.output)
    results["filter"] = {pairing: {"patches": len(r), "limits": limits(r)} for pairing, r in rows.items()}
    results["unlike"] = unlike(opened, [seed for _, seed, _ in PAIRS])
    if given.landmarks:
        results["landmarks_um"] = landmarks(given.landmarks)
    common.report("pair", results, given.output)


def unlike(opened: list[tuple[Any, Any]], seeds: list[int]) -> list[str]:
    """What is said of slides of different blocks: every H&E with the IHC of the next pair but one, if of another seed."""
    told = []
    for k, (he, _) in enumerate(opened):
        other = (k + 2) % len(opened)
        if seeds[k] == seeds[other]:
            continue
        ihc = opened[other][1]
        try:
            sides = look_at_slide(he, None), look_at_slide(ihc, find_marker("ER").chromogen)
            told.append(f"taken for a pair at {[p.correlation for p in place_pieces(*sides)]}")
        except DataError as error:
            told.append(str(error).partition("face down, ")[2])
    return told


if __name__ == "__main__":
    main()

import gzip
import json
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsistain.errors import ConfigError
from wsistain.slide.base import SlideInfo
from wsistain.slide.roi import Roi, inside, parse_region
from wsistain.slide.roi_file import is_ignored, read_roi

INFO = SlideInfo("s.svs", (800, 1000), 0.5, "reader", ((800, 1000),), (1.0,), (256, 256), "aperio", "tiff", "0")

SQUARE = [[100, 50], [400, 50], [400, 250], [100, 250], [100, 50]]
HOLE = [[200, 100], [300, 100], [300, 200], [200, 200], [200, 100]]
ELLIPSE = [[600 + 80 * float(np.cos(t)), 500 + 40 * float(np.sin(t))] for t in np.linspace(0, 2 * np.pi, 60)]


def feature(kind: str, coordinates: Any, **properties: Any) -> dict:
    """A feature as QuPath 0.5 writes it."""
    return {
        "type": "Feature",
        "id": "0f3b51c1-1f3b-4b21-9b0a-7f1c6a0d6f01",
        "geometry": {"type": kind, "coordinates": coordinates, "plane": {"c": -1, "z": 0, "t": 0}},
        "properties": {
            "objectType": "annotation",
            "isLocked": True,
            "classification": {"name": "Tumor", "color": [200, 0, 0]},
        }
        | properties,
    }


def saved(path: Path, document: Any) -> Path:
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


@pytest.mark.parametrize("form", ["collection", "list", "feature", "geometry"])
def test_every_form_that_qupath_exports_is_read(tmp_path: Path, form: str) -> None:
    one = feature("Polygon", [SQUARE, HOLE])
    document = {
        "collection": {"type": "FeatureCollection", "features": [one]},
        "list": [one],
        "feature": one,
        "geometry": one["geometry"],
    }[form]
    roi = read_roi(saved(tmp_path / "roi.geojson", document))
    assert roi.bounds_l0 == (50, 100, 200, 300)
    mask = roi.mask(INFO, 1.0, (800, 1000))
    expected = np.zeros((800, 1000), bool)
    expected[50:250, 100:400] = True
    expected[100:200, 200:300] = False
    assert np.array_equal(mask, expected)


def test_several_shapes_of_any_class_are_joined_and_lines_and_points_passed_over(tmp_path: Path) -> None:
    document = {
        "type": "FeatureCollection",
        "features": [
            feature("MultiPolygon", [[SQUARE, HOLE], [[[700, 10], [720, 10], [720, 30]]]], isLocked=False),
            feature("Polygon", [ELLIPSE], isEllipse=True, classification={"name": "Stroma", "colorRGB": -6895466}),
            feature("LineString", [[0, 0], [999, 799]], objectType="annotation"),
            feature("Point", [5, 5]),
            feature("MultiPoint", [[5, 5], [6, 6]]),
            {"type": "Feature", "geometry": None, "properties": {"objectType": "root"}},
        ],
    }
    roi = read_roi(saved(tmp_path / "roi.geojson", document))
    assert len(roi.polygons) == 3
    assert roi.bounds_l0 == (10, 100, 530, 620)
    mask = roi.mask(INFO, 1.0, (800, 1000))
    assert mask.sum() == pytest.approx(300 * 200 - 100 * 100 + 200 + np.pi * 80 * 40, rel=0.01)
    assert mask[500, 600] and not mask[150, 250] and not mask[5, 5]


def test_masks_follow_the_downsample(tmp_path: Path) -> None:
    roi = read_roi(saved(tmp_path / "roi.geojson", feature("Polygon", [SQUARE])))
    mask = roi.mask(INFO, 16.0, (50, 63))
    assert mask.sum() * 256 == pytest.approx(300 * 200, rel=0.1)
    rows, cols = np.nonzero(mask)
    assert (rows.min(), rows.max(), cols.min(), cols.max()) == (3, 15, 6, 24)


def test_an_area_smaller_than_a_mask_pixel_is_not_lost(tmp_path: Path) -> None:
    tiny = [[501, 301], [503, 301], [503, 303], [501, 303]]
    mask = read_roi(saved(tmp_path / "roi.geojson", feature("Polygon", [tiny]))).mask(INFO, 16.0, (50, 63))
    assert np.argwhere(mask).tolist() == [[18, 31]]


def test_areas_that_reach_outside_are_cut_and_those_beyond_are_refused(tmp_path: Path) -> None:
    far = [[-500, -500], [50, -500], [50, 60], [-500, 60]]
    mask = read_roi(saved(tmp_path / "roi.geojson", feature("Polygon", [far]))).mask(INFO, 1.0, (800, 1000))
    assert mask[:60, :50].all() and mask.sum() == 60 * 50
    beyond = [[1e9, 1e9], [2e9, 1e9], [2e9, 2e9]]
    with pytest.raises(ConfigError, match="outside the slide of 1000 x 800"):
        read_roi(saved(tmp_path / "roi.geojson", feature("Polygon", [beyond]))).mask(INFO, 1.0, (800, 1000))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not GeoJSON"),
        ("{", "not GeoJSON"),
        ("\x89PNG", "not GeoJSON"),
        ("[" * 100_000, "not GeoJSON"),
        ('{"a": 1}', "wanted features"),
        ("[]", "no area"),
        ('"text"', "wanted features"),
        ('{"type": "FeatureCollection"}', "wanted features"),
        ('{"type": "Circle", "coordinates": [1, 2]}', "'Circle'"),
        ('{"type": "Polygon", "coordinates": [[[1, "a"], [2, 3], [4, 5]]]}', "rings of"),
        ('{"type": "Polygon", "coordinates": 5}', "rings of"),
        ('{"type": "Polygon"}', "rings of"),
        ('{"type": "MultiPolygon"}', "without coordinates"),
        ('{"type": "Polygon", "coordinates": [[[1, NaN], [2, 3], [4, 5]]]}', "not a number"),
        ('{"type": "Polygon", "coordinates": [[[0, 0], [0, 4.6e20], [1, 0]]]}', "further out than any slide"),
        ('{"type": "Polygon", "coordinates": [[[0, 0], [0, 1e308], [-1e308, 0]]]}', "further out than any slide"),
        ('{"type": "Polygon", "coordinates": [[[0, 0], [0, Infinity], [1, 0]]]}', "further out than any slide"),
        (
            '{"type": "Polygon", "coordinates": [[[0, 0], [0, 1%s], [1, 0]]]}' % ("0" * 400),
            "further out than any slide",
        ),
        ('{"type": "Polygon", "coordinates": []}', "no area"),
        ('{"type": "Polygon", "coordinates": [[[1, 1], [5, 5], [9, 9]]]}', "no area"),
        ('{"type": "LineString", "coordinates": [[1, 1], [5, 5]]}', "no area; left out: 1 lines"),
        ('{"type": "Polygon", "coordinates": [[[0, 0], [0, 0.7], [1, 0.7]]]}', "not fractions"),
        ('{"type": "Polygon", "crs": {"properties": {"name": "EPSG:4326"}}}', "coordinate system \\('EPSG:4326'"),
        ('{"type": "FeatureCollection", "features": [], "units": "Micrometer"}', "in 'Micrometer'"),
    ],
)
def test_what_is_no_area_is_refused_in_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "roi.geojson"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError, match=says) as error:
        read_roi(path)
    assert "roi.geojson" in str(error.value) and "\n" not in str(error.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_roi(tmp_path / "nothing.geojson")


def test_a_region_is_a_rectangle_in_x_y_w_h() -> None:
    roi = parse_region("100,50,300,200")
    assert roi.bounds_l0 == (50, 100, 200, 300)
    mask = roi.mask(INFO, 1.0, (800, 1000))
    assert mask[50:250, 100:400].all() and mask.sum() == 300 * 200
    assert parse_region(" 1, 2 ,3,4").bounds_l0 == (2, 1, 4, 3)


@pytest.mark.parametrize(
    "text", ["", "1,2,3", "1,2,3,4,5", "a,b,c,d", "1.5,2,3,4", "1,2,0,4", "1,2,3,-4", "0,0,9,1" + "0" * 400]
)
def test_a_region_that_is_no_rectangle_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--region"):
        parse_region(text)


BOW_TIE = [[300, 100], [600, 400], [600, 100], [300, 400], [300, 100]]
TWICE_ROUND = [[100, 100], [400, 100], [400, 400], [100, 400], [100, 100], [200, 200], [300, 200], [300, 300], [200, 300], [200, 200]]  # fmt: skip


@pytest.mark.parametrize("turned", [1, -1])
@pytest.mark.parametrize(("ring", "area"), [(BOW_TIE, 45_000), (TWICE_ROUND, 90_000)])
def test_an_outline_that_crosses_itself_holds_all_that_it_goes_round(
    tmp_path: Path, ring: list[list[int]], area: int, turned: int
) -> None:
    roi = read_roi(saved(tmp_path / "roi.geojson", feature("Polygon", [ring[::turned]])))
    assert roi.mask(INFO, 1.0, (800, 1000)).sum() == pytest.approx(area, rel=0.02)


def winding(ring: np.ndarray, y: float, x: float) -> int:
    """How often a ring goes round a point, from the angles under which its corners are seen."""
    seen = np.arctan2(ring[:, 0] - y, ring[:, 1] - x)
    turn = (np.diff(seen, append=seen[:1]) + np.pi) % (2 * np.pi) - np.pi
    return round(float(turn.sum() / (2 * np.pi)))


@given(st.lists(st.tuples(st.integers(-3, 14), st.integers(-3, 14)), min_size=3, max_size=9))
def test_a_pixel_is_inside_where_the_outline_winds_round_its_centre(corners: list[tuple[int, int]]) -> None:
    ring = np.array(corners, np.float64) + 0.1234  # no centre of a pixel on an edge
    ring[:, 1] += ring[:, 0] * 1e-3
    expected = [[winding(ring, y + 0.5, x + 0.5) != 0 for x in range(12)] for y in range(11)]
    assert np.array_equal(inside(ring, (11, 12)), expected)


def tma(*missing: bool) -> dict:
    cores = [
        feature("Polygon", [[[x, 0], [x + 90, 0], [x + 90, 90], [x, 90]]], objectType="tma_core", isMissing=gone)
        for x, gone in zip(range(0, 900, 100), missing, strict=False)
    ]
    return {"type": "FeatureCollection", "features": cores}


def test_missing_cores_are_left_out_and_named(tmp_path: Path) -> None:
    roi = read_roi(saved(tmp_path / "roi.geojson", tma(False, True, False)))
    mask = roi.mask(INFO, 1.0, (800, 1000))
    assert mask[:90, :90].all() and mask[:90, 200:290].all() and not mask[:, 95:195].any()
    assert "2 areas" in roi.notes[0] and "1 missing TMA cores" in roi.notes[1]
    with pytest.raises(ConfigError, match="no area; left out: 2 missing TMA cores"):
        read_roi(saved(tmp_path / "none.geojson", tma(True, True)))


def test_ignored_classes_are_cut_out_of_the_areas_and_alone_are_none(tmp_path: Path) -> None:
    inner = feature("Polygon", [HOLE], classification={"name": "Ignore*"})
    roi = read_roi(saved(tmp_path / "roi.geojson", [inner, feature("Polygon", [SQUARE])]))
    mask = roi.mask(INFO, 1.0, (800, 1000))
    assert mask.sum() == 300 * 200 - 100 * 100 and not mask[150, 250]
    assert "1 of class Ignore*" in roi.notes[1]
    with pytest.raises(ConfigError, match="no area; left out: 1 of class Ignore"):
        read_roi(saved(tmp_path / "alone.geojson", inner))
    covered = read_roi(saved(tmp_path / "covered.geojson", [inner, feature("Polygon", [HOLE])]))
    with pytest.raises(ConfigError, match="no area left"):
        covered.mask(INFO, 1.0, (800, 1000))


def test_a_star_means_ignored_but_for_region() -> None:
    assert all(map(is_ignored, ("Ignore*", "ignore*", "Ignored", "Folds*", "Tumor: Ignore*")))
    assert not any(map(is_ignored, ("Region*", "Tumor", "Ignorance", "")))


CLASSED = [
    feature("Polygon", [SQUARE], classification={"names": ["Tumor", "Positive"]}),
    feature("Polygon", [[[x + 500, y] for x, y in SQUARE]], classification={"name": "Stroma", "colorRGB": -6895466}),
    feature("Polygon", [[[x, y + 300] for x, y in SQUARE]], classification="Region*"),
    feature("Polygon", [[[x + 500, y + 300] for x, y in SQUARE]], classification=None),
]


@pytest.mark.parametrize(
    ("classes", "kept"),
    [
        ((), [0, 1, 2, 3]),
        (("",), [0, 1, 2, 3]),
        (("tumor",), [0]),
        (("Tumor: Positive", " Stroma"), [0, 1]),
        (("Region*", "unclassified"), [2, 3]),
    ],
)
def test_regions_are_chosen_by_class(tmp_path: Path, classes: tuple[str, ...], kept: list[int]) -> None:
    roi = read_roi(saved(tmp_path / "roi.geojson", CLASSED), classes)
    mask = roi.mask(INFO, 1.0, (800, 1000))
    places = [(150, 250), (150, 750), (450, 250), (450, 750)]
    assert [i for i, place in enumerate(places) if mask[place]] == kept
    assert roi.describe()["areas"] == len(kept)


def test_a_class_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    path = saved(tmp_path / "roi.geojson", CLASSED)
    for classes in (["Necrosis"], ["Tumor", "Necrosis"], ["Tumor: Negative"]):
        with pytest.raises(ConfigError, match=r"no area of class '.*'; it holds 1 .*Stroma.* name one of these"):
            read_roi(path, classes)


def test_ignored_areas_stay_cut_out_when_classes_are_chosen_unless_they_are_the_choice(tmp_path: Path) -> None:
    path = saved(
        tmp_path / "roi.geojson",
        [feature("Polygon", [SQUARE]), feature("Polygon", [HOLE], classification={"name": "Ignore*"})],
    )
    assert not read_roi(path, ["Tumor"]).mask(INFO, 1.0, (800, 1000))[150, 250]
    assert read_roi(path, ["Ignore*"]).mask(INFO, 1.0, (800, 1000)).sum() == 100 * 100


@pytest.mark.parametrize(
    "marked",
    [
        {"objectType": "detection"},
        {"objectType": "cell"},
        {"objectType": "tile"},
        {"objectType": None, "object_type": "cell"},
        {"objectType": None},
    ],
)
def test_detections_are_no_areas_and_their_geometry_is_not_even_looked_at(
    tmp_path: Path, marked: dict[str, Any]
) -> None:
    marked = {k: v for k, v in marked.items() if v}
    cell: dict[str, Any] = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": "not read"}}
    cell |= {"properties": marked} if marked else {"id": "PathCellObject", "properties": {}}
    roi = read_roi(saved(tmp_path / "roi.geojson", [cell] * 3 + [feature("Polygon", [SQUARE])]))
    assert len(roi.polygons) == 1 and "3 detections" in roi.notes[1]
    with pytest.raises(ConfigError, match="no area; left out: 3 detections"):
        read_roi(saved(tmp_path / "cells.geojson", [cell] * 3))


def packed(path: Path, form: str, text: bytes) -> Path:
    if form == "gz":
        path.write_bytes(gzip.compress(text))
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("export/a.geojson", text)
            archive.writestr("__MACOSX/export/._a.geojson", b"\0\5\x16\7")
            archive.writestr("read me.txt", b"")
    return path


@pytest.mark.parametrize("form", ["gz", "zip"])
@pytest.mark.parametrize("name", ["roi.geojson", "roi.bin"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_packed_exports_are_known_by_their_bytes(tmp_path: Path, form: str, name: str, encoding: str) -> None:
    text = json.dumps(feature("Polygon", [SQUARE])).encode(encoding)
    assert read_roi(packed(tmp_path / name, form, text)).bounds_l0 == (50, 100, 200, 300)


def test_the_members_of_an_archive_are_joined(tmp_path: Path) -> None:
    path = tmp_path / "roi.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for n, shape in enumerate(CLASSED):
            archive.writestr(f"{n}.geojson", json.dumps(shape))
    assert len(read_roi(path).polygons) == 4


@pytest.mark.parametrize("form", ["gz", "zip"])
def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, form: str) -> None:
    path = packed(tmp_path / "roi", form, b" " * (17 << 20))
    assert path.stat().st_size < 100_000
    with pytest.raises(ConfigError, match="unpacks to more than 16 MiB"):
        read_roi(path)


@pytest.mark.parametrize("form", ["gz", "zip", "empty zip"])
def test_a_damaged_archive_is_refused_in_one_sentence(tmp_path: Path, form: str) -> None:
    path = packed(tmp_path / "roi", form.split()[-1], json.dumps(CLASSED).encode())
    if form == "empty zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.txt", b"")
    else:
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ConfigError, match=r"cannot be unpacked|holds no \.geojson"):
        read_roi(path)


def test_areas_outside_the_slide_are_counted() -> None:
    far = np.array([(-50.0, -50.0), (-50.0, -10.0), (-10.0, -10.0)])
    assert Roi(((far,), (np.abs(far),)), "s").n_outside(INFO) == 1


def test_the_work_for_an_outline_grows_with_its_length_not_with_corners_times_area() -> None:
    t = np.linspace(0, 2 * np.pi, 100_000)
    ring = np.stack([1000 + 990 * np.sin(t), 1000 + 990 * np.cos(t)], axis=1)
    start = time.process_time()
    assert inside(ring, (2000, 2000)).sum() == pytest.approx(np.pi * 990**2, rel=1e-3)
    assert time.process_time() - start < 5  # corners times pixels would be 4e11 steps
    scribble = np.array([(0.0, 0.0), (1e6, 1.0)] * 60)
    with pytest.raises(ConfigError, match="to and fro"):
        inside(scribble, (1_000_000, 2))

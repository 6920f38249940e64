import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wsistain.errors import ConfigError
from wsistain.slide.base import SlideInfo
from wsistain.slide.roi import parse_region, read_roi

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
        ('{"type": "LineString", "coordinates": [[1, 1], [5, 5]]}', "no area"),
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

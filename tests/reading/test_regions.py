"""Which cells count, as somebody drew it."""

import json

import numpy as np
import pytest

from wsistain.errors import ConfigError
from wsistain.reading.regions import in_ring, read_regions
from wsistain.slide.base import SlideInfo

INFO = SlideInfo("x", (1000, 2000), 0.5, "given", ((1000, 2000),), (1.0,), (0, 0), "", "tiff", "")


def square(name, y, x, size):
    ring = [[x, y], [x + size, y], [x + size, y + size], [x, y + size], [x, y]]
    held = {"objectType": "annotation", "classification": {"name": name}} if name else {"objectType": "annotation"}
    return {"type": "Feature", "properties": held, "geometry": {"type": "Polygon", "coordinates": [ring]}}


@pytest.fixture
def drawn(tmp_path):
    path = tmp_path / "drawn.geojson"
    shapes = [square("Tumor", 100, 100, 400), square("Necrosis", 200, 200, 50), square("Stroma", 0, 1000, 300)]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": shapes}))
    return path


@pytest.mark.parametrize(
    ("wanted", "left_out", "counts"),
    [
        ([], [], [True, True, True, False]),
        (["tumor"], [], [True, False, False, False]),
        (["Tumor"], ["Necrosis"], [True, False, False, False]),
        ([], ["Necrosis"], [True, False, True, False]),
    ],
)
def test_classes_are_asked_for_and_left_out(drawn, wanted, left_out, counts):
    regions = read_regions(drawn, wanted, left_out, INFO)
    name, counted = regions.of(np.array([150.0, 225, 100, 900]), np.array([150.0, 225, 1100, 1900]))
    assert counted.tolist() == counts
    assert name[0] == "Tumor" and name[2] == "Stroma" and name[3] == ""
    assert ("Necrosis" in left_out) <= (name[1] == "Necrosis")


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2)])
@pytest.mark.parametrize("wanted", [[], ["Tumor"], ["Tumor", "Tissue"]])
def test_the_smallest_shape_has_the_cell_whatever_the_order_unless_a_class_is_left_out(tmp_path, order, wanted):
    shapes = [square("Tissue", 0, 0, 900), square("Tumor", 100, 100, 400), square("Stroma", 200, 200, 100)]
    shapes += [square("Necrosis", 80, 80, 60)]
    path = tmp_path / "nested.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [shapes[k] for k in order]}))
    regions = read_regions(path, wanted, ["Necrosis"], INFO)
    at = np.array(
        [50.0, 400, 250, 120, 85, 950]
    )  # in tissue, tumour, stroma in it, necrosis over both, necrosis, outside
    name, counted = regions.of(at, at)
    assert name.tolist() == ["Tissue", "Tumor", "Stroma", "Necrosis", "Necrosis", ""]
    asked = wanted or ["Tissue", "Tumor", "Stroma"]
    assert counted.tolist() == [n in asked for n in name]


def test_what_is_left_out_wins_where_it_is_larger_too(tmp_path):
    path = tmp_path / "n.geojson"
    shapes = [square("Necrosis", 0, 0, 400), square("Tumor", 100, 100, 50)]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": shapes}))
    name, counted = read_regions(path, ["Tumor"], ["Necrosis"], INFO).of(np.array([120.0]), np.array([120.0]))
    assert name.tolist() == ["Necrosis"] and counted.tolist() == [False]


def test_where_only_necrosis_is_drawn_the_rest_counts(tmp_path):
    path = tmp_path / "n.geojson"
    path.write_text(json.dumps(square("Necrosis", 0, 0, 100)))
    _, counted = read_regions(path, [], ["Necrosis"], INFO).of(np.array([50.0, 500]), np.array([50.0, 500]))
    assert counted.tolist() == [False, True]


def test_what_cannot_be_meant_is_refused(drawn, tmp_path):
    with pytest.raises(ConfigError, match="both asked for and left out"):
        read_regions(drawn, ["Tumor"], ["tumor"], INFO)
    with pytest.raises(ConfigError, match="no area of class 'DCIS'"):
        read_regions(drawn, [], ["DCIS"], INFO)
    far = tmp_path / "far.geojson"
    far.write_text(json.dumps(square("Tumor", 5000, 5000, 10)))
    with pytest.raises(ConfigError, match="outside the slide"):
        read_regions(far, [], [], INFO)


def test_a_ring_holds_what_it_winds_round_however_often():
    bow = np.array([(0, 0), (10, 10), (10, 0), (0, 10)], float)
    inside = in_ring(bow, np.array([2.0, 8, 5, 5]), np.array([5.0, 5, 1, 9]))
    assert inside.tolist() == [False, False, True, True] or inside.tolist() == [True, True, False, False]
    twice = np.concatenate([np.array([(0, 0), (0, 10), (10, 10), (10, 0)], float)] * 2)
    assert in_ring(twice, np.array([5.0, 15]), np.array([5.0, 5])).tolist() == [True, False]


def test_each_shape_has_a_name_of_its_own_and_a_class_its_own_shapes(tmp_path):
    shapes = [square("Tumor", 0, 0, 100), square("Tumor: Positive", 200, 200, 100), square("Tumor", 0, 500, 100)]
    shapes += [square("", 500, 0, 50), square("Tumor", 500, 500, 50), square("Tumor", 600, 500, 50)]
    shapes[2]["properties"]["name"] = shapes[4]["properties"]["name"] = "Core A-1"
    shapes[5]["properties"]["name"] = "Tumor 1"
    path = tmp_path / "drawn.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": shapes}))
    regions = read_regions(path, ["Tumor"], [], INFO)
    assert list(regions.shapes) == [
        "Tumor 1", "Tumor: Positive 1", "Core A-1", "unclassified 1", "Core A-1 (2)", "Tumor 1 (2)"
    ]  # fmt: skip
    name, counted = regions.of(np.array([50.0, 250, 520]), np.array([50.0, 250, 20]))
    assert name.tolist() == ["Tumor", "Tumor: Positive", "unclassified"] and counted.tolist() == [True, True, False]

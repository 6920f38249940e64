"""GeoJSON is read feature by feature, whatever it is cut into, and tells what is wrong in one sentence."""

import gzip
import json

import numpy as np
import pytest

from wsistain.errors import ConfigError
from wsistain.reading import polygons
from wsistain.reading.polygons import read_outlines

RING = [[10.5, 20], [30, 20.25], [30, 40], [10.5, 20]]


def feature(ring, **more):
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"a": "]}"},
        **more,
    }


def moved(by):
    return [[x + by, y] for x, y in RING]


@pytest.mark.parametrize("piece", [1, 7, 64, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2])
def test_every_feature_is_read_wherever_the_text_is_cut(tmp_path, monkeypatch, piece, indent):
    monkeypatch.setattr(polygons, "_PIECE", piece)
    whole = {
        "type": "FeatureCollection",
        "n": 1234567,
        "features": [feature(moved(10.125 * k)) for k in range(20)],
        "crs": {"features": [1]},
        "last": 12.5,
    }
    path = tmp_path / "a.geojson"
    path.write_text("\ufeff" + json.dumps(whole, indent=indent) + " \n")
    found = read_outlines(path)
    assert len(found) == 20 and np.array_equal(found[19], [[y, x] for x, y in moved(10.125 * 19)])
    low, high = found.boxes()
    assert (low[3].tolist(), high[3].tolist()) == ([20, 10.5 + 30.375], [40, 30 + 30.375])


def test_all_forms_of_geojson_give_their_outlines(tmp_path):
    nucleus = {"type": "Polygon", "coordinates": [moved(1)]}
    forms = {
        "array": [feature(RING), feature(moved(5))],
        "feature": feature(RING),
        "geometry": {"type": "Polygon", "coordinates": [RING]},
        "several": {"type": "MultiPolygon", "coordinates": [[RING, moved(1)], [moved(50)]]},  # holes are no nuclei
        "cell": [feature(moved(100), nucleusGeometry=nucleus), {"type": "Feature", "geometry": None}],
    }
    for (name, form), n in zip(forms.items(), (2, 1, 1, 2, 1), strict=True):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(form))
        packed = tmp_path / f"{name}.json.gz"
        packed.write_bytes(gzip.compress(path.read_bytes()))
        assert len(read_outlines(path)) == len(read_outlines(packed)) == n
    assert read_outlines(tmp_path / "cell.json")[0][0].tolist() == [20, 11.5]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is not GeoJSON"),
        ('{"type": "FeatureCollection", "features": [{"type": "Fea', "is not GeoJSON"),
        ('{"type": "FeatureCollection", "features": [] } x', "something follows"),
        ('{"type": "FeatureCollection", "features": []}', "no polygon"),
        ('{"features": [3]}', "wanted features"),
        ('[{"type": "Polygon", "coordinates": [[[1, 2], [3, NaN], [4, 4]]]}]', "not a number"),
        ('[{"type": "Polygon", "coordinates": 5}]', "not rings"),
        ("[" * 5000, "is not GeoJSON"),
    ],
)
def test_what_is_no_outline_is_one_sentence(tmp_path, text, words):
    path = tmp_path / "a.geojson"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_outlines(path)


def test_bytes_that_are_no_text_are_one_sentence(tmp_path):
    path = tmp_path / "a.geojson"
    path.write_bytes(b'{"type": "\xff\xfe"}')
    with pytest.raises(ConfigError, match="it is no text"):
        read_outlines(path)

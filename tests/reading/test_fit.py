"""The user's own nuclei of another size, scale, origin or slide are refused, or it is said."""

import json

import numpy as np
import pytest

from tests.reading.made import SIZE, as_slide, tissue, write_he
from wsistain.errors import ConfigError
from wsistain.reading.grid import make_grid
from wsistain.reading.sources import make_source
from wsistain.slide.tissue import TissueMask


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    opened = as_slide(write_he(tmp_path_factory.mktemp("he")))
    yield opened
    opened.close()


def circles(folder, *, scale=1.0, move=(0.0, 0.0), radius=6.0, turned=False):
    """The phantom's nuclei as circles in GeoJSON, level-0 px, scaled about the corner and then moved by (y, x)."""
    table, angle = tissue()[2], np.linspace(0, 2 * np.pi, 20)
    y, x = (table[name].to_numpy() + 0.5 for name in ("y_px", "x_px"))
    if turned:
        y, x = x, SIZE - y
    features = []
    for cy, cx in zip(y * scale + move[0], x * scale + move[1], strict=True):
        if not (10 < cy < SIZE - 10 and 10 < cx < SIZE - 10):
            continue
        ring = [[cx + radius * scale * np.cos(a), cy + radius * scale * np.sin(a)] for a in angle]
        ring[-1] = ring[0]
        features.append({"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}})
    path = folder / "nuclei.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def notes(slide, cells, mpp=None):
    grid, everywhere = make_grid(slide.info), TissueMask.everywhere(slide.info)
    return make_source(slide, grid, everywhere, list(grid.blocks(everywhere)), cells, mpp).notes


def test_nuclei_of_the_slide_fit(slide, tmp_path):
    assert notes(slide, circles(tmp_path)) == []
    assert notes(slide, circles(tmp_path, move=(2, -2))) == []  # 1 um is the manner of a detector


@pytest.mark.parametrize("move", [(24, 0), (-16, 20)])
def test_a_wrong_origin_is_told_with_the_way_to_mend_it(slide, tmp_path, move):
    with pytest.raises(ConfigError, match="moved") as told:
        notes(slide, circles(tmp_path, move=move))
    assert f"{abs(move[0]) / 2:.0f} um {'up' if move[0] > 0 else 'down'}" in str(told.value)


def test_a_small_shift_is_said(slide, tmp_path):
    (said,) = notes(slide, circles(tmp_path, move=(0, 7), radius=10))
    assert "um left" in said


def test_nuclei_of_another_slide_or_scale_are_said(slide, tmp_path):
    (said,) = notes(slide, circles(tmp_path, turned=True))
    assert "hardly darker" in said
    (said,) = notes(slide, circles(tmp_path, scale=0.5, move=(40, 40)))
    assert "hardly darker" in said
    with pytest.raises(ConfigError, match="um across"):
        notes(slide, circles(tmp_path, scale=0.2))


def test_a_label_image_of_what_is_no_nucleus_is_refused(slide, tmp_path):
    labels = np.zeros((SIZE, SIZE), np.int32)
    labels[20:280, 20:280] = 1
    np.save(tmp_path / "l.npy", labels)
    with pytest.raises(ConfigError, match="across"):
        notes(slide, tmp_path / "l.npy")
    with pytest.raises(ConfigError, match="is a detector"):
        notes(slide, "stardist", mpp=0.5)


def test_what_is_left_out_of_a_file_is_said(slide, tmp_path):
    path = circles(tmp_path)
    told = json.loads(path.read_text())
    far = {"type": "Polygon", "coordinates": [[[900, 900], [910, 900], [910, 910], [900, 900]]]}
    large = {"type": "Polygon", "coordinates": [[[10, 10], [90, 10], [90, 90], [10, 10]]]}
    told["features"] = 2 * told["features"] + [{"type": "Feature", "geometry": g} for g in (far, large)]
    path.write_text(json.dumps(told))
    said = " ".join(notes(slide, path))
    assert "1 of" in said and "outside the slide" in said and "across or more" in said

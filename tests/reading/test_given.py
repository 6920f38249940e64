"""A user's own nuclei: polygons and label images give the same cells, and what cannot be meant is refused."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile

from wsistain.errors import ConfigError
from wsistain.reading.cells import measure_nuclei
from wsistain.reading.given import read_cells
from wsistain.reading.grid import Box, make_grid

SIZE = (400, 600)
INFO = SimpleNamespace(mpp=0.5, size_l0=SIZE, downsamples=(1.0,), level_sizes=(SIZE,))
PLACES = [(40.0, 60.0), (100.0, 101.0), (130.0, 200.0)]  # um


def circle(y, x, radius=5.0, um=0.5):
    angle = np.linspace(0, 2 * np.pi, 40)
    return [[(x + radius * np.cos(a)) / um, (y + radius * np.sin(a)) / um] for a in angle]


def write_polygons(folder, rings, name="c.geojson"):
    features = [
        {
            "type": "Feature",
            "properties": {"objectType": "detection"},
            "geometry": {"type": "Polygon", "coordinates": [r]},
        }
        for r in rings
    ]
    path = folder / name
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def measured(path, box, **kwargs):
    grid = make_grid(INFO)
    labels = read_cells(path, grid, INFO, **kwargs).labels(box)
    return measure_nuclei(labels, np.zeros((box.height, box.width), np.float32), box, grid)


def test_polygons_and_label_images_are_the_same_nuclei(tmp_path):
    drawn = measured(write_polygons(tmp_path, [circle(*p) for p in PLACES]), Box(0, 0, 200, 300))
    rows, cols = np.indices(SIZE)
    image = np.zeros(SIZE, np.uint16)
    for k, (y, x) in enumerate(PLACES):
        image[np.hypot((rows + 0.5) * 0.5 - y, (cols + 0.5) * 0.5 - x) < 5] = 1000 - k  # numbers in any order
    tifffile.imwrite(tmp_path / "l.tif", image, compression="zlib")
    np.save(tmp_path / "l.npy", image)
    for path in (tmp_path / "l.tif", tmp_path / "l.npy"):
        labelled = measured(path, Box(0, 0, 200, 300))
        order = np.argsort(labelled.y)
        assert len(drawn) == 3
        assert labelled.y[order] == pytest.approx(drawn.y, abs=0.1) and labelled.x[order] == pytest.approx(
            drawn.x, abs=0.1
        )
        assert labelled.area_um2[order] == pytest.approx(drawn.area_um2, rel=0.06)
    assert drawn.y == pytest.approx([p[0] for p in PLACES], abs=0.1)
    part = measured(write_polygons(tmp_path, [circle(*p) for p in PLACES]), Box(85, 90, 40, 40))
    assert part.y[0] == drawn.y[1] and part.area_um2[0] == drawn.area_um2[1]


def test_a_label_image_of_another_scale_fits_or_is_refused(tmp_path):
    image = np.zeros((200, 300), np.int32)
    image[45:55, 70:80] = 7
    np.save(tmp_path / "half.npy", image)
    found = measured(tmp_path / "half.npy", Box(0, 0, 200, 300))
    assert (found.y[0], found.x[0], found.area_um2[0]) == (50, 75, 100)
    np.save(tmp_path / "part.npy", image[:, :200])
    with pytest.raises(ConfigError, match="no picture of the whole slide"):
        measured(tmp_path / "part.npy", Box(0, 0, 200, 300))
    assert measured(tmp_path / "part.npy", Box(0, 0, 200, 300), mpp=1.0).y[0] == 50
    np.save(tmp_path / "empty.npy", 0 * image)
    np.save(tmp_path / "floats.npy", image / 2)
    for name, words in (("empty", "no label"), ("floats", "integers")):
        with pytest.raises(ConfigError, match=words):
            measured(tmp_path / f"{name}.npy", Box(0, 0, 200, 300))


@pytest.mark.parametrize(
    ("rings", "words"),
    [
        ([], "no polygon"),
        ([circle(5000, 5000)], "outside the slide"),
        ([circle(100, 100, 0.4)], "um across"),
        ([circle(100, 100, 60)], "um across"),
        ([["a", "b", "c"]], "rings of"),
    ],
)
def test_polygons_that_cannot_be_nuclei_of_this_slide_are_refused(tmp_path, rings, words):
    with pytest.raises(ConfigError, match=words):
        measured(write_polygons(tmp_path, rings), Box(0, 0, 200, 300))


def test_what_is_no_cell_file_is_one_sentence(tmp_path):
    (tmp_path / "c.geojson").write_text("cells")
    (tmp_path / "c.npy").write_bytes(b"cells")
    for name in ("c.geojson", "c.npy", "missing.geojson"):
        with pytest.raises(ConfigError):
            measured(tmp_path / name, Box(0, 0, 200, 300))

"""The trust map: low where the picture is spoiled or unlike training, the same however it was made, and with every cell."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile
import zarr
from scipy import ndimage

from tests.reading.made import MPP, SIZE, tissue
from wsistain.config import RunConfig
from wsistain.errors import WeightsError
from wsistain.generators.known import Known
from wsistain.output.label_map import read_map
from wsistain.output.reading import read_stain
from wsistain.pipeline.run import run
from wsistain.reading import trust as trust_module
from wsistain.reading.read import read
from wsistain.reading.trust import TrustMaker, make_trust
from wsistain.reading.trusted import as_stored, trust_of_distance
from wsistain.slide.quality import examine
from wsistain.slide.reader import open_slide
from wsistain.viewing.trust import trust_picture


@pytest.fixture(scope="module")
def half_blurred(tmp_path_factory):
    """(slide, stain) of the H&E returned as it is: sharp tissue on the left, out of focus on the right."""
    folder = tmp_path_factory.mktemp("half")
    he = np.tile(tissue()[0], (1, 2, 1))
    he[:, SIZE:] = ndimage.gaussian_filter(he[:, SIZE:], (3 / MPP, 3 / MPP, 0))
    path = folder / "he.tif"
    resolution = {"resolution": (1e4 / MPP, 1e4 / MPP), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, he, photometric="rgb", tile=(256, 256), **resolution)
    return path, run(path, "ER", folder, config=RunConfig(weights="identity"))[0].output


class Seen(Known):
    """Weights that have seen light like that of the middle of each window."""

    parts = ("looks",)

    def distances(self, rgb, mpp):
        cells = rgb[32:-32, 32:-32].reshape(rgb.shape[0] // 64 - 1, 64, rgb.shape[1] // 64 - 1, 64, 3)
        return {"looks": abs(cells.mean(axis=(1, 3, 4)) - 180.0) / 100}


@pytest.fixture(scope="module")
def known():
    return Seen()


def test_what_is_blurred_or_unlike_training_is_not_trusted(half_blurred, known):
    slide, stain = open_slide(half_blurred[0]), read_stain(half_blurred[1])
    made = make_trust(slide, stain, known)
    slide.close()
    edge = SIZE * MPP / made.cell_um
    sharp, blurred = made.place[:, : int(edge) - 1], made.values[:, int(edge) + 2 :]
    assert (sharp[np.isfinite(sharp)] >= 0.5).mean() > 0.9 and (blurred[blurred > 0] >= 128).mean() < 0.05
    assert (made.parts["focus"][:, int(edge) + 2 :] < 30).all() and (made.parts["fold"][made.values > 0] == 255).all()
    assert made.trusted == pytest.approx((made.values[made.values > 0] >= 128).mean())
    # The value of a cell is that of its square; outside nothing is known.
    at = made.at(np.array([48.0, -5.0, 48.0]), np.array([48.0, 5.0, 1e6]))
    assert at[0] == pytest.approx((made.values[1, 1] - 1) / 254) and np.isnan(at[1:]).all()
    # It lies in the stain as a label, and the viewer finds it at its place.
    there = read_map(stain)
    assert np.array_equal(there.values, made.values) and there.facts["trusted"] == round(made.trusted, 4)
    assert zarr.open_group(f"{stain.path}/labels", mode="r").attrs["ome"]["labels"] == ["trust"]
    frame = trust_picture(trust_module.Path(stain.path), "1").frame
    assert (frame.y_um, frame.x_um, frame.mpp) == (0, 0, 32) and (frame.height, frame.width) == made.values.shape


def test_an_interrupted_map_is_gone_on_with_and_equals_an_unbroken_one(half_blurred, known, tmp_path, monkeypatch):
    without = shutil.ignore_patterns("labels")
    stains = [read_stain(shutil.copytree(half_blurred[1], tmp_path / name, ignore=without)) for name in ("a", "b")]
    monkeypatch.setattr(trust_module, "WINDOW", 2)
    slide = open_slide(half_blurred[0])
    seen = examine(slide)
    whole = make_trust(slide, stains[0], known, seen=seen, threads=2)

    class StopError(Exception):
        pass

    def stop(done, of):
        if done == 2:
            raise StopError

    with pytest.raises(StopError):
        make_trust(slide, stains[1], known, seen=seen, progress=stop)
    assert read_map(stains[1]) is None
    made = []
    original = TrustMaker.strip
    monkeypatch.setattr(TrustMaker, "strip", lambda self, n, threads: made.append(n) or original(self, n, threads))
    again = make_trust(slide, stains[1], known, seen=seen)
    assert made == list(range(2, -(-5 // 2))) and np.array_equal(again.values, whole.values)
    assert all(np.array_equal(again.parts[name], whole.parts[name]) for name in whole.parts)
    # A finished one is read; that of other weights is made anew, and takes its place.
    made.clear()
    assert np.array_equal(make_trust(slide, stains[1], known, seen=seen).values, whole.values) and not made
    other = make_trust(slide, stains[1], Known(why="nothing was trained"), seen=seen)
    assert made and list(other.parts) == ["clear", "focus", "ink", "fold", "tissue"]
    assert list(read_map(stains[1]).parts) == list(other.parts)
    assert not list((tmp_path / "b" / "labels").glob(".*"))
    slide.close()


def test_a_good_picture_is_no_reason_to_believe_weights_that_say_nothing(half_blurred):
    slide, stain = open_slide(half_blurred[0]), read_stain(half_blurred[1])
    made = make_trust(slide, stain, Known(why="nothing was trained"))
    slide.close()
    assert set(np.unique(made.values[:, :4])) == {0} and (made.values[:, 8:-1] > 0).any() and made.trusted == 0
    synthetic = Known(synthetic=True)
    assert "synthetic" in synthetic.never_on(is_phantom=False) and not synthetic.never_on(is_phantom=True)


def test_every_cell_has_its_trust_and_the_scores_say_how_many_are_doubted(half_blurred):
    reading = read([half_blurred[1]], overwrite=True)[0]
    table = pq.read_table(reading.files["table"])
    trust = table["trust"].to_numpy()
    told = json.loads(reading.files["facts"].read_text())["trust"]
    assert len(trust) == reading.n_cells and np.isnan(trust).any() and (trust < 0.5).any()
    assert told["cells_distrusted"] == (trust < 0.5).sum() and told["cells_of_unknown_trust"] == np.isnan(trust).sum()
    assert "nothing was trained" in told["why"]
    untold = read([half_blurred[1]], overwrite=True, trust=False)[0]
    assert untold.trust is None and "trust" not in pq.read_table(untold.files["table"]).column_names


def test_trust_falls_with_distance_and_is_stored_in_one_byte():
    trust = trust_of_distance(np.array([0, 1, 1.5, 2, np.inf, np.nan]))
    assert trust[:3].tolist() == [1, 1, 0.5]  # what is rare in training is no reason to doubt
    assert trust[3] == pytest.approx(1 / 5) and np.isnan(trust[5])
    assert as_stored(trust).tolist() == [255, 255, 128, 52, 1, 0]


def test_a_steadiness_that_is_asked_for_is_a_part_and_needs_the_network(half_blurred, known):
    with pytest.raises(WeightsError, match=r"--trust-jitter asks the network .* nothing was trained"):
        read([half_blurred[1]], overwrite=True, trust_jitter=True)

    class Half:
        def left(self, rgb, mpp):
            return np.full([n // 64 - 1 for n in rgb.shape[:2]], 0.5, np.float32)

    slide, stain = open_slide(half_blurred[0]), read_stain(half_blurred[1])
    maker = TrustMaker(slide, stain, known, examine(slide), Half())
    parts = maker.strip(0)
    slide.close()
    assert (
        maker.names[:3] == ("looks", "steady", "clear")
        and (parts["steady"][np.isfinite(parts["stained"])] == 0.5).all()
    )


def test_likeness_is_asked_in_some_windows_and_told_of_all_tissue(half_blurred, tmp_path, monkeypatch):
    asked = []

    class Asked(Known):
        parts = ("looks", "features")

        def distances(self, rgb, mpp):
            asked.append(1)
            looks = Seen().distances(rgb, mpp)["looks"] + 1  # beyond the edge of training
            return {"looks": looks, "features": looks * 0 + 1.5}

    monkeypatch.setattr(trust_module, "WINDOW", 2)
    slide = open_slide(half_blurred[0])
    seen, found = examine(slide), []
    for every, threads in ((1, 1), (2, 1), (2, 3)):
        copy = shutil.copytree(half_blurred[1], tmp_path / f"{every}{threads}", ignore=shutil.ignore_patterns("labels"))
        asked.clear()
        made = make_trust(slide, read_stain(copy), Asked(), seen=seen, every=every, threads=threads)
        found.append((made.parts, len(asked)))
    slide.close()
    (whole, n_all), (some, n_some), (again, _) = found
    assert 0.2 < n_some / n_all < 0.5 and all(np.array_equal(some[name], again[name]) for name in some)
    # What was asked has its own answer; of the rest of the tissue those round it speak, and glass stays unknown.
    told = some["features"] > 0
    assert told.any() and (some["features"][told] == 128).all()
    assert (some["looks"] == whole["looks"])[told].mean() > 0.15 and (some["looks"] != whole["looks"])[told].any()
    assert all(np.array_equal(some[name], whole[name]) for name in ("clear", "focus", "ink", "fold", "tissue"))
    assert not told[whole["tissue"] == 0].any()

"""Versions of the phantom: v0 paints what it always did, v1 by the same rules of place, and nobody mixes the two unawares."""

import json

import numpy as np
import pytest
from scipy.stats import rankdata

from wsistain.benchmark.edition import V0, Condition
from wsistain.benchmark.listed import ALIKE, exact_means, pixel_hash, shipped
from wsistain.errors import OutputError
from wsistain.phantom.anatomy import FAR_UM
from wsistain.phantom.background import Background, draw_background, unspecific
from wsistain.phantom.config import PhantomConfig
from wsistain.phantom.glass import INKS, MOST_BLUR_UM, blur_um, ink
from wsistain.phantom.kinds import FIBRO, LYMPH, TUMOUR
from wsistain.phantom.lumen import contents
from wsistain.phantom.noise import salt_of
from wsistain.phantom.optics import blur_margin
from wsistain.phantom.paint import Window
from wsistain.phantom.products import make_patches
from wsistain.phantom.render import Phantom
from wsistain.phantom.stroma import WAVES_UM, swung
from wsistain.phantom.varied import crowding
from wsistain.runtime.jpeg import encode_jpeg

# Slide 306 has areas out of focus, a pen and brown in its background.
NEARER = PhantomConfig(height=1000, width=1000, mpp=1.0, seed=306, whole=True, version="v1")


@pytest.fixture(scope="module")
def nearer():
    return Phantom(NEARER, square_px=128)


def test_v0_paints_a_picture_of_the_frozen_list():
    """The edition's test slide 3, as `make` cuts and compresses it: the same but for the rounding of another processor."""
    import imagecodecs

    listed = shipped("v0", "mist-c3-ER")
    names = {folder: next(n for n in listed.pixels if f"/{folder}/ER27S003_" in n) for folder in ("valA", "valTruthB")}
    col, row = (int(v) * V0.size for v in names["valA"].rsplit("_", 2)[1:])
    making = V0.making(Condition("mist", 3, "ER"), "test")
    seed = int(salt_of(making["seed"], "slide ER 3") >> np.uint64(2))
    config = PhantomConfig(
        height=4 * V0.size, width=4 * V0.size, mpp=V0.mpp, seed=seed, visibility=V0.visibility, contrast=3.0,
        pairing="mist", quality=90, version=making["version"],
    )  # fmt: skip
    phantom = Phantom(config)
    for folder, product in (("valA", "he_a"), ("valTruthB", "ihc_a")):
        picture = phantom.render(product, row, col, V0.size, V0.size)
        seen = imagecodecs.jpeg8_decode(encode_jpeg(picture, 90, subsampling="4:2:0"))
        far = np.abs(exact_means(seen) - listed.means[names[folder]]).max()
        assert pixel_hash(seen) == listed.pixels[names[folder]] or far <= ALIKE


@pytest.mark.parametrize("name", ["he_a", "ihc_b"])
def test_windows_of_v1_are_crops_and_squares_meet_without_a_seam(nearer, name):
    whole = nearer.render(name, 200, 200, 200, 200)
    fresh = Phantom(NEARER, square_px=128)
    np.testing.assert_array_equal(fresh.render(name, 250, 230, 37, 41), whole[50:87, 30:71])
    other = Phantom(NEARER, square_px=96).render(name, 200, 200, 200, 200).astype(int)
    difference = np.abs(other - whole)
    assert difference.max() <= 3 and (difference > 0).mean() < 0.01


def test_v1_is_another_slide_and_its_truth_shows_the_cells_of_its_tables(nearer):
    old = Phantom(NEARER.model_copy(update={"version": "v0"}), square_px=128)
    assert np.abs(old.render("he_a", 300, 300, 64, 64).astype(int) - nearer.render("he_a", 300, 300, 64, 64)).mean() > 5
    cells, y, x = nearer.cells_um("a", 200.0, 200.0, 256.0, 256.0)
    thick = nearer.path_um("a", cells) > 3
    tumour = thick & (cells.kind == TUMOUR)
    picture = nearer.render("ihc_a", 200, 200, 256, 256).astype(float)
    brown = np.log10(picture[..., 0] + 1) - np.log10(picture[..., 2] + 1)  # DAB takes more of blue than of red
    read = brown[(y[tumour] - 200).astype(int), (x[tumour] - 200).astype(int)]
    positive = cells.positive[tumour, 0]
    ranks = rankdata(read)
    n, m = positive.sum(), (~positive).sum()
    assert n > 20 and m > 20
    assert (ranks[positive].sum() - n * (n + 1) / 2) / (n * m) > 0.95
    assert cells.a.max() <= 10 and np.isin((FIBRO, LYMPH), cells.kind).all() and (cells.b > 0).all()


def test_crowding_never_needs_more_room_than_a_contest_looks_at():
    y, x = np.random.default_rng(0).uniform(0, 5000, (2, 4000))
    for kind in (TUMOUR, FIBRO):
        share = crowding(3, y, x, np.full(4000, kind, np.int8))
        assert share.max() <= 1 and share.min() >= 0.5 and share.dtype == np.float32


def window(phantom, y=200, x=200, size=128):
    return Window(phantom.painter, phantom.sections["a"], y, x, size, size)


def test_fibres_swing_to_either_side_and_no_further(nearer):
    dy, dx = swung(306, window(nearer), np.zeros((128, 128), np.float32))
    assert not dx.any() and np.abs(dy).max() <= WAVES_UM * 1.2 and dy.min() < -0.5 < 0.5 < dy.max()


def test_lumens_hold_something_and_nothing_lies_outside_them(nearer):
    win = window(nearer)
    hole = np.where(np.arange(128) < 64, 20.0, -5.0).astype(np.float32)[None].repeat(128, 0)
    py, px = win.places()
    flat = np.zeros_like(hole)
    found = [contents(s, win, py, px, hole, flat + np.float32(FAR_UM), flat, flat) for s in range(8)]
    assert all((eosin[:, 64:] == 0).all() and (haem[:, 64:] == 0).all() for eosin, haem in found)
    full = [(eosin[:, :64] > 0.05).mean() for eosin, _ in found]
    assert max(full) > 0.3 and min(full) < 0.3  # secretion in some places, none in others
    assert all(eosin.min() >= 0 and eosin.max() < 0.8 and haem.min() >= 0 for eosin, haem in found)


def test_background_lies_on_tissue_and_is_strongest_at_the_edge(nearer):
    runs = [draw_background(s, "ER") for s in range(200)]
    assert all(0.01 < r.diffuse < 0.07 and 0 <= r.edge <= 0.16 and 0 <= r.blood < 0.18 for r in runs)
    assert draw_background(5, "ER") != draw_background(5, "PR")
    slide = Phantom(NEARER.model_copy(update={"whole": False}), square_px=128)
    win = window(slide, 0, 300, 256)
    one, none = np.ones(win.shape, np.float32), np.zeros(win.shape, np.float32)
    brown = unspecific(306, win, Background(0.02, 0.16, 0.0), one, none, none, none)
    inside = win.field("inside")
    assert brown[(inside > 0) & (inside < 10)].mean() > 2 * brown[inside > 90].mean() > 0
    assert not unspecific(306, win, Background(0.02, 0.0, 0.0), none, none, none, none).any()


def test_half_of_the_slides_are_sharp_throughout_and_few_are_marked():
    y, x = np.arange(0, 3000, 60.0)[:, None], np.arange(0, 3000, 60.0)[None, :]
    blurs = [blur_um(s, "he_a", y, x) for s in range(60)]
    seen = [b for b in blurs if b is not None]
    assert 10 < len(seen) < 45 and all(b.min() == 0 and b.max() <= MOST_BLUR_UM for b in seen)
    inks = [found for s in range(100) if (found := ink(s, y, x)) is not None]
    assert 3 < len(inks) < 30 and all(od in INKS and amount.min() >= 0 and amount.max() < 1.8 for amount, od in inks)
    assert blur_margin(0.5, "v1") > blur_margin(0.5)


def test_a_pen_marks_the_he_alone_and_only_the_aligned_truth_is_always_sharp(monkeypatch):
    slide = NEARER.model_copy(update={"seed": 2})  # neither by itself
    clean = {p: Phantom(slide, square_px=64).render(p, 0, 0, 64, 64) for p in ("he_a", "ihc_a", "ihc_b")}
    one = np.ones((64, 64), np.float32)
    with monkeypatch.context() as pen:
        pen.setattr("wsistain.phantom.render.ink", lambda *_: (one, INKS[1]))
        marked = {p: Phantom(slide, square_px=64).render(p, 0, 0, 64, 64) for p in clean}
    assert marked["he_a"].mean() < 0.5 * clean["he_a"].mean()
    assert all((marked[p] == clean[p]).all() for p in ("ihc_a", "ihc_b"))
    with monkeypatch.context() as focus:
        focus.setattr("wsistain.phantom.render.blur_um", lambda *_: MOST_BLUR_UM * one)
        blurred = {p: Phantom(slide, square_px=64).render(p, 0, 0, 64, 64) for p in clean}
    assert (blurred["ihc_a"] == clean["ihc_a"]).all()
    rough = {p: (np.abs(np.diff(v.astype(int), axis=1)).mean()) for p, v in clean.items()}
    assert all(np.abs(np.diff(blurred[p].astype(int), axis=1)).mean() < 0.8 * rough[p] for p in ("he_a", "ihc_b"))


SMALL = {"train": 1, "val": 0, "slides": 1, "size": 64, "mpp": 1.0, "seed": 4}


def test_a_folder_of_before_versions_is_v0_and_goes_on(tmp_path):
    make_patches(tmp_path, markers="ER", **SMALL)
    manifest = tmp_path / "ER" / "manifest.json"
    facts = json.loads(manifest.read_text())
    assert facts["parameters"].pop("version") == "v0"
    manifest.write_text(json.dumps(facts))
    assert make_patches(tmp_path, markers="ER", **SMALL)["ER"]["finished"]
    manifest.write_text(json.dumps(facts))
    with pytest.raises(OutputError, match=r"other parameters \(version v0, wanted v1\)"):
        make_patches(tmp_path, markers="ER", **SMALL, version="v1")
    with pytest.raises(OutputError, match=r"holds patches of ER of version v0 of the phantom, wanted v1"):
        make_patches(tmp_path, markers="PR", **SMALL, version="v1")
    assert not (tmp_path / "PR").exists()


def test_the_manifest_and_every_slide_in_it_say_the_version(tmp_path):
    facts = make_patches(tmp_path, markers="ER", **SMALL, version="v1")["ER"]
    assert facts["parameters"]["version"] == "v1"
    assert all(slide["version"] == "v1" for slide in facts["slides"].values())

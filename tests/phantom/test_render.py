"""A pixel has one value; a cell is one cell in both sections."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from wsistain.phantom.cells import BUCKET_UM, CELL_UM, MARGIN_UM, MAX_RADIUS_UM, ROOM, ROUNDS
from wsistain.phantom.config import PAIRINGS, PhantomConfig, SectionPairing
from wsistain.phantom.kinds import LYMPH, TUMOUR
from wsistain.phantom.render import Phantom

CONFIG = PhantomConfig(height=1200, width=1100, seed=12, whole=True, marker="ER")


@pytest.fixture(scope="module")
def phantom():
    return Phantom(CONFIG, square_px=256)


@pytest.fixture(scope="module")
def picture(phantom):
    return {name: phantom.render(name, 300, 200, 400, 420) for name in ("he_a", "ihc_a", "ihc_b")}


@pytest.mark.parametrize("name", ["he_a", "ihc_a", "ihc_b"])
def test_any_window_is_the_crop_of_the_whole_in_any_order(picture, name):
    fresh = Phantom(CONFIG, square_px=256)
    for y, x, h, w in ((650, 500, 50, 120), (300, 200, 37, 41), (511, 255, 2, 2)):
        crop = picture[name][y - 300 : y - 300 + h, x - 200 : x - 200 + w]
        np.testing.assert_array_equal(fresh.render(name, y, x, h, w), crop)


@pytest.mark.parametrize("name", ["he_a", "ihc_b"])
def test_squares_meet_without_a_seam(picture, name):
    """Another grid of squares gives the same picture but for rounding in the last bit of float32."""
    other = Phantom(CONFIG, square_px=192).render(name, 350, 230, 200, 300).astype(int)
    difference = np.abs(other - picture[name][50:250, 30:330].astype(int))
    assert difference.max() <= 2 and (difference > 0).mean() < 0.01


def test_another_process_makes_the_same_bytes(phantom):
    code = (
        "import hashlib;from wsistain.phantom.config import PhantomConfig;from wsistain.phantom.render import Phantom;"
        f"p=Phantom(PhantomConfig.model_validate_json({CONFIG.model_dump_json()!r}),square_px=256);"
        "print(hashlib.sha256(p.render('ihc_b',256,256,128,96).tobytes()).hexdigest())"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert out == hashlib.sha256(phantom.render("ihc_b", 256, 256, 128, 96).tobytes()).hexdigest()


def test_seeds_differ_and_products_differ(picture):
    other = Phantom(CONFIG.model_copy(update={"seed": 13}), square_px=256).render("he_a", 300, 200, 64, 64)
    assert np.abs(other.astype(int) - picture["he_a"][:64, :64]).mean() > 5
    assert np.abs(picture["he_a"].astype(int) - picture["ihc_a"]).mean() > 10
    with pytest.raises(ValueError, match="he_a"):
        Phantom(CONFIG).render("he_b", 0, 0, 8, 8)


def test_cells_of_a_window_are_those_of_the_whole_in_that_window(phantom):
    for section in ("a", "b"):
        cells, y, x = phantom.cells_um(section, 100.0, 80.0, 300.0, 260.0)
        inside = (y >= 180) & (y < 300) & (x >= 90) & (x < 200)
        part, *_ = Phantom(CONFIG).cells_um(section, 180.0, 90.0, 120.0, 110.0)
        assert sorted(cells.ids[inside].tolist()) == sorted(part.ids.tolist())
        assert len(part) > 20


def test_nuclei_keep_their_distance_across_the_borders_of_squares(phantom):
    cells, y, x = phantom.cells_um("a", 0.0, 0.0, 500.0, 500.0)
    tumour = np.isin(cells.kind, (TUMOUR, LYMPH))
    p = np.stack([y, x], 1)[tumour]
    r = np.sqrt(cells.a * cells.b)[tumour]
    gap = np.sqrt(((p[:, None] - p[None]) ** 2).sum(-1)) - ROOM * (r[:, None] + r[None])
    np.fill_diagonal(gap, 9)
    assert gap.min() > 0
    assert len(np.unique(cells.ids)) == len(cells)


def test_a_contest_never_looks_further_than_its_margin():
    assert (2 * ROUNDS - 1) * 2 * MAX_RADIUS_UM * ROOM <= MARGIN_UM
    assert MARGIN_UM % BUCKET_UM == 0 and CELL_UM % BUCKET_UM == 0


def test_a_slide_without_whole_has_glass_round_its_tissue():
    p = Phantom(PhantomConfig(height=2000, width=2000, seed=3))
    for y, x in ((0, 0), (0, 1000), (1990, 500), (700, 1990)):
        assert p.render("he_a", y, x, 10, 10).min() > 215


def test_aligned_sections_are_the_same_tissue():
    p = Phantom(CONFIG.model_copy(update={"pairing": "aligned"}), square_px=256)
    a, b = p.render("ihc_a", 256, 256, 128, 128), p.render("ihc_b", 256, 256, 128, 128)
    # Only the sensor's noise differs.
    assert np.abs(a.astype(int) - b).max() < 16 and np.abs(a.astype(int) - b).mean() < 3


def test_presets_are_valid_and_an_own_pairing_replaces_them():
    assert set(PAIRINGS) == {"mist", "aligned", "adjacent", "far"}
    own = SectionPairing(distance_um=7)
    assert PhantomConfig(sections=own).pair is own


def test_what_lies_over_a_place_is_the_same_place_of_the_block_or_the_same_structure():
    phantom = Phantom(PhantomConfig(height=3000, width=3000, mpp=1.0, pairing="far", seed=6))
    y, x = np.meshgrid(np.linspace(300, 2700, 9), np.linspace(300, 2700, 9), indexing="ij")
    b = phantom.sections["b"]
    block = b.to_block(*phantom.place_on_b(y, x))
    np.testing.assert_allclose(block, (y, x), atol=1e-3)  # section A's glass is the frame of the block
    leaned = phantom.anatomy.lean(*b.to_block(*phantom.place_on_b(y, x, structures=True)), b.z_mid)
    np.testing.assert_allclose(leaned, phantom.anatomy.lean(y, x, phantom.sections["a"].z_mid), atol=0.05)
    still = Phantom(PhantomConfig(pairing="aligned"))
    np.testing.assert_allclose(still.place_on_b(y, x, structures=True), (y, x), atol=1e-6)

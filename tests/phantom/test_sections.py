"""The map between the glass and the block, and how nuclei are cut."""

import numpy as np
import pytest

from wsistain.phantom.cells import LAYER_UM
from wsistain.phantom.config import PAIRINGS, PhantomConfig, SectionPairing
from wsistain.phantom.sections import chord, make_sections


@pytest.mark.parametrize("pairing", ["mist", "far", "adjacent"])
def test_glass_to_block_and_back_is_the_identity(pairing):
    b = make_sections(PhantomConfig(height=20_000, width=20_000, pairing=pairing, seed=4))["b"]
    y, x = np.meshgrid(np.linspace(0, 10_000, 23), np.linspace(0, 10_000, 19), indexing="ij")
    back = b.from_block(*b.to_block(y, x))
    assert max(np.abs(back[0] - y).max(), np.abs(back[1] - x).max()) < 1e-3


def test_section_a_is_the_frame_of_the_block_and_aligned_sections_are_one():
    for pairing in PAIRINGS:
        a = make_sections(PhantomConfig(pairing=pairing))["a"]
        y = np.linspace(0, 900, 7)
        assert a.to_block(y, y)[0] is y
    sections = make_sections(PhantomConfig(pairing="aligned"))
    assert sections["a"].z_mid == sections["b"].z_mid
    y, x = np.linspace(0, 900, 7), np.linspace(900, 100, 7)
    np.testing.assert_allclose(sections["b"].to_block(y, x), (y, x), atol=1e-9)


@pytest.mark.parametrize("distance", [0.0, 4.0, 12.0, 17.0, 60.0])
def test_sections_lie_as_far_apart_as_asked_and_alike_in_the_layers(distance):
    s = make_sections(PhantomConfig(sections=SectionPairing(distance_um=distance)))
    assert s["b"].z_mid - s["a"].z_mid == pytest.approx(distance)
    offset = [abs(z - LAYER_UM * round(z / LAYER_UM)) for z in (s["a"].z_mid, s["b"].z_mid)]
    assert offset[0] == pytest.approx(offset[1])


def test_displacement_is_about_what_was_asked_for():
    config = PhantomConfig(height=30_000, width=30_000, sections=SectionPairing(deform_um=20.0), seed=2)
    b = make_sections(config)["b"]
    y, x = np.meshgrid(np.linspace(0, 15_000, 80), np.linspace(0, 15_000, 80), indexing="ij")
    by, bx = b.to_block(y, x)
    rms = np.sqrt(((by - y) ** 2 + (bx - x) ** 2).mean())
    assert 12 < rms < 28


def test_tears_and_folds_are_few_thin_and_only_where_asked_for():
    y, x = np.meshgrid(np.arange(0, 12_000, 16.0), np.arange(0, 12_000, 16.0), indexing="ij")
    torn = make_sections(PhantomConfig(height=40_000, width=40_000, sections=SectionPairing(tears=3.0)))["b"].tear(y, x)
    assert 0.0005 < (torn > 0).mean() < 0.05
    whole = make_sections(PhantomConfig(height=40_000, width=40_000, sections=SectionPairing()))["b"]
    assert (whole.tear(y[:50], x[:50]) < 0).all() and (whole.fold(y[:50], x[:50]) < 0).all()


def test_a_chord_is_the_overlap_of_nucleus_and_section():
    z, half = np.array([0.0, 3.0, 9.0]), np.array([10.0, 2.0, 2.0])
    np.testing.assert_allclose(chord(z, half, -2.0, 2.0), [4.0, 1.0, 0.0])

"""Answers that hang on what must not matter are not trusted, those that do not are."""

import numpy as np
import pytest

from wsistain.errors import WeightsError
from wsistain.markers import find_marker
from wsistain.reading import steady as steady_module
from wsistain.reading.steady import Steady, restained

BROWN, BLUE = (110, 70, 40), (90, 90, 170)


class Answers:
    """Nuclei everywhere: blue on the left; on the right brown or blue by the haematoxylin of the whole window."""

    def __init__(self, spec):
        self.spec, self.asked = spec, []

    def stain(self, tiles, positions):
        out = np.full(tiles.shape, BLUE, np.uint8)
        if tiles[..., 0].mean() > 185:
            out[:, :, tiles.shape[2] // 2 :] = BROWN
        self.asked.append(tiles.shape[1:3])
        return out


@pytest.fixture
def answers(monkeypatch):
    monkeypatch.setattr(steady_module, "NetworkGenerator", Answers)
    monkeypatch.setattr(steady_module, "build_generator", lambda spec, device: Answers(spec))
    return Steady("demo", find_marker("ER"))


def test_what_changes_with_the_amount_of_dye_is_not_steady(answers):
    he = np.full((5 * 64, 5 * 64, 3), (180, 119, 170), np.uint8)
    left = answers.left(he, 0.5)
    assert left.shape == (4, 4) and np.allclose(left[:, 0], 1) and (left[:, 3] < 0.5).all()
    assert len(answers._generator.asked) == 3 + 4


def test_tissue_where_nothing_is_stained_says_nothing(answers, monkeypatch):
    monkeypatch.setattr(Answers, "stain", lambda self, tiles, at: np.full(tiles.shape, 255, np.uint8))
    assert np.isnan(answers.left(np.full((192, 192, 3), 150, np.uint8), 0.5)).all()


def test_other_amounts_of_dye_change_the_dye_and_nothing_else():
    he = np.random.default_rng(0).integers(60, 255, (8, 8, 3)).astype(np.uint8)
    assert np.abs(restained(he, 1, 1).astype(int) - he).max() <= 1
    assert restained(he, 1.2, 1.2).mean() < he.mean() < restained(he, 0.8, 0.8).mean()
    assert (restained(np.full((2, 2, 3), 255, np.uint8), 1.2, 0.8) == 255).all()


def test_weights_without_a_network_cannot_be_asked():
    with pytest.raises(WeightsError, match="no network"):
        Steady("identity", find_marker("ER"))

"""Randomness is a function of place: the same numbers whoever asks, in whatever order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsistain.phantom.noise import (
    Grain,
    Kept,
    Texture,
    draw,
    hash_at,
    normal,
    pixel_noise,
    salt_of,
    smooth_noise,
    uniform,
)


def test_hashes_are_uniform_and_normals_are_standard():
    ids = np.arange(40_000, dtype=np.uint64)
    u, g = draw(ids, salt_of(3, "a")), normal(ids, salt_of(3, "b"))
    assert np.histogram(u, 10, (0, 1))[0].min() > 3700
    assert abs(g.mean()) < 0.02 and abs(g.std() - 1) < 0.02
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 0.02


def test_salts_differ_by_seed_and_by_purpose_and_never_by_process():
    salts = {int(salt_of(seed, name)) for seed in range(50) for name in ("a", "b", "ab")}
    assert len(salts) == 150
    assert int(salt_of(7, "ragged")) == 7266592012095245957


@given(st.integers(-(2**40), 2**40), st.integers(-(2**40), 2**40))
def test_a_hash_does_not_depend_on_the_shape_it_is_asked_in(row, col):
    salt = salt_of(1, "place")
    alone = hash_at(salt, np.array([row]), np.array([col]))[0]
    grid = hash_at(salt, np.array([[row - 1], [row]]), np.array([[col, col + 1]]))
    assert grid[1, 0] == alone
    assert 0 <= float(uniform(alone[None])[0]) < 1


@settings(max_examples=20)
@given(st.integers(-5000, 5000), st.integers(-5000, 5000), st.sampled_from([3.0, 17.0, 90.0]))
def test_smooth_noise_of_a_window_is_the_crop_of_the_whole(y, x, period):
    salt = salt_of(5, "n")
    yy, xx = np.meshgrid(np.arange(y, y + 24) * 1.7, np.arange(x, x + 24) * 1.7, indexing="ij")
    whole = smooth_noise(salt, yy, xx, period)
    np.testing.assert_array_equal(whole[5:9, 7:20], smooth_noise(salt, yy[5:9, 7:20], xx[5:9, 7:20], period))
    assert whole[3, 4] == smooth_noise(salt, yy[3:4, 4:5], xx[3:4, 4:5], period)[0, 0]


def test_smooth_noise_has_unit_variance_and_is_zero_on_its_lattice():
    yy, xx = np.meshgrid(np.arange(400) * 0.37, np.arange(400) * 0.37, indexing="ij")
    noise = smooth_noise(salt_of(2, "v"), yy, xx, 5.0)
    assert abs(noise.std() - 1) < 0.06
    knots = np.arange(5.0) * 5.0
    assert np.abs(smooth_noise(salt_of(2, "v"), knots, knots, 5.0)).max() == 0


def test_textures_repeat_after_their_size_and_have_unit_variance():
    texture = Texture("t", 1.5, 2.0, size=64)
    place = np.linspace(0, 60, 50)
    np.testing.assert_allclose(texture.at(place, place), texture.at(place + 64, place - 64), atol=1e-4)
    assert abs(texture.picture.std() - 1) < 1e-3
    assert texture.near(np.array([3.2 + 64]), np.array([5.9]))[0] == texture.picture[3, 5]


def test_grain_runs_along_its_direction():
    grain = Grain("g", 1.0, 9.0, 2.5, size=128)
    yy, xx = np.meshgrid(np.arange(128.0), np.arange(128.0), indexing="ij")
    for turn, along, across in ((0.0, 1, 0), (np.pi / 2, 0, 1)):
        picture = grain.at(np.full(yy.shape, turn, np.float32), yy, xx)
        rough = [np.abs(np.diff(picture, axis=a)).mean() for a in (along, across)]
        assert rough[1] > 3 * rough[0]


def test_sensor_noise_belongs_to_the_pixel():
    whole = pixel_noise(salt_of(1, "s"), 100, 200, 40, 50)
    np.testing.assert_array_equal(whole[10:20, 5:9], pixel_noise(salt_of(1, "s"), 110, 205, 10, 4))
    assert abs(whole.std() - 1) < 0.05


def test_kept_values_are_made_once_and_the_oldest_go():
    kept: Kept[int, int] = Kept(2)
    made = []

    def make(k):
        return lambda: made.append(k) or k

    for k in (1, 2, 1, 3, 1, 2):
        assert kept.get(k, make(k)) == k
    assert made == [1, 2, 3, 2]


@pytest.mark.parametrize("seed", [0, 2**63 - 1])
def test_any_seed_gives_a_salt(seed):
    assert 0 <= int(salt_of(seed, "x")) < 2**64

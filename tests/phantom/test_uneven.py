"""Rings and fat of v1: what must be the same from either side, and what must not be everywhere the same."""

import numpy as np
import pytest

from tests.phantom.test_versions import NEARER, window
from wsistain.phantom.noise import hash_at, salt_of
from wsistain.phantom.render import Phantom
from wsistain.phantom.uneven import APICAL, frayed, ring_of


@pytest.fixture(scope="module")
def nearer():
    return Phantom(NEARER, square_px=128)


def draws(n):
    return hash_at(salt_of(1, "cells"), np.arange(n), np.arange(n))


def test_a_border_between_two_cells_is_one_ring_from_either_side_and_borders_differ():
    ids = draws(400)
    flat, deep = np.zeros(400, np.float32), np.full(400, -9, np.float32)
    other = np.roll(ids, 1)
    one, back = ring_of(ids, other, deep, flat, flat), ring_of(other, ids, deep, flat, flat)
    assert all((a == b).all() for a, b in zip(one, back, strict=True))
    width, dense = one
    assert width.min() >= 0.34 and width.max() <= 1.45 and width.std() > 0.1 and 0.8 < dense.mean() < 1.2
    apical = ring_of(ids, other, flat - np.float32(0.9), flat, flat)[1]
    np.testing.assert_allclose(apical, APICAL * dense, rtol=1e-5)


def test_fat_frays_where_fat_is_and_its_windows_are_crops(nearer):
    win, near = window(nearer), np.random.default_rng(0).uniform(-6, 6, (128, 128)).astype(np.float32)
    flat = np.zeros_like(near)
    into, film = frayed(306, win, near, flat, flat)
    assert into.dtype == np.float32 and np.abs(into - near).max() < 9 and film.min() >= 0 and film.max() <= 0.16
    assert (into != near).mean() > 0.9
    none, clean = frayed(306, win, np.full_like(near, -1e3), flat, flat)
    assert (none == -1e3).all() and not clean.any()
    part = frayed(306, window(nearer, 230, 220, 60), near[30:90, 20:80], flat[:60, :60], flat[:60, :60])
    np.testing.assert_allclose(part[0], into[30:90, 20:80], atol=1e-3)

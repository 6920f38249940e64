"""The nearest of many centres, against every distance worked out."""

import numpy as np

from wsistain.phantom.nearest_centres import nearest_centres


def test_the_nearest_centres_are_those_of_every_distance_worked_out():
    rng = np.random.default_rng(0)
    centres, less = rng.uniform(0, 60, (40, 2)), rng.uniform(0, 1, 40).astype(np.float32)
    h, w = 50, 64
    py, px = np.meshgrid(np.arange(h) + 3.0, np.arange(w) - 1.0, indexing="ij")
    where = np.flatnonzero(rng.random(h * w) < 0.5)
    distance, which = nearest_centres(centres, less, py, px, 3, -1, where, 12, 2)
    true = np.hypot(py.ravel()[where] - centres[:, :1], px.ravel()[where] - centres[:, 1:]) - less[:, None]
    order = np.argsort(true, axis=0)[:2]
    assert (which == order).mean() > 0.999
    assert np.allclose(distance, np.take_along_axis(true, which, 0), atol=1e-4)
    assert (distance[0] <= distance[1]).all()


def test_a_pixel_does_not_depend_on_the_window_that_asks():
    centres, less = np.random.default_rng(1).uniform(0, 40, (30, 2)), np.zeros(30, np.float32)

    def at(y, x, h, w):
        py, px = np.meshgrid(np.arange(y, y + h) + 0.0, np.arange(x, x + w) + 0.0, indexing="ij")
        d, which = nearest_centres(centres, less, py, px, y, x, np.arange(h * w), 4, 2)
        return d.reshape(2, h, w), which.reshape(2, h, w)

    whole, part = at(0, 0, 32, 40), at(8, 12, 16, 20)
    for one, other in zip(whole, part, strict=True):
        assert np.allclose(one[:, 8:24, 12:32], other, atol=1e-5)

"""A membrane is read where it is the cell's own, and its class follows from how much of it there is."""

import numpy as np
import pytest

from wsistain.reading.cells import CORNERS, Nuclei
from wsistain.reading.membranes import DIRECTIONS, MEMBRANES, membrane_grades, membrane_od

MPP = 0.5


def nuclei(places, radius=4.0):
    y, x = np.array(places, float).reshape(-1, 2).T
    n = len(y)
    one, contour = np.ones(n), np.zeros((n, CORNERS, 2), np.float32)
    return Nuclei(y, x, np.pi * radius**2 * one, one, one, contour, np.arange(1, n + 1, dtype=np.int32))


def ring(places, radius=5.5, od=0.6, size=160):
    """Membranes 1 um wide round some places, um."""
    rows, cols = (np.indices((size, size)) + 0.5) * MPP
    out = np.zeros((size, size), np.float32)
    for y, x in places:
        out[np.abs(np.hypot(rows - y, cols - x) - radius) < 0.5] = od
    return out


def read(od, cells, every=None, corner=(0, 0)):
    return membrane_od(od, corner, (0.0, 0.0), MPP, cells, every or cells)


def test_a_strong_neighbour_makes_no_membrane_of_a_negative_cell():
    both = nuclei([(40, 34), (40, 46)])
    found = read(ring([(40, 34)]), both)
    assert membrane_grades(found).tolist() == [3, 0]
    # As if there were no neighbour, some of its membrane would be this one's.
    assert (read(ring([(40, 34)]), both.take(np.array([False, True]))) > 0.3).sum() > (found[1] > 0.3).sum()


def test_the_membrane_between_two_cells_belongs_to_both():
    both = nuclei([(40, 34), (40, 45)])
    assert membrane_grades(read(ring([(40, 34), (40, 45)]), both)).tolist() == [3, 3]


def test_what_is_read_does_not_depend_on_the_window():
    od = np.random.default_rng(0).random((160, 160)).astype(np.float32)
    cells = nuclei([(33.3, 41.7), (41.2, 38.9), (50.1, 44.4)])
    whole = read(od, cells)
    assert np.array_equal(read(od[20:140, 30:150], cells, corner=(20, 30)), whole)
    far = nuclei([(33.3, 41.7), (41.2, 38.9), (50.1, 44.4), (5, 5), (75, 75)])
    assert np.array_equal(read(od, cells, far), whole)  # further than any membrane reaches


def test_beyond_the_picture_nothing_is_stained():
    small = np.ones((20, 20), np.float32)
    assert (
        0 < (read(small, nuclei([(0.1, 5.0)])) > 0).sum() < DIRECTIONS and (read(small, nuclei([(5.0, 5.0)])) > 0).all()
    )
    assert read(np.ones((20, 20), np.float32), nuclei([])).shape == (0, DIRECTIONS)


@pytest.mark.parametrize("grade", [1, 2, 3])
def test_a_class_begins_at_its_density_in_its_number_of_directions(grade):
    complete = np.full(DIRECTIONS, MEMBRANES[1][0] + 1e-4 if grade == 3 else 0, np.float32)
    density, n = MEMBRANES[grade - 1]
    just, almost, paler = (complete.copy() for _ in range(3))
    just[-n:], almost[1 - n :], paler[-n:] = density + 1e-4, density + 1e-4, density - 1e-4
    assert membrane_grades(np.stack([just, almost, paler])).tolist() == [
        grade,
        *((2, 2) if grade == 3 else (min(grade - 1, 1), grade - 1)),
    ]

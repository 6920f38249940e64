import numpy as np

from wsistain.pairing.page import checkerboard, number


def test_squares_of_a_checkerboard_are_told_apart_where_both_show_glass():
    glass = np.full((100, 130, 3), 240, np.uint8)
    board = checkerboard(glass, glass, 4)
    lines = (board != 240).any(axis=2)
    for row, col in np.ndindex(4, 5):  # squares of 32 px, the last ones cut off
        square = lines[32 * row : 32 * row + 32, 32 * col : 32 * col + 32]
        rim = np.ones(square.shape, bool)
        rim[1:-1, 1:-1] = False
        assert np.array_equal(square, rim & bool((row + col) % 2))


def test_a_number_that_rounds_to_nothing_has_no_sign():
    assert (number(-0.04, 1, "°"), number(-1.26, 1), number(None)) == ("0.0°", "-1.3", "–")

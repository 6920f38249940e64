"""Blending: exact, free of order, equal to a float64 reference, constant on constants."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsistain.tiling.blend import Frame, Tails, axis_weights, blend_pieces, join, settle


def blend_slide(tiles, rows, cols, stride, overlap, n):
    """All blocks of a slide of rows x cols tiles through the block machinery: uint8 (rows * stride, cols * stride, 3)."""
    n_rows, n_cols = -(-rows // n), -(-cols // n)
    block = n * stride
    tails: dict[tuple[int, int], Tails] = {}
    out = np.zeros((n_rows * block, n_cols * block, 3), np.uint8)
    for r in range(n_rows):
        for c in range(n_cols):
            pieces = {
                (i, j): tiles[r * n + i, c * n + j]
                for i in range(n)
                for j in range(n)
                if (r * n + i, c * n + j) in tiles
            }
            frame = Frame(n, stride, overlap, r == 0, c == 0)
            blender = blend_pieces(pieces, frame)
            tails[r, c] = blender.tails
            pixels = join(
                blender.pixels,
                blender.heads,
                frame,
                tails.get((r - 1, c)),
                tails.get((r, c - 1)),
                tails.get((r - 1, c - 1)),
            )
            out[r * block : (r + 1) * block, c * block : (c + 1) * block] = pixels
    return out[: rows * stride, : cols * stride]


def blend_reference(tiles, rows, cols, stride, overlap):
    """The same in float64 over one canvas with a weight map; glass where a tile is absent."""
    core = stride + overlap
    total = np.zeros((rows * stride + overlap, cols * stride + overlap, 3))
    weight = np.zeros((rows * stride + overlap, cols * stride + overlap, 1))
    for i in range(rows):
        for j in range(cols):
            wy, wx = (axis_weights(stride, overlap, k == 0).astype(float) for k in (i, j))
            w = np.outer(wy, wx)[..., None]
            piece = tiles.get((i, j), np.full((core, core, 3), 255))
            total[i * stride : i * stride + core, j * stride : j * stride + core] += w * piece
            weight[i * stride : i * stride + core, j * stride : j * stride + core] += w
    total, weight = total[: rows * stride, : cols * stride], weight[: rows * stride, : cols * stride]
    assert np.all(weight == 65536)
    return np.floor(total / 65536 + 0.5).astype(np.uint8)


def random_tiles(rng, rows, cols, core, share):
    return {
        (i, j): rng.integers(0, 256, (core, core, 3), dtype=np.uint8)
        for i in range(rows)
        for j in range(cols)
        if rng.random() < share
    }


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 5),
    cols=st.integers(1, 5),
    n=st.sampled_from([1, 2, 3]),
    stride=st.sampled_from([8, 12]),
    overlap=st.sampled_from([0, 1, 4, 7]),
    share=st.sampled_from([0.3, 0.8, 1.0]),
)
def test_blocks_equal_a_float_reference_for_any_block_size(seed, rows, cols, n, stride, overlap, share):
    tiles = random_tiles(np.random.default_rng(seed), rows, cols, stride + overlap, share)
    assert np.array_equal(
        blend_slide(tiles, rows, cols, stride, overlap, n), blend_reference(tiles, rows, cols, stride, overlap)
    )


@pytest.mark.parametrize("value", [0, 1, 127, 254, 255])
def test_blend_of_constant_tiles_is_constant(value):
    tiles = {(i, j): np.full((20, 20, 3), value, np.uint8) for i in range(3) for j in range(3)}
    assert np.all(blend_slide(tiles, 3, 3, 16, 4, 2) == value)


@pytest.mark.parametrize("overlap", [1, 2, 63, 64, 128])
def test_weights_of_neighbours_sum_to_one(overlap):
    w = axis_weights(256, overlap, False).astype(int)
    assert np.all(w[:overlap] + w[256:] == 256) and np.all(w[overlap:256] == 256)


def test_tiles_cut_from_a_picture_blend_back_to_the_picture():
    rng = np.random.default_rng(0)
    stride, overlap = 16, 6
    picture = rng.integers(0, 256, (4 * stride + overlap, 4 * stride + overlap, 3), dtype=np.uint8)
    core = stride + overlap
    tiles = {
        (i, j): picture[i * stride : i * stride + core, j * stride : j * stride + core]
        for i in range(4)
        for j in range(4)
    }
    assert np.array_equal(blend_slide(tiles, 4, 4, stride, overlap, 2), picture[: 4 * stride, : 4 * stride])


def test_a_tail_needs_only_the_last_row_and_column():
    rng = np.random.default_rng(1)
    frame = Frame(3, 8, 4, False, True)
    pieces = random_tiles(rng, 3, 3, 12, 1.0)
    edge = {k: v for k, v in pieces.items() if 2 in k}
    whole, part = blend_pieces(pieces, frame).tails, blend_pieces(edge, frame, edges_only=True).tails
    for name in ("below", "right", "corner"):
        assert np.array_equal(getattr(whole, name), getattr(part, name))


def test_settle_rounds_half_up():
    assert settle(np.array([[[32767, 32768, 255 * 65536]]], np.uint32)).tolist() == [[[0, 1, 255]]]

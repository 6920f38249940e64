"""Halving is exact, and the levels above the blocks come out as if the whole slide had been halved at once."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.output.making import block_of, mean_pyramid, places, small_spec, tissue_like, tree_hash, write_all
from wsistain.errors import OutputError
from wsistain.output.pyramid import finish_pyramid, half, half_plane
from wsistain.output.reading import open_level, read_window
from wsistain.output.store import create_output, write_block


def test_half_of_four_known_pixels_rounds_half_up() -> None:
    assert half_plane(np.array([[0, 0], [0, 2]], np.uint8)).tolist() == [[1]]
    assert half_plane(np.array([[0, 0], [0, 1]], np.uint8)).tolist() == [[0]]
    assert half_plane(np.array([[255, 255], [255, 254]], np.uint8)).tolist() == [[255]]
    assert half_plane(np.array([[255, 255], [255, 253]], np.uint8)).tolist() == [[255]]
    assert half_plane(np.array([[255, 255], [254, 253]], np.uint8)).tolist() == [[254]]


def test_half_at_odd_edges_is_the_mean_of_the_pixels_that_exist() -> None:
    assert half_plane(np.array([[10, 20, 7]], np.uint8)).tolist() == [[15, 7]]
    assert half_plane(np.array([[10], [13], [9]], np.uint8)).tolist() == [[12], [9]]


@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_half_equals_the_mean_in_exact_integers(height: int, width: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    assert np.array_equal(half(pixels), mean_pyramid(pixels, 2)[1])


def test_half_of_a_window_of_another_array_is_the_half_of_its_copy() -> None:
    plane = np.random.default_rng(1).integers(0, 256, (41, 37), dtype=np.uint8)
    for window in (plane[1:40, 3:36], plane[:, ::2], plane.T, plane[3:4]):
        assert np.array_equal(half_plane(window), half_plane(window.copy()))


@pytest.mark.parametrize("block", [64, 128, 192, 256, 512])
@pytest.mark.parametrize("size", [(1, 1), (33, 32), (129, 65), (257, 513), (512, 512), (511, 130)])
def test_every_level_is_the_mean_of_the_whole_whatever_the_block_size(
    tmp_path: Path, block: int, size: tuple[int, int]
) -> None:
    pixels = tissue_like(*size)
    spec = small_spec(tmp_path / "o", *size, block=block)
    write_all(spec, pixels)
    for level, expected in enumerate(mean_pyramid(pixels, len(spec.levels))):
        stored = read_window(open_level(spec.path, level), 0, 0, *spec.levels[level])
        assert np.array_equal(stored, expected), level


def test_bytes_do_not_depend_on_block_size_or_threads(tmp_path: Path) -> None:
    pixels = tissue_like(300, 420)
    trees = []
    for number, (block, threads) in enumerate([(64, 1), (128, 2), (192, 3), (256, 1), (512, 2)]):
        spec = small_spec(tmp_path / str(number), 300, 420, block=block)
        write_all(spec, pixels, threads=threads)
        trees.append(tree_hash(spec.folder, skip=(".wsistain",)))
    assert all(tree == trees[0] for tree in trees[1:])


def test_finishing_twice_gives_the_same_bytes_and_counts_the_files(tmp_path: Path) -> None:
    spec = small_spec(tmp_path / "o", 500, 300)
    write_all(spec, tissue_like(500, 300))
    before = tree_hash(spec.folder)
    above = [
        p for level in range(spec.block_levels, len(spec.levels)) for p in (spec.folder / str(level)).rglob("c/*/*/*")
    ]
    assert finish_pyramid(spec) == len(above) > 0
    assert tree_hash(spec.folder) == before


def test_a_glass_slide_stores_no_pixels(tmp_path: Path) -> None:
    spec = small_spec(tmp_path / "o", 300, 300)
    done = write_all(spec, np.full((300, 300, 3), 255, np.uint8))
    assert all(d.files == () and d.shards_written == 0 and d.bytes_written == 0 for d in done)
    assert [p.name for p in spec.folder.rglob("*") if p.is_file() and p.suffix != ".json"] == []
    assert (read_window(open_level(spec.path, 0), 0, 0, 300, 300) == 255).all()


def test_a_slide_within_one_block_needs_no_pieces(tmp_path: Path) -> None:
    spec = small_spec(tmp_path / "o", 60, 60, block=128)
    create_output(spec)
    write_block(spec, 0, 0, tissue_like(60, 60))
    assert not spec.has_pieces
    assert finish_pyramid(spec) == 0


def test_a_damaged_piece_ends_with_one_sentence(tmp_path: Path) -> None:
    spec = small_spec(tmp_path / "o", 300, 300)
    create_output(spec)
    pixels = tissue_like(300, 300)
    for row, col in places(spec):
        write_block(spec, row, col, block_of(spec, pixels, row, col))
    piece = spec.folder / spec.piece_file(0, 0)
    piece.write_bytes(piece.read_bytes()[:-7])
    with pytest.raises(OutputError, match="damaged"):
        finish_pyramid(spec)
    assert not (spec.folder / "zarr.json").exists()

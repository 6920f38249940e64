from dataclasses import replace

import numpy as np
import pytest

from tests.output.making import block_of, small_spec, tissue_like
from wsistain.output.pyramid import half
from wsistain.output.store import create_output, write_block
from wsistain.output.unfinished import describe_begun, read_begun
from wsistain.slide.reader import open_slide
from wsistain.viewing.frame import TILE_PX, Frame
from wsistain.viewing.pictures import BegunPicture, MapPicture, SlidePicture, exact_sampling, thumbnail


def whole(picture, k):
    """All tiles of a halving, put together."""
    rows, cols = picture.frame.grid(k)
    return np.concatenate(
        [np.concatenate([picture.tile(k, r, c) for c in range(cols)], axis=1) for r in range(rows)], axis=0
    )


def test_tiles_of_a_stain_are_its_stored_levels(case):
    stain = SlidePicture(open_slide(case.er))
    expected = case.picture
    for k in range(5):
        assert np.array_equal(whole(stain, k), expected), k
        expected = half(expected)


def test_tiles_of_a_slide_without_a_pyramid_are_its_means_and_each_is_made_from_four(case, monkeypatch):
    slide = SlidePicture(open_slide(case.slide))
    reads = []
    read = slide.read
    monkeypatch.setattr(slide, "read", lambda *window: reads.append(window[0]) or read(*window))
    seen = whole(slide, 5)
    assert max(reads) <= 3  # 8 times smaller at most; further ones come from tiles that are kept
    assert seen.shape == (22, 30, 3)
    mean = case.picture[:640, :928].reshape(20, 32, 29, 32, 3).mean(axis=(1, 3))
    assert np.abs(seen[:20, :29].astype(float) - mean).max() < 2
    n = len(reads)
    assert np.array_equal(whole(slide, 5), seen) and len(reads) == n


def test_a_level_whose_scale_is_not_whole_is_resampled_onto_the_exact_one(case):
    picture = SlidePicture(open_slide(case.er))
    info = replace(
        picture.slide.info, downsamples=(1.0, 2.0, 4.003, 8.0), level_sizes=picture.slide.info.level_sizes[:4]
    )
    assert exact_sampling(info, picture.frame, 1).scale == 1.0
    drifting = replace(info, level_sizes=((70000, 93000), (35000, 46500), (17486, 23232), (8750, 11625)))
    sampling = exact_sampling(drifting, picture.frame, 2)
    assert sampling.level == 1 and sampling.scale == 2.0


def test_a_stain_in_the_making_shows_the_blocks_that_are_done(tmp_path):
    pixels = tissue_like(300, 420)
    spec = small_spec(tmp_path / "x.ome.zarr", 300, 420, origin_um=(10.0, 20.0))
    create_output(spec)
    describe_begun(spec, {"marker": "ER"})
    begun = read_begun(spec.folder)
    picture = BegunPicture(begun)
    assert (whole(picture, 0) == 255).all() and (picture.frame.y_um, picture.frame.x_um) == (10.0, 20.0)
    blank = picture.version(0, 0, 0)

    write_block(spec, 0, 0, block_of(spec, pixels, 0, 0))
    picture.done = frozenset({(0, 0)})
    assert picture.version(0, 0, 0) != blank
    assert np.array_equal(whole(picture, 0)[:128, :128], pixels[:128, :128]) and (whole(picture, 0)[128:] == 255).all()
    for row, col in [(r, c) for r in range(3) for c in range(4)]:
        write_block(spec, row, col, block_of(spec, pixels, row, col))
    picture.done = frozenset((r, c) for r in range(3) for c in range(4))
    expected = pixels
    for k in range(4):  # beyond the levels that blocks write themselves
        assert np.abs(whole(picture, k).astype(int) - expected).max() <= (k > spec.block_levels)  # means of means
        expected = half(expected)


def test_tiles_far_from_a_new_block_keep_their_version(tmp_path):
    spec = small_spec(tmp_path / "x.ome.zarr", 2000, 2000, shard=128, block=512)
    create_output(spec)
    describe_begun(spec, {})
    picture = BegunPicture(read_begun(spec.folder))
    picture.done = frozenset({(0, 0)})
    before = [picture.version(0, r, c) for r, c in ((0, 0), (3, 3))]
    picture.done = frozenset({(0, 0), (3, 3)})
    after = [picture.version(0, r, c) for r, c in ((0, 0), (3, 3))]
    assert before[0] == after[0] and before[1] != after[1]


def test_a_map_keeps_its_values_when_shrunk():
    pixels = np.zeros((900, 700, 4), np.uint8)
    pixels[:450, :, 0] = 200
    pixels[..., 3] = 255
    frame = Frame(900, 700, 8.0)
    picture = MapPicture(pixels, frame, "1")
    assert np.array_equal(whole(picture, 0), pixels)
    assert set(np.unique(whole(picture, 3)[..., 0])) == {0, 200} and whole(picture, 3).shape == (113, 88, 4)
    with pytest.raises(ValueError):
        MapPicture(pixels[:-1], frame, "1")


def test_a_thumbnail_is_all_of_the_picture(case):
    seen = thumbnail(SlidePicture(open_slide(case.slide)), TILE_PX)
    assert seen.shape == (350, 465, 3) and seen[:5].min() > 230


def test_a_tile_outside_is_a_mistake_of_the_caller(case):
    with pytest.raises(ValueError, match="no tile"):
        SlidePicture(open_slide(case.er)).tile(0, 99, 0)

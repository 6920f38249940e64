import numpy as np
import pytest

from wsistain.tiling.seams import SeamCounter, SeamSums, seam_sums


def smooth_picture(height: int = 600, width: int = 700) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    plane = 120 + 60 * np.sin(y / 9) * np.cos(x / 11)
    return np.stack([plane, plane + 20, plane - 30], axis=2).astype(np.uint8)


def noise(height: int, width: int) -> np.ndarray:
    image = np.random.default_rng(1).integers(0, 256, (height, width, 3)).astype(np.uint8)
    image[height // 4 : height // 2, width // 3 :] = 255
    return image


def plainly(image: np.ndarray, stride: int, overlap: int, grid: int, block: int) -> SeamSums:
    """The definition, step by step; `grid` is what borders and all that is compared with them lie on."""
    sums = [0, 0, 0, 0]
    pixels = image.astype(int)
    for axis in (0, 1):
        lines = np.moveaxis(pixels, axis, 1)  # steps go along the second axis
        for k in range(lines.shape[0]):
            if k % block % 8 != 4:
                continue
            for i in range(1, lines.shape[1]):
                a, b = lines[k, i - 1], lines[k, i]
                if i % grid or i % block == 0 or i == overlap or ((a == 255) & (b == 255)).all():
                    continue
                at = 0 if i % stride in (0, overlap) else 2
                sums[at] += int(np.abs(a - b).sum())
                sums[at + 1] += 1
    return SeamSums(*sums)


@pytest.mark.parametrize(("stride", "overlap", "grid"), [(64, 16, 16), (48, 8, 8), (32, 0, 16), (30, 7, 1), (16, 0, 1)])
def test_the_sums_are_those_of_the_definition(stride, overlap, grid):
    image = noise(110, 150)
    block = 2 * stride
    counter = SeamCounter(150, stride, overlap, block)
    counter.add(image)
    assert counter.sums == plainly(image, stride, overlap, grid, block)


def test_a_run_that_sees_blocks_and_a_reader_who_sees_bands_come_to_the_same_sums():
    image, block = noise(533, 301), 128
    blocks = SeamSums()
    for y in range(0, 533, block):
        for x in range(0, 301, block):
            blocks += seam_sums(image[y : y + block, x : x + block], 64, 16, begins=(y == 0, x == 0))
    for rows in (533, 41, 1):
        counter = SeamCounter(301, 64, 16, block)
        for y in range(0, 533, rows):
            counter.add(image[y : y + rows])
        assert counter.sums == blocks


def test_a_picture_without_tiles_scores_about_one():
    assert seam_sums(smooth_picture(), 128, 32).score == pytest.approx(1.0, abs=0.1)


def test_a_brightness_step_on_borders_raises_the_score_of_the_right_grid_only():
    image = smooth_picture().astype(int)
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    image += (((y // 128) + (x // 128)) % 2 * 12)[..., None]
    image = image.astype(np.uint8)
    assert seam_sums(image, 128, 32).score > 2
    assert seam_sums(image[64:, 64:], 128, 32).score < 1.1


def test_blocks_that_a_jpeg_left_do_not_count_as_seams():
    rng = np.random.default_rng(3)
    blocks = rng.integers(-6, 7, (64, 64)).repeat(8, axis=0).repeat(8, axis=1)
    image = (smooth_picture(512, 512).astype(int) + blocks[..., None]).clip(0, 254).astype(np.uint8)
    assert seam_sums(image, 128, 32).score == pytest.approx(1, abs=0.15)


def test_glass_does_not_dilute_the_score():
    image = smooth_picture(256, 256)
    padded = np.full((1024, 1024, 3), 255, np.uint8)
    padded[:256, :256] = image
    assert seam_sums(padded, 64, 16) == seam_sums(padded[:257, :257], 64, 16)


def test_one_tile_has_no_score_though_its_margin_is_the_edge_of_its_tissue():
    image = np.full((120, 110, 3), 255, np.uint8)
    image[32:, 32:] = 90  # tissue that begins where a tile before the first one would have ended
    image[40:, 40:] = noise(80, 70)
    assert seam_sums(image, 128, 32).score is None
    assert seam_sums(image, 128, 32, begins=(False, True)).on_count > 0


def test_a_flat_picture_and_one_without_borders_have_no_score():
    assert seam_sums(np.full((50, 50, 3), 9, np.uint8), 10, 0).score is None
    assert seam_sums(smooth_picture(40, 40), 100, 0).score is None
    assert SeamCounter(9, 4, 0).sums.score is None


def test_wrong_shapes_and_grids_are_refused():
    with pytest.raises(ValueError, match="stride of 1 px"):
        SeamCounter(8, 1, 0)
    with pytest.raises(ValueError, match="wanted a band"):
        SeamCounter(8, 4, 0).add(np.zeros((2, 9, 3), np.uint8))

"""The preview is the stain, small."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.output.making import small_spec, write_all
from wsistain.errors import OutputError
from wsistain.output import preview
from wsistain.output.preview import write_preview


def ramp(height: int, width: int) -> np.ndarray:
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[..., 0] = np.linspace(0, 255, width)
    pixels[..., 1] = np.linspace(0, 255, height)[:, None]
    pixels[..., 2] = 128
    return pixels


@pytest.mark.parametrize(
    ("size", "longest", "expected"),
    [((300, 600), 200, (200, 100)), ((300, 600), 600, (600, 300)), ((50, 30), 200, (30, 50)), ((1, 600), 64, (64, 1))],
)
def test_the_preview_has_the_longest_side_asked_for_and_is_never_enlarged(
    tmp_path: Path, size: tuple[int, int], longest: int, expected: tuple[int, int]
) -> None:
    spec = small_spec(tmp_path / "o", *size)
    write_all(spec, ramp(*size))
    write_preview(spec, tmp_path / "p.jpg", longest)
    with Image.open(tmp_path / "p.jpg") as picture:
        assert picture.format == "JPEG"
        assert picture.size == expected


def test_the_preview_shows_the_stain(tmp_path: Path) -> None:
    pixels = ramp(300, 600)
    spec = small_spec(tmp_path / "o", 300, 600)
    write_all(spec, pixels)
    write_preview(spec, tmp_path / "p.jpg", 150)
    with Image.open(tmp_path / "p.jpg") as picture:
        shown = np.asarray(picture).astype(int)
    expected = pixels[:300, :600].reshape(75, 4, 150, 4, 3).mean((1, 3))
    assert np.abs(shown - expected).mean() < 2


def test_only_the_smallest_sufficient_level_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = small_spec(tmp_path / "o", 300, 600)
    write_all(spec, ramp(300, 600))
    asked: list[int] = []
    open_level = preview.open_level

    def noting(path: str, level: int) -> object:
        asked.append(level)
        return open_level(path, level)

    monkeypatch.setattr(preview, "open_level", noting)
    write_preview(spec, tmp_path / "p.jpg", 150)
    assert asked == [2]


def test_a_preview_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    spec = small_spec(tmp_path / "o", 30, 30)
    write_all(spec, ramp(30, 30))
    with pytest.raises(OutputError, match="cannot be written"):
        write_preview(spec, tmp_path / "no such folder" / "p.jpg", 64)

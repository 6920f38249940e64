from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from tests.slide.made import picture, whole
from wsistain import open_slide
from wsistain.errors import SlideError

RGB_CHANNELS = [
    {"label": name, "color": colour} for name, colour in zip("RGB", ("FF0000", "00FF00", "0000FF"), strict=True)
]


def write_zarr(
    path: Path, pixels: np.ndarray, *, version: str = "0.5", unit: str | None = "micrometer", mpp: float = 0.5,
    axes: str = "cyx", colours: list[dict] | None = RGB_CHANNELS, dtype: type = np.uint8,
) -> Path:  # fmt: skip
    """An OME-Zarr of two levels, written with zarr-python alone."""
    group = zarr.open_group(str(path), mode="w", zarr_format=3 if version == "0.5" else 2)
    space = {} if unit is None else {"unit": unit}
    kinds = {
        "c": {"type": "channel"},
        "y": {"type": "space"} | space,
        "x": {"type": "space"} | space,
        "t": {"type": "time"},
    }
    datasets = []
    for level, step in enumerate((1, 2)):
        array = pixels[::step, ::step]
        index = {"c": 2, "y": 0, "x": 1}
        stored = array.transpose([index[a] for a in axes if a in index])
        stored = stored[None] if axes.startswith("t") else stored
        chunks = tuple(1 if a in "ct" else 50 for a in axes)
        target = group.create_array(str(level), shape=stored.shape, chunks=chunks, dtype=dtype, fill_value=255)
        target[...] = stored
        scale = [mpp * step if a in "yx" else 1.0 for a in axes]
        datasets.append({"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": scale}]})
    image: dict[str, Any] = {"axes": [{"name": a} | kinds[a] for a in axes], "datasets": datasets}
    attributes: dict[str, Any] = {"multiscales": [image if version == "0.5" else image | {"version": "0.4"}]}
    if colours is not None:
        attributes["omero"] = {"channels": colours}
    group.attrs.update({"ome": attributes | {"version": "0.5"}} if version == "0.5" else attributes)
    return path


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("axes", ["cyx", "tcyx", "yxc"])
def test_ome_zarr_of_both_versions_and_any_axis_order_is_read(tmp_path: Path, version: str, axes: str) -> None:
    pixels = picture(130, 171)
    path = write_zarr(tmp_path / "slide.zarr", pixels, version=version, axes=axes)
    with open_slide(path) as slide:
        assert (slide.info.reader, slide.info.vendor, slide.info.mpp) == ("zarr", "ome-zarr", 0.5)
        assert slide.info.downsamples == (1.0, 2.0)
        assert np.array_equal(whole(slide), pixels)
        assert np.array_equal(whole(slide, 1), pixels[::2, ::2])
        window = slide.read_level(0, 40, 150, 60, 60)
        assert np.array_equal(window[:, :21], pixels[40:100, 150:]) and (window[:, 21:] == 255).all()


@pytest.mark.parametrize(("unit", "mpp", "um"), [("nanometer", 250.0, 0.25), ("millimeter", 0.0005, 0.5)])
def test_units_are_converted(tmp_path: Path, unit: str, mpp: float, um: float) -> None:
    with open_slide(write_zarr(tmp_path / "s.zarr", picture(60, 60), unit=unit, mpp=mpp)) as slide:
        assert slide.info.mpp == pytest.approx(um)


def test_without_a_unit_there_is_no_mpp(tmp_path: Path) -> None:
    path = write_zarr(tmp_path / "s.zarr", picture(60, 60), unit=None)
    with pytest.raises(SlideError, match="--mpp"):
        open_slide(path)
    with open_slide(path, mpp=0.3) as slide:
        assert (slide.info.mpp, slide.info.mpp_source) == (0.3, "given")


def test_bioformats2raw_layouts_are_followed(tmp_path: Path) -> None:
    root = tmp_path / "s.zarr"
    group = zarr.open_group(str(root), mode="w", zarr_format=2)
    group.attrs["bioformats2raw.layout"] = 3
    pixels = picture(60, 60)
    write_zarr(root / "0", pixels, version="0.4")
    with open_slide(root) as slide:
        assert np.array_equal(whole(slide), pixels)


def test_chunks_that_were_never_written_show_the_fill_value(tmp_path: Path) -> None:
    pixels = picture(130, 171)
    pixels[:50, :50] = 255
    with open_slide(write_zarr(tmp_path / "s.zarr", pixels)) as slide:
        assert (slide.read_level(0, 0, 0, 50, 50) == 255).all()
        assert slide.unreadable_tiles == 0


def test_damaged_chunks_are_white_and_counted(tmp_path: Path) -> None:
    pixels = picture(130, 171)
    path = write_zarr(tmp_path / "s.zarr", pixels)
    (path / "0" / "c" / "1" / "0" / "2").write_bytes(b"damage")
    pixels[:50, 100:150] = 255
    with open_slide(path) as slide:
        assert np.array_equal(whole(slide), pixels)
        assert slide.unreadable_tiles == 1


def test_a_picture_whose_every_chunk_is_damaged_is_refused(tmp_path: Path) -> None:
    path = write_zarr(tmp_path / "s.zarr", picture(60, 60))
    for chunk in (path / "0" / "c").rglob("*"):
        if chunk.is_file():
            chunk.write_bytes(b"damage")
    with pytest.raises(SlideError, match="every tile tried failed"):
        open_slide(path)


def test_other_colours_types_and_folders_are_refused(tmp_path: Path) -> None:
    dyes = [
        {"label": "DAPI", "color": "0000FF"},
        {"label": "FITC", "color": "00FF00"},
        {"label": "Cy5", "color": "FF0000"},
    ]
    with pytest.raises(SlideError, match="not red, green and blue"):
        open_slide(write_zarr(tmp_path / "a.zarr", picture(60, 60), colours=dyes))
    with pytest.raises(SlideError, match="uint16"):
        open_slide(write_zarr(tmp_path / "b.zarr", picture(60, 60), dtype=np.uint16))
    with pytest.raises(SlideError, match="8-bit RGB"):
        open_slide(write_zarr(tmp_path / "c.zarr", picture(60, 60)[..., :1], colours=None))
    zarr.open_group(str(tmp_path / "d.zarr"), mode="w")
    with pytest.raises(SlideError, match="no OME-Zarr picture"):
        open_slide(tmp_path / "d.zarr")
    (tmp_path / "e.zarr").mkdir()
    (tmp_path / "e.zarr" / "zarr.json").write_text("{")
    with pytest.raises(SlideError, match="no OME-Zarr picture"):
        open_slide(tmp_path / "e.zarr")


def test_the_fingerprint_follows_the_chunks(tmp_path: Path) -> None:
    first = open_slide(write_zarr(tmp_path / "a.zarr", picture(60, 60))).info.fingerprint
    assert open_slide(write_zarr(tmp_path / "b.zarr", picture(60, 60))).info.fingerprint == first
    assert open_slide(write_zarr(tmp_path / "c.zarr", picture(60, 60, seed=1))).info.fingerprint != first

"""Which page of a TIFF is the slide, its levels and the rest, for pages of every kind in every order."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from tests.slide.made import APERIO, picture, set_tag, whole, write_tiff
from wsistain import open_slide
from wsistain.errors import SlideError

PIXELS = picture(256, 320)
HALF, QUARTER = (np.ascontiguousarray(PIXELS[::n, ::n]) for n in (2, 4))


def write_pages(path: Path, pages: list[tuple[np.ndarray, dict[str, Any]]]) -> Path:
    """Pages one after another, tiled at 0.5 um per px unless they say otherwise."""
    with tifffile.TiffWriter(path) as writer:
        for pixels, options in pages:
            settings = {
                "tile": (64, 64),
                "photometric": "rgb",
                "metadata": None,
                "compression": "adobe_deflate",
            } | options
            writer.write(pixels, resolution=(2e4, 2e4), resolutionunit="CENTIMETER", **settings)
    return path


def write_stack(path: Path, offsets: list[float | None]) -> Path:
    """An SVS of focal planes; plane k is the picture of seed k."""
    pages = []
    for k, z in enumerate(offsets):
        said = APERIO if z is None else f"{APERIO}|OffsetZ = {z:f}"
        pages.append((picture(128, 160, seed=k), {"description": said, "compression": "jpeg"}))
    return write_pages(path, pages)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_levels_may_be_stored_in_any_order(tmp_path: Path, order: tuple[int, ...]) -> None:
    stored = [(PIXELS, {}), (HALF, {"subfiletype": 1}), (QUARTER, {"subfiletype": 1})]
    path = write_pages(tmp_path / "s.tif", [stored[k] for k in order])
    with open_slide(path) as slide:
        assert slide.info.level_sizes == ((256, 320), (128, 160), (64, 80))
        assert np.array_equal(whole(slide), PIXELS)
    if order[0] != 0:
        with pytest.raises(SlideError, match="another page comes first"):
            open_slide(path, reader="openslide")


OTHERS = {
    "macro of another shape": (picture(100, 300, 7), {}),
    "another picture of the same shape": (picture(128, 160, 8), {}),
    "negative": (255 - HALF, {}),
    "mask": (np.where(HALF > 120, 255, 0).astype(np.uint8), {}),
    "mask by its bit": (HALF, {}),
    "label by its name": (HALF, {"description": "label 160x128"}),
    "macro by its name": (HALF, {"description": "Macro image"}),
    "Aperio's macro": (HALF, {"subfiletype": 9}),
    "grey": (HALF[..., 0], {"photometric": "minisblack"}),
    "16 bit": (HALF.astype(np.uint16), {}),
    "with alpha": (np.dstack([HALF, HALF[..., :1]]), {"extrasamples": ["unassalpha"]}),
    "in strips": (HALF, {"tile": None, "rowsperstrip": 8}),
}


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("kind", sorted(OTHERS))
def test_a_page_that_is_called_reduced_but_is_no_reduced_copy_is_no_level(
    tmp_path: Path, kind: str, place: str
) -> None:
    pixels, options = OTHERS[kind]
    other = (pixels, {"subfiletype": 1} | options)
    pages = [(PIXELS, {}), (QUARTER, {"subfiletype": 1})]
    pages = [other, *pages] if place == "before" else [*pages, other]
    path = write_pages(tmp_path / "s.tif", pages)
    if kind == "mask by its bit":
        set_tag(path, 0 if place == "before" else 2, "NewSubfileType", 5)
    with open_slide(path) as slide:
        assert slide.info.level_sizes == ((256, 320), (64, 80)), slide.info.parts
        assert np.array_equal(whole(slide), PIXELS)
        assert sum(part.used for part in slide.info.parts) == 2


@pytest.mark.parametrize("scale", [2, 3, 4, 5.3])
@pytest.mark.parametrize("made", ["mean", "nearest", "jpeg"])
def test_levels_are_known_however_they_were_made(tmp_path: Path, scale: float, made: str) -> None:
    from PIL import Image

    size = (int(320 / scale), int(256 / scale))
    way = Image.Resampling.NEAREST if made == "nearest" else Image.Resampling.BOX
    small = np.asarray(Image.fromarray(PIXELS).resize(size, way))
    options: dict[str, Any] = {"compression": "jpeg", "compressionargs": {"level": 30}} if made == "jpeg" else {}
    path = write_pages(tmp_path / "s.tif", [(PIXELS, options), (small, {"subfiletype": 1, **options})])
    with open_slide(path) as slide:
        assert len(slide.info.level_sizes) == 2


def test_flat_levels_are_levels(tmp_path: Path) -> None:
    flat = np.full((256, 320, 3), 240, np.uint8)
    path = write_pages(tmp_path / "s.tif", [(flat, {}), (flat[::2, ::2].copy(), {"subfiletype": 1})])
    with open_slide(path) as slide:
        assert len(slide.info.level_sizes) == 2


@pytest.mark.parametrize(
    ("offsets", "plane", "word"),
    [
        ([-2.0, 0.0, 2.0], 1, "offset 0 is taken"),
        ([0.0, 1.0, 2.0], 0, "offset 0 is taken"),
        ([2.0, 1.0, 0.0], 2, "offset 0 is taken"),
        ([None, 1.5, -1.5], 0, "offset 0 is taken"),
        ([-3.0, -1.0, 1.0], 1, "none is said to be in focus"),
        ([1.0, -1.0, -3.0], 1, "none is said to be in focus"),
    ],
)
def test_of_focal_planes_the_one_in_focus_is_taken(tmp_path: Path, offsets: list, plane: int, word: str) -> None:
    path = write_stack(tmp_path / "s.svs", offsets)
    with open_slide(path) as slide, open_slide(path, series=plane) as same:
        assert slide.info.series == plane
        assert word in slide.info.notes[0]
        assert np.array_equal(whole(slide), whole(same))
        assert np.abs(whole(slide).astype(int) - picture(128, 160, seed=plane)).mean() < 12
        assert len(slide.info.level_sizes) == 1
    with pytest.raises(SlideError, match="holds 3 pictures, numbers 0 to 2"):
        open_slide(path, series=3)


@pytest.mark.parametrize("is_tiled", [True, False])
def test_an_imagej_stack_gives_its_middle_plane(tmp_path: Path, is_tiled: bool) -> None:
    planes = [picture(64, 80, seed=k) for k in range(3)]
    said = "ImageJ=1.53t\nimages=3\nslices=3\nunit=micron\n"
    options = {"tile": (64, 64) if is_tiled else None}
    path = write_pages(
        tmp_path / "s.tif",
        [(p, {"description": said if k == 0 else None, **options}) for k, p in enumerate(planes)],
    )
    with open_slide(path, mpp=0.5) as slide:
        assert np.array_equal(whole(slide), planes[1])
        assert "middle one" in slide.info.notes[0]


def test_several_pictures_of_one_size_are_named_and_chosen_by_number(tmp_path: Path) -> None:
    planes = [picture(64, 80, seed=k) for k in range(2)]
    path = write_pages(tmp_path / "s.tif", [(p, {}) for p in planes])
    with open_slide(path) as slide:
        assert "2 pictures of this size" in slide.info.notes[0]
        assert np.array_equal(whole(slide), planes[0])
    with open_slide(path, series=1) as slide:
        assert (slide.info.series, slide.info.notes) == (1, ())
        assert np.array_equal(whole(slide), planes[1])


@pytest.mark.parametrize("axes", ["ZYXS", "TYXS", "TZYXS"])
def test_of_an_ome_stack_one_plane_and_time_is_taken_with_a_word(tmp_path: Path, axes: str) -> None:
    shape = [{"Z": 3, "T": 2}[a] for a in axes[:-3]]
    planes = np.stack([picture(64, 80, seed=k) for k in range(int(np.prod(shape)))]).reshape(*shape, 64, 80, 3)
    metadata = {"axes": axes, "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    path = tmp_path / "s.ome.tif"
    tifffile.imwrite(path, planes, ome=True, tile=(64, 64), photometric="rgb", metadata=metadata)
    with open_slide(path) as slide:
        wanted = planes[tuple({"Z": 1, "T": 0}[a] for a in axes[:-3])]
        assert np.array_equal(whole(slide), wanted)
        assert len(slide.info.notes) == len(shape)


def test_the_plane_at_position_0_of_an_ome_stack_is_taken(tmp_path: Path) -> None:
    planes = np.stack([picture(64, 80, seed=k) for k in range(3)])
    metadata = {"axes": "ZYXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, "Plane": {"PositionZ": [0.0, 1.0, 2.0]}}
    path = tmp_path / "s.ome.tif"
    tifffile.imwrite(path, planes, ome=True, tile=(64, 64), photometric="rgb", metadata=metadata)
    with open_slide(path) as slide:
        assert np.array_equal(whole(slide), planes[0])
        assert "offset 0" in slide.info.notes[0]


@pytest.mark.parametrize(("axes", "names"), [("ZYX", None), ("TYX", None), ("CYX", None), ("CYX", ["a", "b", "c"])])
def test_three_grey_planes_that_are_not_named_red_green_blue_are_refused(tmp_path: Path, axes: str, names: Any) -> None:
    metadata: dict[str, Any] = {"axes": axes, "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    if names:
        metadata["Channel"] = {"Name": names}
    path = tmp_path / "s.ome.tif"
    stored = np.ascontiguousarray(picture(64, 80).transpose(2, 0, 1))
    tifffile.imwrite(path, stored, ome=True, tile=(64, 64), photometric="minisblack", metadata=metadata)
    with pytest.raises(SlideError, match="RGB"):
        open_slide(path)


def test_the_finest_picture_of_an_ome_tiff_is_the_slide(tmp_path: Path) -> None:
    path = tmp_path / "s.ome.tif"
    options: dict[str, Any] = {"tile": (64, 64), "photometric": "rgb"}
    with tifffile.TiffWriter(path, ome=True) as writer:  # an overview with more px but coarser comes first
        for pixels, um, name in ((picture(256, 256, 3), 2.0, "glass"), (PIXELS[:200], 0.5, "scan")):
            metadata = {"axes": "YXS", "PhysicalSizeX": um, "PhysicalSizeY": um, "Name": name}
            writer.write(pixels, metadata=metadata, **options)
    with open_slide(path) as slide:
        assert (slide.info.series, slide.info.mpp) == (1, 0.5)
        assert [p.series for p in slide.info.parts] == [0, 1]
    with open_slide(path, series=0) as slide:
        assert slide.info.mpp == 2.0


def test_a_file_cut_behind_its_slide_is_read_and_says_so(tmp_path: Path) -> None:
    path = write_pages(tmp_path / "s.tif", [(PIXELS, {"compression": None}), (HALF, {"subfiletype": 1})])
    with tifffile.TiffFile(path) as tif:
        second = tif.pages[1].offset
    path.write_bytes(path.read_bytes()[:second])
    with open_slide(path) as slide:
        assert np.array_equal(whole(slide), PIXELS)
        assert "cut or damaged" in slide.info.notes[0]


def test_a_cut_label_is_told(tmp_path: Path) -> None:
    label = (picture(64, 80), {"description": "label 80x64", "compression": None})
    path = write_pages(tmp_path / "s.tif", [(PIXELS, {}), label])
    with tifffile.TiffFile(path, mode="r+b") as tif:
        counts = list(tif.pages[1].aspage().databytecounts)
        tif.pages[1].aspage().tags["TileOffsets"].overwrite([path.stat().st_size - 5] * len(counts))
    with open_slide(path) as slide:
        assert "1 of its 2 pages" in slide.info.notes[0]


def test_a_vsi_is_refused_whatever_it_holds(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "case.vsi", [PIXELS])
    for reader in ("auto", "tiff", "openslide", "picture"):
        with pytest.raises(SlideError, match="folder _case_"):
            open_slide(path, mpp=0.5, reader=reader)

"""OME-Zarr folders as they come: scales in every place, several pictures, stacks, and attributes that make no sense."""

import copy
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.slide.made import picture, whole
from tests.slide.test_zarr_reader import write_zarr
from wsistain import open_slide
from wsistain.errors import OutputError, SlideError
from wsistain.output.reading import open_level, read_stain, read_window
from wsistain.slide.units import um_per


def attributes_of(path: Path) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """The file, everything in it, and the part that holds the OME attributes."""
    file = path / "zarr.json" if (path / "zarr.json").is_file() else path / ".zattrs"
    tree = json.loads(file.read_text())
    return file, tree, tree["attributes"]["ome"] if "attributes" in tree else tree


def change(path: Path, edit: Any) -> Path:
    file, tree, ome = attributes_of(path)
    edit(ome)
    file.write_text(json.dumps(tree))
    return path


def scale(*numbers: float) -> list[dict[str, Any]]:
    return [{"type": "scale", "scale": list(numbers)}]


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_the_scale_of_the_whole_picture_multiplies_that_of_its_levels(tmp_path: Path, version: str) -> None:
    path = write_zarr(tmp_path / "s.zarr", picture(60, 70), version=version, mpp=1.0)
    change(path, lambda ome: ome["multiscales"][0].update(coordinateTransformations=scale(1, 0.5, 0.5)))
    with open_slide(path) as slide:
        assert (slide.info.mpp, slide.info.downsamples) == (0.5, (1.0, 2.0))


@pytest.mark.parametrize(
    ("unit", "um"),
    [
        ("micrometer", 1.0), ("um", 1.0), ("µm", 1.0), ("μm", 1.0), ("micron", 1.0), ("microns", 1.0), ("Micrometre", 1.0),
        (r"\u00B5m", 1.0), ("nm", 1e-3), ("nanometers", 1e-3), ("mm", 1e3), ("millimetre", 1e3), ("cm", 1e4), ("inch", 25400.0),
        ("inches", 25400.0), ("angstrom", 1e-4), ("pixel", None), ("reference frame", None), ("", None), ("furlong", None),
    ],
)  # fmt: skip
def test_units_are_known_however_they_are_spelt(unit: str, um: float | None) -> None:
    assert um_per(unit) == um


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_scales_that_are_not_square_are_refused_also_with_a_given_mpp(tmp_path: Path, version: str) -> None:
    path = write_zarr(tmp_path / "s.zarr", picture(60, 70), version=version)
    change(path, lambda ome: ome["multiscales"][0]["datasets"][0].update(coordinateTransformations=scale(1, 0.5, 0.25)))
    for mpp in (None, 0.5):
        with pytest.raises(SlideError, match="not square"):
            open_slide(path, mpp=mpp)


@pytest.mark.parametrize("labels", [["0", "1", "2"], ["", "", ""], [None, None, None], ["red", "green", "blue"], []])
def test_three_channels_without_colours_are_rgb(tmp_path: Path, labels: list) -> None:
    path = write_zarr(tmp_path / "s.zarr", picture(60, 70), colours=[{"label": label} for label in labels])
    with open_slide(path) as slide:
        assert np.array_equal(whole(slide), picture(60, 70))


def test_channels_without_colours_whose_labels_are_dyes_are_refused(tmp_path: Path) -> None:
    path = write_zarr(tmp_path / "s.zarr", picture(60, 70), colours=[{"label": n} for n in ("DAPI", "FITC", "Cy5")])
    with pytest.raises(SlideError, match="DAPI, FITC, Cy5"):
        open_slide(path)


def write_b2r(root: Path, pictures: list[tuple[int, float]], *, names: list[str] | None = None) -> Path:
    """A bioformats2raw layout: of each picture its height (it is 10 px wider) and um per px."""
    group = zarr.open_group(str(root), mode="w", zarr_format=2)
    group.attrs["bioformats2raw.layout"] = 3
    for k, (height, mpp) in enumerate(pictures):
        write_zarr(root / str(k), picture(height, height + 10, seed=k), version="0.4", mpp=mpp)
    if names:
        images = "".join(f'<Image ID="Image:{k}" Name="{name}"><Pixels/></Image>' for k, name in enumerate(names))
        (root / "OME").mkdir()
        (root / "OME" / "METADATA.ome.xml").write_text(f"<OME>{images}</OME>")
    return root


@pytest.mark.parametrize(
    ("pictures", "names", "chosen"),
    [
        ([(60, 0.9), (100, 0.5)], None, 1),
        ([(100, 2.0), (60, 0.5)], None, 1),
        ([(100, 0.5), (60, 0.5)], None, 0),
        ([(60, 0.5), (100, 0.5)], None, 1),
        ([(60, 0.5), (100, 0.25)], ["slide", "macro image"], 0),
    ],
)
def test_the_finest_picture_that_is_the_slide_is_taken(
    tmp_path: Path, pictures: list, names: list[str] | None, chosen: int
) -> None:
    path = write_b2r(tmp_path / "s.zarr", pictures, names=names)
    with open_slide(path) as slide:
        assert (slide.info.series, slide.info.mpp) == (chosen, pictures[chosen][1])
        assert {part.series for part in slide.info.parts} == {None, 0, 1}
    with open_slide(path, series=1 - chosen) as slide:
        assert slide.info.series == 1 - chosen
    with pytest.raises(SlideError, match="no series 2"):
        open_slide(path, series=2)


@pytest.mark.parametrize(("start", "plane"), [(None, 2), (-1.0, 1), (-3.0, 3), (-0.5, 2)])
def test_of_a_stack_the_plane_at_position_0_is_taken_else_the_middle(
    tmp_path: Path, start: float | None, plane: int
) -> None:
    root = zarr.open_group(str(tmp_path / "s.zarr"), mode="w", zarr_format=2)
    planes = np.stack([picture(60, 70, seed=k) for k in range(5)])
    stored = np.ascontiguousarray(planes.transpose(3, 0, 1, 2))
    root.create_array("0", shape=stored.shape, chunks=(3, 1, 60, 70), dtype=np.uint8)[...] = stored
    steps = scale(1, 1, 0.5, 0.5)
    if start is not None:
        steps.append({"type": "translation", "translation": [0, start, 0, 0]})
    axes = [{"name": "c"}, *({"name": n, "unit": "micrometer"} for n in "zyx")]
    root.attrs["multiscales"] = [{"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": steps}]}]
    with open_slide(tmp_path / "s.zarr") as slide:
        assert np.array_equal(whole(slide), planes[plane])
        assert f"plane {plane}" in slide.info.notes[0]


def test_levels_that_show_another_picture_or_shape_are_left_out(tmp_path: Path) -> None:
    path = write_zarr(tmp_path / "s.zarr", picture(120, 160))
    array = zarr.open_array(str(path / "1"), mode="r+")
    array[...] = picture(60, 80, seed=9).transpose(2, 0, 1)
    with open_slide(path) as slide:
        assert slide.info.level_sizes == ((120, 160),)


def _pipe(file: Path) -> None:
    os.mkfifo(file)


def _device(file: Path) -> None:
    file.symlink_to("/dev/zero")


@pytest.mark.parametrize("kind", [_pipe, _device])
def test_a_chunk_that_is_no_file_is_refused_at_once(tmp_path: Path, kind: Any) -> None:
    path = write_zarr(tmp_path / "s.zarr", picture(130, 171))
    chunk = path / "0" / "c" / "1" / "0" / "2"
    chunk.unlink()
    kind(chunk)
    with pytest.raises(SlideError, match="no file but a device"), open_slide(path) as slide:
        whole(slide)
    with pytest.raises(SlideError, match="no file but a device"):
        read_window(open_level(path, 0), 0, 0, 130, 171)


def test_a_chunk_that_leads_nowhere_is_blank(tmp_path: Path) -> None:
    pixels = picture(130, 171)
    path = write_zarr(tmp_path / "s.zarr", pixels)
    chunk = path / "0" / "c" / "1" / "0" / "2"
    chunk.unlink()
    chunk.symlink_to("nowhere")
    pixels[:50, 100:150] = 255
    with open_slide(path) as slide:
        seen = whole(slide)
        assert np.array_equal(seen[..., 1], pixels[..., 1])  # the green plane; the whole place where it is unreadable
        assert slide.unreadable_tiles == 0


def test_metadata_that_are_no_file_are_refused_at_once(tmp_path: Path) -> None:
    path = write_zarr(tmp_path / "s.zarr", picture(60, 70))
    (path / "0" / "zarr.json").unlink()
    os.mkfifo(path / "0" / "zarr.json")
    with pytest.raises(SlideError, match="no file but a device"):
        open_slide(path)


@pytest.mark.parametrize("place", ["../other", "/etc", "a/../../b", "C:\\x", ""])
def test_paths_that_leave_the_folder_are_refused(tmp_path: Path, place: str) -> None:
    path = write_zarr(tmp_path / "s.zarr", picture(60, 70))
    change(path, lambda ome: ome["multiscales"][0]["datasets"][0].update(path=place))
    with pytest.raises(SlideError, match="make no sense"):
        open_slide(path)


@pytest.mark.parametrize("shape", [[3, 2**40, 2**40], [3, 2**21, 2**20], [0, 60, 70], [3, 60, -1]])
def test_shapes_larger_than_any_slide_are_refused(tmp_path: Path, shape: list[int]) -> None:
    path = write_zarr(tmp_path / "s.zarr", picture(60, 70))
    file = path / "0" / "zarr.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"shape": shape}))
    with pytest.raises(SlideError):
        open_slide(path)


ODD = (None, True, -1, 0, 1.5, 1e308, 2**40, "", "x" * 500, "../x", "2", [], {}, [[[]]], ["a"], "\0", float("nan"))


def _changed(node: Any, draw: Any) -> Any:
    """The tree with one value exchanged or left out."""
    if isinstance(node, dict) and node and draw(st.integers(0, 9)):
        key = draw(st.sampled_from(sorted(node)))
        if not draw(st.integers(0, 9)):
            return {k: v for k, v in node.items() if k != key}
        return node | {key: _changed(node[key], draw)}
    if isinstance(node, list) and node and draw(st.integers(0, 9)):
        at = draw(st.integers(0, len(node) - 1))
        return [*node[:at], _changed(node[at], draw), *node[at + 1 :]]
    return draw(st.sampled_from(ODD))


@pytest.fixture(scope="module", params=["0.4", "0.5"])
def good(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_zarr(tmp_path_factory.mktemp("zarr") / "s.zarr", picture(60, 70), version=request.param)


@settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_single_change_of_the_metadata_is_read_or_refused_in_one_sentence(good: Path, data: Any) -> None:
    file, _, _ = attributes_of(good)
    level = good / "0" / ("zarr.json" if file.name == "zarr.json" else ".zarray")
    target = data.draw(st.sampled_from([file, level]))
    before = target.read_text()
    target.write_text(json.dumps(_changed(copy.deepcopy(json.loads(before)), data.draw)))
    try:
        with open_slide(good, mpp=0.5) as slide:
            slide.read_level(0, 0, 0, 40, 40)
    except SlideError as error:
        assert "\n" not in str(error)
    finally:
        try:
            read_stain(good)
        except OutputError as error:
            assert "\n" not in str(error)
        target.write_text(before)

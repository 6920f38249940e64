"""The metadata is valid, puts every level in its place, shows colours as brightfield, and comes last."""

import json
import logging
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from ome_zarr_models import open_ome_zarr

from tests.output.making import mean_pyramid, small_spec, tissue_like, write_all
from wsistain.errors import OutputError
from wsistain.output import metadata
from wsistain.output.metadata import multiscales, write_metadata
from wsistain.output.store import create_output


def attributes_of(path: str, ngff: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The OME block and the wsistain block."""
    attributes = dict(zarr.open_group(path, mode="r").attrs)
    return (attributes["ome"] if ngff == "0.5" else attributes), attributes["wsistain"]


@pytest.mark.parametrize("ngff", ["0.5", "0.4"])
@pytest.mark.parametrize("size", [(1, 1), (65, 300)])
def test_ome_zarr_models_accepts_the_output(tmp_path: Path, ngff: str, size: tuple[int, int]) -> None:
    spec = small_spec(tmp_path / "o", *size, ngff=ngff)
    write_all(spec, tissue_like(*size))
    image = open_ome_zarr(zarr.open_group(spec.path, mode="r"))
    assert type(image).__name__ == "Image"
    assert image.ome_zarr_version == ngff
    assert len(image.datasets[0]) == len(spec.levels)


@pytest.mark.parametrize("ngff", ["0.5", "0.4"])
def test_ome_zarr_py_reads_scales_names_and_pixels(tmp_path: Path, ngff: str, caplog: pytest.LogCaptureFixture) -> None:
    from ome_zarr.format import FormatV04, FormatV05
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    pixels = tissue_like(130, 300)
    spec = small_spec(tmp_path / "o", 130, 300, ngff=ngff, origin_um=(10.0, 20.0))
    write_all(spec, pixels)
    location = parse_url(spec.path, fmt={"0.4": FormatV04, "0.5": FormatV05}[ngff]())
    assert location is not None
    nodes = list(Reader(location)())
    assert len(nodes[0].data) == len(spec.levels)
    for data, expected in zip(nodes[0].data, mean_pyramid(pixels, len(spec.levels)), strict=True):
        assert np.array_equal(np.asarray(data), expected.transpose(2, 0, 1))
    assert nodes[0].metadata["axes"][0]["name"] == "c"
    assert nodes[0].metadata["channel_names"] == ["red", "green", "blue"]
    assert nodes[0].metadata["coordinateTransformations"][1][0]["scale"] == [1.0, 1.0, 1.0]
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


def test_levels_lie_over_each_other_and_a_region_over_its_slide() -> None:
    spec = small_spec(Path("o"), 1000, 700, mpp=0.25, origin_um=(100.0, 40.0))
    (block,) = multiscales(spec, "x")
    for level, dataset in enumerate(block["datasets"]):
        scale, translation = (t[t["type"]] for t in dataset["coordinateTransformations"])
        assert scale == [1.0, 0.25 * 2**level, 0.25 * 2**level]
        # The mean of the places of the level-0 pixels that the first pixel of the level covers:
        covered = (np.arange(2**level) * 0.25).mean()
        assert translation == pytest.approx([0.0, 100.0 + covered, 40.0 + covered], abs=1e-9)
        assert dataset["path"] == str(level)


@pytest.mark.parametrize("ngff", ["0.5", "0.4"])
def test_channels_are_red_green_and_blue_at_full_range(tmp_path: Path, ngff: str) -> None:
    spec = small_spec(tmp_path / "o", 40, 40, ngff=ngff)
    write_all(spec, tissue_like(40, 40))
    ome, _ = attributes_of(spec.path, ngff)
    channels = ome["omero"]["channels"]
    assert [c["color"] for c in channels] == ["FF0000", "00FF00", "0000FF"]
    assert all(c["window"] == {"min": 0, "max": 255, "start": 0, "end": 255} and c["active"] for c in channels)
    assert ome["omero"]["rdefs"]["model"] == "color"


@pytest.mark.parametrize("ngff", ["0.5", "0.4"])
def test_the_root_says_that_the_stain_is_virtual_and_where_it_comes_from(tmp_path: Path, ngff: str) -> None:
    spec = small_spec(tmp_path / "o", 40, 40, ngff=ngff)
    create_output(spec)
    write_metadata(spec, {"virtual": False, "slide": {"mpp": 0.25}, "hash": "abc"}, "a name", key={"plan": "p"})
    ome, ours = attributes_of(spec.path, ngff)
    assert ours["virtual"] is True
    assert ours["slide"] == {"mpp": 0.25}
    assert ours["key"] == {"plan": "p"}
    assert ours["wsistain"]
    assert ome["multiscales"][0]["name"] == "a name"


def test_arrays_of_version_05_are_sharded_and_name_their_axes(tmp_path: Path) -> None:
    spec = small_spec(tmp_path / "o", 300, 300, zstd_level=3)
    create_output(spec)
    write_metadata(spec, {}, "x")
    for level, size in enumerate(spec.levels):
        document = json.loads((spec.folder / str(level) / "zarr.json").read_text())
        assert document["shape"] == [3, *size]
        assert document["dimension_names"] == ["c", "y", "x"]
        assert document["fill_value"] == 255
        assert document["chunk_grid"]["configuration"]["chunk_shape"] == [3, 64, 64]
        (sharding,) = document["codecs"]
        assert sharding["configuration"]["chunk_shape"] == [1, 32, 32]
        assert sharding["configuration"]["index_location"] == "end"
        assert sharding["configuration"]["codecs"][1] == {
            "name": "zstd",
            "configuration": {"level": 3, "checksum": False},
        }


def test_arrays_of_version_04_are_zarr_v2_without_shards(tmp_path: Path) -> None:
    spec = small_spec(tmp_path / "o", 300, 300, ngff="0.4")
    create_output(spec)
    write_metadata(spec, {}, "x")
    document = json.loads((spec.folder / "0" / ".zarray").read_text())
    assert document["zarr_format"] == 2
    assert document["chunks"] == [1, 64, 64]
    assert document["dimension_separator"] == "/"
    assert document["compressor"]["id"] == "blosc"
    assert document["fill_value"] == 255
    assert list(spec.folder.rglob("zarr.json")) == []


def test_version_04_says_in_ome_xml_what_qupath_takes_for_brightfield(tmp_path: Path) -> None:
    """Channels named and coloured as colours, scale, place, and no pixels: they are the Zarr's."""
    spec = small_spec(tmp_path / "o", 300, 200, ngff="0.4", mpp=0.5, origin_um=(40.0, 10.0))
    create_output(spec)
    write_metadata(spec, {"marker": "ER"}, "x")
    root = ElementTree.fromstring((spec.folder / "OME" / "METADATA.ome.xml").read_text())
    pixels = root.find("{*}Image/{*}Pixels")
    channels = [(c.get("Name"), int(c.get("Color")) & 0xFFFFFFFF) for c in pixels.findall("{*}Channel")]
    assert channels == [("Red", 0xFF0000FF), ("Green", 0x00FF00FF), ("Blue", 0x0000FFFF)]
    assert (pixels.get("SizeX"), pixels.get("SizeY"), pixels.get("PhysicalSizeX")) == ("200", "300", "0.5")
    assert {(p.get("PositionX"), p.get("PositionY")) for p in pixels.findall("{*}Plane")} == {("10", "40")}
    assert pixels.find("{*}MetadataOnly") is not None


@pytest.mark.parametrize(("ngff", "last"), [("0.5", "zarr.json"), ("0.4", ".zattrs")])
def test_the_root_is_written_last(tmp_path: Path, ngff: str, last: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = small_spec(tmp_path / "o", 300, 300, ngff=ngff)
    create_output(spec)
    order: list[str] = []
    write_file = metadata.write_file

    def noting(folder: Path, name: str, buffers: list[bytes]) -> object:
        order.append(name)
        return write_file(folder, name, buffers)

    monkeypatch.setattr(metadata, "write_file", noting)
    write_metadata(spec, {}, "x")
    assert order[-1] == last
    assert len(order) == len(set(order)) > len(spec.levels)
    if ngff == "0.4":
        assert order[-2] == ".zgroup"


def test_metadata_that_cannot_be_written_leaves_the_output_unfinished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = small_spec(tmp_path / "o", 300, 300)
    create_output(spec)

    def full(folder: Path, name: str, buffers: list[bytes]) -> object:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(metadata, "write_file", full)
    with pytest.raises(OutputError, match="disk is full"):
        write_metadata(spec, {}, "x")
    assert not (spec.folder / "zarr.json").exists()


def test_provenance_that_is_not_json_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    spec = small_spec(tmp_path / "o", 40, 40)
    create_output(spec)
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_metadata(spec, {"weights": object()}, "x")
    assert list(spec.folder.rglob("*.json")) == []

"""Opening an output tells what it holds, and says in one sentence why it cannot."""

import json
from pathlib import Path

import numpy as np
import pytest
import zarr

from tests.output.making import small_spec, tissue_like, write_all
from wsistain.errors import OutputError
from wsistain.output.reading import open_level, read_stain, read_window
from wsistain.output.store import create_output


@pytest.mark.parametrize("ngff", ["0.5", "0.4"])
def test_a_finished_stain_tells_its_levels_mpp_and_provenance(tmp_path: Path, ngff: str) -> None:
    spec = small_spec(tmp_path / "o", 130, 300, ngff=ngff, mpp=0.4661)
    write_all(spec, tissue_like(130, 300))
    stain = read_stain(spec.path)
    assert stain.levels == spec.levels
    assert stain.mpp == 0.4661
    assert stain.name == "test (virtual)"
    assert stain.provenance["marker"] == "ER"


def test_a_window_is_clipped_at_the_edge(tmp_path: Path) -> None:
    pixels = tissue_like(130, 300)
    spec = small_spec(tmp_path / "o", 130, 300)
    write_all(spec, pixels)
    assert np.array_equal(read_window(open_level(spec.path, 0), 120, 250, 100, 100), pixels[120:, 250:])


def test_an_unfinished_output_is_refused_with_the_way_out(tmp_path: Path) -> None:
    spec = small_spec(tmp_path / "o", 130, 300)
    create_output(spec)
    with pytest.raises(OutputError, match="unfinished, continue it with --resume"):
        read_stain(spec.path)


def test_what_is_no_stain_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="does not exist"):
        read_stain(tmp_path / "nothing")
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="not a finished OME-Zarr"):
        read_stain(tmp_path / "file")
    zarr.create_group(str(tmp_path / "bare"))
    with pytest.raises(OutputError, match="no OME-Zarr multiscales metadata"):
        read_stain(tmp_path / "bare")
    zarr.create_array(str(tmp_path / "array"), shape=(3, 4, 4), dtype="uint8")
    with pytest.raises(OutputError, match="not a finished OME-Zarr"):
        read_stain(tmp_path / "array")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ome: ome["multiscales"][0]["axes"][0].update(name="t"), "wanted an RGB stain"),
        (lambda ome: ome["multiscales"][0]["axes"][2].update(unit="millimeter"), "scales in millimeter"),
        (lambda ome: ome["multiscales"][0]["datasets"][0].update(path="7"), "no level 7"),
        (lambda ome: ome["multiscales"][0]["datasets"][0].update(path="x"), "wanted an RGB stain"),
        (lambda ome: ome["multiscales"][0].pop("datasets"), "no OME-Zarr multiscales"),
    ],
)
def test_metadata_of_another_kind_of_image_is_refused(tmp_path: Path, change: object, message: str) -> None:
    spec = small_spec(tmp_path / "o", 130, 300)
    write_all(spec, tissue_like(130, 300))
    root = spec.folder / "zarr.json"
    document = json.loads(root.read_text())
    change(document["attributes"]["ome"])
    root.write_text(json.dumps(document))
    with pytest.raises(OutputError, match=message):
        read_stain(spec.path)


@pytest.mark.parametrize("ngff", ["0.5", "0.4"])
@pytest.mark.parametrize("document", ["", "{}", "[]", "null", "3", '"x"', '{"zarr_format": 3}', '{"multiscales": 3}'])
def test_tampered_documents_are_one_sentence(tmp_path: Path, ngff: str, document: str) -> None:
    spec = small_spec(tmp_path / "o", 65, 65, ngff=ngff)
    write_all(spec, tissue_like(65, 65))
    root, level = {"0.5": ("zarr.json", "0/zarr.json"), "0.4": (".zattrs", "0/.zarray")}[ngff]
    for name in (root, level):
        good = (spec.folder / name).read_bytes()
        (spec.folder / name).write_text(document)
        with pytest.raises(OutputError):
            read_stain(spec.path)
        (spec.folder / name).write_bytes(good)


@pytest.mark.parametrize("value", [None, [], {}, "x", -1, 1e30])
def test_tampered_values_are_one_sentence(tmp_path: Path, value: object) -> None:
    spec = small_spec(tmp_path / "o", 65, 65)
    write_all(spec, tissue_like(65, 65))
    for name, path in (
        ("zarr.json", ("attributes", "ome", "multiscales")),
        ("zarr.json", ("attributes", "ome", "multiscales", 0, "datasets", 0, "coordinateTransformations", 0, "scale")),
        ("zarr.json", ("attributes", "ome", "multiscales", 0, "axes", 1, "name")),
        ("0/zarr.json", ("shape",)),
        ("0/zarr.json", ("codecs",)),
        ("0/zarr.json", ("data_type",)),
    ):
        good = (spec.folder / name).read_text()
        document = json.loads(good)
        holder = document
        for key in path[:-1]:
            holder = holder[key]
        holder[path[-1]] = value
        (spec.folder / name).write_text(json.dumps(document))
        with pytest.raises(OutputError):
            read_stain(spec.path)
        (spec.folder / name).write_text(good)


def test_a_damaged_chunk_is_one_sentence(tmp_path: Path) -> None:
    spec = small_spec(tmp_path / "o", 130, 300)
    write_all(spec, tissue_like(130, 300))
    shard = spec.folder / "0/c/0/0/0"
    data = bytearray(shard.read_bytes())
    data[:64] = bytes(64)
    shard.write_bytes(data)
    with pytest.raises(OutputError, match="a chunk near y 0, x 0 is damaged"):
        read_window(open_level(spec.path, 0), 0, 0, 32, 32)

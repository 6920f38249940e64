"""`wsistain export` from the command line."""

from pathlib import Path

import fsspec
import numpy as np
import pytest
import tifffile

from tests.output.making import small_spec, tissue_like, write_all
from wsistain.cli import main
from wsistain.errors import OutputError
from wsistain.output.reading import open_level, read_window


def test_export_writes_the_file_and_ends_with_where_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = small_spec(tmp_path / "o.ome.zarr", 100, 120)
    write_all(spec, tissue_like(100, 120))
    target = tmp_path / "o.ome.tif"
    with pytest.raises(SystemExit) as left:
        main(["export", spec.path, str(target), "--lossless", "--tile", "64"])
    assert left.value.code == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"{target}: ")
    assert tifffile.imread(target).shape == (100, 120, 3)


def test_export_of_what_is_not_there_is_exit_2_and_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["export", str(tmp_path / "none.ome.zarr"), str(tmp_path / "o.ome.tif")])
    assert left.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_stain_in_a_bucket_is_exported_as_one_in_a_folder(tmp_path: Path) -> None:
    spec = small_spec(tmp_path / "o.ome.zarr", 100, 120)
    write_all(spec, tissue_like(100, 120))
    bucket = fsspec.filesystem("memory")
    bucket.put(spec.path, "/bucket/o.ome.zarr", recursive=True)
    try:
        for source, target in ((spec.path, "here.tif"), ("memory://bucket/o.ome.zarr", "there.tif")):
            with pytest.raises(SystemExit) as left:
                main(["export", source, str(tmp_path / target), "--lossless", "--tile", "64"])
            assert left.value.code == 0
        bucket.pipe("/bucket/o.ome.zarr/0/c/0/0/0", b"cut")
        with pytest.raises(
            OutputError, match=r"memory://.*bucket/o.ome.zarr/0: a chunk near y 0, x 0 is damaged, or its server"
        ):
            read_window(open_level("memory://bucket/o.ome.zarr", 0), 0, 0, 10, 10)
    finally:
        bucket.rm("/bucket", recursive=True)
    assert np.array_equal(tifffile.imread(tmp_path / "there.tif"), tifffile.imread(tmp_path / "here.tif"))


@pytest.mark.parametrize(
    "command",
    [
        ["read", "URL"],
        ["view", "URL"],
        ["evaluate", "--slides", "URL", "--output", "OUT"],
        ["export", "URL", "OUT.zarr", "--as", "spatialdata"],
        ["export", "URL", "memory://b/y.ome.zarr"],
        ["weights", "show", "URL"],
        ["run", "slide.svs", "--marker", "ER", "--roi", "URL", "--output", "OUT"],
        ["batch", "URL", "--marker", "ER", "--output", "OUT"],
        ["pair", "URL", "b.svs", "--marker", "ER", "--output", "OUT"],
        ["stain", "URL", "--output", "OUT"],
    ],
)
def test_a_url_where_a_file_is_wanted_is_called_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    url = "https://host.invalid/x.ome.zarr"
    with pytest.raises(SystemExit) as left:
        main([part.replace("URL", url).replace("OUT", str(tmp_path / "out")) for part in command])
    assert left.value.code == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(
        f"wsistain: {url} is a URL, and here a file or folder on this machine is wanted; copy it first"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_refuses_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["export", "memory://nothing/x.ome.zarr", str(tmp_path / "x.tif")])
    assert left.value.code == 2
    assert "memory://nothing/x.ome.zarr is not a finished OME-Zarr" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []

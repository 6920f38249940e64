"""`wsistain export` from the command line."""

from pathlib import Path

import pytest
import tifffile

from tests.output.making import small_spec, tissue_like, write_all
from wsistain.cli import main


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

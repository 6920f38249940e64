import io
import json
import urllib.request

import numpy as np
import pytest
from PIL import Image

from tests.viewing.made import gallery_of, web_server, write_parquet_cells
from wsistain.cli import main
from wsistain.errors import OutputError
from wsistain.viewing.static import write_static


@pytest.fixture(scope="module")
def written(case, tmp_path_factory):
    folder = tmp_path_factory.mktemp("static") / "page"
    cells = write_parquet_cells(folder.parent / "cells.parquet")
    return folder, write_static(gallery_of(case, cells=cells), folder)


def test_every_address_of_the_page_is_a_file_and_all_are_counted(written):
    folder, done = written
    files = [p for p in folder.rglob("*") if p.is_file()]
    assert done.files == len(files) and done.size == sum(p.stat().st_size for p in files)
    listing = json.loads((folder / "api" / "results.json").read_text())
    names = [listing["samples"][0]["picture"]["name"], *(r["picture"]["name"] for r in listing["results"])]
    for name in names:
        assert (folder / "tiles" / f"{name}.dzi").is_file() and (folder / "thumbnails" / f"{name}.jpg").is_file()
        assert (folder / "tiles" / f"{name}_files" / "0" / "0_0.jpg").is_file()
    assert (folder / "page" / "main.js").is_file() and 'content="static"' in (folder / "index.html").read_text()
    assert (folder / "page" / "openseadragon.LICENSE.txt").is_file()
    assert all((folder / "cells" / r["id"] / "index.json").is_file() for r in listing["results"])
    assert str(folder.parent) not in (folder / "api" / "results.json").read_text()  # where it lay is nobody's business


def test_a_plain_web_server_gives_the_tiles(written, case):
    folder, _ = written
    with web_server(folder) as base:
        listing = json.loads(urllib.request.urlopen(f"{base}/api/results.json").read())
        name = listing["results"][0]["picture"]["name"]
        tile = urllib.request.urlopen(f"{base}/tiles/{name}_files/10/0_0.jpg").read()
    assert np.abs(np.asarray(Image.open(io.BytesIO(tile))).astype(int) - case.picture[:512, :512]).mean() < 3


def test_a_folder_that_is_there_is_kept_unless_it_was_written_here(written, case, tmp_path):
    folder, done = written
    with pytest.raises(OutputError, match="--overwrite"):
        write_static(gallery_of(case), folder)
    other = tmp_path / "mine"
    other.mkdir()
    (other / "thesis.txt").write_text("x")
    with pytest.raises(OutputError, match="not written by"):
        write_static(gallery_of(case), other, overwrite=True)
    assert (other / "thesis.txt").is_file() and len([p for p in folder.rglob("*") if p.is_file()]) == done.files


def test_the_command_says_how_many_files_it_wrote(case, tmp_path, capsys):
    folder = tmp_path / "page"
    with pytest.raises(SystemExit) as stop:
        main(["view", str(case.her2), "--slide", str(case.slide), "--static", str(folder)])
    out = capsys.readouterr().out
    n = len([p for p in folder.rglob("*") if p.is_file()])
    assert stop.value.code == 0 and f"{n} files" in out.splitlines()[-1]


def test_nothing_is_left_where_writing_fails(case, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("wsistain.viewing.static.encode", fail)
    with pytest.raises(OutputError, match="disk is full"):
        write_static(gallery_of(case), tmp_path / "page")
    assert list(tmp_path.iterdir()) == []

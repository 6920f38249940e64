"""A run that is looked at while it goes on."""

import json
import threading
import time
import urllib.request

import pytest

from tests.pipeline.slides import tissue_picture, write_slide
from wsistain.cli import main
from wsistain.viewing import live
from wsistain.viewing.live import stay, watching

SMALL = ["--set", "tiling.stride=64", "--set", "tiling.overlap=16", "--set", "tiling.block=256"]
SMALL += ["--set", "output.chunk=64", "--set", "output.shard=128"]


def states(url: str) -> list[str]:
    with urllib.request.urlopen(url.replace("/?", "/api/results?"), timeout=20) as answer:
        return [r["state"] for r in json.loads(answer.read())["results"]]


def test_a_run_with_a_page_shows_its_result_and_ends_when_the_page_is_closed(tmp_path, capsys, monkeypatch):
    slide = write_slide(tmp_path / "case.tiff", tissue_picture(300, 400))
    monkeypatch.setattr(live, "IDLE_S", 0.0)
    seen = []
    make = live.serve

    def looked_at(gallery, **options):
        served = make(gallery, **options)
        start = served.start

        def begin():
            start()
            seen.append((served.url, states(served.url)))

        served.start = begin
        return served

    monkeypatch.setattr(live, "serve", looked_at)
    with pytest.raises(SystemExit) as stop:
        main(["run", str(slide), "-w", "identity", "-o", str(tmp_path / "out"), "--view", *SMALL])
    out = capsys.readouterr().out
    assert stop.value.code == 0 and seen[0][0] in out and seen[0][1] == []
    assert (tmp_path / "out" / "case.ER.ome.zarr" / "zarr.json").is_file()


def test_the_page_knows_the_result_once_it_is_there(tmp_path, case):
    with watching(str(case.slide), ["ER"], case.er.parent) as served:
        assert states(served.url) == ["finished"] and served.was_asked
    with watching("s3://bucket/slide.svs", ["ER"], tmp_path) as served:
        assert states(served.url) == []


def test_it_stays_while_somebody_asks_and_no_longer(tmp_path, case):
    with watching(str(case.slide), ["ER"], tmp_path) as served:
        begun = time.monotonic()
        stay(served, idle_s=60.0)
        assert time.monotonic() - begun < 5  # nobody has asked at all
        states(served.url)
        served.seen = time.monotonic() - 59.9
        waiting = threading.Thread(target=stay, args=(served,), kwargs={"idle_s": 60.0})
        waiting.start()
        waiting.join(timeout=30)
        assert not waiting.is_alive()

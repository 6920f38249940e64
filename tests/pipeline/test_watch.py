"""Tiles tell of themselves while their block is not whole: in this process, and from the workers of a cluster."""

import pytest

from tests.pipeline.slides import small_config, tissue_picture, write_slide
from wsistain.pipeline.run import run
from wsistain.pipeline.watch import Progress, Teller, listening
from wsistain.runtime.event import STAINING


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    return write_slide(tmp_path_factory.mktemp("watch") / "a.tiff", tissue_picture(300, 300))


def test_the_bar_moves_before_the_first_block_is_written(slide, tmp_path):
    seen = []
    (report,) = run(slide, "ER", tmp_path, config=small_config(), on_event=seen.append)
    staining = [e for e in seen if e.stage == STAINING]
    assert staining[0].tiles == 0 and staining[0].total_tiles == report.tiles_planned
    assert any(e.done == 0 and e.tiles > 0 for e in staining)
    assert [e.tiles for e in staining] == sorted(e.tiles for e in staining)
    assert staining[-1].tiles == staining[-1].total_tiles and staining[-1].done == staining[-1].total


def test_what_an_earlier_session_stained_counts(slide, tmp_path):
    def stop(event):
        if event.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(slide, "ER", tmp_path, config=small_config(), on_event=stop)
    seen = []
    run(slide, "ER", tmp_path, config=small_config(), resume=True, on_event=seen.append)
    first, last = seen[0], seen[-1]
    assert first.tiles > 0 and first.done == 2 and last.tiles == last.total_tiles


def test_a_pass_hears_its_own_tasks_and_nothing_after_its_end():
    heard = []
    tell = Teller("mine", "norm", 4)
    with listening("mine", lambda *told: heard.append(told), None):
        tell()
        Teller("another", "norm")()
        tell(2)
    tell()
    tell.flush()
    assert heard == [("norm", 1, 4), ("norm", 2, 4)]


def test_tiles_that_were_made_twice_do_not_exceed_the_whole():
    seen = []
    progress = Progress(seen.append, blocks=2, total_megapixels=1.0, tiles=1, total_tiles=3)
    progress.heard(STAINING, 5, 0)
    progress.heard("norm", 1, 2)
    progress.wrote(0.5)
    assert [(e.stage, e.tiles, e.done) for e in seen] == [(STAINING, 3, 0), ("norm", 0, 1), (STAINING, 3, 1)]

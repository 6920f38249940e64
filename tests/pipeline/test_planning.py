from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from tests.pipeline.slides import tissue_picture, write_slide
from wsistain.config import RunConfig
from wsistain.errors import SlideError
from wsistain.generators.load import find_generator
from wsistain.pipeline.planning import BLOCK_BYTES, default_block, plan_groups
from wsistain.slide.reader import open_slide


@pytest.mark.parametrize(
    ("channels", "stride", "shard", "edge"),
    [
        (3, 1024, 2048, 4096),
        (8, 1024, 2048, 4096),
        (16, 1024, 2048, 2048),
        (100, 1024, 2048, 2048),  # a shard is the least
        (100, 512, 512, 1024),
        (200, 512, 512, 512),
        (16, 1024, 4096, 4096),
        (16, 4096, 2048, 4096),
    ],
)
def test_a_block_of_many_stains_is_smaller_as_far_as_stride_and_shard_go_into_it(channels, stride, shard, edge):
    assert default_block(channels, stride, shard) == edge
    assert edge % stride == 0 and edge % shard == 0


def test_a_block_takes_no_more_than_is_meant_where_shards_are_small():
    assert all(default_block(n, 16, 64) ** 2 * n <= BLOCK_BYTES for n in range(3, 200))


def test_blocks_are_those_of_the_weights_whichever_markers_are_asked_for(tmp_path):
    """A finished ER is to stay finished where ER, PR and Ki67 are asked for later: its plan must be the same."""
    path = write_slide(tmp_path / "case.tiff", np.full((300, 300, 3), 200, np.uint8))
    specs = [replace(find_generator("identity", m), panel=4) for m in ("ER", "PR", "Ki67", "HER2")]
    config = RunConfig(weights="identity", all_tiles=True)
    with closing(open_slide(path)) as slide:
        plans = [plan_groups(slide, some, config, None, crop=True)[0].plan for some in (specs, specs[:1])]
    assert [plan.tiling.block for plan in plans] == [2048, 2048]
    assert plans[0].hash == plans[1].hash


def _brown(height: int, width: int) -> np.ndarray:
    """Blue and brown tissue with glass round it, as `tissue_picture` is pink."""
    picture = tissue_picture(height, width)
    rng = np.random.default_rng(1)
    for k, low in ((0, (130, 130, 190)), (1, (150, 110, 70))):
        where = (picture[..., 0] < 240) & (np.arange(width) // 40 % 2 == k)
        picture[where] = (np.array(low) + rng.integers(0, 15, (height, width, 3)))[where]
    return picture


def test_a_slide_that_is_plainly_no_he_is_refused_before_it_is_stained(tmp_path):
    brown = write_slide(tmp_path / "ihc.tiff", _brown(1200, 1200), mpp=2.0)
    pink = write_slide(tmp_path / "he.tiff", tissue_picture(1200, 1200), mpp=2.0)
    spec = replace(find_generator("identity", "ER"), weights="some")
    with closing(open_slide(brown)) as ihc, closing(open_slide(pink)) as he:
        for config in (RunConfig(weights="some"), RunConfig(weights="some", all_tiles=True)):
            with pytest.raises(
                SlideError, match=r"to be stained from H&E, but it looks like haematoxylin with DAB.*--any-stain"
            ):
                plan_groups(ihc, [spec], config, None, crop=True)
            assert plan_groups(he, [spec], config, None, crop=True)[0].warnings == ()
        back = RunConfig(weights="some", direction="ihc-to-he")
        with pytest.raises(SlideError, match="to be stained from IHC, but it looks like H&E"):
            plan_groups(he, [spec], back, None, crop=True)
        assert plan_groups(ihc, [spec], back, None, crop=True)
        assert plan_groups(ihc, [spec], RunConfig(weights="some", any_stain=True), None, crop=True)
        assert plan_groups(ihc, [find_generator("identity", "ER")], RunConfig(), None, crop=True)


def test_a_slide_without_a_trace_of_eosin_is_stained_with_a_warning(tmp_path):
    picture = tissue_picture(1200, 1200)
    picture[picture[..., 0] < 240] = (110, 110, 190)
    path = write_slide(tmp_path / "blue.tiff", picture, mpp=2.0)
    spec = replace(find_generator("identity", "ER"), weights="some")
    with closing(open_slide(path)) as slide:
        (told,) = plan_groups(slide, [spec], RunConfig(weights="some"), None, crop=True)[0].warnings
    assert told.startswith("hardly any eosin is seen: 0% of what is stained is pink")

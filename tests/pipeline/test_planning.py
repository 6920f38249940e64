from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from tests.pipeline.slides import write_slide
from wsistain.config import RunConfig
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

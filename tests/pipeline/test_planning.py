import pytest

from wsistain.pipeline.planning import BLOCK_BYTES, default_block


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

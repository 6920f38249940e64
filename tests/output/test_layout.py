"""Levels, blocks and shards fit together for every size."""

import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.output.making import small_spec
from wsistain.config import OutputConfig
from wsistain.errors import OutputError
from wsistain.output.layout import OutputSpec


@given(
    height=st.integers(1, 5000),
    width=st.integers(1, 5000),
    chunk=st.sampled_from([16, 32, 50]),
    per_shard=st.sampled_from([2, 4]),
    per_block=st.sampled_from([1, 2, 3, 4, 6, 8]),
)
def test_levels_halve_down_to_one_chunk_and_block_levels_are_whole_shards(
    height: int, width: int, chunk: int, per_shard: int, per_block: int
) -> None:
    shard = chunk * per_shard
    spec = OutputSpec("x", height, width, 0.5, shard * per_block, OutputConfig(chunk=chunk, shard=shard))
    for finer, coarser in zip(spec.levels, spec.levels[1:], strict=False):
        assert coarser == (-(-finer[0] // 2), -(-finer[1] // 2))
        assert max(finer) > chunk
    assert max(spec.levels[-1]) <= chunk
    assert 1 <= spec.block_levels <= len(spec.levels)
    for level in range(spec.block_levels):
        assert (spec.block >> level) % shard == 0
    if spec.has_pieces:
        assert spec.block % 2**spec.block_levels == 0  # the piece is a whole number of pixels
    files = [
        f for level in range(len(spec.levels)) for r, c in grid(spec, level) for f in spec.shard_files(level, r, c)
    ]
    assert len(files) == len(set(files))


def grid(spec: OutputSpec, level: int) -> list[tuple[int, int]]:
    rows, cols = spec.shard_grid(level)
    return [(r, c) for r in range(rows) for c in range(cols)]


def test_default_sizes_complete_two_levels_in_a_block() -> None:
    spec = OutputSpec("x", 40_000, 30_000, 0.25)
    assert spec.block_levels == 2
    assert spec.has_pieces
    assert spec.block_size(9, 7) == (40_000 - 9 * 4096, 30_000 - 7 * 4096)


def test_chunks_of_version_04_are_as_large_as_1024_and_divide_the_shard() -> None:
    assert OutputSpec("x", 10, 10, 0.5, storage=OutputConfig(ngff="0.4")).stored_chunk == 1024
    assert (
        OutputSpec("x", 10, 10, 0.5, block=192, storage=OutputConfig(chunk=64, shard=192, ngff="0.4")).stored_chunk
        == 192
    )
    assert OutputSpec("x", 10, 10, 0.5, storage=OutputConfig(chunk=2048, shard=2048, ngff="0.4")).stored_chunk == 2048
    assert OutputSpec("x", 10, 10, 0.5).stored_chunk == 512


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chunk": 31, "shard": 93, "block": 93}, "shard 93 is not even"),
        ({"block": 100}, "block 100 is not a multiple of shard 64"),
        ({"block": 32}, "block 32 is not a multiple of shard 64"),
        ({"height": 0}, "holds nothing"),
        ({"mpp": 0.0}, "mpp 0.0 is not positive"),
        ({"mpp": float("nan")}, "is not positive"),
        ({"ngff": "0.4", "zstd_level": 12}, "zstd level 12 is above 9"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_with_the_reason(changes: dict[str, object], message: str) -> None:
    with pytest.raises(OutputError, match=message):
        small_spec(Path("x"), **{"height": 10, "width": 10, **changes})


def test_a_block_outside_the_grid_is_refused() -> None:
    with pytest.raises(ValueError, match=r"block \(1, 0\) lies outside the grid of 1 x 1"):
        small_spec(Path("x"), 100, 100).block_size(1, 0)


def test_a_spec_travels_between_processes() -> None:
    spec = small_spec(Path("x"), 100, 100)
    assert pickle.loads(pickle.dumps(spec)) == spec


def test_an_option_that_decides_bytes_stands_in_one_place_and_is_told_in_the_docs() -> None:
    plain = OutputConfig()
    assert OutputSpec("x", 10, 10, 0.5, storage=plain).storage.deciding() == plain.deciding()
    assert set(OutputConfig.model_fields) - set(plain.deciding()) == {"preview_px", "formats"}
    text = (Path(__file__).parents[2] / "docs" / "running.md").read_text()
    for name, field in OutputConfig.model_fields.items():
        shown = ",".join(field.default) if isinstance(field.default, tuple) else field.default
        assert f"| `output.{name}` | {shown} | {field.description} |" in text

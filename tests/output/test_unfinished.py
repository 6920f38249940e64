import numpy as np
import pytest

from tests.output.making import block_of, small_spec, tissue_like
from wsistain.errors import OutputError
from wsistain.output.journal import open_journal
from wsistain.output.metadata import write_metadata
from wsistain.output.pyramid import finish_pyramid, half
from wsistain.output.store import create_output, write_block
from wsistain.output.unfinished import (
    BEGUN,
    describe_begun,
    is_being_written,
    read_begun,
    read_begun_window,
)


@pytest.mark.parametrize("ngff", ["0.5", "0.4"])
def test_what_is_written_so_far_can_be_seen_and_nothing_else(tmp_path, ngff):
    spec = small_spec(tmp_path / "x.ome.zarr", 200, 300, ngff=ngff, origin_um=(8.0, 16.0))
    pixels = tissue_like(200, 300)
    with open_journal(spec.path, {"plan": "p"}, False, False) as journal:
        create_output(spec)
        describe_begun(spec, {"marker": "ER"})
        begun = read_begun(spec.folder)
        assert begun.spec == spec and begun.facts == {"marker": "ER"} and begun.blocks_done() == frozenset()
        assert (read_begun_window(begun, 0, 0, 0, 200, 300) == 255).all()
        journal.append(write_block(spec, 0, 1, block_of(spec, pixels, 0, 1)))
        assert begun.blocks_done() == {(0, 1)}
        seen = read_begun_window(begun, 0, 0, 0, 200, 300)
        assert np.array_equal(seen[:128, 128:256], pixels[:128, 128:256]) and (seen[128:] == 255).all()
        level = spec.block_levels
        above = read_begun_window(begun, level, 0, 0, *spec.levels[level])
        expected = pixels
        for _ in range(level):
            expected = half(expected)
        edge = 128 >> level
        assert np.array_equal(above[:edge, edge : 2 * edge], expected[:edge, edge : 2 * edge])
        assert is_being_written(spec.folder)
    assert not is_being_written(spec.folder) and read_begun(spec.folder) is not None


def test_a_finished_output_is_not_unfinished(tmp_path):
    spec = small_spec(tmp_path / "x.ome.zarr", 100, 100)
    with open_journal(spec.path, {"plan": "p"}, False, False) as journal:
        create_output(spec)
        describe_begun(spec, {})
        write_block(spec, 0, 0, tissue_like(100, 100))
        finish_pyramid(spec)
        write_metadata(spec, {}, "x", key={"plan": "p"})
        journal.finish()
    assert read_begun(spec.folder) is None and not (spec.folder / ".wsistain").exists()
    assert not is_being_written(spec.folder)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"spec": {"path": 1}, "facts": {}}', '{"spec": 3, "facts": 4}'])
def test_a_damaged_description_is_told(tmp_path, content):
    (tmp_path / ".wsistain").mkdir()
    assert read_begun(tmp_path) is None
    (tmp_path / ".wsistain" / BEGUN).write_text(content)
    with pytest.raises(OutputError, match="description is damaged"):
        read_begun(tmp_path)

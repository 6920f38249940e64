import pytest
import torch

from tests.systems.test_lpstain import BOTH
from wsistain.errors import ConfigError, WeightsError
from wsistain.markers import find_marker
from wsistain.systems import lpstain
from wsistain.weights.adjust import set_options
from wsistain.weights.file import Header, load_network, load_tensors, save_weights


@pytest.fixture
def weights(tmp_path):
    """A file of before `widest_um`: its header does not name it."""
    dyes = {name: d.model_dump() for name, d in BOTH.items()}
    system = lpstain.LPStain(lpstain.Config.tiny({"dyes": dyes, "widest_um": 0.0}), find_marker("ER"))
    options = system.header_options()
    del options["widest_um"]
    radius = system.G.facts.halo_px
    header = Header(system="lpstain", options=options, markers=["ER", "HER2"], mpp=1.0, tile_px=64, halo_px=radius)
    save_weights(tmp_path / "old.safetensors", header, system.generator_state())
    return tmp_path / "old.safetensors"


def test_weights_without_a_limit_of_width_say_so_once_and_can_be_given_one(weights, tmp_path, caplog):
    lpstain._say_no_limit.cache_clear()
    new = tmp_path / "new.safetensors"
    set_options(weights, ["widest_um=13"], new)
    assert not caplog.records
    old_network, old = load_network(weights)
    load_network(weights)
    assert len(caplog.records) == 1 and "wsistain weights set" in caplog.text
    caplog.clear()
    network, header = load_network(new)
    assert not caplog.records
    assert (old_network.widest_px, network.widest_px) == (1, 13)
    assert header.halo_px == network.facts.halo_px > old.halo_px  # it looks round a place once more
    assert header.model_copy(update={"options": old.options, "halo_px": old.halo_px}) == old
    after = load_tensors(new)
    assert all(torch.equal(tensor, after[name]) for name, tensor in load_tensors(weights).items())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("far=5", "can: widest_um, near_um, own, white_glass"),
        ("own=2", "own"),
        ("widest_um=-1", "widest_um"),
        ("x", "x"),
    ],
)
def test_what_was_learned_cannot_be_set_and_nothing_is_written(weights, tmp_path, change, said):
    with pytest.raises(ConfigError, match=said):
        set_options(weights, [change], tmp_path / "new.safetensors")
    with pytest.raises(WeightsError, match="exists"):
        set_options(weights, ["widest_um=9"], weights)
    assert [path.name for path in tmp_path.iterdir()] == [weights.name]

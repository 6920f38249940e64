import pytest
import torch

from wsistain.errors import ConfigError, WeightsError
from wsistain.markers import find_marker
from wsistain.systems.aligned import GLASS, Aligned, Config, _brown, _with_glass, generator_network
from wsistain.systems.base import Batch, Progress
from wsistain.weights.file import Header, save_weights


def _step(system, he, ihc):
    def update(optimiser, loss):
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    batch = Batch(he, ihc, "ER", tuple("ab"))
    return system.training_step(batch, Progress(0, 0, 10, 1, 0, 10), update)


def test_terms_vanish_where_the_virtual_picture_is_the_target():
    system = Aligned(Config.tiny({}), find_marker("ER"))
    he = torch.rand(2, 3, 32, 32) * 2 - 1
    system.G.train()
    with torch.no_grad():
        target = system.G(he)
    assert all(float(term.detach()) < 1e-10 for term in _step(system, he, target).values())


def test_the_stain_term_tells_brown_from_blue_and_pulls_a_blue_nucleus_towards_brown():
    brown, blue = (
        torch.tensor(c)[None, :, None, None].expand(2, 3, 32, 32) for c in ((0.1, -0.4, -0.7), (-0.2, -0.1, 0.5))
    )
    assert (_brown(brown) > 0.2).all() and (_brown(blue) < -0.1).all()
    painted = blue.clone().requires_grad_(True)
    (_brown(painted) - _brown(brown)).square().mean().backward()
    assert (painted.grad[:, 2] > 0).all() and (painted.grad[:, 0] < 0).all()  # less blue light, more red


def test_start_from_takes_the_weights_of_an_earlier_run_and_refuses_another_size(tmp_path):
    torch.manual_seed(3)
    earlier = Aligned(Config.tiny({}), find_marker("ER"))
    path = tmp_path / "er.safetensors"
    header = Header(system="aligned", options=earlier.header_options(), markers=["ER"], mpp=0.5, tile_px=32)
    save_weights(path, header, earlier.generator_state())
    later = Aligned(Config.tiny({"start_from": str(path)}), find_marker("PR"))
    for name, tensor in earlier.generator_state().items():
        assert torch.equal(later.generator_state()[name], tensor)
    with pytest.raises(WeightsError):
        Aligned(Config.tiny({"start_from": str(path), "ngf": 6}), find_marker("PR"))


def test_the_header_builds_the_network_with_its_windows():
    system = Aligned(Config.tiny({"windows": (3, 5)}), find_marker("ER"))
    again = generator_network(system.header_options())
    again.load_state_dict(system.generator_state())
    x = torch.rand(1, 3, 32, 48) * 2 - 1
    assert torch.equal(again.eval()(x), system.generator().eval()(x))
    assert again.facts.halo_px > generator_network({"n_blocks": 1, "ngf": 4}).facts.halo_px


def test_glass_lies_beyond_a_straight_edge_in_both_pictures_of_the_share():
    torch.manual_seed(4)
    he, ihc = torch.zeros(200, 3, 24, 24), torch.full((200, 3, 24, 24), -0.5)
    new_he, new_ihc = _with_glass(he, ihc, 0.4)
    there = new_ihc[:, 0] > 0
    assert new_ihc[:, 0][there].unique().tolist() == pytest.approx([GLASS])
    assert torch.equal(there, new_he[:, 0] > 0.5)  # the same places, bright in both
    assert (new_he[~there[:, None].expand_as(he)] == 0).all() and (new_ihc[:, 1] == new_ihc[:, 0]).all()
    share = there.flatten(1).any(dim=1).float().mean()
    assert 0.3 < share < 0.5
    for place in there[there.flatten(1).any(dim=1)]:  # one straight edge: along every row it changes once at most
        assert ((place[:, 1:] != place[:, :-1]).sum(dim=1) <= 1).all()


@pytest.mark.parametrize("wrong", [{"windows": (4,)}, {"windows": (5,), "far": 4}, {"windows": (5,), "ngf": 5}])
def test_windows_that_cannot_be_built_are_refused_as_bad_configuration(wrong):
    with pytest.raises(ConfigError, match="wanted"):
        Config.tiny(wrong)

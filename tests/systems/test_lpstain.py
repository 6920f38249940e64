from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from wsistain.config import TrainConfig, load_config
from wsistain.errors import ConfigError, DataError
from wsistain.generators.load import find_generator
from wsistain.generators.network import NetworkGenerator
from wsistain.generators.spec import PRECISIONS
from wsistain.markers import find_marker
from wsistain.networks.dye_layer import largest
from wsistain.networks.expression import ExpressionNet, tissue_of
from wsistain.optics.dyes import Dyes
from wsistain.optics.restain import restained
from wsistain.packaged import training_config
from wsistain.systems.base import Batch, Progress
from wsistain.systems.lpstain import Config, LPStain, generator_network
from wsistain.training.schedule import set_learning_rates

DYES = Dyes(
    haematoxylin=(0.684, 0.648, 0.335),
    dab=(0.294, 0.529, 0.796),
    ground=(0.019, 0.023, 0.017),
    he_haematoxylin=(0.582, 0.733, 0.352),
    he_eosin=(0.189, 0.878, 0.440),
    he_ground=(0.017, 0.026, 0.023),
    nucleus=0.18,
    dark=0.36,
    positive=0.3,
    cell=0.18,
    amplitude=0.6,
    share=0.45,
    match=((0.0, 0.0), (0.25, 0.06), (0.9, 0.42), (4.5, 2.0)),
)
BOTH = {"ER": DYES, "HER2": DYES.model_copy(update={"cell": 0.08})}


def _config(**options):
    return Config.tiny({"dyes": {name: d.model_dump() for name, d in BOTH.items()}, "jitter": 0.0, **options})


def _update(optimizer, loss):
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _batch(markers=("ER", "HER2")):
    torch.manual_seed(1)
    he, ihc = (torch.rand(len(markers), 3, 64, 64) * 1.6 - 0.8 for _ in range(2))
    return Batch(he, ihc, markers[0], tuple("ab")[: len(markers)], markers=tuple(markers))


def _step(system, batch, step=5):
    for optimizer in system.optimizers.values():
        set_learning_rates({"x": optimizer}, 1.0)
    return system.training_step(batch, Progress(step, 0, 10, 1, 0, 10), _update)


def test_light_goes_to_amounts_and_back():
    layer = generator_network(LPStain(_config(), find_marker("ER")).header_options()).layers[0]
    h, d = torch.rand(2, 1, 8, 8) * 0.8, torch.rand(2, 1, 8, 8) * 0.8
    back = layer.amounts((layer.light(h, d) + 1) / 2)
    assert torch.allclose(back[0], h, atol=1e-4) and torch.allclose(back[1], d, atol=1e-4)
    assert layer.light(0 * h, 0 * d).amin() > 0.85  # clear glass is light
    assert torch.allclose(layer.counterstain(torch.ones(1, 3, 4, 4)), torch.zeros(1, 1, 4, 4))


def test_white_glass_takes_the_ground_off_and_holds_no_dab():
    options = LPStain(_config(), find_marker("ER")).header_options()
    torch.manual_seed(0)
    grey, white = (generator_network({**options, "white_glass": on}).eval() for on in (False, True))
    white.load_state_dict(grey.state_dict())
    layer = white.dye_layers()[0]
    none = torch.zeros(1, 1, 4, 4)
    assert torch.equal(layer.light(none, none, white=True), torch.ones(1, 3, 4, 4))
    x = torch.rand(1, 3, 64, 64) - 0.8  # tissue throughout
    with torch.no_grad():
        ratio = (white(x) + 1) / (grey(x) + 1)
        assert torch.allclose(ratio, 10 ** layer.ground[:, None, None].expand_as(ratio), atol=1e-4)
        x[..., 32:] = 0.97  # glass
        assert torch.equal(tissue_of(x)[..., 32:], torch.zeros(1, 1, 64, 32)) and (tissue_of(x)[..., :32] > 0.9).all()
        brown = layer.amounts((white(x) + 1) / 2 * 10 ** -layer.ground[:, None, None])[1]
    assert brown[..., :32].mean() > 100 * brown[..., 32:].mean()


def test_every_term_is_finite_and_one_batch_is_learned():
    torch.manual_seed(0)
    system = LPStain(_config(lr=5e-3, search_um=0.0), find_marker("ER"))
    batch = _batch()
    first = _step(system, batch)
    for _ in range(15):
        last = _step(system, batch)
    assert set(first) == {"share", "nuclei", "counterstain", "gan"}
    assert all(torch.isfinite(t) for t in first.values())
    assert last["share"] < first["share"] and last["counterstain"] < first["counterstain"]


def test_losses_of_the_picture_do_not_reach_p_and_shares_do_not_reach_the_picture():
    torch.manual_seed(0)
    for weights, still, moved in (
        ({"share": 0.0, "nuclei": 0.0, "counterstain": 1.0, "gan": 1.0}, "trunk", "paint"),
        ({"share": 1.0, "nuclei": 0.0, "counterstain": 0.0, "gan": 0.0}, "paint", "trunk"),
    ):
        system = LPStain(_config(weights=weights), find_marker("ER"))
        before = {n: p.detach().clone() for n, p in system.G.named_parameters()}
        _step(system, _batch())
        for name, parameter in system.G.named_parameters():
            if name.startswith(still):
                assert torch.equal(parameter, before[name]), name
        assert any(not torch.equal(p, before[n]) for n, p in system.G.named_parameters() if n.startswith(moved))


def test_dab_lies_where_the_marker_can_be_and_grows_with_p():
    network = LPStain(_config(), find_marker("ER")).G.eval()
    h = torch.zeros(1, 1, 32, 32)
    h[..., 12:20, 12:20] = 0.5
    for number, inside in ((0, True), (1, False)):
        layer = network.layers[number]
        nuclei = layer.nuclei(h)
        low, high = (
            layer.amounts((network.picture(h, torch.full_like(h, p), nuclei, number) + 1) / 2)[1] for p in (0.1, 0.9)
        )
        assert (high >= low - 1e-5).all() and float(low.amax()) > 0.01
        assert (high[..., 15, 15] > 0.3) == inside  # in the nucleus
        assert high[..., 0, 0] < 1e-3  # far from any nucleus
    ring = network.layers[1].place(network.layers[1].nuclei(h))
    assert ring[..., 16, 9] > 0.2 and ring[..., 16, 16] < 0.1


def test_tiles_with_the_halo_equal_one_pass_and_several_markers_equal_one_by_one():
    torch.manual_seed(0)
    network = LPStain(_config(pool=2), find_marker("ER")).G
    for module in network.modules():  # statistics that are not those of the start
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
    network.eval()
    halo, core = network.facts.halo_px, 32
    assert halo % network.size_multiple == 0 and halo < 200
    edge = 2 * halo + core + 2 * network.size_multiple
    x = torch.rand(1, 3, edge, edge) * 2 - 1
    with torch.no_grad():
        whole = network.stain(x, ["ER", "HER2"])
        y = network.size_multiple
        tile = network.stain(x[..., y : y + 2 * halo + core, y : y + 2 * halo + core], ["ER", "HER2"])
        for k, name in enumerate(("ER", "HER2")):
            inside = whole[k][..., y + halo : y + halo + core, y + halo : y + halo + core]
            assert torch.allclose(tile[k][..., halo : halo + core, halo : halo + core], inside, atol=1e-5)
            assert torch.allclose(network.stain(x, [name])[0], whole[k], atol=1e-6)
        assert torch.equal(network(x), network.stain(x, ["ER"])[0])
    with pytest.raises(ValueError, match="stains ER, HER2, not PR"):
        network.stain(x, ["PR"])


@pytest.mark.parametrize(("pool", "fine"), [(1, False), (2, False), (2, True)])
def test_a_margin_that_is_not_painted_leaves_the_rest_as_it_is(pool, fine):
    torch.manual_seed(0)
    network = LPStain(_config(pool=pool, fine=fine, n_blocks=2), find_marker("ER")).G.eval()
    x = torch.rand(1, 3, 240, 256) * 2 - 1
    with torch.no_grad():
        whole = network.stain_and_tell(x, ["ER", "HER2"])
        for margin in (1, 30, 64, 100):  # also where it is narrower than the receptive field
            core = network.stain_and_tell(x, ["ER", "HER2"], margin)
            for of_whole, of_core in zip(whole, core, strict=True):
                for a, b in zip(of_whole, of_core, strict=True):
                    assert b.shape[-2:] == (240 - 2 * margin, 256 - 2 * margin)
                    assert torch.allclose(a[..., margin:-margin, margin:-margin], b, atol=1e-5)


def test_p_is_drawn_to_its_neighbourhood_as_far_as_the_options_say_and_weights_of_before_are_as_they_were():
    torch.manual_seed(0)
    options = LPStain(_config(near_um=8.0, own=0.25), find_marker("ER")).header_options()
    before = {k: v for k, v in options.items() if k not in ("near_um", "own")}
    drawn, old, none = (generator_network(o).eval() for o in (options, before, {**options, "own": 1.0}))
    for network in (old, none):
        network.load_state_dict(drawn.state_dict())
    x = torch.rand(1, 3, 96, 96) * 2 - 1
    with torch.no_grad():
        logits = drawn.logits(x, [0, 1])
        assert torch.equal(old.logits(x, [0, 1]), logits)
        assert torch.equal(old.chances(logits, [0, 1]), logits.sigmoid())
        assert torch.equal(none.chances(logits, [0, 1]), logits.sigmoid())
        p = drawn.chances(logits, [0, 1])
        assert torch.equal(p[:, -1], logits[:, -1].sigmoid())  # nuclei are told place by place
        fine = [torch.logit(v)[:, :2].std(dim=(2, 3)) for v in (p, logits.sigmoid())]
        assert (fine[0] < fine[1]).all() and not torch.equal(p[:, 0], logits[:, 0].sigmoid())
    assert drawn.facts.halo_px > none.facts.halo_px >= old.facts.halo_px


def test_a_trunk_that_is_given_every_px_begins_as_the_one_of_their_mean_and_tells_them_apart(tmp_path):
    torch.manual_seed(0)
    coarse = LPStain(_config(pool=1, mpp=1.0), find_marker("ER")).G.eval()
    save_file({name: t.contiguous() for name, t in coarse.state_dict().items()}, tmp_path / "coarse.safetensors")
    options = {"pool": 2, "mpp": 0.5, "start_from": str(tmp_path / "coarse.safetensors")}
    fine = LPStain(_config(fine=True, **options), find_marker("ER")).G.eval()
    mean = LPStain(_config(fine=False, **options), find_marker("ER")).G.eval()
    x = torch.rand(1, 3, 64, 64) * 2 - 1
    halves = torch.nn.functional.avg_pool2d(x, 2)
    flat = torch.nn.functional.interpolate(halves, scale_factor=2)
    with torch.no_grad():
        wanted = coarse.logits(halves, [0, 1])
        torch.testing.assert_close(fine.logits(x, [0, 1]), wanted, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(mean.logits(x, [0, 1]), wanted)
        fine.trunk.body.first[1].weight += 0.1 * torch.randn_like(fine.trunk.body.first[1].weight)
        assert not torch.allclose(fine.logits(x, [0, 1]), fine.logits(flat, [0, 1]), atol=1e-3)
    assert fine.facts == mean.facts


@pytest.mark.parametrize("edge", [1, 3, 5, 13, 31, 63])
def test_the_largest_of_a_square_is_that_of_torch(edge):
    x = torch.randn(2, 1, 40, 33, generator=torch.Generator().manual_seed(edge))
    assert torch.equal(largest(x, edge), torch.nn.functional.max_pool2d(x, edge, stride=1, padding=edge // 2))


@pytest.mark.parametrize(("pool", "mpp", "far"), [(1, 1.0, 3), (2, 0.5, 5), (2, 0.4661, 7), (1, 0.5, 5)])
def test_weights_of_before_are_as_wide_and_as_brown_as_when_they_were_made(pool, mpp, far):
    options = LPStain(_config(pool=pool, mpp=mpp, far=far), find_marker("ER")).header_options()
    old = generator_network({k: v for k, v in options.items() if k not in ("near_um", "own")}).eval()
    layer = old.dye_layers()[0]
    reach = pool * (old.trunk.reach_px + 5) + max(x.ring_px for x in old.dye_layers()) // 2 + pool * old.widest_px
    assert old.facts.halo_px == -(-reach // old.size_multiple) * old.size_multiple
    n, p = torch.linspace(0, 1, 64).expand(1, 1, 64, 64), torch.full((1, 1, 64, 64), 0.5)
    wanted = layer.light(old.full_size(n), old.full_size(layer.dyes.amplitude * 0.5 * ((n - 0.05) / 0.25).clamp(0, 1)))
    torch.testing.assert_close(old.picture(old.full_size(n), p, n, 0), wanted)


def test_a_sheet_that_is_wider_than_a_nucleus_takes_no_dab_and_nuclei_do():
    network = LPStain(_config(), find_marker("ER")).G
    nuclei = torch.zeros(1, 1, 96, 96)
    nuclei[..., 8:18, 8:18] = 0.9  # 10 um
    nuclei[..., 40:90, 40:90] = 0.9
    kept = network.narrow(nuclei)
    assert torch.equal(kept[..., :30, :30], nuclei[..., :30, :30]) and kept[..., 40:90, 40:90].abs().max() < 1e-6
    amounts = network.layers[0].amounts((network.picture(0 * nuclei, nuclei, kept, 0) + 1) / 2)[1]
    assert amounts[..., 12, 12] > 0.4 and amounts[..., 64, 64] < 1e-3
    options = LPStain(_config(), find_marker("ER")).header_options()
    assert options.pop("widest_um") == 13.0
    old = generator_network(options)  # weights of before this limit
    assert torch.equal(old.narrow(nuclei), nuclei) and old.facts.halo_px < network.facts.halo_px


def test_the_label_of_a_section_counts_brown_nuclei_as_nuclei():
    layer = LPStain(_config(), find_marker("ER")).G.layers[0]
    h, d = torch.zeros(1, 1, 24, 24), torch.zeros(1, 1, 24, 24)
    h[..., 2:8, 2:8], d[..., 14:20, 14:20] = 0.5, 0.8
    brown, place, nuclei = layer.section(*layer.amounts((layer.light(h, d) + 1) / 2))[0]
    assert brown[17, 17] == 1 and brown[5, 5] == 0
    assert place[17, 17] == 1 and place[5, 5] > 0.9 and torch.equal(place, nuclei)


def test_a_nucleus_that_is_brown_throughout_has_a_share_of_one_and_a_faint_one_none():
    layer = LPStain(_config(), find_marker("ER")).G.layers[0]
    h, d = torch.zeros(1, 1, 40, 40), torch.zeros(1, 1, 40, 40)
    near = (torch.arange(40) - 20).square() / 64
    shape = torch.exp(-(near[:, None] + near).square())  # its rim is pale, as a nucleus' is
    h[0, 0] = 0.5 * shape
    shares = []
    for amount in (0.0, 0.05, 0.6):
        d[0, 0] = amount * shape
        brown, place, _ = layer.section(h, d)[0]
        shares.append(float(brown.sum() / place.sum()))
    assert shares[0] == shares[1] == 0 and shares[2] > 0.9


def test_a_thin_membrane_that_browns_its_ring_enough_makes_a_positive_cell_and_background_none():
    layer = LPStain(_config(), find_marker("ER")).G.layers[1]
    y = torch.arange(48)
    away = ((y[:, None] - 24).square() + (y - 24).square()).sqrt()
    h = 0.5 * (away < 4)[None, None].float()
    shares = []
    for amount in (0.0, 0.03, 0.25):  # of which no pixel passes the cut of a pixel, 0.3
        d = amount * (-((away - 6.0) / 1.2).square()).exp()[None, None] + 0.02
        brown, place, _ = layer.section(h, d)[0]
        shares.append(float(brown.sum() / place.sum()))
    assert shares[0] == shares[1] == 0 and shares[2] > 0.9


def test_dyes_of_earlier_weights_stain_but_are_refused_in_training():
    old = DYES.model_dump(exclude={"cell"}) | {"fill": 0.9}
    layer = LPStain(Config.tiny({"dyes": {"HER2": old}}), find_marker("HER2")).G.layers[0]
    with pytest.raises(ValueError, match="leave them out"):
        layer.section(torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 16, 16))


def test_pale_nuclei_beside_dark_ones_are_found_and_dark_ground_is_none():
    layer = LPStain(_config(), find_marker("ER")).G.layers[0]
    h = torch.full((1, 1, 128, 128), 0.15)  # as dark as the cut, throughout
    h[..., 40:56, 40:56], h[..., 40:56, 72:88] = 0.6, 0.3
    nuclei = layer.nuclei(h)[0, 0]
    assert nuclei[48, 48] > 0.9 and nuclei[48, 80] > 0.9
    assert nuclei[100, 20] == 0 and nuclei[48, 64] == 0


def test_the_rate_rises_and_falls_in_one_cycle():
    system = LPStain(_config(lr=1e-2), find_marker("ER"))
    rates = []
    for step in range(10):
        _step(system, _batch(), step)
        rates.append(system.optimizers["G"].param_groups[0]["lr"])
    top = int(np.argmax(rates))
    assert rates[top] == pytest.approx(1e-2) and top == 1
    assert rates[-1] < 1e-4 and rates[0] < 1e-2


def test_restained_tissue_stays_in_place_and_in_range():
    torch.manual_seed(0)
    he = torch.rand(2, 3, 32, 32) * 1.8 - 0.9
    out = restained(he, 1.0)
    assert out.shape == he.shape and out.amin() >= -1 and out.amax() <= 1
    assert torch.corrcoef(torch.stack([out.mean(1).flatten(), he.mean(1).flatten()]))[0, 1] > 0.4
    assert restained(he, 0.0) is he
    assert not torch.equal(restained(he[:1].repeat(2, 1, 1, 1), 1.0)[0], restained(he[:1].repeat(2, 1, 1, 1), 1.0)[1])


def test_options_that_cannot_be_built_are_refused():
    with pytest.raises(ConfigError, match="odd numbers"):
        _config(windows=(4,))
    with pytest.raises(ConfigError, match="fine asks for each of the px"):
        _config(fine=True, pool=1)
    with pytest.raises(ConfigError, match=r"lpstain.*windows_um"):
        Config.preset("paper", {"windows_um": ()})


def test_unpaired_training_is_refused():
    batch = _batch(("ER",))
    with pytest.raises(DataError, match=r"data\.pairing to weak"):
        _step(LPStain(_config(), find_marker("ER")), Batch(batch.he, batch.ihc, "ER", ("a",), is_paired=False))


def test_dyes_are_measured_once_for_each_marker():
    asked = []

    def pictures():
        asked.append(1)
        yield from ()

    config = _config().measured(find_marker("ER"), pictures(), 0.5)
    assert config.mpp == 0.5 and not asked
    assert isinstance(generator_network(LPStain(config, find_marker("ER")).header_options()), ExpressionNet)


def test_a_step_of_the_shipped_real_size_network_is_finite_on_a_small_crop():
    shipped = load_config(TrainConfig, training_config(Path("lpstain")), [])
    dyes = {name: DYES.model_dump() for name in shipped.marker.split(",")}
    cfg = Config.preset("paper", {**shipped.options, "dyes": dyes, "mpp": 0.4661})
    torch.manual_seed(0)
    system = LPStain(cfg, find_marker("ER"))
    he, ihc = (torch.rand(2, 3, 96, 96) * 1.6 - 0.8 for _ in range(2))
    before = system.G.trunk.read_cells.weight.detach().clone()
    logs = _step(system, Batch(he, ihc, "ER", ("a", "b"), markers=("ER", "HER2")))
    assert {"share", "nuclei", "counterstain", "gan", "d"} == set(logs)
    assert all(torch.isfinite(value) for value in logs.values())
    moved = (system.G.trunk.read_cells.weight.detach() - before).abs().amax(dim=(1, 2, 3)) > 0
    assert moved[3:].all() and not moved[1:3].any()  # HER2 and nuclei; PR and Ki67 were not in the batch


def test_bfloat16_on_a_processor_is_the_blocks_alone_and_moves_a_picture_by_a_grey_level_at_most():
    spec = replace(find_generator("identity", "ER"), name="lpstain", weights="none", norm="frozen", probability=True)
    network = LPStain(_config(ngf=8, n_blocks=4), find_marker("ER")).G
    tiles = (torch.rand(1, 96, 96, 3) * 255).byte().numpy()
    wide, short = (
        NetworkGenerator(network, spec, device="cpu", precision=p).stain(tiles, [(0, 0)]) for p in PRECISIONS[:2]
    )
    assert np.abs(wide[..., :3].astype(int) - short[..., :3]).max() <= 1
    x = torch.rand(1, 3, 96, 96) * 2 - 1
    with torch.no_grad():
        of_short = network.stain_and_tell(x, ["ER"])[0][1]
        network.shorten(None)
        of_wide = network.stain_and_tell(x, ["ER"])[0][1]
    assert 0 < (of_short - of_wide).abs().max() < 0.01

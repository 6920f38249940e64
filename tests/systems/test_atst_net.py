"""ATST-Net: its step, its presets, both directions, its weights."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data.made_patches import make_mist
from tests.pipeline.slides import level0, small_config, tissue_picture, write_slide
from tests.training.made_runs import tiny_run
from wsistain.config import TrainConfig, load_config
from wsistain.errors import ConfigError, DataError, WeightsError
from wsistain.generators.load import build_generator, find_generator
from wsistain.markers import find_marker
from wsistain.networks.nucleus_counter import CppNet
from wsistain.networks.stain_unet import StainUNet
from wsistain.networks.vit import VitGenerator, Windowed, encoder_names
from wsistain.optics.stains import combine_stains, from_unit
from wsistain.packaged import training_config
from wsistain.pipeline.run import run
from wsistain.systems.atst_net import AUXILIARY, AtstNet, Config, Weights, generator_network
from wsistain.systems.base import Batch, Progress
from wsistain.training.loop import train
from wsistain.weights.file import load_network, read_header

PROGRESS = Progress(step=0, epoch=0, steps=10, epochs=1, decay_epochs=0, steps_per_epoch=10)


@pytest.fixture
def batch():
    torch.manual_seed(7)
    stains = torch.zeros(2, 3, 64, 64)
    stains[:, 0] = 0.02 + 0.02 * torch.rand(2, 64, 64)
    he = stains.clone()
    he[:, 1] = 0.03
    ihc = stains.clone()
    for image, rows, cols, dab in ((0, slice(10, 30), slice(15, 35), 0.12), (1, slice(35, 60), slice(5, 25), 0.08)):
        he[image, 0, rows, cols] += 0.06  # denser nuclei are the positive ones
        ihc[image, 2, rows, cols] = dab
    return Batch(from_unit(combine_stains(he)), from_unit(combine_stains(ihc)), "ER", ("a", "b"))


@pytest.fixture
def cpp_net(tmp_path):
    torch.manual_seed(0)
    torch.save(CppNet().state_dict(), tmp_path / "cpp.pth")
    return str(tmp_path / "cpp.pth")


def _system(overrides=None, seed=0):
    torch.manual_seed(seed)
    return AtstNet(Config.tiny(overrides or {}), find_marker("ER")).train()


def _update(optimizer, loss):
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def _keep(record):
    """An update that steps nothing and notes which parameters got a gradient."""

    def update(optimizer, loss):
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        record.append(
            {id(p) for g in optimizer.param_groups for p in g["params"] if p.grad is not None and p.grad.any()}
        )
        optimizer.zero_grad(set_to_none=True)

    return update


def _parameters(system, prefix):
    return {id(p) for n, p in system.named_parameters() if n.startswith(prefix) and p.requires_grad}


def test_one_step_gives_every_term_finite_and_updates_each_network_alone(batch, cpp_net):
    system = _system({"count": "soft", "counter": cpp_net})
    record = []
    terms = system.training_step(batch, PROGRESS, _keep(record))
    assert set(terms) == set(Weights.model_fields) | {"d_he", "d_ihc"}
    assert all(torch.isfinite(t) for t in terms.values())
    assert all(terms[name] > 0 for name in AUXILIARY)
    generators, d_he, d_ihc = record
    assert generators <= _parameters(system, "G_")
    assert d_he <= _parameters(system, "D_he")
    assert d_ihc <= _parameters(system, "D_ihc")
    assert generators and d_he and d_ihc


@pytest.mark.parametrize("name", AUXILIARY)
def test_each_auxiliary_term_alone_moves_the_generator(batch, cpp_net, name):
    """What the authors' own form of L1 to L3 and L5 does not do (see the test of the official form)."""
    zeros = dict.fromkeys(Weights.model_fields, 0.0)
    system = _system({"count": "soft", "counter": cpp_net, "weights": {**zeros, name: 1.0}})
    record = []
    system.training_step(batch, PROGRESS, _keep(record))
    encoder = {id(p) for n, p in system.G_ihc.network.named_parameters() if n.startswith("blocks.0.mlp.fc1.weight")}
    assert encoder <= record[0]
    assert not record[0] & _parameters(system, "G_he")


def test_the_count_trains_with_the_shipped_counter_and_needs_none_when_left_out(batch):
    zeros = dict.fromkeys(Weights.model_fields, 0.0)
    system, record = _system({"weights": {**zeros, "count": 1.0}}), []
    assert system.cfg.counter == "small"
    assert system.training_step(batch, PROGRESS, _keep(record))["count"] > 0
    assert record[0] & _parameters(system, "G_ihc")
    assert not any(p.requires_grad for p in system.counter.parameters())
    without = _system({"count": "none", "counter": "there/is/no/such.pth"})
    assert without.counter is None
    assert without.training_step(batch, PROGRESS, _keep([]))["count"] == 0


@pytest.mark.parametrize("name", ["location", "most_stained", "least_stained"])
def test_the_official_masks_leave_no_gradient_to_speak_of(batch, name):
    zeros = dict.fromkeys(Weights.model_fields, 0.0)
    slopes = {}
    for form in ("official", "soft"):
        system = _system({"mask_form": form, "weights": {**zeros, name: 1.0}})

        def update(optimizer, loss, form=form, system=system):
            if optimizer is system.optimizers["G"]:
                loss.backward()
                slopes[form] = max(p.grad.abs().max().item() for p in system.G_ihc.parameters() if p.grad is not None)

        system.training_step(batch, PROGRESS, update)
    assert slopes["official"] < 1e-12
    assert slopes["soft"] > 1e-6


def test_monitor_watches_the_count_without_a_gradient(batch, cpp_net):
    zeros = dict.fromkeys(Weights.model_fields, 0.0)
    system = _system({"count": "monitor", "counter": cpp_net, "weights": {**zeros, "cycle": 1e-6, "count": 1.0}})
    record = []
    terms = system.training_step(batch, PROGRESS, _keep(record))
    assert terms["count"] >= 0
    halves = float(terms["count"]) * 200  # a mean over two images of whole counts, in hundreds
    assert halves == pytest.approx(round(halves), abs=1e-3)


def test_loss_of_the_auxiliary_terms_falls_on_one_batch(batch):
    zeros = dict.fromkeys(Weights.model_fields, 0.0)
    on = {"location": 60.0, "most_stained": 10.0, "least_stained": 10.0, "intensity": 20.0}
    system = _system({"lr": 2e-3, "weights": {**zeros, **on}})
    losses = []
    for _ in range(25):
        terms = system.training_step(batch, PROGRESS, _update)
        losses.append(sum(on[n] * float(terms[n]) for n in on))
    assert losses[-1] < 0.6 * losses[0]


def test_the_given_mask_is_used_and_the_automatic_one_where_there_is_none(batch):
    def term(mask):
        given = Batch(batch.he, batch.ihc, "ER", batch.names, True, mask)
        return _system().training_step(given, PROGRESS, _keep([]))["location"].item()

    from wsistain.optics.masks import Annotation, annotate_batch
    from wsistain.optics.stains import to_unit

    automatic = annotate_batch(to_unit(batch.ihc), Annotation(closing_radius=2))
    assert 0.05 < automatic.mean() < 0.3
    assert term(None) == term(automatic)
    assert term(None) != term(1 - automatic)


def test_unpaired_data_is_refused_unless_no_auxiliary_term_is_asked_for(batch):
    unpaired = Batch(batch.he, batch.ihc, "ER", batch.names, is_paired=False)
    with pytest.raises(DataError, match=r"set data\.pairing to weak"):
        _system().training_step(unpaired, PROGRESS, _keep([]))
    off = dict.fromkeys(AUXILIARY, 0.0)
    terms = _system({"weights": off}).training_step(unpaired, PROGRESS, _keep([]))
    assert terms["location"] == 0


def test_official_preset_is_the_authors_code():
    cfg = Config.preset("official", {"encoder": "random", "lr": 1e-3})
    assert (cfg.weights.identity, cfg.weights.location, cfg.weights.most_stained, cfg.weights.intensity) == (
        10,
        50,
        100,
        1,
    )
    assert (cfg.mask_form, cfg.count, cfg.pooled_critic, cfg.unpaired_b, cfg.lr) == (
        "official",
        "monitor",
        True,
        True,
        1e-3,
    )
    paper = Config.preset("paper", {"encoder": "random"})
    assert [getattr(paper.weights, n) for n in AUXILIARY] == [60, 10, 10, 20, 1]
    assert (paper.weights.cycle, paper.weights.identity, paper.mask_form) == (5, 0, "soft")


def test_official_step_runs_and_its_second_cycle_uses_the_ihc_of_the_step_before(batch):
    system = _system({"pooled_critic": True, "windows_together": False, "mask_form": "official", "unpaired_b": True})
    assert torch.equal(system.before.exchange(batch.ihc), batch.ihc)
    assert torch.equal(system.before.exchange(batch.he), batch.ihc)
    terms = system.training_step(batch, PROGRESS, _update)
    assert all(torch.isfinite(t) for t in terms.values())
    assert system._judge(system.D_he, batch.he).shape == (2,)


def test_training_resumes_bit_for_bit_from_its_state_dict(batch):
    def steps(system, first, last):
        out = []
        for step in range(first, last):
            torch.manual_seed(100 + step)
            shuffled = Batch(batch.he.roll(step, 2), batch.ihc.roll(step, 2), "ER", batch.names)
            out.append({n: t.clone() for n, t in system.training_step(shuffled, PROGRESS, _update).items()})
        return out

    straight = _system({"unpaired_b": True})
    expected = steps(straight, 0, 5)[3:]
    broken = _system({"unpaired_b": True})
    steps(broken, 0, 3)
    state = {n: t.clone() for n, t in broken.state_dict().items()}
    optimisers = {n: o.state_dict() for n, o in broken.optimizers.items()}
    resumed = _system({"unpaired_b": True}, seed=5)
    resumed.load_state_dict(state)
    for name, values in optimisers.items():
        resumed.optimizers[name].load_state_dict(values)
    for a, b in zip(steps(resumed, 3, 5), expected, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in b)
    assert all(torch.equal(t, straight.state_dict()[n]) for n, t in resumed.state_dict().items())


def test_the_encoder_must_be_named_and_a_file_must_fit(tmp_path):
    with pytest.raises(ConfigError, match=r"checkpoint_HE\.pth.*or to random"):
        AtstNet(Config.preset("paper", {}))
    tiny = _system().G_ihc.network
    torch.save({n: tiny.state_dict()[n] + 1 for n in encoder_names(tiny)}, tmp_path / "checkpoint_HE.pth")
    system = _system({"encoder": str(tmp_path / "checkpoint_HE.pth")})
    assert system.header_options()["encoder"] == "PathoDuet, 41 tensors of checkpoint_HE.pth"
    assert _system().header_options()["encoder"] == "random"
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="0 of 41 encoder tensors match"):
        _system({"encoder": str(tmp_path / "other.pth")})


def test_both_directions_are_rebuilt_from_their_options_and_stain_alike(batch):
    system = _system().eval()
    for direction, network, options, state in (
        ("he-to-ihc", system.generator(), system.header_options(), system.generator_state()),
        ("ihc-to-he", system.reverse_generator(), system.reverse_header_options(), system.reverse_generator_state()),
    ):
        assert options["direction"] == direction
        again = generator_network(options).eval()
        again.load_state_dict(state)
        with torch.no_grad():
            assert torch.equal(again(batch.he), network(batch.he))
    with pytest.raises(ConfigError, match="neither he-to-ihc nor ihc-to-he"):
        generator_network({"window": 224})
    with pytest.raises(ConfigError, match="heds is not a known key; did you mean 'heads'"):
        generator_network({"direction": "he-to-ihc", "heds": 3})


def test_the_paper_builds_the_published_sizes():
    with torch.device("meta"):
        system = AtstNet(Config.preset("paper", {"encoder": "random", "count": "none"}))
    assert isinstance(system.G_ihc.network, VitGenerator)
    assert (system.G_ihc.window, system.G_ihc.stride, system.G_ihc.merge) == (224, 144, "auto")
    assert sum(p.numel() for p in system.G_ihc.parameters()) == 85_798_656 + 51_865_155
    assert isinstance(system.G_he, StainUNet)
    assert sum(p.numel() for p in system.G_he.parameters()) == 19_825_107
    assert sum(p.numel() for p in system.D_he.parameters()) == 2_764_737


def test_training_saves_both_directions_and_run_finds_each(tmp_path):
    root = make_mist(tmp_path / "patches", n_train=3, n_val=1)
    train(tiny_run(root, system="atst_net", steps=2), tmp_path / "run", tiny=True)
    masks = list((root / "annotation").glob("mist-ER-train-*/*.png"))
    assert len(masks) == 3
    for direction, network in (("he-to-ihc", Windowed), ("ihc-to-he", StainUNet)):
        spec = find_generator(str(tmp_path / "run"), "ER", direction=direction)
        found, header = load_network(Path(spec.weights))
        assert isinstance(found, network)
        assert (header.direction, header.markers, header.step, header.norm) == (direction, ["ER"], 2, "instance")
        tiles = np.full((1, 80, 80, 3), 200, np.uint8)
        assert build_generator(spec, device="cpu").stain(tiles, [(0, 0)]).shape == tiles.shape
    slide = write_slide(tmp_path / "case.tiff", tissue_picture(100, 120), mpp=0.4661)
    stained = {}
    for direction in ("he-to-ihc", "ihc-to-he"):
        config = small_config(
            weights=str(tmp_path / "run"), direction=direction, norm="tile", device="cpu", all_tiles=True
        )
        (report,) = run(slide, "ER", tmp_path / direction, config=config)
        stained[direction] = level0(tmp_path / direction / "case.ER.ome.zarr")
        assert report.tiles_generated > 0
        assert stained[direction].shape == (100, 120, 3)
        assert (stained[direction] < 255).any()
    assert (stained["he-to-ihc"] != stained["ihc-to-he"]).any()
    with pytest.raises(WeightsError, match=r"goes he-to-ihc; wanted ihc-to-he"):
        find_generator(str(tmp_path / "run" / "weights.safetensors"), "ER", direction="ihc-to-he")
    assert read_header(tmp_path / "run" / "weights.safetensors").options["encoder"] == "random"


def test_a_crop_smaller_than_a_window_is_refused_before_anything_is_written(tmp_path):
    root = make_mist(tmp_path / "patches", n_train=3, n_val=1)
    with pytest.raises(ConfigError, match=r"data\.crop_px 24 is less than the 32 px that atst_net needs"):
        train(tiny_run(root, system="atst_net", data={"crop_px": 24}), tmp_path / "run", tiny=True)
    assert not (tmp_path / "run" / "weights.safetensors").exists()


def test_the_ablations_of_the_papers_tables_are_options() -> None:
    """Table 2's U: the U-Net of the way back. Table 3: without skip connections, without residual blocks."""
    unet = AtstNet(Config.tiny({"generator": "unet"}))
    again = generator_network(dict(unet.header_options()))
    again.load_state_dict(unet.generator_state())
    x = torch.rand(1, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(x), unet.generator().eval()(x))
    sizes = {}
    for name, options in (("all", {}), ("no_skips", {"skips": False}), ("no_residual", {"n_residual": 0})):
        system = AtstNet(Config.tiny({"g_ihc": options}))
        network = generator_network(dict(system.header_options()))
        network.load_state_dict(system.generator_state())
        with torch.no_grad():
            assert network.eval()(x).shape == x.shape
        sizes[name] = sum(p.numel() for p in network.parameters())
    assert sizes["no_skips"] < sizes["all"] > sizes["no_residual"]


def test_a_nucleus_weighs_one_in_the_paper_and_in_the_code() -> None:
    for preset in ("paper", "official"):
        cfg = Config.preset(preset, {})
        assert cfg.weights.count / cfg.count_unit == 1


def test_the_shipped_configuration_says_how_to_get_pathoduet() -> None:
    cfg = load_config(TrainConfig, training_config(Path("atst_net")))
    with pytest.raises(
        ConfigError, match=r"openmedlab/PathoDuet.*set options\.encoder to the file's path, or to random"
    ):
        AtstNet(Config.preset(cfg.preset, cfg.options))

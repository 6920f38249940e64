"""What Pix2Pix, PyramidP2P and CycleGAN promise, alike and each."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tests.networks.counting import count_parameters
from wsistain.errors import ConfigError
from wsistain.losses.gaussian_pyramid import octave_l1
from wsistain.markers import find_marker
from wsistain.systems import find_system, system_class
from wsistain.systems.base import Batch, Progress
from wsistain.weights.file import Header, load_network, save_weights

NAMES = ("pix2pix", "pyramidp2p", "cyclegan")
MAKERS = {"pix2pix": ("G",), "pyramidp2p": ("G",), "cyclegan": ("G_ihc", "G_he")}
JUDGES = {"pix2pix": ("D",), "pyramidp2p": ("D",), "cyclegan": ("D_ihc", "D_he")}
PROGRESS = Progress(step=0, epoch=0, steps=10, epochs=1, decay_epochs=0, steps_per_epoch=10)
SIDE = 64


def batch(n: int = 2, seed: int = 0) -> Batch:
    """Smooth made-up tissue: the IHC is a function of the H&E."""
    g = torch.Generator().manual_seed(seed)
    density = nn.functional.interpolate(torch.rand(n, 1, 8, 8, generator=g), size=(SIDE, SIDE), mode="bilinear")
    he = 1 - 2 * density * torch.tensor([0.4, 0.7, 0.3]).view(1, 3, 1, 1)
    ihc = 1 - 2 * density * torch.tensor([0.2, 0.4, 0.7]).view(1, 3, 1, 1)
    return Batch(he, ihc, "ER", tuple(map(str, range(n))))


def build(name: str, overrides: dict[str, Any] | None = None, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return system_class(name)(find_system(name).Config.tiny(overrides or {}), find_marker("ER")).train()


def plain_update(optimizer: Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


@pytest.mark.parametrize("name", NAMES)
def test_each_optimiser_moves_its_own_networks_and_no_other(name: str) -> None:
    system = build(name)
    parts = {"G": MAKERS[name], "D": JUDGES[name]}
    seen = []

    def update(optimizer: Optimizer, loss: Tensor) -> None:
        key = next(k for k, o in system.optimizers.items() if o is optimizer)
        before = {n: p.detach().clone() for n, p in system.named_parameters()}
        plain_update(optimizer, loss)
        moved = {n.split(".")[0] for n, p in system.named_parameters() if not torch.equal(p, before[n])}
        assert moved == set(parts[key])
        seen.append(key)

    system.training_step(batch(), PROGRESS, update)
    assert seen == (["G", "D"] if name == "cyclegan" else ["D", "G"])
    assert all(p.requires_grad for p in system.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_every_term_is_finite_and_reaches_the_generators_alone(name: str) -> None:
    terms = type(find_system(name).Config().weights).model_fields
    for term in terms:
        system = build(name, {"weights": {other: float(other == term) for other in terms}})

        def update(optimizer: Optimizer, loss: Tensor, system: Any = system) -> None:
            if optimizer is system.optimizers["G"]:
                loss.backward()

        logged = system.training_step(batch(), PROGRESS, update)
        assert set(logged) == {*terms, "d"}
        assert all(v.isfinite() and v.dim() == 0 for v in logged.values())
        for network in MAKERS[name]:
            total = sum(p.grad.abs().sum() for p in getattr(system, network).parameters() if p.grad is not None)
            assert total > 0, f"{term} does not reach {network}"
        for network in JUDGES[name]:
            assert all(p.grad is None for p in getattr(system, network).parameters())


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_falls_on_one_batch(name: str) -> None:
    system = build(name, {"lr": 2e-3, "dropout": 0.0} if name != "cyclegan" else {"lr": 2e-3})
    weights = system.cfg.weights
    judged = [field for field in type(weights).model_fields if field != "gan"]
    losses = []
    for _ in range(30):
        logged = system.training_step(batch(), PROGRESS, plain_update)
        losses.append(sum(getattr(weights, t) * logged[t].item() for t in judged))
    assert sum(losses[-3:]) < 0.6 * sum(losses[:3])


@pytest.mark.parametrize("name", NAMES)
def test_weights_round_trip_to_an_equal_generator(name: str, tmp_path: Path) -> None:
    system = build(name)
    for _ in range(3):
        system.training_step(batch(), PROGRESS, plain_update)
    header = Header(system=name, options=system.header_options(), markers=["ER"], mpp=0.5, tile_px=SIDE)
    save_weights(tmp_path / "w.safetensors", header, system.generator_state())
    network, _ = load_network(tmp_path / "w.safetensors")
    x = batch(3, seed=5).he
    with torch.no_grad():
        out = network(x)
        assert torch.equal(out, system.eval().generator()(x))
    assert out.shape == x.shape and out.abs().max() <= 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_any_batch_size_trains_also_a_last_incomplete_one(name: str, n: int) -> None:
    logged = build(name).training_step(batch(n), PROGRESS, plain_update)
    assert all(v.isfinite() for v in logged.values())


@pytest.mark.parametrize("name", NAMES)
def test_a_step_after_loading_the_state_equals_the_unbroken_one(name: str) -> None:
    def step(system: Any, number: int) -> None:
        torch.manual_seed(number)
        system.training_step(batch(seed=number), PROGRESS, plain_update)

    unbroken = build(name)
    for number in range(4):
        step(unbroken, number)
    resumed = build(name, seed=9)
    resumed.load_state_dict(unbroken.state_dict())
    for key, optimizer in resumed.optimizers.items():
        optimizer.load_state_dict(copy.deepcopy(unbroken.optimizers[key].state_dict()))
    for system in (unbroken, resumed):
        step(system, 4)
        step(system, 5)
    assert all(torch.equal(t, resumed.state_dict()[n]) for n, t in unbroken.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_presets_agree_and_options_are_checked(name: str) -> None:
    config = find_system(name).Config
    assert config.preset("paper", {}) == config.preset("official", {}) == config()
    changed = config.preset("paper", {"weights": {"gan": 2.0}})
    assert changed.weights.gan == 2.0
    assert changed.weights.model_dump() == {**config().weights.model_dump(), "gan": 2.0}
    with pytest.raises(ConfigError, match=r"weights\.gann is not a known key; did you mean 'gan'"):
        config.preset("paper", {"weights": {"gann": 2.0}})


@pytest.mark.parametrize(
    ("name", "generator", "discriminator"),
    [("pix2pix", 54_413_955, 2_768_705), ("pyramidp2p", 11_383_427, 2_768_705), ("cyclegan", 11_378_179, 2_764_737)],
)
def test_networks_have_the_published_sizes(name: str, generator: int, discriminator: int) -> None:
    """Counts of junyanz/pytorch-CycleGAN-and-pix2pix: unet_256 and resnet_9blocks, basic discriminators."""
    with torch.device("meta"):
        system = system_class(name)(find_system(name).Config(), find_marker("ER"))
    assert count_parameters(system.generator()) == generator
    assert count_parameters(getattr(system, JUDGES[name][0])) == discriminator


def test_pix2pix_judges_the_pair_and_weighs_as_in_the_paper() -> None:
    system = build("pix2pix", {"dropout": 0.0})
    b = batch()
    losses = {}

    def update(optimizer: Optimizer, loss: Tensor) -> None:
        losses[next(k for k, o in system.optimizers.items() if o is optimizer)] = loss.item()

    system_copy = copy.deepcopy(system)
    logged = system.training_step(b, PROGRESS, update)
    fake = system_copy.G(b.he)
    l1 = (fake - b.ihc).abs().mean()
    real_logits = system_copy.D(torch.cat([b.he, b.ihc], 1))
    fake_logits = system_copy.D(torch.cat([b.he, fake.detach()], 1))
    d = -0.5 * (real_logits.sigmoid().log().mean() + (1 - fake_logits.sigmoid()).log().mean())
    again = system_copy.D(torch.cat([b.he, fake], 1))
    gan = -again.sigmoid().log().mean()
    assert logged["l1"].item() == pytest.approx(l1.item(), rel=1e-5)
    assert losses["D"] == pytest.approx(d.item(), rel=1e-4)
    assert losses["G"] == pytest.approx((gan + 100 * l1).item(), rel=1e-4)


def test_pyramidp2p_weighs_each_octave_by_25() -> None:
    system = build("pyramidp2p", {"dropout": 0.0, "weights": {"gan": 0.0}})
    b = batch()
    with torch.no_grad():
        expected = 25 * octave_l1(copy.deepcopy(system).G(b.he), b.ihc, 4).item()
    losses = []
    system.training_step(b, PROGRESS, lambda _, loss: losses.append(loss.item()))
    assert losses[-1] == pytest.approx(expected, rel=1e-5)
    assert len(losses) == 2


def test_cyclegan_never_compares_the_two_pictures_of_a_pair() -> None:
    """Shuffling one side changes each generator's own terms only through its mean over the batch: not at all."""
    b = batch(2)
    swapped = Batch(b.he, b.ihc.flip(0), b.marker, b.names, is_paired=False)
    terms = []
    for each in (b, swapped):
        terms.append(build("cyclegan").training_step(each, PROGRESS, lambda *_: None))
    for name in ("gan", "cycle", "identity"):
        assert terms[0][name].item() == pytest.approx(terms[1][name].item(), rel=1e-5)


def test_cyclegan_without_identity_term_leaves_it_out() -> None:
    system = build("cyclegan", {"weights": {"identity": 0.0}})
    assert system.training_step(batch(), PROGRESS, plain_update)["identity"] == 0


def test_cyclegan_shows_its_judges_earlier_fakes() -> None:
    system = build("cyclegan", {"pool_size": 2})
    shown = []
    original = system.D_ihc.forward
    system.D_ihc.forward = lambda x: shown.append(x.detach().clone()) or original(x)
    torch.manual_seed(1)
    for number in range(12):
        shown.clear()
        system.training_step(batch(1, seed=number), PROGRESS, plain_update)
        fake, _, judged = shown[:3]
        if number < 2:
            assert torch.equal(fake, judged)
        elif not torch.equal(fake, judged):
            return
    pytest.fail("no earlier fake was ever shown")

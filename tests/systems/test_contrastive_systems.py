"""What CUT, ASP, USIGAN and ASP-DGRank promise alike: shapes, who is trained when, terms, learning, weights, resume."""

import copy

import pytest
import torch

from wsistain.errors import ConfigError
from wsistain.markers import MARKERS
from wsistain.systems import find_system, system_class
from wsistain.systems.base import Batch, Progress

NAMES = ("cut", "asp", "usigan", "asp_dgrank")
LATE = Progress(step=9, epoch=3, steps=12, epochs=2, decay_epochs=2, steps_per_epoch=3)
SIDE = 64


def batch(seed=0, *, is_paired=True, n=2):
    g = torch.Generator().manual_seed(seed)
    he = torch.rand(n, 3, SIDE, SIDE, generator=g) * 2 - 1
    ihc = (he.flip(1) * 0.8 + torch.rand(n, 3, 1, 1, generator=g) * 0.2).clamp(-1, 1)
    return Batch(he, ihc, "ER", tuple(str(i) for i in range(n)), is_paired)


def build(name, overrides=None, seed=0):
    torch.manual_seed(seed)
    system = system_class(name)(find_system(name).Config.tiny(overrides or {}), MARKERS["ER"]).train()
    with torch.no_grad():  # xavier with gain 0.02 makes tiny nets nearly constant
        for p in (*system.G.parameters(), *system.D.parameters(), *system.head.parameters()):
            if p.dim() > 1:
                p.mul_(15)
    return system


def plain_update(optimizer, loss):
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def parameters(module):
    return [p.detach().clone() for p in module.parameters()]


def moved(module, before):
    return any(not torch.equal(a, b) for a, b in zip(module.parameters(), before, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_each_optimiser_moves_its_own_parts_and_no_other(name):
    system = build(name)
    seen = []

    def update(optimizer, loss):
        before = {k: parameters(getattr(system, k)) for k in ("G", "D", "head")}
        plain_update(optimizer, loss)
        name = next(k for k, o in system.optimizers.items() if o is optimizer)
        seen.append((name, {k for k, values in before.items() if moved(getattr(system, k), values)}))

    system.training_step(batch(), LATE, update)
    assert seen == [("D", {"D"}), ("G", {"G", "head"})]
    assert all(p.requires_grad for p in system.D.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_every_term_is_finite_and_reaches_the_generator(name):
    terms_of = type(find_system(name).Config().weights).model_fields
    for term in terms_of:
        weights = {other: (1.0 if other == term else 0.0) for other in terms_of}
        system = build(name, {"weights": weights})

        def update(optimizer, loss, system=system):
            loss.backward()
            if optimizer is system.optimizers["D"]:
                assert all(p.grad is None for p in system.G.parameters())
                optimizer.zero_grad(set_to_none=True)

        logged = system.training_step(batch(), LATE, update)
        assert all(torch.isfinite(v) and not v.requires_grad for v in logged.values())
        gradients = [p.grad for p in system.G.parameters() if p.grad is not None]
        assert all(torch.isfinite(g).all() for g in gradients)
        assert sum(float(g.abs().sum()) for g in gradients) > 0, f"{name}: {term} does not reach the generator"
        assert all(p.grad is None for p in system.D.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_loss_falls_on_one_batch(name):
    system = build(name, {"lr": 2e-3})
    weights = system.cfg.weights
    totals = []
    for step in range(12):
        torch.manual_seed(step % 2)
        logged = system.training_step(batch(), LATE, plain_update)
        totals.append(sum(float(logged[k]) * getattr(weights, k) for k in type(weights).model_fields if k != "gan"))
    assert sum(totals[-3:]) < 0.97 * sum(totals[:3])


@pytest.mark.parametrize("name", NAMES)
def test_saved_tensors_rebuild_an_equal_generator(name, tmp_path):
    from wsistain.weights.file import Header, load_network, save_weights

    system = build(name)
    system.training_step(batch(), LATE, plain_update)
    path = tmp_path / "w.safetensors"
    header = Header(system=name, options=system.header_options(), markers=["ER"], mpp=0.5, tile_px=SIDE)
    save_weights(path, header, system.generator_state())
    network, _ = load_network(path)
    x = batch(5).he
    with torch.no_grad():
        torch.testing.assert_close(network(x), system.eval().generator()(x), atol=1e-5, rtol=1e-5)
    assert network(x).shape == x.shape
    assert network(x).abs().max() <= 1


@pytest.mark.parametrize("name", NAMES)
def test_a_step_after_loading_the_state_equals_the_unbroken_one(name):
    def step(system, number):
        torch.manual_seed(100 + number)
        return system.training_step(batch(number), LATE, plain_update)

    unbroken = build(name)
    for number in range(5):
        step(unbroken, number)
    state = copy.deepcopy(unbroken.state_dict())
    optimisers = {k: copy.deepcopy(o.state_dict()) for k, o in unbroken.optimizers.items()}
    step(unbroken, 5)
    resumed = build(name, seed=1)
    resumed.load_state_dict(state)
    for key, optimiser in resumed.optimizers.items():
        optimiser.load_state_dict(optimisers[key])
    step(resumed, 5)
    for a, b in zip(unbroken.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("preset", ["paper", "official"])
def test_presets_build_at_full_size(name, preset):
    if (name, preset) == ("asp_dgrank", "official"):
        with pytest.raises(ConfigError, match="published no code"):
            find_system(name).Config.preset(preset, {})
        return
    cfg = find_system(name).Config.preset(preset, {"weights": {"gan": 2.0}})
    assert cfg.weights.gan == 2.0
    assert cfg.weights.nce == type(cfg.weights)().nce
    with torch.device("meta"):
        system = system_class(name)(cfg, MARKERS["ER"])
    n = sum(p.numel() for p in system.generator().parameters())
    assert n == (11_378_179 if name == "cut" else 7_837_699)


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_option_is_named_with_the_nearest_right_one(name):
    with pytest.raises(ConfigError, match="did you mean 'n_patches'"):
        find_system(name).Config.preset("paper", {"n_patchs": 3})
    with pytest.raises(ConfigError, match="taps"):
        find_system(name).Config.preset("paper", {"taps": [0, 4, 99]})


@pytest.mark.parametrize("name", NAMES)
def test_header_options_that_no_generator_has_are_refused(name):
    with pytest.raises(ConfigError, match="not a known key"):
        find_system(name).generator_network({"n_block": 6})
    with pytest.raises(ConfigError, match="ngf"):
        find_system(name).generator_network({"ngf": 10**9})


@pytest.mark.parametrize("name", NAMES)
def test_images_drawn_independently_and_single_images_can_be_trained_on(name):
    logged = build(name).training_step(batch(is_paired=False, n=1), LATE, plain_update)
    assert all(torch.isfinite(v) for v in logged.values())


@pytest.mark.parametrize("name", NAMES)
def test_a_step_under_bfloat16_autocast_is_finite_and_moves_the_generator(name):
    system = build(name)
    before = parameters(system.G)

    def update(optimizer, loss):
        with torch.autocast("cpu", enabled=False):
            plain_update(optimizer, loss)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        logged = system.training_step(batch(), LATE, update)
    assert all(torch.isfinite(v) for v in logged.values())
    assert moved(system.G, before)
    assert all(torch.isfinite(p).all() for p in system.parameters())

"""USIGAN's own terms against the authors' numbers, and its options."""

import functools
import math
import re

import numpy as np
import pytest
import torch

from tests.systems.test_contrastive_systems import LATE, batch, build, plain_update
from wsistain.config import TrainConfig, validate
from wsistain.errors import ConfigError
from wsistain.systems.resnet_family import STUCK_STEPS, ChanceWatch
from wsistain.systems.usigan import Config, transport_consistency, transport_plan
from wsistain.training.setup import system_options


def clouds(vectors):
    file = np.load(vectors / "usigan_uot.npz")
    return file, [torch.from_numpy(file[name]).view(2, 24, 16) for name in ("src", "tgt", "gen")]


def plan(**changes):
    values = {"cost": "paper", "update": "damped", "eps": 1.0, "tau": 1e-3, "reg_m": 10.0, "n_iter": 50, **changes}
    return functools.partial(transport_plan, **values)


@pytest.mark.parametrize("cost", ["easy", "hard"])
def test_official_transport_cycle_equals_the_authors_own(vectors, cost):
    file, (he, ihc, fake) = clouds(vectors)
    fake.requires_grad_()
    find = plan(cost=cost)
    for name, (a, b) in {"f1": (he, ihc), "f2": (ihc, fake), "fdirect": (he, fake)}.items():
        expected = torch.from_numpy(file[f"{name}_{cost}"])
        torch.testing.assert_close(find(a, b).detach().transpose(1, 2), expected, atol=1e-6, rtol=1e-5)
    indirect = find(he, ihc).transpose(1, 2) @ find(ihc, fake).transpose(1, 2)
    expected = torch.from_numpy(file[f"findirect_{cost}"])
    torch.testing.assert_close(indirect.detach(), expected, atol=1e-6, rtol=1e-5)
    loss = transport_consistency(he, ihc, fake, find, composition="official")
    torch.testing.assert_close(loss, torch.tensor(file[f"tcyc_{cost}"]), atol=1e-7, rtol=1e-5)
    loss.backward()
    expected = torch.from_numpy(file[f"tcyc_{cost}_grad_gen"]).view(2, 24, 16)
    torch.testing.assert_close(fake.grad, expected, atol=1e-8, rtol=1e-4)


@pytest.mark.parametrize("cost", ["easy", "hard"])
def test_direct_matching_of_balanced_plans_equals_the_authors_own(vectors, cost):
    file, (he, ihc, fake) = clouds(vectors)
    fake.requires_grad_()
    loss = transport_consistency(he, ihc, fake, plan(cost=cost, update="balanced"), matching="direct")
    torch.testing.assert_close(loss, torch.tensor(file[f"mc_{cost}"]), atol=1e-7, rtol=1e-5)
    loss.backward()
    expected = torch.from_numpy(file[f"mc_{cost}_grad_gen"]).view(2, 24, 16)
    torch.testing.assert_close(fake.grad, expected, atol=1e-8, rtol=1e-4)


def points(seed, n=12):
    z = torch.randn(2, n, 8, generator=torch.Generator().manual_seed(seed))
    return z / z.norm(dim=-1, keepdim=True)


def test_paper_cost_sends_mass_to_the_most_similar_patch():
    z = points(0)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    sharp = plan(eps=0.05)(z, z[:, order])
    assert torch.equal(sharp.argmax(-1), order.argsort().expand(2, -1))


@pytest.mark.parametrize("reg_m", [10.0, 1e-3])
def test_plans_of_the_paper_are_pots_unbalanced_ones(reg_m):
    pot = pytest.importorskip("ot", reason="POT is not installed")
    he, ihc = points(0).double(), points(1).double()
    cfg = Config.preset("paper", {"reg_m": reg_m})
    values = {name: getattr(cfg, name) for name in ("cost", "update", "eps", "tau", "reg_m")}
    plans = transport_plan(he, ihc, n_iter=cfg.plan_iterations, **values)
    even = np.full(12, 1 / 12)
    for q, k, ours in zip(he.numpy(), ihc.numpy(), plans.numpy(), strict=True):
        cost = -(q @ k.T)
        theirs = pot.unbalanced.sinkhorn_unbalanced(
            even, even, cost, cfg.eps, reg_m, reg_type="kl", numItermax=10_000, stopThr=1e-14
        )
        np.testing.assert_allclose(ours, theirs, rtol=1e-9)


def test_composition_goes_through_the_middle_marginal_and_differs_from_balanced_transport():
    he, ihc, fake = (points(s).double() for s in range(3))
    find = plan(update="paper")
    to_real, from_real, direct = find(he, ihc), find(ihc, fake), find(he, fake)
    middle = torch.full((12,), 1 / 12, dtype=torch.float64)
    expected = (to_real @ torch.diag(1 / middle) @ from_real - direct).abs().mean()
    torch.testing.assert_close(transport_consistency(he, ihc, fake, find, middle=1 / 12), expected)
    balanced = plan(update="balanced")(he, ihc) / 12
    assert float((plan(update="damped")(he, ihc) / 12 / balanced - 1).abs().max()) < 2e-3  # the code's: the same thing
    assert float((to_real / balanced - 1).abs().max()) > 0.02
    assert to_real.sum(dim=(1, 2)).numpy() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"update": "sinkhorn"}, "update 'sinkhorn' is not known; wanted one of paper, damped, kl, balanced"),
        ({"cost": "cosine"}, "cost 'cosine' is not known"),
    ],
)
def test_a_plan_of_an_unknown_kind_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        plan(**arguments)(points(0), points(1))
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        Config.preset("paper", arguments)
    with pytest.raises(ValueError, match="matching 'both' is not known"):
        transport_consistency(points(0), points(1), points(2), plan(), matching="both")
    with pytest.raises(ValueError, match="composition 'printed' is not known"):
        transport_consistency(points(0), points(1), points(2), plan(), composition="printed")


@pytest.mark.parametrize("update", ["damped", "kl", "balanced"])
def test_plans_have_rows_of_about_one_and_compose_to_the_direct_one_where_nothing_is_lost(update):
    z = points(2)
    orders = [torch.randperm(12, generator=torch.Generator().manual_seed(s)) for s in (3, 4)]
    y, fake = z[:, orders[0]], z[:, orders[1]]
    find = plan(eps=0.02, update=update, reg_m=1e3)
    torch.testing.assert_close(find(z, y).sum(-1), torch.ones(2, 12), atol=2e-2, rtol=0)
    ordered = transport_consistency(z, y, fake, find)
    wrong = transport_consistency(z, y, fake, find, composition="official")
    assert ordered < 0.02
    assert wrong > 5 * ordered


def test_only_the_virtual_patches_take_gradient():
    he, ihc, fake = (points(s).requires_grad_() for s in range(3))
    transport_consistency(he, ihc, fake, plan()).backward()
    assert he.grad is None
    assert ihc.grad is None
    assert fake.grad.abs().sum() > 0


def test_official_preset_sets_what_the_code_does_and_can_be_overridden():
    official = Config.preset("official", {"composition": "ordered"})
    assert (official.cost, official.composition, official.density_range) == ("easy", "ordered", "raw")
    assert official.update == "damped"
    paper = Config.preset("paper", {})
    assert (paper.cost, paper.update, paper.weights.tcyc) == ("paper", "paper", 1e4)


@pytest.mark.parametrize(
    "options",
    [
        {"cost": "easy", "composition": "official", "density_range": "raw"},
        {"cost": "hard", "matching": "direct", "update": "balanced"},
        {"update": "kl"},
        {"update": "damped"},
        {"alpha": 1.2, "od_floor": 0.0},
        {"n_patches": 100},  # more than the deepest map of a 32 px crop has
    ],
)
def test_every_option_trains(options):
    images = batch()
    small = type(images)(images.he[:, :, :32, :32], images.ihc[:, :, :32, :32], "ER", images.names)
    system = build("usigan", options)
    first = system.training_step(small, LATE, plain_update)
    assert all(torch.isfinite(v) for v in first.values())
    assert float(first["tcyc"]) > 0


def test_one_image_a_step_has_no_batch_to_resemble():
    logged = build("usigan").training_step(batch(n=1), LATE, plain_update)
    assert float(logged["cc"]) == pytest.approx(0, abs=1e-6)
    assert float(logged["tcyc"]) > 0


def test_one_patch_a_step_is_refused_while_images_of_a_step_are_compared():
    for left in ({"cc": 0.0}, {"odc": 0.0}, {}):
        with pytest.raises(ConfigError, match="batch_size 1 leaves usigan's cc and odc nothing to compare"):
            Config.preset("paper", {"weights": left}).check_batch(1)
    Config.preset("paper", {"weights": {"cc": 0.0, "odc": 0.0}}).check_batch(1)
    Config.preset("paper", {"single": True}).check_batch(1)
    Config.preset("paper", {}).check_batch(2)
    cfg = validate(TrainConfig, {"system": "usigan", "data": {"root": "nowhere"}, "batch_size": 1}, "test")
    with pytest.raises(ConfigError, match="batch_size 1"):
        system_options(cfg, tiny=True)


def test_power_and_floor_of_the_density_change_its_term_alone():
    logged = {}
    for name, options in {"as published": {}, "power": {"alpha": 1.2}, "floor": {"od_floor": 1.5}}.items():
        torch.manual_seed(3)
        logged[name] = build("usigan", options).training_step(batch(), LATE, plain_update)
    for name in ("power", "floor"):
        assert logged[name]["odc"] != logged["as published"]["odc"]
        assert logged[name]["tcyc"] == logged["as published"]["tcyc"]


@pytest.mark.parametrize(("value", "speaks"), [(2.772, True), (2.79, True), (2.6, False), (float("nan"), False)])
def test_contrast_that_stays_at_chance_is_told_with_what_to_set(value, speaks):
    watch = ChanceWatch("lower options.weights.tcyc")
    queries = [torch.zeros(1, 16, 8)] * 2
    for _ in range(STUCK_STEPS - 1):
        watch.see(torch.tensor(value), queries)
    assert watch.concern() is None
    watch.see(torch.tensor(value), queries)
    assert (watch.concern() is not None) == speaks
    if speaks:
        assert re.search(r"nce stays at ln\(16\) = 2.77.*learns nothing.*lower options.weights.tcyc", watch.concern())
        watch.see(torch.tensor(2.0), queries)  # it has left chance
        assert watch.concern() is None


@pytest.mark.parametrize("name", ["cut", "asp", "usigan", "asp_dgrank"])
def test_every_contrastive_system_watches_its_contrast(name, monkeypatch):
    monkeypatch.setattr("wsistain.systems.resnet_family.STUCK_STEPS", 2)
    system = build(name)
    for p in system.head.parameters():
        p.data.zero_()  # all embeddings alike
        p.requires_grad_(False)
    for _ in range(2):
        assert system.concern() is None
        system.training_step(batch(), LATE, plain_update)
    assert f"ln(16) = {math.log(16):.2f}" in system.concern()


@pytest.mark.parametrize("preset", ["paper", "official"])
def test_terms_equal_those_of_encoding_every_image_for_every_loss(preset):
    from wsistain.losses.contrastive import patch_nce_layers
    from wsistain.losses.stain import feature_correlation, od_correlation, od_total
    from wsistain.networks.patch_head import uniform_positions
    from wsistain.optics.stains import focal_density, to_unit

    chosen = Config.preset(preset, {})
    options = {k: getattr(chosen, k) for k in ("update", "cost", "composition", "density_range")}
    system, images = build("usigan", options).eval(), batch()
    torch.manual_seed(4)
    logged = system.training_step(images, LATE, lambda optimizer, loss: None)
    with torch.no_grad():
        torch.manual_seed(4)
        fake, idt = system.G(images.he), system.G(images.ihc)
        at = uniform_positions(system.G.features(images.he, system.cfg.taps), 16)
        he, ihc, made, same = (
            system.head(system.G.features(x, system.cfg.taps), at) for x in (images.he, images.ihc, fake, idt)
        )
        cycles = [
            transport_consistency(
                *(x, y, z, plan(cost=chosen.cost, update=chosen.update)),
                composition=chosen.composition,
                middle=1 / 16 if preset == "paper" else 1.0,
            )
            for x, y, z in zip(he, ihc, made, strict=True)
        ]
        light = to_unit if preset == "paper" else (lambda x: x)
        densities = focal_density(light(fake)), focal_density(light(images.ihc))
        expected = {
            "nce": patch_nce_layers(made, he),
            "nce_idt": patch_nce_layers(same, ihc),
            "tcyc": torch.stack(cycles).mean(),
            "cc": feature_correlation(*(system.G.features(x, system.cfg.taps) for x in (fake, images.ihc))),
            "odc": od_correlation(*densities) + od_total(*densities),
            "gan": (system.D(fake) - 1).square().mean(),
        }
    for name, value in expected.items():
        torch.testing.assert_close(logged[name], value, atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")

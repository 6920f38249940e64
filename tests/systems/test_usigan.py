"""USIGAN's own terms against the authors' numbers, and its options."""

import functools

import numpy as np
import pytest
import torch

from tests.systems.test_contrastive_systems import LATE, batch, build, plain_update
from wsistain.systems.usigan import Config, transport_consistency, transport_plan


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
    assert Config.preset("paper", {}).cost == "paper"


@pytest.mark.parametrize(
    "options",
    [
        {"cost": "easy", "composition": "official", "density_range": "raw"},
        {"cost": "hard", "matching": "direct", "update": "balanced"},
        {"update": "kl"},
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


@pytest.mark.parametrize("preset", ["paper", "official"])
def test_terms_equal_those_of_encoding_every_image_for_every_loss(preset):
    from wsistain.losses.contrastive import patch_nce_layers
    from wsistain.losses.stain import feature_correlation, od_correlation, od_total
    from wsistain.networks.patch_head import uniform_positions
    from wsistain.optics.stains import focal_density, to_unit

    chosen = Config.preset(preset, {})
    options = {k: getattr(chosen, k) for k in ("cost", "composition", "density_range")}
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
            transport_consistency(x, y, z, plan(cost=chosen.cost), composition=chosen.composition)
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

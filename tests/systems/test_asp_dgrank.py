"""ASP-DGRank's own: the adaptive chain, attention sampling, what is left out without pairs."""

import pytest
import torch

from tests.systems.test_contrastive_systems import LATE, batch, build, plain_update
from wsistain.errors import ConfigError
from wsistain.systems.asp_dgrank import AdaptiveDiffusion, Config


def chain(**changes):
    torch.manual_seed(0)
    return AdaptiveDiffusion(Config(**changes))


def observe(diffusion, value, n=4, images=1):
    for _ in range(n):
        diffusion.observe(torch.full((images, 1, 3, 3), value))


def test_chain_grows_while_real_images_are_recognised_and_shrinks_again():
    diffusion = chain()
    assert (diffusion.p, diffusion.n_steps) == (0.0, 10)
    observe(diffusion, 0.9)
    assert diffusion.p == pytest.approx(4e-5)
    observe(diffusion, 0.9, 4 * 100, images=50)
    assert diffusion.p == pytest.approx(4e-5 + 0.2)
    assert diffusion.n_steps == 10 + round(diffusion.p * 990)
    observe(diffusion, 0.1, 4 * 200, images=50)
    assert (diffusion.p, diffusion.n_steps) == (0.0, 10)


def test_least_squares_logits_count_from_one_half():
    diffusion = chain(logit_centre=0.0)
    observe(diffusion, 0.3)
    assert diffusion.p > 0
    diffusion = chain()
    observe(diffusion, 0.3)
    assert diffusion.p == 0


def test_half_of_the_table_is_clean_and_the_rest_lies_in_the_chain():
    table = chain().table
    assert (table == 0).sum() == 32
    assert table[32:].min() >= 1
    assert table.max() <= 10
    assert (chain(clean_fraction=0.0).table > 0).all()
    assert (chain(clean_fraction=1.0).table == 0).all()


def test_clean_images_pass_unchanged_and_noise_has_the_scale_asked_for():
    x = torch.zeros(400, 3, 4, 4)
    diffusion = chain(clean_fraction=0.0, sigma=0.05)
    noised, t = diffusion(x)
    last = noised[t == 10]
    expected = 0.05 * diffusion._tables(x.device).noise_var[10].sqrt()
    assert last.std() == pytest.approx(float(expected), rel=0.05)
    clean, t = chain(clean_fraction=1.0)(x + 0.5)
    assert torch.equal(clean, x + 0.5)
    assert t.sum() == 0


def test_chain_survives_saving_and_loading():
    diffusion = chain()
    observe(diffusion, 0.9, 4 * 30 + 2, images=50)
    other = chain()
    other.load_state_dict(diffusion.state_dict())
    assert (other.p, other.n_steps) == (diffusion.p, diffusion.n_steps)
    for one in (diffusion, other):
        torch.manual_seed(7)
        observe(one, 0.9, 2, images=50)
    assert torch.equal(other.table, diffusion.table)
    assert other.p == diffusion.p > 0


def test_a_short_run_can_exercise_the_chain():
    system = build("asp_dgrank", {"images_to_full": 12, "chain_every": 2, "chain_table": 6, "logit_centre": -9.0})
    seen = []
    for _ in range(4):
        logged = system.training_step(batch(), LATE, plain_update)
        seen.append((round(float(logged["chain_p"]), 3), int(logged["chain"])))
    assert seen == [(0.0, 2), (0.333, 4), (0.333, 4), (0.667, 6)]  # 2 images a step, changed every other step
    assert len(system.diffusion.table) == 6
    assert (system.diffusion.table == 0).sum() == 3


def test_octaves_are_the_sum_that_the_paper_cites():
    from wsistain.losses.gaussian_pyramid import gaussian_pyramid_l1, octave_l1

    for form, loss in {"asp": gaussian_pyramid_l1, "octaves": octave_l1}.items():
        system = build("asp_dgrank", {"gaussian_pyramid": form})
        torch.testing.assert_close(system._pyramid(batch().he, batch().ihc), loss(batch().he, batch().ihc))
    grey = torch.zeros(1, 3, 64, 64)
    assert octave_l1(grey + 0.3, grey) > 16 * gaussian_pyramid_l1(grey + 0.3, grey)


def test_without_pairs_only_unsupervised_terms_are_left_unless_kept():
    logged = build("asp_dgrank").training_step(batch(is_paired=False), LATE, plain_update)
    assert logged["a2sp"] == 0
    assert logged["gp"] == 0
    kept = build("asp_dgrank", {"keep_pair_losses": True})
    logged = kept.training_step(batch(is_paired=False), LATE, plain_update)
    assert logged["a2sp"] > 0
    assert logged["gp"] > 0


@pytest.mark.parametrize(
    "options",
    [
        {"sampling": "uniform"},
        {"diffuse": False},
        {"attention_layers": "all"},
        {"replacement": True},
        {"time_conditioning": "channel"},
        {"time_conditioning": "none"},
        {"clean_fraction": 0.0, "sigma": 1.0},
        {"gaussian_pyramid": "octaves"},
    ],
)
def test_every_option_trains(options):
    system = build("asp_dgrank", options)
    for _ in range(5):
        logged = system.training_step(batch(), LATE, plain_update)
    assert all(torch.isfinite(v) for v in logged.values())
    assert all(logged[k] > 0 for k in ("gan", "nce", "a2sp", "gp"))


def test_gradient_of_the_judged_image_passes_the_diffusion():
    system = build("asp_dgrank", {"clean_fraction": 0.0})
    x = batch().he.requires_grad_()
    system._judge(x).sum().backward()
    assert x.grad.abs().sum() > 0


def test_a_chain_that_ends_before_it_begins_is_refused():
    with pytest.raises(ConfigError, match="t_max 5 is smaller"):
        Config.preset("paper", {"t_max": 5})


def test_without_its_two_changes_it_is_asp():
    options = {"sampling": "uniform", "diffuse": False}
    changed, asp = build("asp_dgrank", options).eval(), build("asp").eval()
    for part in ("G", "D", "head"):
        getattr(changed, part).load_state_dict(getattr(asp, part).state_dict())
    torch.manual_seed(6)
    ours = changed.training_step(batch(), LATE, lambda optimizer, loss: None)
    torch.manual_seed(6)
    theirs = asp.training_step(batch(), LATE, lambda optimizer, loss: None)
    for name in ("gan", "nce", "gp", "d"):
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ours["a2sp"], theirs["asp"], atol=0.3, rtol=0.1)  # other positions are drawn

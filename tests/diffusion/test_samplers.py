"""Reverse runs: noise by position, the ancestral step, the second-order solver."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from wsistain.diffusion.samplers import (
    ancestral_step,
    position_noise,
    sample_2m,
    sample_ancestral,
    visited_steps,
)
from wsistain.diffusion.sde import linear_schedule

SCHEDULE = linear_schedule(1000)


def _noise(like):
    return lambda t: torch.randn(like.shape, generator=torch.Generator().manual_seed(t))


def test_overlapping_tiles_see_the_same_noise_whatever_the_batch():
    both = position_noise([(10, -20), (26, 4)], 48, 64, seed=3, stream=7)
    alone = position_noise([(26, 4)], 32, 24, seed=3, stream=7)
    assert torch.equal(both[0, :, 16:, 24:], both[1, :, :32, :40])
    assert torch.equal(both[1:, :, :32, :24], alone)


def test_noise_of_positions_is_standard_normal_and_uncorrelated():
    x = position_noise([(1000, 250_000)], 400, 400, seed=0, stream=1).double()
    n = math.sqrt(x.numel())
    assert abs(x.mean()) * n < 4
    assert abs(x.square().mean() - 1) * n / math.sqrt(2) < 4
    assert abs(x.pow(4).mean() - 3) * n / math.sqrt(96) < 4
    others = [position_noise([(1000, 250_000)], 400, 400, seed=s, stream=t).double() for s, t in ((0, 2), (1, 1))]
    neighbours = [x.roll(1, 2), x.roll(1, 3), x.roll(1, 1), x.roll((1, 1), (2, 3)), *others]
    for other in neighbours:
        assert abs((x * other).mean()) * n < 4.5


def test_noise_differs_between_seeds_beyond_32_bits():
    a, b = (position_noise([(0, 0)], 4, 4, seed=s, stream=0) for s in (5, 5 + 2**32))
    assert not torch.equal(a, b)


def test_ancestral_steps_equal_diffusers_ddpm():
    ddpm = pytest.importorskip("diffusers").DDPMScheduler(
        num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, variance_type="fixed_small", clip_sample=False
    )
    torch.manual_seed(0)
    y, eps = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    for t in (1, 2, 40, 300, 1000):
        xi = torch.randn(y.shape, generator=torch.Generator().manual_seed(t))
        wanted = ddpm.step(eps, t - 1, y, generator=torch.Generator().manual_seed(t)).prev_sample
        found = ancestral_step(SCHEDULE, y, t, eps, xi)
        torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers with numpy 2
@pytest.mark.parametrize(("stochastic", "algorithm"), [(True, "sde-dpmsolver++"), (False, "dpmsolver++")])
def test_second_order_runs_equal_diffusers(stochastic, algorithm):
    scheduler = pytest.importorskip("diffusers").DPMSolverMultistepScheduler(
        num_train_timesteps=1000,
        beta_start=1e-4,
        beta_end=0.02,
        algorithm_type=algorithm,
        solver_order=2,
        solver_type="midpoint",
        final_sigmas_type="zero",
    )
    torch.manual_seed(0)
    y = torch.randn(1, 3, 8, 8)

    def predict(state, t):
        return torch.tanh(state + 0.001 * t)

    steps = visited_steps(300, 8)
    scheduler.set_timesteps(timesteps=[t - 1 for t in steps[:-1]])
    wanted = y
    for t in steps[:-1]:
        noise = _noise(y)(t) if stochastic else None
        wanted = scheduler.step(predict(wanted, t), t - 1, wanted, variance_noise=noise).prev_sample
    found = sample_2m(SCHEDULE, y, steps, predict=predict, noise=_noise(y), stochastic=stochastic)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-3)


def _gaussian_predictor(mean, spread):
    """The exact noise predictor for data from N(mean, spread^2)."""

    def predict(y, t):
        kept, added = float(SCHEDULE.alpha_bar[t]), float(SCHEDULE.noise_var[t])
        return added**0.5 * (y - kept**0.5 * mean) / (kept * spread**2 + added)

    return predict


def test_halving_the_steps_of_the_ode_quarters_its_error():
    predict = _gaussian_predictor(0.4, 0.3)
    y = torch.linspace(-2, 2, 101).view(1, 1, 1, -1).double()
    kept, added = float(SCHEDULE.alpha_bar[300]), float(SCHEDULE.noise_var[300])
    exact = 0.4 + 0.3 * (y - kept**0.5 * 0.4) / math.sqrt(kept * 0.09 + added)

    def error(n):
        end = sample_2m(SCHEDULE, y, visited_steps(300, n), predict=predict, noise=_noise(y), stochastic=False)
        return (end - exact).abs().max().item()

    assert error(100) < 0.01
    assert error(100) < error(25) / 6


@pytest.mark.parametrize("run", ["ancestral", "sde2m"])
def test_stochastic_runs_end_in_the_data_distribution(run):
    """Also from a start that is far off: a stochastic run forgets it, which is what brings colour to a gray start."""
    predict = _gaussian_predictor(0.4, 0.3)
    torch.manual_seed(0)
    y = torch.randn(1, 1, 100, 100)
    schedule = SCHEDULE
    if run == "ancestral":
        end = sample_ancestral(schedule, y, 1000, predict=predict, noise=_noise(y))
    else:
        end = sample_2m(schedule, y, visited_steps(1000, 40), predict=predict, noise=_noise(y))
    assert end.mean().item() == pytest.approx(0.4, abs=0.02)
    assert end.std().item() == pytest.approx(0.3, abs=0.03)


def test_both_samplers_follow_the_guided_score_alike():
    """Energy E(y) = a y pulls the score down by a at every step: the result moves against the gradient, and equally."""
    predict = _gaussian_predictor(0.0, 0.5)
    y = torch.randn(1, 1, 60, 60, generator=torch.Generator().manual_seed(1))

    def guide(state, t):
        return torch.full_like(state, 0.6)

    shifts = []
    for sampler in (
        lambda g: sample_ancestral(SCHEDULE, y, 300, predict=predict, noise=_noise(y), guide=g),
        lambda g: sample_2m(SCHEDULE, y, visited_steps(300, 60), predict=predict, noise=_noise(y), guide=g),
    ):
        shifts.append((sampler(guide) - sampler(None)).mean().item())
    assert shifts[0] < -0.02
    assert shifts[1] == pytest.approx(shifts[0], rel=0.1)


def test_guided_steps_equal_egsdes(vectors):
    """EGSDE moves the mean by beta / sqrt(1 - beta) times the gradient taken at the state."""
    v = {k: torch.from_numpy(np.asarray(a)) for k, a in np.load(vectors / "egsde_step.npz").items()}

    def low(x):
        edge = torch.cat([x[..., :8].flip(-1), x, x[..., -8:].flip(-1)], dim=-1)
        edge = torch.cat([edge[..., :8, :].flip(-2), edge, edge[..., -8:, :].flip(-2)], dim=-2)
        return F.interpolate(edge, scale_factor=0.25, mode="bilinear", antialias=True)[..., 2:-2, 2:-2]

    def low_pass(x):
        return F.interpolate(low(x), scale_factor=4, mode="bilinear")

    torch.testing.assert_close(low(v["x0"]), v["down_x0"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(low_pass(v["x0"]), v["up_down_x0"], atol=1e-5, rtol=1e-5)

    def domain(x):
        return F.conv2d(F.avg_pool2d(x, 4), v["conv_w"], v["conv_b"], padding=1)

    def cosine(a, b):
        return F.cosine_similarity(a, b, dim=1).mean((1, 2))

    def squares(a, b):
        return (a - b).square().sum((1, 2, 3))

    for name, first, second in (
        ("mean_ls500_li2_cosine_neg_l2", (500, cosine, 1), (2, squares, 1)),
        ("mean_ls500_li0_cosine_neg_l2", (500, cosine, 1), (0, squares, 1)),
        ("mean_ls0_li2_cosine_neg_l2", (0, cosine, 1), (2, squares, 1)),
        ("mean_ls0.001_li0_neg_l2_neg_l2", (0.001, squares, -1), (0, squares, 1)),
        ("mean_ls0_li100_cosine_cosine", (0, cosine, 1), (100, cosine, -1)),
    ):
        for i, index in enumerate(v["t"].long().tolist()):
            t, one = index + 1, slice(i, i + 1)
            beta, variance = float(SCHEDULE.beta[t]), float(SCHEDULE.reverse_variance(torch.tensor(t)))

            def guide(y, step, t=t, one=one, beta=beta, variance=variance, first=first, second=second):
                assert step == t
                with torch.enable_grad():
                    y = y.clone().requires_grad_(True)
                    energy = first[0] * first[2] * first[1](domain(y), domain(v["xt"][one]))
                    energy = energy + second[0] * second[2] * second[1](low_pass(y), low_pass(v["xt"][one]))
                    (k,) = torch.autograd.grad(energy.sum(), y)
                return k * beta / math.sqrt(1 - beta) / variance

            y, eps = v["y"][one], v["eps"][one]
            found = ancestral_step(SCHEDULE, y, t, eps, torch.zeros_like(y), guide=guide, at="state")
            torch.testing.assert_close(found, v[name][one], atol=1e-5, rtol=1e-5)
    noised = [
        ancestral_step(SCHEDULE, v["y"][i : i + 1], int(t) + 1, v["eps"][i : i + 1], v["sample_noise"][i : i + 1])
        for i, t in enumerate(v["t"])
    ]
    torch.testing.assert_close(torch.cat(noised), v["sample_unguided"], atol=2e-4, rtol=1e-4)


def test_visited_steps_fall_evenly_to_zero():
    assert visited_steps(300, 3) == [300, 200, 100, 0]
    assert visited_steps(4, 4) == [4, 3, 2, 1, 0]
    with pytest.raises(ValueError, match="1 to 10 steps, found 11"):
        visited_steps(10, 11)
    with pytest.raises(ValueError, match="must fall and end at 0"):
        sample_2m(SCHEDULE, torch.zeros(1), [5, 6, 0], predict=None, noise=None)

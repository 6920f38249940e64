"""Variance-preserving diffusion: properties, EGSDE's numbers."""

import numpy as np
import pytest
import torch

from wsistain.diffusion.sde import linear_schedule, priority_steps


def test_step_zero_is_the_identity():
    x = torch.rand(2, 3, 4, 4)
    assert torch.equal(linear_schedule(10).q_sample(x, torch.tensor([0, 0]), torch.randn_like(x)), x)


def test_variance_is_preserved():
    schedule = linear_schedule(100)
    x, noise = torch.randn(20_000, generator=torch.Generator().manual_seed(0)).view(4, -1).chunk(2, dim=1)
    for t in (1, 30, 100):
        noised = schedule.q_sample(x, torch.full((4,), t), noise)
        assert noised.var().item() == pytest.approx(1.0, abs=0.05)


def test_short_chains_end_at_the_same_step_size_as_long_ones():
    for n in (2, 10, 1000):
        beta = linear_schedule(n).beta
        assert beta.shape == (n + 1,)
        assert beta[[0, 1, n]].tolist() == pytest.approx([0, 1e-4, 0.02])
    assert linear_schedule(1).n_steps == 1


def test_reverse_step_without_noise_scales_by_one_over_root_alpha():
    schedule = linear_schedule(10)
    x = torch.rand(1, 3, 2, 2)
    step = schedule.reverse_mean(x, torch.tensor([7]), torch.zeros_like(x))
    torch.testing.assert_close(step, x / (1 - schedule.beta[7]).sqrt())


def test_noising_can_be_undone_knowing_the_noise():
    schedule = linear_schedule(1)
    x, noise = torch.rand(1, 3, 2, 2), torch.randn(1, 3, 2, 2)
    t = torch.tensor([1])
    undone = schedule.reverse_mean(schedule.q_sample(x, t, noise), t, noise)
    torch.testing.assert_close(undone, x, atol=1e-4, rtol=1e-4)


def test_noise_is_scaled_where_asked_and_gradient_passes():
    schedule = linear_schedule(5)
    x = torch.zeros(1, 1, 2, 2, requires_grad=True)
    out = schedule.q_sample(x, torch.tensor([5]), torch.ones(1, 1, 2, 2), noise_scale=0.05)
    torch.testing.assert_close(out[0, 0, 0, 0], 0.05 * (1 - schedule.alpha_bar[5]).sqrt())
    out.sum().backward()
    torch.testing.assert_close(x.grad[0, 0, 0, 0], schedule.alpha_bar[5].sqrt())


def test_priority_draws_prefer_late_steps_and_never_leave_the_chain():
    torch.manual_seed(0)
    t = priority_steps(10, 20_000)
    assert t.min() == 2
    assert t.max() == 10
    counts = torch.bincount(t, minlength=11)[2:].float()
    torch.testing.assert_close(counts / counts.sum(), torch.arange(1, 10) / 45, atol=0.01, rtol=0)
    assert priority_steps(1, 5).tolist() == [1] * 5


def test_chain_without_steps_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        linear_schedule(0)


def test_noising_and_reverse_step_equal_egsdes(vectors):
    file = {k: torch.from_numpy(np.asarray(v)) for k, v in np.load(vectors / "egsde_step.npz").items()}
    schedule = linear_schedule(1000)
    t = file["t"].long() + 1  # EGSDE's step 0 has noised once
    torch.testing.assert_close(schedule.beta[1:], file["betas"])
    torch.testing.assert_close(schedule.q_sample(file["x0"], t, file["e"]), file["xt"], atol=1e-5, rtol=1e-5)
    mean = schedule.reverse_mean(file["y"], t, file["eps"])
    torch.testing.assert_close(mean, file["mean_unguided"], atol=3e-6, rtol=1e-5)
    log_variance = schedule.reverse_variance(torch.arange(2, 1001)).log()
    torch.testing.assert_close(log_variance, file["logvar_fixedsmall"][1:], atol=2e-3, rtol=1e-4)
    start = schedule.q_sample(file["x0"], file["start_M"].expand(3), file["e"])
    torch.testing.assert_close(start, file["y_start"], atol=1e-5, rtol=1e-5)

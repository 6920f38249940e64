"""Variance-preserving diffusion on a table of steps: forward noising, the reverse step, adaptive length.

Step 0 is the clean image; step t in 1..T has noised t times. (Code that counts its first noising as step 0, such as
DDPM and EGSDE, has our step t at its t - 1.)

Sources: Ho et al. 2020 (DDPM, arXiv:2006.11239), eq. 2-7; Song et al. 2021 (VP-SDE, arXiv:2011.13456), eq. 11;
Wang et al. 2023 (Diffusion-GAN, arXiv:2206.02262) for the priority table.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class VPSchedule:
    """Tables of length T + 1, indexed by step; entry 0 is the clean image.

    beta      : variance added by each step; 0 at step 0.
    alpha_bar : share of the clean image's variance left, the running product of 1 - beta; 1 at step 0.
    noise_var : 1 - alpha_bar, without its rounding near step 0.
    """

    beta: Tensor
    alpha_bar: Tensor
    noise_var: Tensor

    @property
    def n_steps(self) -> int:
        return self.beta.shape[0] - 1

    def q_sample(self, x0: Tensor, t: Tensor, noise: Tensor, *, noise_scale: float = 1.0) -> Tensor:
        """sqrt(alpha_bar_t) x0 + sqrt(1 - alpha_bar_t) noise_scale noise, for steps t (b,); x0 at t = 0 exactly."""
        kept, added = _at(self.alpha_bar, t, x0), _at(self.noise_var, t, x0)
        return kept.sqrt() * x0 + added.sqrt() * noise_scale * noise

    def reverse_mean(self, xt: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Mean of step t - 1 given step t and its noise: (xt - beta / sqrt(1 - alpha_bar) noise) / sqrt(1 - beta)."""
        beta, added = _at(self.beta, t, xt), _at(self.noise_var, t, xt)
        return (xt - beta / added.sqrt() * noise) / (1 - beta).sqrt()

    def reverse_variance(self, t: Tensor) -> Tensor:
        """Variance beta (1 - alpha_bar_{t-1}) / (1 - alpha_bar_t) of step t - 1 given step t >= 1: (b,); 0 at t = 1."""
        return self.beta[t] * self.noise_var[t - 1] / self.noise_var[t]


def _at(table: Tensor, t: Tensor, like: Tensor) -> Tensor:
    return table.to(like)[t].view(-1, *([1] * (like.dim() - 1)))


def linear_schedule(
    n_steps: int, *, first: float = 1e-4, last: float = 0.02, device: torch.device | str = "cpu"
) -> VPSchedule:
    """`n_steps` variances spaced evenly from `first` to `last`, however few; float32 tables computed in float64."""
    if n_steps < 1:
        raise ValueError(f"n_steps is {n_steps}, wanted at least 1")
    beta = torch.cat([torch.zeros(1, dtype=torch.float64), torch.linspace(first, last, n_steps, dtype=torch.float64)])
    alpha_bar = torch.cumprod(1 - beta, 0)
    return VPSchedule(*(table.float().to(device) for table in (beta, alpha_bar, 1 - alpha_bar)))


def priority_steps(n_steps: int, n_draws: int) -> Tensor:
    """`n_draws` steps of 1..n_steps, drawn in proportion to t - 1, so late steps more often: long (n_draws,), CPU.

    A chain of one step has only step 1 to offer.
    """
    weight = torch.arange(n_steps, dtype=torch.float64)
    if n_steps == 1:
        weight += 1
    return torch.multinomial(weight, n_draws, replacement=True) + 1

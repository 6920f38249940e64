"""Reverse runs of a diffusion model: the ancestral sampler, a second-order solver, noise tied to the slide.

A sampler is a function of a state, the steps it visits and three functions of (state, step):

    predict(y, t)  the noise in y, float like y, as the network sees it
    guide(y, t)    gradient k of an energy, like y: the reverse run follows the score minus k; None for no guidance
    noise(t)       standard normal numbers like y, the same whenever they are asked for

Steps are those of `wsistain.diffusion.sde`: T is nearly pure noise, 0 is the clean image.

Sources: Ho et al. 2020 (ancestral steps, arXiv:2006.11239); Lu et al. 2022 (DPM-Solver++ with second-order
multistep updates, arXiv:2211.01095, and its stochastic form as in diffusers); Zhao et al. 2022 (energy guidance,
arXiv:2207.06635).
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from wsistain.diffusion.sde import VPSchedule

Field = Callable[[Tensor, int], Tensor]
Noise = Callable[[int], Tensor]

_MASK = 0xFFFFFFFF


def _mix(x: Tensor) -> Tensor:
    """A bijection of 32-bit numbers (in int64) that scatters neighbours: Wellons' "lowbias32" hash."""
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & _MASK
    x = x ^ (x >> 15)
    x = (x * 0x846CA68B) & _MASK
    return x ^ (x >> 16)


def position_noise(
    corners: Sequence[tuple[int, int]],
    height: int,
    width: int,
    *,
    seed: int,
    stream: int,
    channels: int = 3,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Standard normal numbers that belong to slide pixels: float32 (n, channels, height, width).

    corners : (y, x) of each tile's first pixel on the slide, px; may be negative.
    seed, stream : another field of numbers for each pair (stream: the step, say).

    The number at a pixel depends on (seed, stream, channel, pixel) alone, so tiles that overlap agree, whatever the
    batch, the order or the machine. A counter is hashed to two 32-bit numbers, which Box and Muller's transform
    (1958) turns into a normal one, in float64 so that devices agree to the last float32 digit or nearly.
    """
    rows = torch.tensor([y for y, _ in corners], device=device)[:, None, None, None]
    cols = torch.tensor([x for _, x in corners], device=device)[:, None, None, None]
    y = (rows + torch.arange(height, device=device)[None, None, :, None]) & _MASK
    x = (cols + torch.arange(width, device=device)[None, None, None, :]) & _MASK
    channel = torch.arange(channels, device=device)[None, :, None, None]
    start = _mix(torch.tensor([seed & _MASK], device=device))
    start = _mix(start ^ ((seed >> 32) & _MASK))
    start = _mix((start + stream * 0x9E3779B9) & _MASK)
    key = _mix((start.view(1, 1, 1, 1) + channel * 0x85EBCA6B) & _MASK)
    key = _mix(key ^ y)  # (n, channels, height, 1)
    key = _mix((key + x * 0x27D4EB2F) & _MASK)
    first = (_mix(key ^ 0x5BD1E995).double() + 0.5) / 2**32
    second = (_mix(key ^ 0x1B873593).double() + 0.5) / 2**32
    return (torch.sqrt(-2 * torch.log(first)) * torch.cos(2 * math.pi * second)).float()


def visited_steps(start: int, n_steps: int) -> list[int]:
    """`n_steps` + 1 falling steps from `start` to 0, evenly spaced and rounded: those a short run stops at."""
    if not 1 <= n_steps <= start:
        raise ValueError(f"a run from step {start} makes 1 to {start} steps, found {n_steps}")
    return [round(start * (n_steps - i) / n_steps) for i in range(n_steps + 1)]


def ancestral_step(
    schedule: VPSchedule,
    y: Tensor,
    t: int,
    eps: Tensor,
    xi: Tensor,
    *,
    guide: Field | None = None,
    at: Literal["mean", "state"] = "mean",
) -> Tensor:
    """The state at step t - 1 from that at step t: mean - variance * k + sqrt(variance) * xi, no noise at the last.

    eps   : noise predicted in y.
    guide : see the module's text; asked at the mean for step t - 1 (MIU-Diff, Eq. 3) or at the state for step t
            (EGSDE).
    """
    mean, variance = reverse_kernel(schedule, y, t, eps)
    if t == 1:
        return mean
    if guide is not None:
        mean = mean - variance * (guide(mean, t - 1) if at == "mean" else guide(y, t))
    return mean + math.sqrt(variance) * xi


def reverse_kernel(schedule: VPSchedule, y: Tensor, t: int, eps: Tensor) -> tuple[Tensor, float]:
    """Mean and variance of step t - 1 given the state at step t and its noise."""
    steps = torch.full((len(y),), t, device=y.device)
    variance = schedule.reverse_variance(torch.tensor(t, device=schedule.beta.device))
    return schedule.reverse_mean(y, steps, eps), float(variance)


def sample_ancestral(
    schedule: VPSchedule,
    y: Tensor,
    start: int,
    *,
    predict: Field,
    noise: Noise,
    guide: Field | None = None,
    at: Literal["mean", "state"] = "mean",
    after: Field | None = None,
) -> Tensor:
    """The clean image of a run through every step from `start` down; `y` is the state at `start`.

    after : what becomes of the state at step t - 1 once it is made (ILVR, Choi et al. 2021, arXiv:2108.02938).
    """
    for t in range(start, 0, -1):
        y = ancestral_step(schedule, y, t, predict(y, t), noise(t), guide=guide, at=at)
        if after is not None:
            y = after(y, t - 1)
    return y


def sample_2m(
    schedule: VPSchedule,
    y: Tensor,
    steps: Sequence[int],
    *,
    predict: Field,
    noise: Noise,
    guide: Field | None = None,
    stochastic: bool = True,
) -> Tensor:
    """The clean image of a run that visits `steps` (falling, the last is 0) with DPM-Solver++, second order, multistep.

    stochastic : solve the reverse SDE (the ancestral sampler's limit) or the ODE with the same marginals.

    The guide is asked at the state; it enters the predicted noise as sqrt(1 - alpha_bar) * k, so that the run follows
    the guided score. Needs one prediction a step.
    """
    check_steps(steps)
    kept = schedule.alpha_bar.double().sqrt().tolist()
    added = schedule.noise_var.double().sqrt().tolist()
    before: tuple[Tensor, float] | None = None  # the last clean estimate, and how far log(kept / added) moved since
    for t, to in pairwise(steps):
        eps = predict(y, t)
        if guide is not None:
            eps = eps + added[t] * guide(y, t)
        # The clean image as it is expected now, then as the last two estimates together let one expect it.
        clean: Tensor = (y - added[t] * eps) / kept[t]
        if to == 0:
            return clean
        h = math.log(kept[to] / added[to]) - math.log(kept[t] / added[t])
        ahead = clean if before is None else clean + (clean - before[0]) * (0.5 * h / before[1])
        # With expm1: 1 - exp(-h) would lose its digits where steps are small.
        if stochastic:
            y = (added[to] / added[t] * math.exp(-h)) * y + (kept[to] * -math.expm1(-2 * h)) * ahead
            y = y + (added[to] * math.sqrt(-math.expm1(-2 * h))) * noise(t)
        else:
            y = (added[to] / added[t]) * y - (kept[to] * math.expm1(-h)) * ahead
        before = (clean, h)
    raise AssertionError("unreachable: the steps end at 0")


def check_steps(steps: Sequence[int]) -> None:
    """ValueError unless `steps` fall to 0."""
    if len(steps) < 2 or steps[-1] != 0 or any(a <= b for a, b in pairwise(steps)):
        raise ValueError(f"steps must fall and end at 0, found {list(steps)}")

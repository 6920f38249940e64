"""MIU-Diff's staining: energy, guidance and test-time tuning around the score model.

`MiuStainer` is what a weights file of `miu_diff` holds and what `wsistain run` calls.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from wsistain.config import Strict
from wsistain.diffusion.samplers import (
    position_noise,
    reverse_kernel,
    sample_2m,
    sample_ancestral,
    visited_steps,
)
from wsistain.diffusion.sde import VPSchedule, linear_schedule
from wsistain.diffusion.windows import Windows
from wsistain.losses.contrastive import layer_mean, patch_nce
from wsistain.networks.facts import NetworkFacts
from wsistain.networks.mi_estimator import (
    Edges,
    MiEstimator,
    colour_entropy,
    gradient_map,
    histogram_entropy,
    without_colour,
)
from wsistain.networks.score_unet import ScoreUNet

GLASS_PX, GLASS_LIGHT = 15, (0.86, 0.93)
_START_NOISE = 0  # stream of the noise that a run starts from; step t of the run draws from stream t
_GRID_STREAM = 0x6D6975  # of the numbers that move the estimator's grid of patches
ENTROPIES: dict[str, Callable[[Tensor, int, tuple[int, int]], Tensor]] = {
    "gaussian": colour_entropy,
    "histogram": histogram_entropy,
}


class ScoreOptions(Strict):
    """The score model: see `ScoreUNet`. EGSDE's 256 px model, as the paper does not describe its own."""

    base: int = 128
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4, 4)
    n_blocks: int = 2
    attention: tuple[int, ...] = (4,)
    groups: int = 32


class EstimatorOptions(Strict):
    """The mutual-information estimator: see `MiEstimator`."""

    patch: int = Field(32, ge=4)
    overlap: int = Field(0, ge=0, description="px that neighbouring patches share")
    edges: Edges = Field("gray", description="edge maps of the brightness, or of each colour channel")
    widths: tuple[int, ...] = (32, 64, 128, 128)
    time_width: int = Field(64, ge=0, description="0: not told the noise level")
    kernel: Literal[3, 4] = Field(3, description="edge of the convolutions; 4 leaves no comb in the gradient")


class SamplingOptions(Strict):
    """How an image is stained.

    The paper makes 300 steps (`solver: ancestral`, `n_steps: 300`); `sde2m` follows the same stochastic equation with
    a second-order solver in fewer.
    """

    start: int = Field(300, ge=2, description="S: the noise level, of the chain's steps, at which the H&E goes in")
    n_steps: int = Field(30, ge=1, description="steps of the run; ancestral: always `start`")
    solver: Literal["ancestral", "sde2m", "ode2m"] = "sde2m"
    guidance: Literal["both", "mi", "unique", "ilvr", "none"] = Field(
        "both", description="terms of the energy; ilvr: no energy, the H&E's low frequencies are kept instead"
    )
    strength: Literal["score", "relative", "raw"] = Field(
        "relative", description="unit of the energy's gradient: the score, a step's noise, or as it comes"
    )
    weight: float = Field(0.1, ge=0, description="score: the gradient's root mean square, of the score's")
    combine: Literal["each", "sum"] = Field(
        "sum", description="are the two gradients brought to one size before they are added, or their sum"
    )
    grid: Literal["moving", "fixed"] = Field("fixed", description="does the energy's grid of patches move by the step")
    spare_glass: bool = Field(False, description="no guidance where the H&E is glass")
    ilvr_factor: int = Field(8, ge=2, description="ilvr: how far the images are shrunk whose likeness is kept")
    guide_from: int | None = Field(None, ge=1, description="N: from this step down the energy guides; None: all along")
    entropy: Literal["gaussian", "histogram"] = Field("gaussian", description="of a patch's colours")
    he_noise: Literal["fixed", "fresh"] = Field(
        "fixed", description="noise of the H&E that the energy sees: that of the start (as EGSDE), or new at every step"
    )
    rho: float = Field(0.1, ge=0, description="relative: the shift's root mean square, of the step's noise")
    scale: float = Field(1.0, ge=0, description="raw: factor on the gradient")
    guide_at: Literal["mean", "state"] = Field("mean", description="where the gradient is taken (ancestral only)")
    tune_from: int = Field(0, ge=0, description="t'0: from this step down the score model is tuned; 0: not (paper 40)")
    tune_lr: float = Field(1e-5, gt=0)
    tune_loss: Literal["contrastive", "l2"] = "contrastive"
    tune_updates: int = Field(1, ge=1, description="of the score model at each step")
    tune_levels: tuple[int, ...] = Field(
        (1, 2, 3), min_length=1, description="of the way down, whose features are compared: 128, 64, 32 px of 256"
    )
    tune_patches: int = Field(256, ge=2)
    tune_tau: float = Field(0.07, gt=0)
    window: int = Field(256, ge=8, description="px that the score model sees at a time")
    window_stride: int = Field(192, ge=1, description="step between windows of larger tiles, whose noise is averaged")
    window_batch: int = Field(8, ge=1)
    seed: int = 0

    @model_validator(mode="after")
    def _fits(self) -> "SamplingOptions":
        if self.tune_from >= self.start / 2:
            raise ValueError(f"tune_from {self.tune_from} is not below half of start {self.start} (paper, section 2.1)")
        if self.guide_from is not None and self.guide_from > self.start:
            raise ValueError(f"guide_from {self.guide_from} is more than start {self.start}")
        if self.n_steps > self.start:
            raise ValueError(f"n_steps {self.n_steps} is more than start {self.start}")
        if self.guidance == "ilvr" and self.solver != "ancestral":
            raise ValueError("guidance ilvr replaces the state after every step of the chain: set solver to ancestral")
        if self.window_stride > self.window:
            raise ValueError(f"window_stride {self.window_stride} is more than window {self.window}")
        return self


@dataclass(frozen=True)
class Energy:
    """MIU-Diff's energy of a state y at step t, given the noised H&E (Eq. 2).

    M = -lambda (H(y) - I) - (1 - lambda) I with lambda = t / start: H is the entropy of y's colours, I the mutual
    information of y with the H&E's edges. Early steps favour what y has of its own, late ones what they share.
    """

    estimator: MiEstimator
    start: int
    guidance: Literal["both", "mi", "unique", "ilvr", "none"] = "both"
    entropy: Literal["gaussian", "histogram"] = "gaussian"
    combine: Literal["each", "sum"] = "sum"

    def weights(self, t: int) -> tuple[float, float]:
        """Factors of H and of I in -M at step t: (lambda, 1 - 2 lambda), or those of the terms that are on.

        For lambda > 1/2, the first half of a run, the second is negative: mutual information is pushed down.
        """
        share = t / self.start
        unique = share if self.guidance in ("both", "unique") else 0.0
        shared = 1 - share if self.guidance in ("both", "mi") else 0.0
        return unique, shared - unique

    def __call__(self, y: Tensor, edges: Tensor, t: int, offset: tuple[int, int] = (0, 0)) -> Tensor:
        """M of each state, float (b,), differentiable; y (b, 3, h, w), edges as the estimator takes them.

        offset : of the grid of patches, see `cut_patches`.
        """
        value = y.new_zeros(len(y))
        for factor, term in self._terms(y, edges, t, offset):
            value = value - factor * term()
        return value

    def _terms(
        self, y: Tensor, edges: Tensor, t: int, offset: tuple[int, int]
    ) -> list[tuple[float, Callable[[], Tensor]]]:
        """The factors that are not 0, each with its term: H of y, I of y and the edges."""
        of_entropy, of_information = self.weights(t)
        steps = torch.full((len(y),), t, device=y.device)
        terms: list[tuple[float, Callable[[], Tensor]]] = [
            (of_entropy, lambda: ENTROPIES[self.entropy](y, self.estimator.patch, offset)),
            (of_information, lambda: self.estimator(edges, y, steps, offset)),
        ]
        return [(factor, term) for factor, term in terms if factor]

    def gradient(self, y: Tensor, edges: Tensor, t: int, offset: tuple[int, int] = (0, 0)) -> Tensor:
        """k, the gradient of M at each state, like y; each image's own, whatever else is in the batch.

        With `combine` "each" both terms' gradients are brought to a root mean square of 1 before their factors act:
        as they come, that of H is some twenty times smaller, and what is called unique is the information alone.
        """
        with torch.enable_grad():
            y = y.detach().requires_grad_(True)
            k = torch.zeros_like(y)
            for factor, term in self._terms(y, edges, t, offset):
                (part,) = torch.autograd.grad(term().sum(), y)
                k = k - factor * (to_relative(part) if self.combine == "each" else part)
        return k.detach()


def on_tissue(gray: Tensor) -> Tensor:
    """How far a place is tissue: 1 on tissue, 0 on glass, (b, 1, h, w); gray (b, 3, h, w) in [-1, 1], as a batch's H&E.

    Light, averaged over `GLASS_PX` px, falls from glass (`GLASS_LIGHT` of the range and more) to tissue evenly.
    """
    pad = GLASS_PX // 2
    light = nn.functional.pad(gray[:, :1].add(1).div(2), (pad, pad, pad, pad), mode="replicate")
    light = nn.functional.avg_pool2d(light, GLASS_PX, stride=1)
    full, none = GLASS_LIGHT
    return ((none - light) / (none - full)).clamp(0, 1)


def low_pass(x: Tensor, factor: int) -> Tensor:
    """(b, c, h, w) shrunk `factor` times and grown again, antialiased (ILVR's low-pass filter), like x."""
    h, w = x.shape[-2:]
    small = nn.functional.interpolate(x, (max(h // factor, 1), max(w // factor, 1)), mode="bicubic", antialias=True)
    return nn.functional.interpolate(small, (h, w), mode="bicubic")


def to_relative(k: Tensor) -> Tensor:
    """`k` (b, c, h, w) scaled to a root mean square of 1 in each image; 0 where it vanishes."""
    size = k.square().mean((1, 2, 3), keepdim=True).sqrt()
    return torch.where(size > 0, k / size.clamp_min(torch.finfo(k.dtype).tiny), torch.zeros_like(k))


class MiuStainer(nn.Module):
    """Stains H&E: float (b, 3, h, w) in [-1, 1] to the same; h and w multiples of what its facts say.

    The H&E loses its colour, is noised to step `start`, and the reverse run of the IHC's score model, guided by the
    energy, brings it back. Tiles larger than a window are denoised as one region whose windows share state and noise.
    The noise at a pixel depends on the seed and on the pixel's place on the slide: pass the tiles' corners.
    """

    def __init__(
        self, score: ScoreOptions, estimator: EstimatorOptions, sampling: SamplingOptions, *, chain: int = 1000
    ) -> None:
        super().__init__()
        self.score = ScoreUNet(**score.model_dump())
        self.estimator = MiEstimator(**estimator.model_dump())
        self.sampling, self.seed = sampling, sampling.seed  # a run may set another seed
        if sampling.start > chain:
            raise ValueError(f"start {sampling.start} is more than the chain's {chain} steps")
        if sampling.tune_from and min(sampling.tune_levels) >= len(score.multipliers):
            raise ValueError(f"tune_levels {sampling.tune_levels} are not among the {len(score.multipliers)} levels")
        self.chain = chain

    @property
    def facts(self) -> NetworkFacts:
        """Group norms and attention see a window; of a tile of four, few windows reach over its edge.

        The estimator compares patches: a crop has to hold two of them a side.
        """
        multiple, tile = self.score.size_multiple, 4 * self.sampling.window
        least = 2 * self.estimator.patch - self.estimator.overlap
        return NetworkFacts("tile", size_multiple=multiple, tile_px=tile, least_px=least, takes_positions=True)

    def schedule(self, device: torch.device | str = "cpu") -> VPSchedule:
        """The noising chain's tables."""
        return linear_schedule(self.chain, device=device)

    def forward(self, x: Tensor, corners: Sequence[tuple[int, int]] | None = None) -> Tensor:
        """Stained tiles; `corners` are the (y, x) of their first pixels on the slide (all at the origin by default)."""
        corners = [(0, 0)] * len(x) if corners is None else list(corners)
        with torch.no_grad():
            if self.sampling.tune_from == 0:
                return _Run(self, self.score, x, corners).stained()
            return torch.cat(  # a tuned score model is one image's own
                [
                    _Run(self, copy.deepcopy(self.score), x[i : i + 1], corners[i : i + 1]).stained()
                    for i in range(len(x))
                ]
            )


class _Run:
    """One reverse run over a batch of tiles."""

    def __init__(self, stainer: MiuStainer, score: ScoreUNet, x: Tensor, corners: list[tuple[int, int]]) -> None:
        options = stainer.sampling
        self.options, self.seed, self.chain = options, stainer.seed, stainer.chain
        self.frozen, self.score = stainer.score, score
        self.schedule = stainer.schedule(x.device)
        self.corners = corners
        h, w = x.shape[-2:]
        self.windows = Windows(corners, h, w, options.window, options.window_stride, options.window_batch)
        self.gray = without_colour(x.float())
        self.energy = Energy(stainer.estimator, options.start, options.guidance, options.entropy, options.combine)
        self.tissue = on_tissue(self.gray) if options.spare_glass else None
        is_ancestral = options.solver == "ancestral"
        self.steps = visited_steps(options.start, options.start if is_ancestral else options.n_steps)
        self.start_noise = self._draw(_START_NOISE)
        self.optimiser: torch.optim.Optimizer | None = None
        if options.tune_from:
            score.requires_grad_(True)
            self.optimiser = torch.optim.Adam(score.parameters(), lr=options.tune_lr)

    def _draw(self, stream: int) -> Tensor:
        h, w = self.gray.shape[-2:]
        return position_noise(self.corners, h, w, seed=self.seed, stream=stream, device=self.gray.device)

    def stained(self) -> Tensor:
        # The H&E, noised to where the way back begins.
        options, start = self.options, self.options.start
        y = self._noised(start)
        # A guide of no strength would still cost a gradient a step.
        off = (
            options.guidance == "none"
            or {"relative": options.rho, "score": options.weight, "raw": 1}[options.strength] == 0
        )
        guide = None if off or options.guidance == "ilvr" else self.guide

        # The way back.
        if options.solver == "ancestral":
            after = self.keep_low if options.guidance == "ilvr" else None
            y = sample_ancestral(
                self.schedule,
                y,
                start,
                predict=self.predict,
                noise=self._draw,
                guide=guide,
                at=options.guide_at,
                after=after,
            )
        else:
            stochastic = options.solver == "sde2m"
            y = sample_2m(
                self.schedule, y, self.steps, predict=self.predict, noise=self._draw, guide=guide, stochastic=stochastic
            )
        return y.clamp(-1, 1)

    def keep_low(self, y: Tensor, t: int) -> Tensor:
        """ILVR: y at step t with the low frequencies of the H&E noised to the same step."""
        if t == 0:
            return y
        return y + low_pass(self._noised(t) - y, self.options.ilvr_factor)

    def _noised(self, t: int) -> Tensor:
        """The H&E without colour at step t, with the noise of the start unless a fresh one is asked for."""
        steps = torch.full((len(self.gray),), t, device=self.gray.device)
        is_fresh = self.options.he_noise == "fresh" and t != self.options.start
        noise = self._draw(self.chain + 1 + t) if is_fresh else self.start_noise  # streams that no step uses
        return self.schedule.q_sample(self.gray, steps, noise)

    def predict(self, y: Tensor, t: int) -> Tensor:
        """The noise in y; from `tune_from` down the score model is tuned before it is asked.

        A visited step that stands for several of the chain tunes as often as they would, so that a short run makes
        the updates that the paper's makes.
        """
        if self.optimiser is not None and t <= self.options.tune_from:
            stands_for = t - self.steps[self.steps.index(t) + 1]
            for _ in range(self.options.tune_updates * stands_for):
                self._tune(y, t)
        return self.windows.fuse(lambda part: _noise_in(self.score, part, t).float(), y)

    def guide(self, y: Tensor, t: int) -> Tensor:
        """k at y, scaled in each window: to `weight` of the score, to `rho` of the step's noise, or as it comes.

        The score of noised images has a root mean square of 1 / sqrt(1 - alpha_bar), whatever the number of steps.
        """
        options = self.options
        is_mean = options.solver == "ancestral" and options.guide_at == "mean"  # of the step that leads to t
        leaving = t + 1 if is_mean else t
        if options.guide_from is not None and leaving > options.guide_from:
            return torch.zeros_like(y)
        edges, offset = gradient_map(self._noised(t), self.energy.estimator.edges), self._grid_offset(t)
        of_sum = options.strength != "raw" and options.combine == "sum"

        def gradient(states: Tensor, maps: Tensor) -> Tensor:
            k = self.energy.gradient(states, maps, t, offset)
            return to_relative(k) if of_sum else k

        k = self.windows.fuse(gradient, y, edges) * self._unit(t, leaving)
        return k if self.tissue is None else k * self.tissue

    def _unit(self, t: int, leaving: int) -> float:
        """Factor on a gradient of root mean square 1 (raw: on the gradient as it comes)."""
        options = self.options
        if options.strength == "raw":
            return options.scale
        if options.strength == "score":
            return options.weight / math.sqrt(float(self.schedule.noise_var[max(t, 1)]))
        step = torch.tensor(max(leaving, 2), device=self.gray.device)
        return options.rho / math.sqrt(float(self.schedule.reverse_variance(step)))

    def _grid_offset(self, t: int) -> tuple[int, int]:
        """How far the grid of patches is moved at step t: a hash of the seed and the step, the same for all tiles."""
        if self.options.grid == "fixed":
            return 0, 0
        patch = self.energy.estimator.patch
        chance = torch.Generator().manual_seed(_one_number(self.seed, t, _GRID_STREAM))
        dy, dx = torch.randint(patch, (2,), generator=chance).tolist()
        return int(dy), int(dx)

    def _tune(self, y: Tensor, t: int) -> None:
        """One step of Adam so that the next state resembles the H&E at equal places, in the untuned model's features.

        The next state is that of the ancestral step, through which the gradient reaches the score model.
        """
        assert self.optimiser is not None
        # One noise for the whole picture, cut with it: windows that overlap must see the same state.
        xi, beside = self._draw(t), self._noised(t - 1)
        places = self.windows.places()
        h, w = self.windows.shape
        levels = [k for k in self.options.tune_levels if k < len(self.score.down) and h % 2**k == w % 2**k == 0]
        chance = torch.Generator().manual_seed(_one_number(self.seed, t, *self.corners[0]))

        # Gradients are added up window by window, so that memory holds the graph of one.
        parameters = list(self.score.parameters())
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        with torch.enable_grad():
            for place in places:
                state, noise, target = (self.windows.cut(image, [place]) for image in (y, xi, beside))
                mean, variance = reverse_kernel(self.schedule, state, t, _noise_in(self.score, state, t))
                after = mean + math.sqrt(variance) * noise
                time = torch.full((1,), max(t - 2, 0), device=y.device)
                made = self.frozen.features(after, time, levels)
                with torch.no_grad():
                    wanted = self.frozen.features(target, time, levels)
                loss = self._likeness(made, wanted, chance) / len(places)
                found = torch.autograd.grad(loss, parameters, allow_unused=True)  # the untuned model takes none
                for parameter, grad in zip(parameters, found, strict=True):
                    if grad is not None and parameter.grad is not None:
                        parameter.grad += grad
        self.optimiser.step()

    def _likeness(self, made: list[Tensor], wanted: list[Tensor], chance: torch.Generator) -> Tensor:
        if self.options.tune_loss == "l2":
            return layer_mean([(a - b).square() for a, b in zip(made, wanted, strict=True)])
        losses = []
        for a, b in zip(made, wanted, strict=True):
            at = torch.randperm(a.shape[2] * a.shape[3], generator=chance)[: self.options.tune_patches].to(a.device)
            q, k = (nn.functional.normalize(f.flatten(2)[:, :, at].transpose(1, 2), dim=2) for f in (a, b))
            losses.append(patch_nce(q, k, self.options.tune_tau))
        return layer_mean(losses)


def _one_number(*values: int) -> int:
    """A seed from several whole numbers, the same everywhere."""
    seed = 0
    for value in values:
        seed = (seed * 1_000_003 + value) & 0x7FFFFFFFFFFFFFFF
    return seed


def _noise_in(score: ScoreUNet, y: Tensor, t: int) -> Tensor:
    """The score model's noise at step t; its own count begins at 0 with the first noising."""
    noise: Tensor = score(y, torch.full((len(y),), t - 1, device=y.device))
    return noise

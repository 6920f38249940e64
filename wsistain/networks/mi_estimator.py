"""MIU-Diff's estimator of mutual information between an image and a map of its edges.

Sources: Liu et al. 2025 (MIU-Diff), section 2.2; Belghazi et al. 2018 (MINE, arXiv:1801.04062) for the bound and the
corrected gradient; Ma et al. 2020 (SPSR, arXiv:2003.13081) for the gradient map. Sizes of the network are ours.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsistain.networks.score_unet import time_code
from wsistain.numerics import in_float32

Edges = Literal["gray", "colour"]
LUMA = (0.299, 0.587, 0.114)
_WIDTHS = (32, 64, 128, 128)


def luma(x: Tensor) -> Tensor:
    """Brightness of (b, 3, h, w), float (b, 1, h, w), by the weights .299, .587, .114."""
    return torch.einsum("bchw,c->bhw", x, torch.tensor(LUMA, dtype=x.dtype, device=x.device))[:, None]


def without_colour(x: Tensor) -> Tensor:
    """The brightness of (b, 3, h, w) in all three channels (colour removal as in StyleDiffusion)."""
    return luma(x).expand_as(x)


def gradient_map(x: Tensor, of: Edges = "gray") -> Tensor:
    """Length of the gradient of (b, 3, h, w): root of squared central differences plus 1e-6, float.

    of : "gray", of the brightness: (b, 1, h, w); "colour", of each channel: (b, 3, h, w). Borders are replicated.
    """
    padded = F.pad(luma(x) if of == "gray" else x, (1, 1, 1, 1), mode="replicate")
    dy = padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
    dx = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]
    return (dy.square() + dx.square() + 1e-6).sqrt()


def cut_patches(x: Tensor, size: int, overlap: int = 0, offset: tuple[int, int] = (0, 0)) -> Tensor:
    """The whole `size` px patches of (b, c, h, w) in reading order: (b, L, c, size, size); what is left is dropped.

    overlap : px that neighbours share.
    offset  : (y, x) in [0, size) by which the grid of patches is moved up and to the left. The image is then continued
              by reflection on all sides, so that every pixel lies in some patch.
    """
    if offset != (0, 0):
        top, left = offset
        x = F.pad(x, (left, size - left, top, size - top), mode="reflect")
    b, c, h, w = x.shape
    step = size - overlap
    rows, cols = ((n - size) // step + 1 if n >= size else 0 for n in (h, w))
    if rows * cols < 2:
        raise ValueError(f"an image of {h} x {w} px holds fewer than two patches of {size} px")
    patches = x.unfold(2, size, step).unfold(3, size, step)  # (b, c, rows, cols, size, size)
    return patches.permute(0, 2, 3, 1, 4, 5).reshape(b, rows * cols, c, size, size)


class MiEstimator(nn.Module):
    """A critic of (edge map, image) patches whose mean difference bounds their mutual information from below.

    patch      : edge of a patch, px; `overlap`: px that neighbouring patches share.
    widths     : of the four halving convolutions.
    time_width : of the code that tells the noise level; 0 for an estimator of clean images.
    edges      : which edge maps it takes, see `gradient_map`.
    kernel     : edge of the convolutions. A stride of 2 goes over the pixels of a kernel of 4 evenly; one of 3 weighs
                 every other row and column more, and its gradient is a comb.
    """

    log_mean: Tensor
    n_seen: Tensor

    def __init__(
        self,
        *,
        patch: int = 32,
        overlap: int = 0,
        widths: tuple[int, ...] = _WIDTHS,
        time_width: int = 64,
        edges: Edges = "gray",
        kernel: Literal[3, 4] = 3,
    ) -> None:
        super().__init__()
        if not 0 <= overlap < patch:
            raise ValueError(f"patches of {patch} px cannot share {overlap} px")
        self.patch, self.overlap, self.time_width, self.edges = patch, overlap, time_width, edges
        n_in = 4 if edges == "gray" else 6
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, kernel, stride=2, padding=1) for a, b in zip((n_in, *widths[:-1]), widths, strict=True)
        )
        self.head = nn.Linear(widths[-1], 1)
        if time_width:
            self.time = nn.Sequential(nn.Linear(time_width, time_width), nn.SiLU(), nn.Linear(time_width, widths[0]))
        self.register_buffer("log_mean", torch.zeros(()))  # of exp(critic) over shuffled pairs, running
        self.register_buffer("n_seen", torch.zeros((), dtype=torch.long))

    def scores(self, edges: Tensor, images: Tensor, t: Tensor) -> Tensor:
        """The critic's value of each pair: (b, L) of patches (b, L, c, p, p), (b, L, 3, p, p) at noise steps t (b,)."""
        b, n = edges.shape[:2]
        x = torch.cat([edges, images], dim=2).flatten(0, 1)
        for number, conv in enumerate(self.convs):
            x = conv(x)
            if number == 0 and self.time_width:
                x = x + self.time(time_code(t, self.time_width)).repeat_interleave(n, dim=0)[:, :, None, None]
            x = F.leaky_relu(x, 0.2)
        out: Tensor = self.head(x.mean((2, 3))).view(b, n)
        return out

    def forward(self, edges: Tensor, image: Tensor, t: Tensor, offset: tuple[int, int] = (0, 0)) -> Tensor:
        """Lower bound of the mutual information of each image with its edge map, in nats: (b,), differentiable.

        edges : (b, 1 or 3, h, w); image : (b, 3, h, w); t : (b,) noise steps of both; offset : see `cut_patches`.

        The product of marginals is made by pairing each patch with the edges half of the patches further on, in
        reading order: no chance is involved, so an image's value does not depend on its batch.
        """
        joint_edges, patches = (cut_patches(i, self.patch, self.overlap, offset) for i in (edges, image))
        joint = self.scores(joint_edges, patches, t)
        shuffled = self.scores(joint_edges, patches.roll(patches.shape[1] // 2, dims=1), t)
        return _bound(joint, shuffled)

    def loss(self, edges: Tensor, image: Tensor, t: Tensor, *, rate: float = 0.01) -> tuple[Tensor, Tensor]:
        """What training descends, and the bound it stands for (detached); patches are shuffled over the whole batch.

        The logarithm's gradient is taken with a running mean (`rate`: its share of new values) in place of the
        batch's own, which removes the bias of small batches (MINE, section 3.2).
        """
        edge_patches, patches = (cut_patches(i, self.patch, self.overlap) for i in (edges, image))
        n = patches.shape[0] * patches.shape[1]
        other = patches.flatten(0, 1)[torch.randperm(n, device=patches.device)].view_as(patches)
        joint, shuffled = self.scores(edge_patches, patches, t), self.scores(edge_patches, other, t)
        return self._corrected(joint, shuffled, rate)

    @in_float32
    def _corrected(self, joint: Tensor, shuffled: Tensor, rate: float) -> tuple[Tensor, Tensor]:
        log_mean = shuffled.flatten().logsumexp(0) - math.log(shuffled.numel())
        with torch.no_grad():
            share = 1.0 if self.n_seen == 0 else rate
            old = self.log_mean + math.log1p(-share) if share < 1 else torch.full_like(self.log_mean, -math.inf)
            self.log_mean.copy_(torch.logaddexp(old, log_mean.detach() + math.log(share)))
            self.n_seen += 1
        loss = torch.exp(log_mean - self.log_mean.clone()) - joint.mean()
        return loss, (joint.mean() - log_mean).detach()


@in_float32
def _bound(joint: Tensor, shuffled: Tensor) -> Tensor:
    return joint.mean(1) - (shuffled.logsumexp(1) - math.log(shuffled.shape[1]))


@in_float32
def colour_entropy(image: Tensor, patch: int, offset: tuple[int, int] = (0, 0), *, floor: float = 1e-4) -> Tensor:
    """Entropy of the colours in an image up to a constant, float (b,): mean over patches of half the log-determinant.

    image : float (b, 3, h, w); `patch` px patches, each seen as one Gaussian of colours with covariance
    Cov + floor * I. The paper does not say how it estimates the entropy.
    """
    pixels = cut_patches(image, patch, 0, offset).flatten(3)  # (b, L, 3, n)
    centred = pixels - pixels.mean(-1, keepdim=True)
    covariance = centred @ centred.transpose(-1, -2) / pixels.shape[-1]
    covariance = covariance + floor * torch.eye(3, device=image.device, dtype=image.dtype)
    return 0.5 * _log_det3(covariance).mean(1)


@in_float32
def histogram_entropy(
    image: Tensor, patch: int, offset: tuple[int, int] = (0, 0), *, bins: int = 16, reach: float = 2.0
) -> Tensor:
    """Entropy of soft histograms in nats, float (b,), differentiable: mean over patches and channels of (b, 3, h, w).

    bins, reach : bins evenly over -reach to reach, which noised images seldom leave; what does counts for the outer
                  ones. A value belongs to the bins near it by a Gaussian of one bin's width.
    """
    values = cut_patches(image, patch, 0, offset).flatten(3)[..., None]  # (b, L, 3, n, 1)
    width = 2 * reach / bins
    centres = torch.linspace(-reach + width / 2, reach - width / 2, bins, device=image.device, dtype=image.dtype)
    share = torch.softmax(-0.5 * ((values - centres) / width).square(), dim=-1).mean(-2)
    entropy: Tensor = -(share * share.clamp_min(1e-12).log()).sum(-1)
    return entropy.mean((1, 2))


def _log_det3(m: Tensor) -> Tensor:
    """Log-determinant of symmetric positive 3 x 3 matrices (..., 3, 3), written out: faster than a factorisation."""
    a, b, c, d, e, f = (m[..., i, j] for i, j in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)))
    det = a * (d * f - e * e) - b * (b * f - e * c) + c * (b * e - d * c)
    return det.clamp_min(1e-30).log()

"""Nucleus counters for ATST-Net's fifth auxiliary task: CPP-Net in its published layout, and a small counter of ours.

Both take one channel, the HSI saturation of the haematoxylin-only image inside a mask, in [0, 1], and give a count and
a differentiable stand-in for it:

    count(x)  float (b,)  nuclei found
    mass(x)   float (b,)  a smooth quantity that grows with the count, in nuclei

Sources: Chen et al., CPP-Net, IEEE TIP 2023 (csccsccsccsc/cpp-net) for the layout; Lempitsky and Zisserman, NIPS 2010,
for counting as the integral of a density, which is how the small counter works.
"""

import math
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsistain.published.tensors import load_into, read_published

_PX_PER_UNIT = 100.0  # of a density in nuclei: keeps the small counter's activations near 1
SHIPPED = Path(__file__).with_name("nucleus_counter.safetensors")


def _double_conv(n_in: int, n_out: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a in (n_in, n_out):
        layers += [nn.Conv2d(a, n_out, 3, padding=1), nn.GroupNorm(max(n_out // 8, 1), n_out), nn.ELU()]
    return nn.Sequential(*layers)


class _Conv(nn.Module):  # published tensors lie one module deeper than they need to
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv = _double_conv(n_in, n_out)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out


class _In(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv = _Conv(n_in, n_out)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out


class _Down(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.mpconv = nn.Sequential(nn.MaxPool2d(2), _Conv(n_in, n_out))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.mpconv(x)
        return out


class _Up(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv = _Conv(n_in, n_out)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        dy, dx = skip.shape[-2] - x.shape[-2], skip.shape[-1] - x.shape[-1]
        x = F.pad(x, (dx // 2, dx - dx // 2, dy // 2, dy - dy // 2))
        out: Tensor = self.conv(torch.cat([skip, x], dim=1))
        return out


class _Out(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(n_in, n_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out


class CppNet(nn.Module):
    """CPP-Net: star-convex distances refined by looking along their own rays; 1,146,106 parameters.

    Input float (b, 1, h, w), scaled by its percentiles 1 and 99.8 in `count` and `mass`. `forward` gives (distances
    (b, rays, h, w) in px, probability of a nucleus' centre (b, 1, h, w), probability of nucleus (b, 1, h, w)).

    centre_threshold : least centre probability of a counted nucleus (0.4 in ATST-Net's code).
    """

    directions: Tensor

    def __init__(self, *, n_rays: int = 32, n_samples: int = 6, centre_threshold: float = 0.4) -> None:
        super().__init__()
        self.n_rays, self.n_samples, self.centre_threshold = n_rays, n_samples, centre_threshold
        self.inc = _In(1, 32)
        self.down1, self.down2, self.down3 = _Down(32, 64), _Down(64, 128), _Down(128, 128)
        self.up1, self.up2, self.up3 = _Up(256, 64), _Up(128, 32), _Up(64, 32)
        self.features = nn.Conv2d(32, 128, 3, padding=1)
        self.out_prob = _Out(128, 1)
        self.out_ray = _Out(128, n_rays)
        self.conv_0_confidence = _Out(128, n_rays)
        self.conv_1_confidence = _Out(1 + n_samples, 1 + n_samples)
        self.up1_seg, self.up2_seg, self.up3_seg = _Up(256, 64), _Up(128, 32), _Up(64, 32)
        self.out_seg = _Out(32, 1)
        angles = torch.arange(n_rays) * (2 * math.pi / n_rays)
        self.register_buffer("directions", torch.stack([angles.cos(), angles.sin()], dim=1), persistent=False)  # (x, y)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x1 = self.inc(x)
        x2 = self.down1(x1)
        x3 = self.down2(x2)
        x4 = self.down3(x3)
        features = self.features(self.up3(self.up2(self.up1(x4, x3), x2), x1))
        rays, confidence = self.out_ray(features), self.conv_0_confidence(features)
        nucleus = self.out_seg(self.up3_seg(self.up2_seg(self.up1_seg(x4, x3), x2), x1)).sigmoid()
        return F.relu(self._refine(rays, confidence)), self.out_prob(features).sigmoid(), nucleus

    def _refine(self, rays: Tensor, confidence: Tensor) -> Tensor:
        """Mean of the distances seen from points along each ray, weighted by their learnt confidence."""
        seen, trust = [rays], [confidence]
        for k in range(1, self.n_samples + 1):
            reach = (rays - 1.0) * (k / self.n_samples)
            seen.append(self._along_rays(rays, reach) + reach)
            trust.append(self._along_rays(confidence, reach))
        b, r, h, w = rays.shape
        weights = torch.stack(trust, dim=2).reshape(b * r, 1 + self.n_samples, h, w)
        weights = self.conv_1_confidence(weights).reshape(b, r, -1, h, w).softmax(dim=2)
        refined: Tensor = (torch.stack(seen, dim=2) * weights).sum(dim=2)
        return refined

    def _along_rays(self, maps: Tensor, reach: Tensor) -> Tensor:
        """`maps` (b, rays, h, w) read at `reach` px along each ray.

        Coordinates are normalised by size - 1 and sampled without aligned corners, nearest, zeros outside: that is
        inconsistent by up to half a pixel, and what the published weights were trained with.
        """
        b, r, h, w = maps.shape
        x = torch.arange(w, device=maps.device) + reach * self.directions[:, 0].view(1, r, 1, 1)
        y = torch.arange(h, device=maps.device)[:, None] + reach * self.directions[:, 1].view(1, r, 1, 1)
        grid = torch.stack([x / (w - 1), y / (h - 1)], dim=-1).reshape(b * r, h, w, 2) * 2 - 1
        return F.grid_sample(maps.reshape(b * r, 1, h, w), grid, mode="nearest", align_corners=False).reshape(
            b, r, h, w
        )

    @torch.no_grad()
    def count(self, x: Tensor) -> Tensor:
        """Nuclei found in each image, float (b,): the polygons that `count_polygons` keeps."""
        rays, centre, nucleus = self(scale_percentiles(x))
        scores = (centre * nucleus)[:, 0]
        counts = [
            count_polygons(s.cpu().numpy(), r.cpu().numpy(), self.centre_threshold)
            for s, r in zip(scores, rays, strict=True)
        ]
        return x.new_tensor(counts)

    def mass(self, x: Tensor) -> Tensor:
        """Probability mass over the area of a mean nucleus, float (b,), differentiable: about the count."""
        rays, _, nucleus = self(scale_percentiles(x))
        area = (math.pi / self.n_rays) * rays.square().sum(dim=1, keepdim=True)  # of a star-convex polygon
        mean_area = (area * nucleus).sum((1, 2, 3)) / nucleus.sum((1, 2, 3)).clamp_min(1e-6)
        mass: Tensor = nucleus.sum((1, 2, 3)) / mean_area.detach().clamp_min(1.0)
        return mass


def scale_percentiles(x: Tensor, low: float = 1.0, high: float = 99.8) -> Tensor:
    """Each image of `x` (b, 1, h, w) so that its percentiles `low` and `high` are 0 and 1 (not clipped)."""
    with torch.no_grad():
        flat = x.flatten(1).float()
        n = flat.shape[1]
        ordered = flat.sort(dim=1).values

        def at(q: float) -> Tensor:
            place = q / 100 * (n - 1)
            i = min(int(place), n - 2)
            return torch.lerp(ordered[:, i], ordered[:, i + 1], place - i).view(-1, 1, 1, 1)

        lo, hi = at(low), at(high)
    return (x - lo) / (hi - lo + 1e-20)


def count_polygons(scores: np.ndarray, rays: np.ndarray, threshold: float, max_overlap: float = 0.4) -> int:
    """Number of star-convex polygons left after suppression.

    scores      : float (h, w), probability that a pixel is a nucleus' centre.
    rays        : float (r, h, w), distances in px along r directions, the first along +x, turning to +y.
    threshold   : least score of a candidate.
    max_overlap : a candidate is dropped when more than this share of its area is already taken by better ones.
    """
    from skimage.draw import polygon

    h, w = scores.shape
    taken = np.zeros((h, w), dtype=bool)
    angles = np.arange(len(rays)) * (2 * math.pi / len(rays))
    places = np.argwhere(scores >= threshold)
    # The surest first; of equal ones the first in reading order.
    order = np.argsort(-scores[places[:, 0], places[:, 1]], kind="stable")
    n = 0
    for y, x in places[order]:
        if taken[y, x]:  # its centre lies inside a better nucleus
            continue
        reach = rays[:, y, x]
        rows, cols = polygon(y + reach * np.sin(angles), x + reach * np.cos(angles), shape=(h, w))
        if len(rows) == 0 or taken[rows, cols].mean() > max_overlap:
            continue
        taken[rows, cols] = True
        n += 1
    return n


def _plain_conv(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, 3, padding=1), nn.ELU(), nn.Conv2d(n_out, n_out, 3, padding=1), nn.ELU()
    )


class SmallCounter(nn.Module):
    """A counter of about 29 thousand parameters that predicts a density of nuclei whose integral is the count.

    It has no normalisation layers: statistics of the whole image would make the density of one nucleus depend on how
    many others there are.

    base : width at full size; `forward` maps (b, 1, h, w) in [0, 1] to a density (b, 1, h, w) >= 0 in nuclei per px.
    """

    def __init__(self, *, base: int = 8) -> None:
        super().__init__()
        self.inc = _plain_conv(1, base)
        self.down1, self.down2 = _plain_conv(base, 2 * base), _plain_conv(2 * base, 4 * base)
        self.up1, self.up2 = _plain_conv(6 * base, 2 * base), _plain_conv(3 * base, base)
        self.out = nn.Conv2d(base, 1, 1)
        nn.init.constant_(self.out.bias, -1.5)  # type: ignore[arg-type]  # starts near one nucleus per 500 px

    def forward(self, x: Tensor) -> Tensor:
        a = self.inc(x)
        b = self.down1(F.avg_pool2d(a, 2))
        c = self.down2(F.avg_pool2d(b, 2))
        b = self.up1(torch.cat([F.interpolate(c, size=b.shape[-2:], mode="bilinear", align_corners=False), b], dim=1))
        a = self.up2(torch.cat([F.interpolate(b, size=a.shape[-2:], mode="bilinear", align_corners=False), a], dim=1))
        density: Tensor = F.softplus(self.out(a)) / _PX_PER_UNIT
        return density

    @torch.no_grad()
    def count(self, x: Tensor) -> Tensor:
        """Nuclei in each image, float (b,): the integral of the density."""
        return self.mass(x)

    def mass(self, x: Tensor) -> Tensor:
        """The integral of the density, float (b,), differentiable."""
        density: Tensor = self(x)
        return density.sum((1, 2, 3))


def load_counter(source: Literal["small"] | Path | str) -> CppNet | SmallCounter:
    """A frozen counter in eval mode: "small" is the one shipped here, a path is a CPP-Net checkpoint.

    Raises WeightsError when the file does not hold exactly CPP-Net's tensors for one input channel.
    """
    counter: CppNet | SmallCounter
    if source == "small":
        counter, path = SmallCounter(), SHIPPED
    else:
        counter, path = CppNet(), Path(source)
    load_into(counter, read_published(path), str(path))
    return counter.requires_grad_(False).eval()

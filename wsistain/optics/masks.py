"""Automatic annotation of stained regions: offline with Otsu's threshold, and as a differentiable mask.

The steps, from Xu et al. (ATST-Net, IJCAI 2025, Eq. 1): the light of the DAB alone, its gray, a Gaussian, Otsu's
threshold, an opening that removes specks, a closing with a disk that joins neighbouring cells to a region and forgives
a shift between sections. `annotate` computes them on 8-bit pictures as the authors' preprocessing does. `soft_mask` is
the same chain with a logistic step and gray-value morphology, so that a loss on it moves the picture. `official_mask`
is what the authors' training computes instead; its steep sigmoids have no gradient to speak of.
"""

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wsistain.numerics import in_float32
from wsistain.optics.stains import combine_stains, dab_light, gray, separate_stains

if TYPE_CHECKING:
    import numpy as np

GRAY_ATST = (0.213, 0.715, 0.072)
"""Luma weights of the authors' training code; their preprocessing uses scikit-image's."""

LEAST_APART = 0.01
_N_BINS = 256


@dataclass(frozen=True)
class Annotation:
    """What an automatic mask depends on.

    sigma          : of the Gaussian on the DAB gray, px.
    opening        : times a 3 x 3 erosion, then as often a dilation.
    closing_radius : of the disk, px; larger forgives more shift between the sections ("adjustable" in the paper).
    threshold_cap  : Otsu's threshold on the gray (0..1) is lowered to this; below 1 it keeps Otsu from splitting the
                     noise of a picture without any stain. 1 is the paper.
    """

    sigma: float = 1.0
    opening: int = 2
    closing_radius: int = 30
    threshold_cap: float = 1.0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def annotate(ihc: "np.ndarray", settings: Annotation = Annotation()) -> "np.ndarray":
    """Where a picture is stained: bool (h, w) of an IHC picture, uint8 (h, w, 3).

    The closing uses distances, exact for disks and independent of the radius in cost (18 ms for 512 x 512 px).

    Source: steps of `IHC_autoanno_otsu_threshold.py` in SikangSHU/ATST-Net.
    """
    import numpy as np
    from skimage.color import hed2rgb, rgb2gray, rgb2hed
    from skimage.filters import gaussian, threshold_otsu

    if ihc.ndim != 3 or ihc.shape[-1] != 3 or ihc.dtype != np.uint8:
        raise ValueError(f"wanted uint8 (h, w, 3), found {ihc.dtype} {ihc.shape}")
    stains = rgb2hed(ihc)
    stains[..., :2] = 0
    smooth = gaussian(rgb2gray(hed2rgb(stains)), sigma=settings.sigma)
    threshold = float(threshold_otsu(smooth))
    mask = smooth <= min(threshold, settings.threshold_cap)
    return close_mask(open_mask(mask, settings.opening), settings.closing_radius)


def open_mask(mask: "np.ndarray", times: int) -> "np.ndarray":
    """`mask` (bool) after `times` 3 x 3 erosions and as many dilations; outside counts as stained when eroding."""
    import numpy as np
    from scipy import ndimage

    if times == 0:
        return mask
    square = np.ones((3, 3), dtype=bool)
    eroded = ndimage.binary_erosion(mask, square, times, border_value=1)
    return np.asarray(ndimage.binary_dilation(eroded, square, times))


def close_mask(mask: "np.ndarray", radius: int) -> "np.ndarray":
    """`mask` (bool) after a dilation and an erosion with the disk y² + x² <= radius²."""
    import numpy as np
    from scipy.ndimage import distance_transform_edt

    if radius == 0 or not mask.any():
        return mask
    reach = radius + 1e-6  # distances are roots of whole numbers
    wide = distance_transform_edt(~mask) <= reach
    return np.asarray(wide if wide.all() else distance_transform_edt(wide) > reach)


def otsu_threshold(values: Tensor) -> Tensor:
    """Otsu's threshold of each image, float (b,), of `values` (b, ...): as `skimage.filters.threshold_otsu`, 256 bins.

    A constant image gets its own value.
    """
    return otsu_classes(values)[0]


@torch.no_grad()
def otsu_classes(values: Tensor) -> tuple[Tensor, Tensor]:
    """Otsu's threshold of each image and the distance between the means of its two classes: two float (b,).

    values : (b, ...). A constant image gets its own value and the distance 0.
    """
    flat = values.detach().flatten(1).float()
    low, high = flat.amin(dim=1, keepdim=True), flat.amax(dim=1, keepdim=True)
    span = (high - low).clamp_min(1e-12)
    bins = ((flat - low) / span * _N_BINS).long().clamp_(max=_N_BINS - 1)
    counts = flat.new_zeros(len(flat), _N_BINS).scatter_add_(1, bins, torch.ones_like(flat)).double()
    centres = low + span * (torch.arange(_N_BINS, device=flat.device) + 0.5) / _N_BINS
    mass = counts * centres
    below, above = counts.cumsum(1)[:, :-1], counts.flip(1).cumsum(1).flip(1)[:, 1:]
    mean_below = mass.cumsum(1)[:, :-1] / below.clamp_min(1)
    mean_above = mass.flip(1).cumsum(1).flip(1)[:, 1:] / above.clamp_min(1)
    best = (below * above * (mean_below - mean_above) ** 2).argmax(1, keepdim=True)
    threshold = torch.where(high > low, centres.gather(1, best), low)
    apart = torch.where(high > low, (mean_above - mean_below).gather(1, best), torch.zeros_like(low))
    return threshold[:, 0].to(values.dtype), apart[:, 0].to(values.dtype)


class _DiskDilation(torch.autograd.Function):
    """Largest value under a disk; the gradient goes to the pixel that held it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, radius: int) -> Tensor:
        best = torch.full_like(x, -math.inf)
        place = torch.zeros(x.shape, dtype=torch.int64, device=x.device)
        h = x.shape[-2]
        for dy in range(min(radius, h - 1) + 1):
            half = math.isqrt(radius * radius - dy * dy)
            value, index = F.max_pool2d(x, (1, 2 * half + 1), stride=1, padding=(0, half), return_indices=True)
            upper, lower = slice(0, h - dy), slice(dy, h)
            for source, target in ((lower, upper), (upper, lower))[: 1 if dy == 0 else 2]:
                better = value[..., source, :] > best[..., target, :]
                best[..., target, :] = torch.where(better, value[..., source, :], best[..., target, :])
                place[..., target, :] = torch.where(better, index[..., source, :], place[..., target, :])
        ctx.save_for_backward(place)
        return best

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (place,) = ctx.saved_tensors
        grad = torch.zeros_like(grads[0]).flatten(2).scatter_add(2, place.flatten(2), grads[0].flatten(2))
        return grad.view_as(place), None


def dilate_disk(x: Tensor, radius: int) -> Tensor:
    """Largest value of `x` (b, c, h, w) under the disk y² + x² <= radius² around each pixel; differentiable."""
    return x if radius == 0 else _DiskDilation.apply(x, radius)  # type: ignore[no-untyped-call]


def close_disk(x: Tensor, radius: int) -> Tensor:
    """Gray-value closing of `x` (b, c, h, w) with a disk: fills what is darker and narrower than the disk."""
    return -dilate_disk(-dilate_disk(x, radius), radius)


def _dilate_square(x: Tensor, times: int) -> Tensor:
    return F.max_pool2d(x, 2 * times + 1, stride=1, padding=times) if times else x


def _smooth(x: Tensor, sigma: float, radius: int, *, zeros: bool) -> Tensor:
    """Gaussian of (b, 1, h, w) cut at `radius` px; edges replicated, or zero as in the authors' training."""
    at = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    row = torch.exp(-at.square() / (2 * sigma**2))
    row = row / row.sum()
    x = F.pad(x, (radius,) * 4, mode="constant" if zeros else "replicate")
    return F.conv2d(F.conv2d(x, row.view(1, 1, 1, -1)), row.view(1, 1, -1, 1))


@in_float32
def dab_gray(light: Tensor) -> Tensor:
    """Gray of the DAB alone, float (b, 1, h, w) in [0, 1], 1 = unstained; `light` (b, 3, h, w) in [0, 1]."""
    return gray(dab_light(light), GRAY_ATST)[:, None]


@in_float32
def soft_mask(dab: Tensor, settings: Annotation = Annotation(), *, softness: float = 0.05) -> Tensor:
    """Differentiable twin of `annotate`: float (b, 1, h, w) in [0, 1] of `dab` (b, 1, h, w), the gray of `dab_gray`.

    softness : over how many gray levels the step around Otsu's threshold rises, as a share of the distance between the
               means of Otsu's two classes; to 0 it becomes `annotate`. A fixed number of levels would make the mask of
               a darker picture crisper, and so reward painting pale stain darker.

    The threshold and the distance are found on the picture itself and take no gradient. A picture without contrast,
    less than `LEAST_APART` between the classes, is as soft as one of that contrast.
    """
    smooth = _smooth(dab, settings.sigma, round(4 * settings.sigma), zeros=False)
    threshold, apart = (v.view(-1, 1, 1, 1) for v in otsu_classes(smooth))
    rise = softness * apart.clamp_min(LEAST_APART)
    mask = torch.sigmoid((threshold.clamp_max(settings.threshold_cap) - smooth) / rise)
    mask = _dilate_square(-_dilate_square(-mask, settings.opening), settings.opening)
    return close_disk(mask, settings.closing_radius)


@in_float32
def official_mask(dab: Tensor) -> Tensor:
    """The mask of the authors' training: float (b, 1, h, w), nearly 0 or 1, of `dab` (b, 1, h, w).

    3 x 3 Gaussian, Otsu, straight-through step, one erosion and one dilation as sigmoids of slope 100 on box sums, a
    29 x 29 maximum in place of the closing. The sigmoids leave gradients of about 1e-40; kept for comparison.

    Source: `ATSTNet_main_train.py` in SikangSHU/ATST-Net.
    """
    smooth = _smooth(dab, 1.0, 1, zeros=True)
    soft = 1 - torch.sigmoid(10 * (smooth - otsu_threshold(smooth).view(-1, 1, 1, 1)))
    mask = (soft > 0.5).to(soft) - soft.detach() + soft
    box = torch.ones(1, 1, 3, 3, device=dab.device, dtype=dab.dtype)
    mask = 1 - torch.sigmoid(100 * (8.5 - F.conv2d(mask, box, padding=1)))
    mask = 1 - torch.sigmoid(100 * (0.5 - F.conv2d(mask, box, padding=1)))
    return F.max_pool2d(mask, 29, stride=1, padding=14)


@in_float32
def haematoxylin_saturation(light: Tensor, mask: Tensor) -> Tensor:
    """HSI saturation of the haematoxylin alone inside a mask, float (b, 1, h, w), stretched to 0..1 in each image.

    light : float (b, 3, h, w) in [0, 1]; mask : float (b, 1, h, w) in [0, 1], outside it the picture is white.

    It is what ATST-Net's nucleus counter looks at (Eq. 5, H o M).
    """
    stains = separate_stains(light)
    keep = torch.tensor([1.0, 0.0, 0.0], dtype=stains.dtype, device=stains.device)[None, :, None, None]
    alone = 1 - (1 - combine_stains(stains * keep)) * mask
    saturation = 1 - 3 * alone.amin(1, keepdim=True) / (alone.sum(1, keepdim=True) + 1e-6)
    low, high = saturation.amin((1, 2, 3), keepdim=True), saturation.amax((1, 2, 3), keepdim=True)
    return (saturation - low) / (high - low + 1e-6)


@torch.no_grad()
def annotate_batch(light: Tensor, settings: Annotation = Annotation()) -> Tensor:
    """`annotate` for each of `light` (b, 3, h, w) in [0, 1], rounded to 8 bits: float (b, 1, h, w) of 0 and 1."""
    pixels = (light.float() * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    masks = [torch.from_numpy(annotate(picture, settings)) for picture in pixels]
    return torch.stack(masks)[:, None].to(device=light.device, dtype=torch.float32)

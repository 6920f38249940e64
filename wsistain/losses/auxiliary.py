"""ATST-Net's auxiliary losses: where the stain is (L1 to L3), how strong it is (L4), how many nuclei it covers (L5).

Source: Xu et al., IJCAI 2025, Eqs. 2 to 5. Masks are float (b, 1, h, w) in [0, 1]; the real one is the automatic
annotation and takes no gradient. All means are over images, in float32. Also the cycle term with structural similarity.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from wsistain.numerics import in_float32

# weights of the five scales, fine to coarse: Wang, Simoncelli and Bovik, Asilomar 2003
_MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_SSIM_WINDOW, _SSIM_SIGMA = 11, 1.5


@in_float32
def location_loss(mask_fake: Tensor, mask_real: Tensor) -> Tensor:
    """Mean squared difference of the two masks (L1, Eq. 2)."""
    return (mask_fake - mask_real.detach()).square().mean()


@in_float32
def local_location_losses(mask_fake: Tensor, mask_real: Tensor, *, grid: int = 4) -> tuple[Tensor, Tensor]:
    """The mean squared difference in the most and in the least stained quarter of the patches (L2, L3, Eq. 3).

    grid : patches along each side; 4 gives the paper's 16 patches, of which 4 and 4 count. Height and width must be
           multiples of it. The order is by positive area of `mask_real`, ties by position.
    """
    h, w = mask_real.shape[-2:]
    if h % grid or w % grid:
        raise ValueError(f"masks of {h} x {w} px cannot be cut into {grid} x {grid} equal patches")
    patch = (h // grid, w // grid)
    error = F.avg_pool2d((mask_fake - mask_real.detach()).square(), patch).flatten(1)
    area = F.avg_pool2d((mask_real > 0.5).to(error.dtype), patch).flatten(1)
    error = error.gather(1, area.argsort(dim=1, stable=True))
    n = max(grid * grid // 4, 1)
    return error[:, -n:].mean(), error[:, :n].mean()


@in_float32
def intensity_loss(dab_fake: Tensor, mask_fake: Tensor, dab_real: Tensor, mask_real: Tensor) -> Tensor:
    """Squared difference of the mean stain under each image's own mask (L4, Eq. 4).

    dab_* : float (b, 1, h, w), gray of the DAB-only image in [0, 1], 1 = unstained; 1 - gray is the stain's strength.

    Each mask only says where to look: no gradient goes into `mask_fake`, so the term cannot be met by moving the
    mask, which L1 to L3 place. An empty mask counts as strength 0.
    """

    def strength(dab: Tensor, mask: Tensor) -> Tensor:
        mask = mask.detach()
        return ((1 - dab) * mask).sum((1, 2, 3)) / mask.sum((1, 2, 3)).clamp_min(1.0)

    return (strength(dab_fake, mask_fake) - strength(dab_real, mask_real).detach()).square().mean()


@in_float32
def count_loss(count_fake: Tensor, count_real: Tensor, *, scale: float = 100.0) -> Tensor:
    """Mean absolute difference of two counts (b,) in units of `scale` nuclei (L5, Eq. 5)."""
    return (count_fake - count_real.detach()).abs().mean() / scale


def _ssim_parts(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Mean luminance-and-structure and mean structure-only similarity of images in [0, 1], each (b, c)."""
    x = torch.arange(_SSIM_WINDOW, device=a.device, dtype=a.dtype) - _SSIM_WINDOW // 2
    row = torch.exp(-x.square() / (2 * _SSIM_SIGMA**2))
    row = row / row.sum()
    n, c = a.shape[:2]
    stack = torch.cat([a, b, a * a, b * b, a * b], dim=1)
    k = 5 * c
    stack = F.conv2d(stack, row.view(1, 1, 1, -1).expand(k, 1, 1, -1), groups=k)
    stack = F.conv2d(stack, row.view(1, 1, -1, 1).expand(k, 1, -1, 1), groups=k)
    mu_a, mu_b, aa, bb, ab = torch.split(stack, c, dim=1)
    c1, c2 = 0.01**2, 0.03**2
    structure = (2 * (ab - mu_a * mu_b) + c2) / ((aa - mu_a**2) + (bb - mu_b**2) + c2)
    full = (2 * mu_a * mu_b + c1) / (mu_a**2 + mu_b**2 + c1) * structure
    return full.mean((2, 3)).view(n, c), structure.mean((2, 3)).view(n, c)


def n_scales(side: int) -> int:
    """Scales of `ms_ssim` that fit an image whose shorter side is `side` px: 5 from 161 px on, fewer below."""
    n = 1
    while n < len(_MS_SSIM_WEIGHTS) and side // 2**n > _SSIM_WINDOW - 1:
        n += 1
    return n


@in_float32
def ms_ssim(a: Tensor, b: Tensor) -> Tensor:
    """Multi-scale structural similarity of two images (b, c, h, w) in [0, 1]: one number, 1 when they are equal.

    11 px Gaussian window with sigma 1.5, valid region, up to five scales by 2 x 2 means (odd sides padded with one
    zero row or column, as pytorch-msssim does). Where fewer scales fit, the weights of those used are rescaled to
    sum to 1. Raises ValueError below 11 px.

    Source: Wang, Simoncelli and Bovik, Asilomar 2003.
    """
    side = min(a.shape[-2:])
    if side < _SSIM_WINDOW:
        raise ValueError(f"structural similarity needs {_SSIM_WINDOW} px, found {side}")
    weights = a.new_tensor(_MS_SSIM_WEIGHTS[: n_scales(side)])
    weights = weights / weights.sum()
    value = torch.ones((), device=a.device, dtype=a.dtype)
    for i, weight in enumerate(weights):
        full, structure = _ssim_parts(a, b)
        is_last = i == len(weights) - 1
        value = value * (full if is_last else structure).clamp_min(1e-6) ** weight  # 0 has no slope
        if not is_last:
            padding = [s % 2 for s in a.shape[-2:]]
            a, b = (F.avg_pool2d(x, 2, padding=padding) for x in (a, b))
    return value.mean()


@in_float32
def cycle_loss(recovered: Tensor, original: Tensor, *, ssim_gain: float = 5.0) -> Tensor:
    """Mean absolute difference plus `ssim_gain` times (1 - MS-SSIM); images (b, 3, h, w) in [-1, 1].

    The paper says that structural similarity is included; the gain is that of the authors' code.
    """
    loss = (recovered - original).abs().mean()
    if ssim_gain:
        loss = loss + ssim_gain * (1 - ms_ssim((recovered + 1) / 2, (original + 1) / 2))
    return loss

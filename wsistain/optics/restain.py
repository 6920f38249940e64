"""Other laboratories and scanners, on the device: the same tissue under other dyes, light and focus (torch).

The rule is that of `wsistain.data.augment`, for whole batches: amounts of dye, direction of the dyes, light, gamma,
focus (Tellez et al. 2018, doi:10.1109/TMI.2018.2820199). A system that needs the picture as it was, too, does it here.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from wsistain.markers import HED
from wsistain.numerics import in_float32
from wsistain.optics.stains import from_unit, optical_density, stain_matrix, to_unit

_AMOUNT, _ROTATION, _SHIFT, _LIGHT, _GAMMA, _BLUR = 0.35, 0.08, 0.04, 0.08, 0.2, 1.2
"""At full strength: as in `wsistain.data.augment`; blur is the largest sigma, px, of half of the pictures."""


@in_float32
def restained(he: Tensor, strength: float) -> Tensor:
    """`he` float (b, 3, h, w) in [-1, 1] as other laboratories might have shown it: the same shape and range.

    strength : 0 (returns `he`) to 1. Every picture of the batch is changed in its own way, from torch's random state.
    """
    if strength == 0:
        return he
    b = len(he)

    def draw(*shape: int) -> Tensor:
        return 2 * torch.rand((b, *shape), device=he.device) - 1

    base = F.normalize(stain_matrix(HED).float().to(he.device), dim=1)
    dyes = F.normalize((base + strength * _ROTATION * draw(3, 3)).clamp_min(0), dim=2)
    amount = 1 + strength * _AMOUNT * draw(3)
    matrix = torch.linalg.inv(base) @ (amount[:, :, None] * dyes)  # unmix, scale, remix
    haze = strength * _SHIFT * draw(3).abs()
    offset = torch.einsum("bs,bsc->bc", haze, dyes) + strength * _LIGHT * draw(3).abs()
    gamma = 1 + strength * _GAMMA * draw(1, 1, 1)
    density = torch.einsum("bchw,bcs->bshw", optical_density(to_unit(he)), matrix) + offset[:, :, None, None]
    light = torch.pow(10.0, -(density * gamma)).clamp(0, 1)
    sigma = strength * _BLUR * draw(1).abs() * (torch.rand((b, 1), device=he.device) < 0.5)
    return from_unit(_blurred(light, sigma.clamp_min(0.05)))


def _blurred(x: Tensor, sigma: Tensor) -> Tensor:
    """Each picture of (b, c, h, w) under a Gaussian of its own sigma (b, 1), px, cut at 4 px."""
    b, c, h, w = x.shape
    steps = torch.arange(-4, 5, device=x.device)
    kernel = torch.exp(-0.5 * (steps / sigma).square())
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(c, dim=0)
    flat = F.pad(x.reshape(1, b * c, h, w), (4, 4, 4, 4), mode="reflect")
    flat = F.conv2d(flat, kernel[:, None, :, None], groups=b * c)
    return F.conv2d(flat, kernel[:, None, None, :], groups=b * c).reshape(b, c, h, w)

"""Stain physics as a layer: light = 10^-(h H + d D + b), and back from light to the amounts h and d.

H, D and b are the colours of a laboratory's haematoxylin and DAB and the density of its clear ground (`optics.dyes`).
They are buffers: held, not trained, so colours cannot drift.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsistain.markers import Compartment
from wsistain.numerics import in_float32
from wsistain.optics.dyes import FILL_UM, NUCLEUS_BLUR_UM, RING_UM, Dyes
from wsistain.optics.stains import optical_density

_LN10 = math.log(10)
_PEAK_UM = 11.0  # a nucleus is about as wide
_OF_PEAK, _LEAST = 0.6, 0.6


def ramp(amount: Tensor, cut: float | Tensor) -> Tensor:
    """0 below half of `cut`, 1 above one and a half of it, straight between (as `optics.dyes.ramp`)."""
    return ((amount - 0.5 * cut) / cut).clamp(0, 1)


def odd_px(um: float, mpp: float) -> int:
    """A length as an odd number of px, at least 1."""
    return max(1, round(um / mpp)) | 1


def box(x: Tensor, edge: int) -> Tensor:
    """Mean over a square of odd `edge`, reflected at the border: (b, c, h, w) to the same."""
    if edge <= 1:
        return x
    padded = F.pad(x, [edge // 2] * 4, mode="reflect")
    return F.avg_pool2d(F.avg_pool2d(padded, (edge, 1), stride=1), (1, edge), stride=1)


def _filled(x: Tensor, edge: int) -> Tensor:
    """Morphological closing with a square of odd `edge`: dark rims close over the pale middle they surround."""
    widest = F.max_pool2d(x, edge, stride=1, padding=edge // 2)
    return -F.max_pool2d(-widest, edge, stride=1, padding=edge // 2)


class DyeLayer(nn.Module):
    """Amounts to light and back, for one laboratory and marker.

    dyes        : its colours and cuts.
    mpp         : um per px of the pictures.
    compartment : where in the cell the marker lies.
    """

    colours: Tensor
    ground: Tensor
    inverse: Tensor
    he_inverse: Tensor
    he_ground: Tensor
    match_from: Tensor
    match_to: Tensor

    def __init__(self, dyes: Dyes, mpp: float, compartment: Compartment):
        super().__init__()
        self.dyes, self.mpp, self.is_round = dyes, mpp, compartment in RING_UM
        self.fill_px, self.peak_px = odd_px(FILL_UM, mpp), odd_px(_PEAK_UM, mpp)
        self.nucleus_px, self.ring_px = odd_px(NUCLEUS_BLUR_UM, mpp), odd_px(RING_UM.get(compartment, 0.0), mpp)
        colours = torch.tensor([dyes.haematoxylin, dyes.dab], dtype=torch.float64)
        he = torch.tensor([dyes.he_haematoxylin, dyes.he_eosin], dtype=torch.float64)
        match = torch.tensor(dyes.match, dtype=torch.float64).T
        for name, value in (
            ("colours", colours),
            ("ground", torch.tensor(dyes.ground)),
            ("inverse", torch.linalg.pinv(colours)),
            ("he_inverse", torch.linalg.pinv(he)),
            ("he_ground", torch.tensor(dyes.he_ground)),
            ("match_from", match[0]),
            ("match_to", match[1]),
        ):
            self.register_buffer(name, value.float().contiguous(), persistent=False)  # they stand in the header

    @in_float32
    def light(self, h: Tensor, d: Tensor) -> Tensor:
        """The picture of amounts (b, 1, h, w): float (b, 3, h, w) in [-1, 1] (Beer-Lambert).

        2 x 10^-density - 1, written as e^(ln 2 - ln 10 x density) - 1: one product and one function a pixel.
        """
        exponent = F.conv2d(
            torch.cat([h, d], dim=1), -_LN10 * self.colours.T[:, :, None, None], math.log(2) - _LN10 * self.ground
        )
        return torch.expm1(exponent)

    @in_float32
    def amounts(self, ihc: Tensor) -> tuple[Tensor, Tensor]:
        """Amounts of haematoxylin and DAB, each (b, 1, h, w), >= 0, of light `ihc` (b, 3, h, w) in [0, 1].

        Least squares over the three colours.
        """
        density = optical_density(ihc) - self.ground[:, None, None]
        found = torch.einsum("bchw,cs->bshw", density, self.inverse).clamp_min(0)
        return found[:, :1], found[:, 1:]

    @in_float32
    def counterstain(self, he: Tensor) -> Tensor:
        """Haematoxylin of light `he` (b, 3, h, w) in [0, 1] in the amounts of the IHC: (b, 1, h, w), equal quantiles."""
        density = optical_density(he) - self.he_ground[:, None, None]
        amount = torch.einsum("bchw,c->bhw", density, self.he_inverse[:, 0])[:, None].clamp_min(0)
        x, y = self.match_from, self.match_to
        at = torch.searchsorted(x, amount.contiguous()).clamp(1, len(x) - 1)
        slope = (y[at] - y[at - 1]) / (x[at] - x[at - 1])
        return (y[at - 1] + slope * (amount - x[at - 1])).clamp(0, 3)

    def nuclei(self, h: Tensor, *, even: bool = False) -> Tensor:
        """How surely a place lies in a nucleus, 0..1, of haematoxylin (b, 1, h, w) of the IHC's amounts.

        even : pictures are first brought to one strength (half to twice), told by their darkest places: slides differ,
               and a weak stain has no fewer nuclei.

        Pale middles are filled, and a nucleus is cut by its own darkest place: pale ones are no smaller.
        """
        if even:
            dark = torch.quantile(F.avg_pool2d(h, 4).flatten(1), 0.97, dim=1)[:, None, None, None]
            h = h * (self.dyes.dark / dark.clamp_min(1e-3)).clamp(0.5, 2)
        h = box(_filled(h, self.fill_px), self.nucleus_px)
        peak = F.max_pool2d(h, self.peak_px, stride=1, padding=self.peak_px // 2)
        return ramp(h, (_OF_PEAK * peak).clamp(_LEAST * self.dyes.nucleus, self.dyes.nucleus))

    def positive(self, d: Tensor) -> Tensor:
        """How surely an amount of DAB counts as positive, 0..1."""
        return ramp(d, self.dyes.positive)

    def place(self, nuclei: Tensor, pool: int = 1) -> Tensor:
        """Where the marker may lie, 0..1: in nuclei, or in the ring round them; `nuclei` in px of `pool` x `mpp`."""
        if not self.is_round:
            return nuclei
        edge = max(1, round(self.ring_px / pool)) | 1
        return (1 - nuclei) * (3 * box(nuclei, edge)).clamp(0, 1)

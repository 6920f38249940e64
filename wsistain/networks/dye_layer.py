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
from wsistain.optics.dyes import CELL_UM, CELL_WIDTH, FILL_UM, NUCLEUS_BLUR_UM, RING_UM, Dyes
from wsistain.optics.stains import optical_density

_LN10 = math.log(10)
_PEAK_UM, _GROUND_UM = 7.0, 31.0
"""Edges of the squares in which a nucleus' own darkest place, and the ground on which it lies, are looked for."""

_OF_PEAK, _LEAST, _OF_GROUND = 0.45, 0.4, 0.8
"""A nucleus is cut at this part of its darkest place, or of the usual cut at least, less this part of the ground."""

_NO_NUCLEUS, _SURELY, _SUREST_UM, _LEAST_SURE = 0.15, 0.5, 5.0, 0.2
"""A place takes no DAB up to this part of the surest chance of a nucleus in a square of so many um, and all from that part;
the surest counts as this much at least, so that where there hardly is a nucleus none is made."""

_NONE_BEFORE, _ALL_BEFORE = 0.05, 0.3
"""The same of weights of before, whatever the chances round a place."""


def ramp(amount: Tensor, cut: float | Tensor, width: float = 1.0) -> Tensor:
    """0 below `cut`, 1 above it, straight over the middle `width` x cut (by default as `optics.dyes.ramp`)."""
    return ((amount - cut) / (width * cut) + 0.5).clamp(0, 1)


def odd_px(um: float, mpp: float) -> int:
    """A length as an odd number of px, at least 1."""
    return max(1, round(um / mpp)) | 1


def box(x: Tensor, edge: int) -> Tensor:
    """Mean over a square of odd `edge`, reflected at the border: (b, c, h, w) to the same."""
    if edge <= 1:
        return x
    padded = F.pad(x, [edge // 2] * 4, mode="reflect")
    return F.avg_pool2d(F.avg_pool2d(padded, (edge, 1), stride=1), (1, edge), stride=1)


def largest(x: Tensor, edge: int) -> Tensor:
    """Largest value in a square of odd `edge`, cut off at the border: (b, c, h, w) to the same."""
    return _largest_along(_largest_along(x, edge, 3), edge, 2)


def _largest_along(x: Tensor, edge: int, dim: int) -> Tensor:
    """Largest of `edge` values along `dim`, of windows that double: `F.max_pool2d` compares each anew, 10 to 60 times as long."""
    padding = [edge // 2, edge // 2] if dim == 3 else [0, 0, edge // 2, edge // 2]
    x, reach = F.pad(x, padding, value=-torch.inf), 1
    while reach < edge:
        step = min(reach, edge - reach)
        n = x.shape[dim] - step
        x, reach = torch.maximum(x.narrow(dim, 0, n), x.narrow(dim, step, n)), reach + step
    return x


def _filled(x: Tensor, edge: int) -> Tensor:
    """Morphological closing with a square of odd `edge`: dark rims close over the pale middle they surround."""
    return -largest(-largest(x, edge), edge)


def ground(x: Tensor, edge: int) -> Tensor:
    """Morphological opening with a square of odd `edge`: what is left where everything narrower is taken off."""
    return largest(-largest(-x, edge), edge)


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
        self.ground_px, self.cell_px = odd_px(_GROUND_UM, mpp), odd_px(CELL_UM[compartment], mpp)
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
    def light(self, h: Tensor, d: Tensor, *, white: bool = False) -> Tensor:
        """The picture of amounts (b, 1, h, w): float (b, 3, h, w) in [-1, 1] (Beer-Lambert).

        white : clear glass is white, as a scanner's white balance makes it, and not the laboratory's ground.

        2 x 10^-density - 1, written as e^(ln 2 - ln 10 x density) - 1: one product and one function a pixel.
        """
        ground = torch.zeros_like(self.ground) if white else self.ground
        exponent = F.conv2d(
            torch.cat([h, d], dim=1), -_LN10 * self.colours.T[:, :, None, None], math.log(2) - _LN10 * ground
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

        Pale middles are filled, the ground is taken off, and a nucleus is cut by its own darkest place: pale ones are
        no smaller, and fibres that are dark throughout are none.
        """
        if even:
            dark = torch.quantile(F.avg_pool2d(h, 4).flatten(1), 0.97, dim=1)[:, None, None, None]
            h = h * (self.dyes.dark / dark.clamp_min(1e-3)).clamp(0.5, 2)
        return self._spots(h, self.dyes.nucleus)

    def _spots(self, amount: Tensor, cut: float) -> Tensor:
        amount = box(_filled(amount, self.fill_px), self.nucleus_px)
        amount = amount - _OF_GROUND * ground(amount, self.ground_px)
        own = _OF_PEAK * largest(amount, self.peak_px)
        return ramp(amount, own.clamp(_LEAST * cut, cut))

    def section(self, h: Tensor, d: Tensor) -> Tensor:
        """What amounts (b, 1, h, w) of an IHC say, 0..1: where it is positive, where it may be, where nuclei are.

        Returns (b, 3, h, w). A cell counts as a whole, by its mean of DAB: a nucleus that is brown throughout has a share
        of 1, though its rim is pale, and so has a thin membrane that browns its ring enough. ValueError where the
        dyes do not say how much that is.
        """
        if self.dyes.cell is None:
            raise ValueError(
                "the dyes hold no `cell`: they are of earlier weights; leave them out to have them measured"
            )
        nuclei = self.nuclei(h)
        if not self.is_round:
            nuclei = torch.maximum(nuclei, self._spots(d, self.dyes.positive))
        place = self.place(nuclei)
        mean = box(d * place, self.cell_px) / box(place, self.cell_px).clamp_min(0.05)
        return torch.cat([place * ramp(mean, self.dyes.cell, CELL_WIDTH), place, nuclei], dim=1)

    def dyed(self, nuclei: Tensor, pool: int = 1, *, by_surest: bool = True) -> Tensor:
        """Where a nucleus takes the dye in full, 0..1, of the network's chance (b, 1, h, w) that a place lies in one.

        pool : `nuclei` is in px of `pool` x `mpp`. by_surest: False for weights of before, which looked at the place alone.

        Pale nuclei, of which the network is less sure, are no less brown, since each is told by its own surest place:
        what ranks them is p alone.
        """
        if not by_surest:
            return ((nuclei - _NONE_BEFORE) / (_ALL_BEFORE - _NONE_BEFORE)).clamp(0, 1)
        own = largest(nuclei, self.surest_px(pool)).clamp_min(_LEAST_SURE)
        return ((nuclei / own - _NO_NUCLEUS) / (_SURELY - _NO_NUCLEUS)).clamp(0, 1)

    def surest_px(self, pool: int = 1) -> int:
        """Odd edge of the square in which `dyed` looks, in px of `pool` x `mpp`."""
        return odd_px(_SUREST_UM, self.mpp * pool)

    def place(self, nuclei: Tensor, pool: int = 1) -> Tensor:
        """Where the marker may lie, 0..1: in nuclei, or in the ring round them; `nuclei` in px of `pool` x `mpp`."""
        if not self.is_round:
            return nuclei
        edge = max(1, round(self.ring_px / pool)) | 1
        return (1 - nuclei) * (3 * box(nuclei, edge)).clamp(0, 1)

"""Who expresses what, and how it looks: the network of LPStain.

One trunk reads the tissue for all markers; each marker has two linear read-outs of it, one of the cells of 4 px and one
of the full size, whose sum, drawn towards that of the neighbourhood (`networks/shrinkage.py`), is the logit of p, the
chance that a place is positive. A further one tells where nuclei are.
A second, small network of local reach paints the counterstain. Dyes and physics make the picture: light =
10^-(h H + d D + b), d = amplitude of the marker x p x place of the marker (in nuclei, or round them).
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsistain.markers import Compartment
from wsistain.networks.context import SIZE_MULTIPLE, ContextResnet, inside, pointwise, reset_parameters
from wsistain.networks.dye_layer import DyeLayer, ground, odd_px
from wsistain.networks.facts import NetworkFacts
from wsistain.networks.frozen_encoder import CELL_PX, REACH_PX, FrozenEncoder
from wsistain.networks.shrinkage import drawn_together, neighbour_edge, reach_cells
from wsistain.numerics import in_float32
from wsistain.optics.dyes import Dyes
from wsistain.optics.stains import optical_density, to_unit

_PAINT_REACH, _PAINT_ROWS = 4, 256
"""How far the counterstain's network looks, px, and how many rows it paints at once."""


_GLASS, _TISSUE = 0.04, 0.10
"""Mean optical density of the three colours up to which a place is clear glass, and from which it is tissue."""


@in_float32
def tissue_of(x: Tensor) -> Tensor:
    """How surely a place of an H&E (b, 3, h, w) in [-1, 1] holds tissue and is no clear glass: (b, 1, h, w) in [0, 1]."""
    density = optical_density(to_unit(x)).mean(dim=1, keepdim=True)
    return ((density - _GLASS) / (_TISSUE - _GLASS)).clamp(0, 1)


class Trunk(nn.Module):
    """`ContextResnet` without its last layers, with `n_maps` logits.

    Maps float (b, channels, h, w) in [-1, 1] to logits (b, n, h, w) of the maps asked for.
    """

    def __init__(self, n_blocks: int, ngf: int, windows: Sequence[int], far: int, n_maps: int, channels: int = 3):
        super().__init__()
        self.body = ContextResnet(n_blocks, ngf, windows, far, channels)
        self.body.last = nn.Sequential()
        self.at_cells = nn.Sequential(nn.BatchNorm2d(4 * ngf), nn.ReLU(True))
        self.at_full = nn.Sequential(nn.BatchNorm2d(ngf), nn.ReLU(True))
        self.read_cells = nn.Conv2d(4 * ngf, n_maps, 1)
        self.read_full = nn.Conv2d(ngf, n_maps, 3, bias=False)
        self.encoder: FrozenEncoder | None = None
        self.told: nn.Conv2d | None = None

    def add_encoder(self, encoder: FrozenEncoder) -> None:
        """Let the blocks read what `encoder` says of the picture too."""
        self.encoder, self.told = encoder, nn.Conv2d(encoder.channels, self.read_cells.in_channels, 1)

    @property
    def reach_px(self) -> int | None:
        """How far it looks, px."""
        radius = self.body.facts.halo_px  # its own last convolution reaches as far as `read_full`
        if radius is None or self.encoder is None:
            return radius
        return radius + max(0, REACH_PX - SIZE_MULTIPLE * max((w // 2 for w in self.body.windows), default=0))

    def forward(self, x: Tensor, maps: Sequence[int], cut: int = 0) -> Tensor:
        """cut : cells of 4 px at each edge that are looked at and left out."""
        early = max(0, cut - 1)  # the read-outs look one cell further
        pick = list(maps)

        def read(full: Tensor) -> Tensor:
            return F.conv2d(full, self.read_full.weight[pick])

        cells, half, full = self.body.features(x, early, self._told(x))
        if self.body.goes_in_strips(x, early):
            fine = self.body.read_in_strips(x, half, self.at_full, read, early)
        else:
            whole = F.pad(self.at_full(self.body.at_full(half, full)), (1, 1, 1, 1), mode="reflect")
            fine = inside(read(whole), SIZE_MULTIPLE * self.body.rest(early))
        del half, full
        bias = self.read_cells.bias
        coarse = F.conv2d(self.at_cells(cells), self.read_cells.weight[pick], None if bias is None else bias[pick])
        out = F.interpolate(coarse, scale_factor=4, mode="bilinear", align_corners=False) + fine
        return inside(out, 4 * (cut - early))

    def _told(self, x: Tensor) -> Tensor | None:
        if self.encoder is None or self.told is None:
            return None
        x = torch.unflatten(x, 1, (3, -1)).mean(2)  # of a fine trunk's px, colour by colour
        told = pointwise(self.told, self.encoder(x))
        return F.interpolate(told, scale_factor=CELL_PX // SIZE_MULTIPLE, mode="bilinear", align_corners=False)


class Counterstain(nn.Module):
    """Haematoxylin of the IHC (b, 1, h, w), optical density >= 0, of an H&E (b, 3, h, w) in [-1, 1]; reach 4 px."""

    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReflectionPad2d(_PAINT_REACH),  # once, where there are three channels
            nn.Conv2d(3, width, 5),
            nn.ReLU(True),
            nn.Conv2d(width, width, 3),
            nn.ReLU(True),
            nn.Conv2d(width, 1, 3),
        )

    def forward(self, x: Tensor, cut: int = 0) -> Tensor:
        """cut : px at each edge that are looked at, as far as need be, and left out."""
        if cut >= _PAINT_REACH:  # of what lies beyond the edge nothing need be made up
            x, paint = inside(x, cut - _PAINT_REACH), self.layers[1:]
            if x.device.type != "cpu" or torch.is_grad_enabled():
                return F.softplus(paint(x).float() - 2.0)
            # A few rows at a time: at full size its channels would be most of a tile's memory.
            tops = range(0, x.shape[2] - 2 * _PAINT_REACH, _PAINT_ROWS)
            strips = [paint(x[:, :, top : top + _PAINT_ROWS + 2 * _PAINT_REACH]).float() for top in tops]
            return F.softplus(torch.cat(strips, dim=2) - 2.0)
        return inside(F.softplus(self.layers(x).float() - 2.0), cut)


class ExpressionNet(nn.Module):
    """H&E to the virtual stain of one marker, its chance p and its amounts.

    dyes    : marker name to the dyes of its laboratory, in the order of the read-outs.
    compartments : marker name to where in the cell it lies.
    mpp     : um per px of the pictures.
    pool    : the trunk works at px of pool x pool of the picture; the counterstain is painted at full size.
    fine    : whether it is given each of those pool x pool px; if not, their mean.
    n_blocks, ngf, windows, far : as in `ContextResnet`, in px of the trunk.
    width   : channels of the counterstain's network.
    widest_um : edge of the square over which a sure nucleus is none, since it is too wide for one; 0: none is.
    near_um, own : standard deviation of the neighbourhood that a place's logit is drawn to, and how much is left of what
              sets it off; 0 or 1: nothing is drawn.
    white_glass : clear glass is white, as what lies outside of tissue, and not the laboratory's ground; it takes no DAB.
    by_surest : whether a nucleus takes the dye by its own surest place; weights of before do not, and look less far.
    encoder : its first weights are those that it comes with, and stay; None: without.

    Called, it maps float (b, 3, h, w) in [-1, 1] to the same, for the first marker; `stain` does for any.
    """

    feature_layer = "trunk.at_full"

    def __init__(
        self,
        dyes: Mapping[str, Dyes],
        compartments: Mapping[str, Compartment],
        *,
        mpp: float,
        pool: int,
        fine: bool = False,
        n_blocks: int,
        ngf: int,
        windows: Sequence[int],
        far: int,
        width: int,
        widest_um: float = 0.0,
        near_um: float = 0.0,
        own: float = 1.0,
        white_glass: bool = False,
        by_surest: bool = True,
        encoder: FrozenEncoder | None = None,
    ):
        super().__init__()
        self.markers = tuple(dyes)
        self.pool, self.size_multiple = pool, pool * (SIZE_MULTIPLE if encoder is None else CELL_PX)
        self.fine = fine and pool > 1
        self.trunk = Trunk(n_blocks, ngf, windows, far, len(dyes) + 1, 3 * pool**2 if self.fine else 3)
        self.paint = Counterstain(width)
        self.widest_px = odd_px(widest_um, mpp * pool)
        self.white_glass, self.by_surest = white_glass, by_surest
        self.own, self.near_edge = own, neighbour_edge(near_um, mpp * pool) if own < 1 else 1
        self.layers = nn.ModuleList(DyeLayer(d, mpp, compartments[name]) for name, d in dyes.items())
        reset_parameters(self)
        if encoder is not None:  # only now: its weights are those it came with
            self.trunk.add_encoder(encoder)
        bias = self.trunk.read_cells.bias
        if bias is not None:
            with torch.no_grad():  # begin at the share of each marker
                bias.copy_(torch.logit(torch.tensor([*(d.share for d in dyes.values()), 0.2])))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def facts(self) -> NetworkFacts:
        """Norm statistics are fixed once trained, so tiles with the halo equal one pass."""
        radius = self.trunk.reach_px
        halo = None
        if radius is not None:
            # + 5: cells and chances enter by one more bilinear step each
            reach = self.pool * (radius + 5) + self._ring + self.size_multiple * self._near
            halo = -(-reach // self.size_multiple) * self.size_multiple
        return NetworkFacts("frozen", size_multiple=self.size_multiple, halo_px=halo, takes_margin=True)

    @property
    def _ring(self) -> int:
        """How far the picture looks round a place on the maps of the trunk, px."""
        layers = self.dye_layers()
        dyed = max(layer.surest_px(self.pool) for layer in layers) // 2 if self.by_surest else 0
        return max(layer.ring_px for layer in layers) // 2 + self.pool * (self.widest_px + dyed)

    @property
    def _near(self) -> int:
        """How far a chance looks at other chances, cells of `size_multiple` px."""
        if self.near_edge <= 1:
            return 0
        px = self.pool * SIZE_MULTIPLE * reach_cells(self.near_edge) + max(x.ring_px for x in self.dye_layers()) // 2
        return -(-px // self.size_multiple)

    def shorten(self, dtype: torch.dtype | None) -> None:
        """Let the residual blocks of the trunk compute in `dtype`."""
        self.trunk.body.shorten(dtype)

    def told_apart(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """`tensors` of a network whose trunk reads means, for one that reads each px: what they say at first is the same."""
        name = "trunk.body.first.1.weight"
        if not self.fine or name not in tensors or tensors[name].shape[1] != 3:
            return tensors
        return tensors | {name: (tensors[name] / self.pool**2).repeat_interleave(self.pool**2, dim=1)}

    def dye_layers(self) -> list[DyeLayer]:
        """The physics of each marker, in the order of `markers`."""
        return [layer for layer in self.layers if isinstance(layer, DyeLayer)]

    def logits(self, x: Tensor, markers: Sequence[int], cut: int = 0) -> Tensor:
        """Logits of p of each marker, then of nuclei, at the trunk's scale: (b, n + 1, h / pool, w / pool).

        cut : cells of `size_multiple` px at each edge that are looked at and left out.
        """
        maps = [*markers, len(self.markers)]
        cells = cut * self.size_multiple // (SIZE_MULTIPLE * self.pool)
        if self.fine:
            x = F.pixel_unshuffle(x, self.pool).contiguous(memory_format=torch.channels_last)
        elif self.pool > 1:
            x = F.avg_pool2d(x, self.pool)
        out: Tensor = self.trunk(x, maps, cells)
        return out.float()

    def chances(self, logits: Tensor, markers: Sequence[int]) -> Tensor:
        """p of each marker, then of nuclei, of `logits` (b, n + 1, h, w) of the trunk's scale: the same shape, 0..1."""
        nuclei = logits[:, -1:].sigmoid()
        if self.near_edge <= 1:
            return logits.sigmoid()
        layers, edge, own = self.dye_layers(), self.near_edge, self.own
        drawn = [
            drawn_together(logits[:, k : k + 1], layers[m].place(nuclei.detach(), self.pool), edge, own).sigmoid()
            for k, m in enumerate(markers)
        ]
        return torch.cat([*drawn, nuclei], dim=1)

    def narrow(self, nuclei: Tensor) -> Tensor:
        """The chances (b, 1, h, w) of a nucleus, less what is as sure over a square of `widest_um` (opening, top hat).

        Cytoplasm and keratin as dark as nuclei lie in sheets wider than any nucleus.
        """
        return nuclei if self.widest_px <= 1 else nuclei - ground(nuclei, self.widest_px)

    def full_size(self, x: Tensor) -> Tensor:
        """A map of the trunk's scale at that of the picture, bilinear."""
        return x if self.pool == 1 else F.interpolate(x, scale_factor=self.pool, mode="bilinear", align_corners=False)

    def picture(self, h: Tensor, p: Tensor, nuclei: Tensor, marker: int, tissue: Tensor | float = 1.0) -> Tensor:
        """The stain of haematoxylin `h` (b, 1, h, w), and chances `p` and (narrow) `nuclei` of the trunk's scale.

        tissue : (b, 1, h, w) in [0, 1], how much of the DAB there is something to hold.

        Returns float (b, 3, h, w) in [-1, 1].
        """
        layer = self.dye_layers()[marker]
        place = layer.place(layer.dyed(nuclei, self.pool, by_surest=self.by_surest), self.pool)
        return layer.light(h, tissue * self.full_size(layer.dyes.amplitude * p * place), white=self.white_glass)

    def forward(self, x: Tensor) -> Tensor:
        return self.stain(x, self.markers[:1])[0]

    def stain(self, x: Tensor, markers: Sequence[str], margin: int = 0) -> list[Tensor]:
        """Pictures of several markers of one pass through the trunk; ValueError for one that it was not trained for.

        margin : px at each edge that are looked at and not painted: the pictures are as much smaller.
        """
        return [picture for picture, _ in self._stained(x, markers, margin)]

    def stain_and_tell(self, x: Tensor, markers: Sequence[str], margin: int = 0) -> list[tuple[Tensor, Tensor]]:
        """As `stain`, each picture with its p, float (b, 1, h, w) in [0, 1]."""
        return list(self.stained(x, markers, margin))

    def stained(self, x: Tensor, markers: Sequence[str], margin: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """As `stain_and_tell`, one after the other, so that those of all markers are not held at once."""
        rest = margin - self._cut(margin) * self.size_multiple
        for picture, p in self._stained(x, markers, margin):
            yield picture, inside(self.full_size(p), rest)

    def _cut(self, margin: int) -> int:
        """Cells of `size_multiple` px of `margin` that need not be told at the trunk's scale."""
        return max(0, (margin - self._ring) // self.size_multiple)

    def _stained(self, x: Tensor, markers: Sequence[str], margin: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Pictures without `margin`, and p at the trunk's scale without `_cut(margin)` cells."""
        unknown = [name for name in markers if name not in self.markers]
        if unknown:
            raise ValueError(f"this network stains {', '.join(self.markers)}, not {unknown[0]}")
        numbers = [self.markers.index(name) for name in markers]
        cut = self._cut(margin)
        early = max(0, cut - self._near)
        chances = inside(
            self.chances(self.logits(x, numbers, early), numbers), (cut - early) * self.size_multiple // self.pool
        )
        nuclei, h = self.narrow(chances[:, -1:]), self.paint(x, cut * self.size_multiple)
        rest = margin - cut * self.size_multiple
        tissue = tissue_of(inside(x, cut * self.size_multiple)) if self.white_glass else 1.0
        for k, number in enumerate(numbers):
            p = chances[:, k : k + 1]
            yield inside(self.picture(h, p, nuclei, number, tissue), rest), p

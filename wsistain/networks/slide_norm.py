"""Instance norm with statistics that do not depend on the tile, so that a slide has no seams.

Instance norm takes mean and variance from the picture it is given; on a slide cut into tiles that is another pair on
every tile, and tone steps at tile borders. Here the statistics are measured once, over many windows of tissue pushed
through the network together ("lockstep": every layer is measured behind layers that already use the pooled
statistics), and then frozen: one set for the slide, or a field of sets that varies slowly over it.

Sources: instance norm, Ulyanov et al. 2016; that tiles need shared statistics, Ho et al. 2022 (URUST, KIN). Pooling
follows the law of total variance: Var = mean of variances + variance of means, which a batch of windows gives directly.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

Statistics = dict[str, Tensor]
"""Layer name to float32 (2, c): mean and variance of each channel."""


def norm_layers(network: nn.Module) -> dict[str, nn.InstanceNorm2d]:
    """The layers whose statistics depend on the tile, by name, in order of definition."""
    return {
        name: m for name, m in network.named_modules() if isinstance(m, nn.InstanceNorm2d) and not m.track_running_stats
    }


class _Pooled(nn.Module):
    """Normalises by the statistics of the whole batch and keeps them."""

    def __init__(self, layer: nn.InstanceNorm2d):
        super().__init__()
        self.layer = layer
        self.kept: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        var, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
        self.kept = torch.stack((mean, var))
        return _normalise(x, mean[None, :, None, None], var[None, :, None, None], self.layer)


class FrozenNorm(nn.Module):
    """Instance norm with one fixed mean and variance a channel."""

    scale: Tensor
    shift: Tensor

    def __init__(self, layer: nn.InstanceNorm2d, statistics: Tensor):
        super().__init__()
        scale = torch.rsqrt(statistics[1] + layer.eps)
        shift = -statistics[0] * scale
        if layer.affine:
            shift = shift * layer.weight.detach() + layer.bias.detach()
            scale = scale * layer.weight.detach()
        self.register_buffer("scale", scale[None, :, None, None].clone())
        self.register_buffer("shift", shift[None, :, None, None].clone())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


class Where(threading.local):
    """Where the tiles of the running call lie: (y, x, height, width) a tile, output px. One a thread."""

    boxes: Sequence[tuple[int, int, int, int]] = ()


class FieldNorm(nn.Module):
    """Instance norm whose mean and variance vary over the slide, interpolated between the nodes of a lattice."""

    lattice: Tensor

    def __init__(self, layer: nn.InstanceNorm2d, lattice: Tensor, spacing: float, where: Where):
        """lattice: float (rows, cols, 2, c), node (i, j) lies at ((i + 0.5) * spacing, (j + 0.5) * spacing)."""
        super().__init__()
        self.layer, self.spacing, self.where = layer, spacing, where
        rows, cols, _, c = lattice.shape
        self.register_buffer("lattice", lattice.reshape(rows, cols, 2 * c).permute(2, 0, 1)[None].contiguous())

    def forward(self, x: Tensor) -> Tensor:
        rows, cols = self.lattice.shape[2:]
        h, w = x.shape[2:]
        grids = []
        for y, x0, height, width in self.where.boxes:
            gy = _steps(y, height, h, self.spacing, rows, x)
            gx = _steps(x0, width, w, self.spacing, cols, x)
            grids.append(torch.stack(torch.meshgrid(gy, gx, indexing="ij")[::-1], dim=-1))
        grid = torch.stack(grids)
        values = F.grid_sample(
            self.lattice.expand(len(grid), -1, -1, -1), grid, mode="bilinear", padding_mode="border", align_corners=True
        )
        mean, var = values.chunk(2, dim=1)
        return _normalise(x, mean, var, self.layer)


def _steps(start: int, extent: int, n: int, spacing: float, nodes: int, like: Tensor) -> Tensor:
    """Places of `n` feature pixels over [start, start + extent) in grid_sample's [-1, 1] of `nodes` lattice nodes."""
    place = start + (torch.arange(n, dtype=torch.float32, device=like.device) + 0.5) * (extent / n)
    node = place / spacing - 0.5
    return node * (2.0 / max(nodes - 1, 1)) - 1.0 if nodes > 1 else torch.zeros_like(node)


def _normalise(x: Tensor, mean: Tensor, var: Tensor, layer: nn.InstanceNorm2d) -> Tensor:
    out = (x - mean) * torch.rsqrt(var + layer.eps)
    if layer.affine:
        out = out * layer.weight[None, :, None, None] + layer.bias[None, :, None, None]
    return out


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(network.get_submodule(parent), leaf, module)


@torch.no_grad()
def pooled_statistics(network: nn.Module, windows: Tensor, on_layer: Callable[[], None] | None = None) -> Statistics:
    """Statistics of every instance-norm layer over all `windows` together, behind pooled layers (lockstep).

    windows  : float (k, 3, h, w) in [-1, 1]. The network is left as it was.
    on_layer : called when a layer has its statistics, for whoever waits.
    """
    layers = norm_layers(network)
    probes = {name: _Pooled(layer) for name, layer in layers.items()}
    try:
        for name, probe in probes.items():
            if on_layer is not None:
                probe.register_forward_hook(lambda *_: on_layer())
            _replace(network, name, probe)
        network(windows)
    finally:
        for name, layer in layers.items():
            _replace(network, name, layer)
    return {name: probe.kept.float().cpu() for name, probe in probes.items() if probe.kept is not None}


@dataclass(frozen=True)
class NormField:
    """Statistics for a slide: one node ("slide") or a lattice of nodes ("field").

    nodes   : layer name to float32 (rows, cols, 2, c).
    spacing : output px between nodes; node (0, 0) lies at half a spacing from the slide's origin.
    """

    nodes: Mapping[str, NDArray[np.float32]]
    spacing: float

    @property
    def is_constant(self) -> bool:
        return all(v.shape[:2] == (1, 1) for v in self.nodes.values())


def freeze(network: nn.Module, field: NormField) -> Where:
    """Give every instance-norm layer of `network` the statistics of `field`, in place.

    Returns the place where a caller writes the boxes of the tiles before each call (used by a lattice only).
    """
    where = Where()
    for name, layer in norm_layers(network).items():
        lattice = torch.from_numpy(np.ascontiguousarray(field.nodes[name]))
        if field.is_constant:
            _replace(network, name, FrozenNorm(layer, lattice[0, 0]))
        else:
            _replace(network, name, FieldNorm(layer, lattice, field.spacing, where))
    return where

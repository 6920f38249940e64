"""How far a network looks: the radius of its receptive field, found by sending an impulse back through it."""

import copy

import torch
from torch import nn

LARGEST = 512


def receptive_radius(network: nn.Module, size_multiple: int = 1) -> int | None:
    """How many px round an output pixel can change it, with norm statistics taken as fixed; None past 512 px.

    network       : maps (1, 3, h, w) to the same size; must be built of layers that keep their sign structure
                    (convolution, norm, ReLU family, pooling, tanh); attention reaches everywhere and gives None.
    size_multiple : edges of the input must be multiples of this; every phase of that grid is looked at.

    Kernels are taken to be square: how far it looks to the sides is measured, on a strip, which takes a small part of the
    memory of a square.

    Norm layers count as absent (their statistics are what `--norm slide` freezes). All weights are set to small
    positive values, so that no path cancels another and no ReLU blocks one.
    """
    probe = copy.deepcopy(network).cpu().double().eval()
    for name, module in list(probe.named_modules()):
        if isinstance(module, nn.InstanceNorm2d | nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm | nn.Dropout):
            parent, _, leaf = name.rpartition(".")
            setattr(probe.get_submodule(parent), leaf, nn.Identity())
    with torch.no_grad():
        for parameter in probe.parameters():
            parameter.fill_(0.0 if parameter.ndim == 1 else 1.0 / parameter[0].numel())
    step = max(size_multiple, 1)
    half, height = 64, -(-128 // step) * step + step
    while half <= LARGEST:
        edge = -(-(2 * half) // step) * step + step
        start = edge // 2 // step * step
        x = torch.full((1, 3, height, edge), 1e-3, dtype=torch.float64, requires_grad=True)
        y = probe(x)
        (gradient,) = torch.autograd.grad(y[..., start : start + step].sum(), x)
        reached = torch.nonzero(gradient.abs().sum(dim=(0, 1)).sum(dim=0) > 0).flatten()
        radius = max(start - int(reached[0]), int(reached[-1]) - (start + step - 1), 0)
        # reflected padding folds what it cuts off back inside: trust only a field that ends clear of the border
        if int(reached[0]) > step and int(reached[-1]) < edge - 1 - step:
            return radius
        half *= 2
    return None

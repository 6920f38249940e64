"""How large a network is."""

from torch import nn


def count_parameters(network: nn.Module) -> int:
    """Number of numbers in a network (works on the meta device)."""
    return sum(p.numel() for p in network.parameters())

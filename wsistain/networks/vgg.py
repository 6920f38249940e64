"""VGG16's convolutional part (Simonyan and Zisserman 2015), with torchvision's key names, tapped after five ReLUs."""

from pathlib import Path

from torch import Tensor, nn

from wsistain.published.tensors import load_into, read_published

_WIDTHS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512)  # 0: max pool 2


class Vgg16Features(nn.Module):
    """Feature maps of an image; by default five: relu1_2, relu2_2, relu3_3, relu4_3, relu5_3.

    width_divisor : channels are the published ones divided by this (1: VGG16 itself).
    taps          : places in `features` after which they are taken, rising; None: `TAPS`.

    Keys are `features.<n>.{weight,bias}` as in torchvision's `vgg16-397923af.pth`; the last max pool and the
    classifier are left out.
    """

    TAPS = (3, 8, 15, 22, 29)

    def __init__(self, width_divisor: int = 1, taps: tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.taps = self.TAPS if taps is None else taps
        layers: list[nn.Module] = []
        previous = 3
        for width in _WIDTHS:
            if width == 0:
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [nn.Conv2d(previous, width // width_divisor, 3, padding=1), nn.ReLU()]
            previous = width // width_divisor
        self.features = nn.Sequential(*layers)
        self.channels = tuple(c // width_divisor for c in (64, 128, 256, 512, 512))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features of `x`, float (b, 3, h, w) normalised as the weights want it; h and w at least 16."""
        taps = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.taps:
                taps.append(x)
            if index == self.taps[-1]:
                break
        return taps

    def load_published(self, path: Path | str) -> None:
        """Load torchvision's file; every tensor of `features` must match. Raises WeightsError."""
        load_into(self, read_published(path), str(path), ignore=("classifier.",))

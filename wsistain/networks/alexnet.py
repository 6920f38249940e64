"""AlexNet, the convolutional part (Krizhevsky 2014), with the key names of torchvision, tapped after its ReLUs."""

from pathlib import Path

from torch import Tensor, nn

from wsistain.published.tensors import load_into, read_published


class AlexNetFeatures(nn.Module):
    """Five feature maps of an image, after each of the five ReLUs.

    width_divisor : channels are the published ones divided by this (1: AlexNet itself).

    Keys are `features.<n>.{weight,bias}` as in torchvision's `alexnet-owt-7be5be79.pth`; the last max pool and the
    classifier are left out.
    """

    TAPS = (1, 4, 7, 9, 11)

    def __init__(self, width_divisor: int = 1) -> None:
        super().__init__()
        a, b, c, d, e = self.channels = tuple(n // width_divisor for n in (64, 192, 384, 256, 256))
        self.features = nn.Sequential(
            nn.Conv2d(3, a, 11, stride=4, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(a, b, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(b, c, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(c, d, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(d, e, 3, padding=1),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features of `x`, float (b, 3, h, w) normalised as the weights want it; h and w at least 32."""
        taps = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.TAPS:
                taps.append(x)
        return taps

    def load_published(self, path: Path | str) -> None:
        """Load torchvision's file; every tensor of `features` must match. Raises WeightsError."""
        load_into(self, read_published(path), str(path), ignore=("classifier.",))

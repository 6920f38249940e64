"""A frozen encoder of the user's that tells a network about tissue: the first stages of a ResNet-50 by path.

Its batch norm holds the statistics that it came with and its reach is finite, so tiles with a halo equal one pass. A
transformer looks at whole windows: what it says of a place depends on where the window lies, so none is taken here.
"""

from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from wsistain.errors import ConfigError, WeightsError
from wsistain.networks.resnet50 import ResNet50Features
from wsistain.published.tensors import load_into, read_published

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_LATER = ("layer3.", "layer4.", "fc.")
CELL_PX = 8
"""One place of its map in px, of which edges of its pictures must be multiples."""

_REACH_PX = 3 + 2 + 3 * 4 + 4 + 3 * 8
"""Of its convolutions of 7 and 3 px and its pooling, each at the step that it works at."""

REACH_PX = _REACH_PX + 2 * CELL_PX
"""How far its map at a quarter of the size looks: one place more each for where it lies and for being made finer."""


class FrozenEncoder(nn.Module):
    """What `layer2` of a ResNet-50 says of a picture: float (b, 3, h, w) in [-1, 1] to (b, channels, h / 8, w / 8).

    width_divisor : channels are ResNet-50's divided by this.

    It takes no gradient and stays in evaluation mode.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, width_divisor: int = 1):
        super().__init__()
        self.width_divisor, self.channels = width_divisor, 512 // width_divisor
        self.body = ResNet50Features(width_divisor, stages=2)
        for name, value in (("mean", _MEAN), ("std", _STD)):
            self.register_buffer(name, torch.tensor(value).view(3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "FrozenEncoder":
        """Stays as it is: statistics that moved would not be the encoder's."""
        return super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return cast(Tensor, self.body(((x + 1) / 2 - self.mean) / self.std)[-1])


def load_encoder(path: str) -> FrozenEncoder:
    """The encoder of a file with torchvision's names; its width is read from its first tensor.

    Raises ConfigError where there is no such file, WeightsError where it is another network.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise ConfigError(
            f"options.encoder: {file} is not there; wanted a ResNet-50 with torchvision's names: one trained on "
            "pathology, or resnet50-0676ba61.pth (see `wsistain nets`); leave it out to train without"
        )
    tensors = read_published(file)
    first = tensors.get("conv1.weight")
    if first is None or first.ndim != 4 or len(first) not in (64, 32, 16, 8, 4, 2, 1):
        found = "no conv1.weight" if first is None else f"conv1.weight {tuple(first.shape)}"
        raise WeightsError(f"{file} is no ResNet-50 with torchvision's names: {found}, wanted (64, 3, 7, 7)")
    encoder = FrozenEncoder(64 // len(first))
    load_into(encoder.body, tensors, str(file), ignore=_LATER)
    return encoder

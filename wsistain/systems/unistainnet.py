"""UNIStainNet (arXiv:2603.12716): one network for several markers that looks at the H&E through UNI. It only stains here.

Weights are imported ('wsistain weights import --as unistainnet'), never trained: the training is the authors'
(facevoid/UNIStainNet, "for research purposes only"). UNI itself may not be handed on with them: it is looked up on this
machine (MahmoodLab/uni on the hub, which asks for an account and has terms of its own, not for commercial use).

A picture is stained in windows of the size that the network was trained on, blended where they overlap; UNI looks at each
window once for all markers, and costs far more than the rest. The authors' guidance scale is 1: one pass, no guidance.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from wsistain.config import Strict, validate
from wsistain.diffusion.windows import Windows
from wsistain.errors import WeightsError
from wsistain.networks.facts import NetworkFacts
from wsistain.networks.unistainnet import SpadeUNet, UniTower
from wsistain.networks.vit import mirrored
from wsistain.published.places import find_hub_folder
from wsistain.published.tensors import load_into, read_published

UNI_HUB = "MahmoodLab/uni"
UNI_FILE = "pytorch_model.bin"


class Options(Strict):
    """What a weights header says of the network.

    labels : marker to its row in the table of stains.
    uni    : "published" is looked up on this machine; "tiny" is random and held by the file, for tests.
    """

    labels: dict[str, int]
    window: int = Field(512, ge=64, le=1024, multiple_of=64)
    width: int = Field(64, ge=4, le=256, multiple_of=4)
    n_classes: int = Field(5, ge=1, le=1000)
    class_dim: int = Field(64, ge=1, le=4096)
    large: bool = False
    uni: Literal["published", "tiny"] = "published"


class UniStainer(nn.Module):
    """Stains H&E, float (b, 3, h, w) in [-1, 1] to the same, for any of its markers."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.labels, self.window = options.labels, options.window
        self.n_tokens = options.window // (32 if options.large else 16)
        self.holds_uni = options.uni == "tiny"
        self.uni = UniTower(1, 4) if self.holds_uni else load_uni()
        self.generator = SpadeUNet(
            width=options.width, n_classes=options.n_classes, class_dim=options.class_dim, large=options.large
        )

    @property
    def facts(self) -> NetworkFacts:
        """Attention and instance norms see a whole window."""
        return NetworkFacts("tile", tile_px=self.window, least_px=self.window)

    def forward(self, x: Tensor) -> Tensor:
        return self.stain(x, [next(iter(self.labels))])[0]

    def stain(self, x: Tensor, markers: Sequence[str]) -> list[Tensor]:
        """Pictures like `x`, one a marker; UNI's tokens are computed once."""
        absent = [marker for marker in markers if marker not in self.labels]
        if absent:
            raise WeightsError(f"these weights stain {', '.join(self.labels)}, not {absent[0]}")
        height, width = x.shape[-2:]
        least = x[..., mirrored(height, self.window), :][..., mirrored(width, self.window)]
        rows = [self.labels[marker] for marker in markers]
        stride = self.window * 3 // 4
        windows = Windows([(0, 0)] * len(x), least.shape[-2], least.shape[-1], self.window, stride, batch=1)

        def all_markers(part: Tensor) -> Tensor:
            tokens = self.uni.grid(part, self.n_tokens)
            return torch.cat([self.generator(part, tokens, row) for row in rows], dim=1)

        found = windows.fuse(all_markers, least)[..., :height, :width]
        return list(torch.split(found, 3, dim=1))

    def load_trained(self, tensors: Mapping[str, Tensor], where: str) -> None:
        """Take over the generator (and a tiny UNI); WeightsError naming `where` and what does not fit."""
        load_into(self if self.holds_uni else self.generator, tensors, where, may_lack=())


def load_uni() -> UniTower:
    """UNI from this machine, its tensors matched one by one; WeightsError saying where to get it."""
    path = find_hub_folder(UNI_HUB, UNI_FILE) / UNI_FILE
    with torch.device("meta"):
        tower = UniTower()
    tower.to_empty(device="cpu")
    load_into(tower, read_published(path), str(path), may_lack=())
    return tower


def generator_network(options: dict[str, Any]) -> UniStainer:
    """The staining network of a weights header; ConfigError on options of another form, WeightsError without UNI."""
    return UniStainer(validate(Options, dict(options), "generator options"))

"""One field over a large image from a network that sees windows: overlapping predictions averaged, step by step.

At every step of a reverse run each window is predicted on its own and the predictions are averaged where windows
overlap, so that all of them share one state; blending finished images instead leaves seams, because two runs that
agree at the start drift apart. Memory is that of the state and of one batch of windows.

Source: Bar-Tal et al. 2023 (MultiDiffusion, arXiv:2302.08113); the raised cosine and the anchoring are ours.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Place = tuple[int, int, int]
"""(image of the batch, y, x) of a window's first pixel."""


def window_starts(size: int, window: int, stride: int, origin: int) -> list[int]:
    """Where windows begin along an axis of `size` px whose first pixel is slide pixel `origin`.

    They lie at multiples of `stride` on the slide, so that overlapping tiles cut the same windows where they can; one
    more at either end reaches the border where those do not.
    """
    if size <= window:
        return [0]
    starts = list(range(-origin % stride, size - window + 1, stride))
    return sorted({0, *starts, size - window})


@dataclass(frozen=True)
class Windows:
    """The windows of a batch of images (b, c, height, width) whose first pixels are slide pixels `corners`.

    batch : windows predicted at a time.
    """

    corners: Sequence[tuple[int, int]]
    height: int
    width: int
    window: int
    stride: int
    batch: int = 8

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of a window."""
        return min(self.window, self.height), min(self.window, self.width)

    def places(self) -> list[Place]:
        """Every window, image by image, row by row."""
        return [
            (i, y, x)
            for i, (top, left) in enumerate(self.corners)
            for y in window_starts(self.height, self.window, self.stride, top)
            for x in window_starts(self.width, self.window, self.stride, left)
        ]

    def cut(self, image: Tensor, places: Sequence[Place]) -> Tensor:
        """Those windows of `image` (b, c, height, width): (n, c, window, window)."""
        h, w = self.shape
        return torch.stack([image[i, :, y : y + h, x : x + w] for i, y, x in places])

    def fuse(self, field: Callable[..., Tensor], *images: Tensor) -> Tensor:
        """`field` of windows of `images`, averaged under a raised cosine: like the first of them.

        field : takes the windows of each image (n, c, window, window) and gives one (n, c', window, window).
        """
        places = self.places()
        if len(places) == len(self.corners):  # one window an image: nothing to average
            return torch.cat(
                [field(*parts) for parts in zip(*(torch.split(i, self.batch) for i in images), strict=True)]
            )
        # Sums of weighted windows over sums of weights.
        h, w = self.shape
        like = images[0]
        weight = _bump(h, like).view(-1, 1) * _bump(w, like)
        norm = like.new_zeros(len(like), 1, self.height, self.width)
        total: Tensor | None = None
        for k in range(0, len(places), self.batch):
            some = places[k : k + self.batch]
            made = field(*(self.cut(image, some) for image in images)).to(like.dtype)
            if total is None:
                total = like.new_zeros(len(like), made.shape[1], self.height, self.width)
            for (i, y, x), piece in zip(some, made, strict=True):
                total[i, :, y : y + h, x : x + w] += piece * weight
                norm[i, :, y : y + h, x : x + w] += weight
        assert total is not None
        return total / norm


def _bump(n: int, like: Tensor) -> Tensor:
    """A raised cosine that stays above 0.01, so that the border, seen by one window only, keeps its precision."""
    at = torch.arange(n, device=like.device, dtype=like.dtype) + 0.5
    return torch.sin(math.pi * at / n).square() + 0.01

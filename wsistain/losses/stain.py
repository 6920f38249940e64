"""Consistency across a batch: how alike its images are, in stain and in features, must be the same for real and fake.

Source: USIGAN, eq. 10-15 (pathological consistency), and its code for what the paper leaves open.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from wsistain.numerics import in_float32
from wsistain.ot import cosine_similarity_matrix

OD_FLOOR = 0.15
"""Focal optical density below which a pixel does not count towards the total (background)."""


def batch_similarity(x: Tensor) -> Tensor:
    """Cosines between the images of a batch, each flattened: (b, ...) to (b, b).

    An image of zeros (glass, in optical density) has cosine 0 also with itself, as in the authors' code.
    """
    flat = x.flatten(1)
    return cosine_similarity_matrix(flat, flat)


@in_float32
def od_correlation(fake: Tensor, real: Tensor) -> Tensor:
    """Mean |difference| of the batch similarities of optical-density maps (b, h, w); `real` takes no gradient.

    Zero for a single image: a batch of at least two is needed for it to teach anything.
    """
    return (batch_similarity(real.detach()) - batch_similarity(fake)).abs().mean()


@in_float32
def od_total(fake: Tensor, real: Tensor, *, floor: float = OD_FLOOR) -> Tensor:
    """Mean over images of the squared difference of total optical density over (h w)^2; maps (b, h, w).

    Pixels below `floor` count as 0.
    """
    area = fake.shape[-2] * fake.shape[-1]

    def total(od: Tensor) -> Tensor:
        return torch.where(od >= floor, od, 0.0).flatten(1).sum(1)

    return ((total(real.detach()) - total(fake)) / area).square().mean()


@in_float32
def feature_correlation(fake: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """Mean over layers of `od_correlation` on feature maps (b, c, h, w); `real` takes no gradient."""
    differences = [od_correlation(f, r) for f, r in zip(fake, real, strict=True)]
    return torch.stack(differences).mean()

"""Consistency across a batch: how alike its images are, in stain and in features, must be the same for real and fake.

Sources: USIGAN, eq. 10-15 (pathological consistency), and its code for what the paper leaves open; Chen et al. 2024
(PSPStain, MICCAI), whose molecular-level protein awareness compares densities image by image.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from wsistain.numerics import in_float32
from wsistain.ot import cosine_similarity_matrix

MLPA_BINS = 20
MLPA_BLOCKS = 4
MLPA_TOLERANCE = 0.4

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


@in_float32
def protein_awareness(fake: Tensor, real: Tensor, *, floor: float = OD_FLOOR) -> Tensor:
    """PSPStain's MLPA loss on focal optical densities (b, h, w): totals, histograms and blocks must agree; a scalar.

    total     : squared difference of the total density over (h w)^2, for images off by more than 40 % of the real one.
    histogram : squared difference of the density that lies in each of 20 bins of 0 to e, over (h w)^2, mean over images.
    blocks    : mean squared difference of the mean density of 4 x 4 blocks.

    Pixels below `floor` count as 0 but in the histogram. The first is summed over images, as in the authors' code. `real`
    takes no gradient. Edges beyond a multiple of 4 are in no block.
    """
    real = real.detach()
    area = fake.shape[-2] * fake.shape[-1]

    def counted(od: Tensor) -> Tensor:
        return torch.where(od >= floor, od, 0.0)

    def binned(od: Tensor) -> Tensor:
        index = (od * (MLPA_BINS / math.e)).clamp(0, MLPA_BINS - 1).long().flatten(1)
        sums = od.new_zeros(len(od), MLPA_BINS)
        return sums.scatter_add(1, index, od.flatten(1)) / area

    def blocks(od: Tensor) -> Tensor:
        side = od.shape[-2] // MLPA_BLOCKS, od.shape[-1] // MLPA_BLOCKS
        whole = od[..., : side[0] * MLPA_BLOCKS, : side[1] * MLPA_BLOCKS]
        return whole.reshape(-1, MLPA_BLOCKS, side[0], MLPA_BLOCKS, side[1]).mean(dim=(2, 4))

    # Totals count only where they are off by more than the tolerance.
    totals = counted(fake).flatten(1).sum(1), counted(real).flatten(1).sum(1)
    is_off = (totals[0] - totals[1]).abs() > MLPA_TOLERANCE * totals[1]
    total = torch.where(is_off, ((totals[0] - totals[1]) / area).square(), 0.0).sum()
    histogram = (binned(fake) - binned(real)).square().sum(1).mean()
    return total + histogram + (blocks(counted(fake)) - blocks(counted(real))).square().mean()

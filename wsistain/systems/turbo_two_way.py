"""What the two turbo systems that train both directions do alike: a batch there, back and onto itself; five updates.

Pictures are kept by the domain that they show, "ihc" or "he". The order in which they are made is the order in which
the latents are drawn, so that a seed gives the same weights.
"""

from collections.abc import Callable, Mapping

import torch
from pydantic import BaseModel
from torch import Tensor
from torch.optim import Optimizer

from wsistain.losses.perceptual import Lpips
from wsistain.systems.base import Batch, Update, frozen
from wsistain.systems.turbo_parts import Translators, Verdicts, image_distance, weighted_part

Pictures = dict[str, Tensor]
"""Domain to pictures of it, each (b, 3, h, w) in [-1, 1]."""

Terms = dict[str, Tensor]


def reals(batch: Batch) -> Pictures:
    """The batch's own pictures."""
    return {"ihc": batch.ihc, "he": batch.he}


def translated(translators: Translators, batch: Batch) -> Pictures:
    """The fakes: each picture led to the other domain."""
    return {"ihc": translators(batch.he, "ihc"), "he": translators(batch.ihc, "he")}


def returned(translators: Translators, fakes: Pictures) -> Pictures:
    """The cycle: each fake led back to the domain that it was made from."""
    return {"he": translators(fakes["ihc"], "he"), "ihc": translators(fakes["he"], "ihc")}


def kept(translators: Translators, batch: Batch) -> Pictures:
    """The identity: each direction shown a picture that is already in the domain it leads to."""
    return {"he": translators(batch.he, "he"), "ihc": translators(batch.ihc, "ihc")}


def distance_to_reals(lpips: Lpips, made: Pictures, batch: Batch, l1_weight: float, lpips_weight: float) -> Tensor:
    """`image_distance` between what was made and the batch's own pictures, summed over the domains: a scalar."""
    real = reals(batch)
    distances = [image_distance(lpips, image, real[domain], l1_weight, lpips_weight) for domain, image in made.items()]
    return torch.stack(distances).sum()


def five_updates(
    batch: Batch,
    update: Update,
    *,
    translators: Translators,
    verdicts: Verdicts,
    optimizers: Mapping[str, Optimizer],
    weights: BaseModel,
    adversarial: float,
    cycle: Callable[[Batch, Pictures], Terms],
    fooling: Callable[[Batch, Pictures], Terms],
    identity: Callable[[Batch], Terms],
) -> Terms:
    """The authors' order of CycleGAN-Turbo: each of the generator's updates has its own forward pass.

    cycle, fooling, identity : a system's terms, by their names in `weights`; the first two are given the fakes.
    adversarial              : weight of the critics' updates, which is halved.

    Returns all terms and "critic", the critics' unweighted sum.
    """
    generator, critics = optimizers["G"], optimizers["D"]
    there_and_back = cycle(batch, translated(translators, batch))
    update(generator, weighted_part(there_and_back, weights))
    fakes = translated(translators, batch)
    with frozen(verdicts.critic):
        fooled = fooling(batch, fakes)
        update(generator, weighted_part(fooled, weights))
    same = identity(batch)
    update(generator, weighted_part(same, weights))
    on_fakes = verdicts.on_fakes(fakes)
    update(critics, 0.5 * adversarial * on_fakes)
    on_reals = verdicts.on_reals(reals(batch))
    update(critics, 0.5 * adversarial * on_reals)
    return there_and_back | fooled | same | {"critic": on_fakes + on_reals}

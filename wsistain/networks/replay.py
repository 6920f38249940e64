"""A pool of earlier fakes, so that a discriminator does not forget them.

Source: Shrivastava et al. 2017 (arXiv:1612.07828), as used by CycleGAN.
"""

import torch
from torch import Tensor, nn


class ReplayPool(nn.Module):
    """Up to `size` images that a generator made earlier; they belong to the state dict, so that training resumes.

    The pool is an extra state of the module: a tensor (n, c, h, w), or of shape (0,) while it is empty.
    """

    def __init__(self, size: int):
        super().__init__()
        self.size = size
        self.images: list[Tensor] = []

    @torch.no_grad()
    def exchange(self, fakes: Tensor) -> Tensor:
        """As many images as `fakes` (b, c, h, w), detached: half of them, on average, older ones that they replace.

        While the pool is not full, `fakes` are stored and come back. Draws from torch's CPU generator.
        """
        shown = []
        for fake in fakes.detach():
            if len(self.images) < self.size:
                self.images.append(fake.clone())
            elif torch.rand(()) < 0.5:
                place = int(torch.randint(self.size, ()))
                fake, self.images[place] = self.images[place].to(fake), fake.clone()
            shown.append(fake)
        return torch.stack(shown)

    def get_extra_state(self) -> Tensor:
        return torch.stack(self.images) if self.images else torch.empty(0)

    def set_extra_state(self, state: Tensor) -> None:
        self.images = list(state.clone()) if state.numel() else []

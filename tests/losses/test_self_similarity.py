"""F-LSeSim's loss: written plainly, and what it does not see."""

import torch
import torch.nn.functional as F

from wsistain.losses.self_similarity import self_similarity, spatially_correlative, window_keys


def maps(seed: int, n: int = 2, c: int = 5, h: int = 12, w: int = 14) -> torch.Tensor:
    return torch.randn(n, c, h, w, generator=torch.Generator().manual_seed(seed))


def test_similarities_are_cosines_with_the_window_around_a_place_moved_inside() -> None:
    feature = maps(0)
    at = torch.tensor([0, 5 * 14 + 6, 12 * 14 - 1])
    found = self_similarity(feature, at, 4)
    unit = F.normalize(feature - feature.mean(dim=(2, 3), keepdim=True), dim=1)
    for k, (top, left) in enumerate(((0, 0), (3, 4), (8, 10))):
        y, x = divmod(int(at[k]), 14)
        window = unit[:, :, top : top + 4, left : left + 4].flatten(2)
        torch.testing.assert_close(found[:, k], torch.einsum("bc,bcm->bm", unit[:, :, y, x], window))
    assert window_keys(feature, at, 12).shape == (2, 3, 12 * 14, 5)  # the whole map


def test_the_loss_is_the_cosine_of_the_stronger_half_at_the_same_places() -> None:
    a, b = maps(0), maps(1)
    torch.manual_seed(7)
    loss = spatially_correlative([a], [b], n_patches=9, window=4)
    torch.manual_seed(7)
    at = torch.randperm(12 * 14)[:9]
    total = []
    for x, y in zip(self_similarity(a, at, 4).reshape(-1, 16), self_similarity(b, at, 4).reshape(-1, 16), strict=True):
        least = x.sort(descending=True).values[8]
        total.append(1 - F.cosine_similarity(torch.where(x >= least, x, 0.0), torch.where(x >= least, y, 0.0), dim=0))
    torch.testing.assert_close(loss, torch.stack(total).mean())


def test_equal_structure_costs_nothing_whatever_its_appearance_and_only_the_fake_learns() -> None:
    a, b = maps(0).requires_grad_(), maps(1).requires_grad_()
    assert spatially_correlative([a], [3 * a + 5], window=6) < 1e-5
    spatially_correlative([a], [b], window=6).backward()
    assert a.grad is None and b.grad is not None and b.grad.abs().sum() > 0

import torch

from wsistain.networks.replay import ReplayPool


def _image(value: float) -> torch.Tensor:
    return torch.full((1, 3, 2, 2), value)


def test_a_pool_that_is_not_full_gives_back_what_it_is_given() -> None:
    pool = ReplayPool(3)
    fakes = torch.cat([_image(v) for v in (1.0, 2.0, 3.0)])
    assert torch.equal(pool.exchange(fakes), fakes)
    assert len(pool.images) == 3


def test_a_full_pool_shows_older_images_half_of_the_time_and_loses_none() -> None:
    torch.manual_seed(0)
    pool = ReplayPool(10)
    pool.exchange(torch.cat([_image(float(v)) for v in range(10)]))
    n_old = 0
    for value in range(10, 410):
        stored = {i.mean().item() for i in pool.images}
        shown = pool.exchange(_image(float(value))).mean().item()
        assert shown == value or shown in stored
        assert stored | {float(value)} == {i.mean().item() for i in pool.images} | {shown}
        n_old += shown != value
    assert 160 < n_old < 240


def test_stored_images_carry_no_gradient_and_no_later_change() -> None:
    pool = ReplayPool(2)
    fake = _image(1.0).requires_grad_()
    shown = pool.exchange(fake * 1)
    assert not shown.requires_grad
    with torch.no_grad():
        fake.add_(5)
    assert pool.images[0].mean().item() == 1.0


def test_a_pool_belongs_to_the_state_dict() -> None:
    pool, other = ReplayPool(4), ReplayPool(4)
    assert pool.state_dict()["_extra_state"].shape == (0,)
    other.load_state_dict(pool.state_dict())
    assert other.images == []
    pool.exchange(torch.rand(4, 3, 2, 2))
    other.load_state_dict(pool.state_dict())
    for source in (pool, other):
        torch.manual_seed(3)
        source.shown = source.exchange(torch.arange(6.0).view(6, 1, 1, 1).expand(6, 3, 2, 2))
    assert torch.equal(pool.shown, other.shown)

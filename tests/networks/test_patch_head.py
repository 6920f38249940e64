"""Patch sampling and projection."""

import pytest
import torch

from tests.networks.counting import count_parameters
from wsistain.networks.patch_head import (
    PatchHead,
    attended_positions,
    gather_positions,
    uniform_positions,
    unit_length,
)
from wsistain.networks.resnet import CUT_TAPS, ResnetGenerator


def maps(b=2):
    torch.manual_seed(0)
    return [torch.rand(b, 3, 8, 8), torch.rand(b, 5, 4, 4)]


def test_parameter_count_of_the_five_taps_equals_the_published_one():
    with torch.device("meta"):
        assert count_parameters(PatchHead(ResnetGenerator().tap_channels(CUT_TAPS))) == 560_384


def test_embeddings_have_length_one_and_keep_images_apart():
    features = maps()
    head = PatchHead((3, 5), 8)
    at = uniform_positions(features, 16)
    both = head(features, at)
    assert [tuple(z.shape) for z in both] == [(2, 16, 8), (2, 16, 8)]
    for k, z in enumerate(both):
        torch.testing.assert_close(z.norm(dim=-1), torch.ones(2, 16), atol=2e-3, rtol=0)
        torch.testing.assert_close(head([f[1:] for f in features], at)[k], z[1:])


def test_positions_are_distinct_and_all_of_them_where_the_map_is_small():
    at = uniform_positions(maps(), 20)
    assert [len(set(p.tolist())) for p in at] == [20, 16]
    attended = attended_positions(maps(), 20)
    assert [tuple(p.shape) for p in attended] == [(2, 20), (2, 16)]
    assert all(len(set(row.tolist())) == len(row) for p in attended for row in p)


def test_attention_draws_where_features_are_strong_in_each_image():
    torch.manual_seed(0)
    strong = torch.full((2, 4, 10, 10), 1e-3)
    strong[0, :, :, :2] = 1.0
    strong[1, :, :, 8:] = 1.0
    (at,) = attended_positions([strong], 10)
    assert (at[0] % 10 < 2).float().mean() >= 0.9
    assert (at[1] % 10 >= 8).float().mean() >= 0.9


def test_attention_on_a_blank_map_still_draws():
    (at,) = attended_positions([torch.zeros(1, 2, 3, 3)], 9)
    assert sorted(at[0].tolist()) == list(range(9))


def test_gathering_for_each_image_takes_its_own_positions():
    f = torch.arange(2 * 1 * 2 * 3).float().view(2, 1, 2, 3)
    own = gather_positions(f, torch.tensor([[0, 5], [1, 2]]))
    assert own.flatten().tolist() == [0, 5, 7, 8]
    assert gather_positions(f, torch.tensor([4])).flatten().tolist() == [4, 10]


def test_the_two_ways_to_unit_length_differ_by_less_than_1e_5():
    z = torch.randn(50, 16)
    assert 0 < (unit_length(z) - unit_length(z, eps_inside=True)).abs().max() < 1e-5


def test_a_wrong_number_of_maps_is_refused():
    with pytest.raises(ValueError, match="wanted 2 of each"):
        PatchHead((3, 5))(maps()[:1], uniform_positions(maps(), 4)[:1])

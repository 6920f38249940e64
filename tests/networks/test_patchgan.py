"""PatchGAN: authors' numbers, sizes, time conditioning."""

import numpy as np
import pytest
import torch

from tests.networks.counting import count_parameters
from tests.networks.test_resnet import authors_state
from wsistain.losses.adversarial import lsgan_g
from wsistain.networks.patchgan import PatchDiscriminator


def test_parameter_counts_equal_the_published_ones():
    with torch.device("meta"):
        assert count_parameters(PatchDiscriminator(5, 32, spectral=True)) == 2_791_905
        assert count_parameters(PatchDiscriminator(3, 64)) == 2_764_737
        assert count_parameters(PatchDiscriminator(3, 64, blur=False)) == 2_764_737
        with_time = count_parameters(PatchDiscriminator(5, 32, time="bias"))
    assert 0 < with_time - 2_791_905 < 1_000_000


def test_logits_equal_the_authors_own(vectors):
    file, state = authors_state(vectors / "cut_nlayer5_discriminator.npz")
    D = PatchDiscriminator(5, 4, spectral=True).eval()
    D.load_state_dict({k: v for k, v in state.items() if not k.endswith("filt")})
    y = D(torch.from_numpy(file["x_u8"].astype(np.float32)) / 127.5 - 1)
    torch.testing.assert_close(y, torch.from_numpy(file["y"]), atol=1e-4, rtol=0)
    torch.testing.assert_close(lsgan_g(y), torch.tensor(file["lsgan_real"]), atol=1e-4, rtol=0)
    torch.testing.assert_close(y.square().mean(), torch.tensor(file["lsgan_fake"]), atol=1e-4, rtol=0)


SIZES = [(5, True, 512, 14), (5, True, 192, 4), (3, True, 256, 30), (3, False, 256, 30)]


@pytest.mark.parametrize(("n_layers", "blur", "side", "grid"), SIZES)
def test_grid_of_logits_has_the_published_size(n_layers, blur, side, grid):
    with torch.device("meta"):
        assert PatchDiscriminator(n_layers, 4, blur=blur)(torch.empty(1, 3, side, side)).shape == (1, 1, grid, grid)


@pytest.mark.parametrize("time", ["bias", "channel"])
def test_logits_depend_on_the_noise_level_of_each_image(time):
    torch.manual_seed(0)
    D = PatchDiscriminator(2, 4, time=time, time_width=16, time_max=8)
    for p in D.parameters():
        p.data.normal_(0, 0.3)
    x = torch.rand(1, 3, 32, 32).expand(2, -1, -1, -1)
    same, other = D(x, torch.tensor([1, 1])), D(x, torch.tensor([1, 7]))
    torch.testing.assert_close(same[0], same[1])
    assert (other[0] - other[1]).abs().max() > 1e-3


def test_a_missing_noise_level_is_refused():
    with pytest.raises(ValueError, match="t is missing"):
        PatchDiscriminator(2, 4, time="bias")(torch.rand(1, 3, 32, 32))

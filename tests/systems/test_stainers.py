"""The systems that only stain: their way from H&E to IHC against the authors', written out on diffusers' schedulers."""

import math

import pytest
import torch
import torch.nn.functional as F

from tests.networks.stainer_folders import picture, write_phikon
from wsistain.diffusion.samplers import position_noise
from wsistain.errors import ConfigError, WeightsError
from wsistain.systems import STAINING_ONLY, dvst, find_stainer, find_system, histdist, unistainnet

diffusers = pytest.importorskip("diffusers", reason="the extra 'train' is not installed")

FEW = {"up": 3, "down": 3, "stride": 64}


@pytest.fixture(autouse=True, scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_phikon(folder / "phikon")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WSISTAIN_MODELS", str(folder))
        yield folder


@pytest.fixture(scope="module")
def hist():
    torch.manual_seed(0)
    network = histdist.generator_network({"size": "tiny", "window": 64, "sampling": FEW}).eval()
    network.prompt.normal_()
    return network


def noise(stream, channels=4, side=8):
    return position_noise([(0, 0)], side, side, seed=0, stream=stream, channels=channels)


@torch.no_grad()
def authors_histdist(network, he, n=3):
    """Inversion and translation as in the authors' inference script, noise apart."""
    kind = {"prediction_type": "v_prediction", "timestep_spacing": "trailing", "rescale_betas_zero_snr": True}
    levels = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "set_alpha_to_one": False}
    posterior = network.vae.encode(he).latent_dist
    y = 0.18215 * (posterior.mean + posterior.std * noise(0))

    inverse = diffusers.DDIMInverseScheduler(**kind, **levels)
    inverse.set_timesteps(n)
    for t in inverse.timesteps:
        seen = torch.cat([y, torch.zeros_like(y)], 1)
        v = network.unet(seen, t, encoder_hidden_states=network.prompt).sample
        earlier = min(int(t) - 1000 // n, 999)
        low = inverse.alphas_cumprod[earlier] if earlier >= 0 else inverse.initial_alpha_cumprod
        clean, eps = low.sqrt() * y - (1 - low).sqrt() * v, low.sqrt() * v + (1 - low).sqrt() * y
        high = inverse.alphas_cumprod[t]
        y = high.sqrt() * clean + (1 - high).sqrt() * eps
    y = (y - y.mean((2, 3), keepdim=True)) / y.std((2, 3), keepdim=True)

    light = F.interpolate((he + 1) / 2, size=32, mode="bilinear", antialias=True)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    tokens = network.phikon((light - mean[:, None, None]) / std[:, None, None]).last_hidden_state
    down = diffusers.DDIMScheduler(clip_sample=False, **kind, **levels)
    down.set_timesteps(n)
    for k, t in enumerate(down.timesteps):
        v = network.unet(torch.cat([y, posterior.mean], 1), t, encoder_hidden_states=tokens).sample
        eta = max(min(0.6 - 0.4 * math.cos(math.pi * k / (n - 1)), 1), 0)
        y = down.step(v, t, y, eta=eta, variance_noise=noise(1 + k)).prev_sample
    return network.vae.decode(y / 0.18215).sample.clamp(-1, 1)


def test_histdist_stains_as_its_authors_do(hist):
    he = picture()
    torch.testing.assert_close(hist(he), authors_histdist(hist, he), atol=2e-3, rtol=0)


def test_histdists_levels_are_diffusers_and_trail():
    levels = histdist.alphas(histdist.Options())
    theirs = diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", rescale_betas_zero_snr=True
    )
    torch.testing.assert_close(levels.float(), theirs.alphas_cumprod, atol=1e-5, rtol=0)
    assert levels[-1] == 0
    assert histdist.trailing(1000, 100)[:2] + histdist.trailing(1000, 100)[-1:] == [9, 19, 999]


@pytest.fixture(scope="module")
def tone():
    torch.manual_seed(1)
    options = {"size": "tiny", "window": 64, "sampling": {"n_steps": 4, "stride": 64}}
    network = dvst.generator_network(options).eval()
    network.tone.normal_()
    return network


@torch.no_grad()
def authors_dvst(network, he):
    """One view: noise to latent under both guidances, as in the authors' pipeline."""
    pose, y = (he + 1) / 2, noise(0)
    scheduler = diffusers.DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver++", beta_start=0.0001, beta_end=0.02, beta_schedule="linear", solver_order=2
    )
    with pytest.warns(DeprecationWarning):
        scheduler.set_timesteps(4)
    none = torch.zeros_like(network.tone)
    for t in scheduler.timesteps:
        made = []
        for seen, context in ((torch.zeros_like(pose), none), (pose, none), (pose, network.tone)):
            joined = torch.cat([y, network.hint(seen)], 1)
            out = network.transformer(joined, encoder_hidden_states=context, timestep=t[None]).sample
            made.append(out[:, :4])
        guided = made[0] + 1.5 * (made[1] - made[0]) + 1.5 * (made[2] - made[1])
        y = scheduler.step(guided, t, y).prev_sample
    return network.vae.decode(y / 0.18215).sample.clamp(-1, 1)


def test_dvst_stains_as_its_authors_do(tone):
    he = picture()
    torch.testing.assert_close(tone(he), authors_dvst(tone, he), atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", ["hist", "tone"])
def test_diffusion_stainers_depend_on_place_seed_and_no_other_picture(name, request):
    network, he = request.getfixturevalue(name), picture(72)
    alone = network(he, [(8, 16)])
    beside = network(torch.cat([picture(72, 5), he]), [(0, 0), (8, 16)])[1:]
    torch.testing.assert_close(alone, beside, atol=1e-5, rtol=0)
    assert alone.shape == he.shape
    assert not torch.allclose(alone, network(he, [(640, 0)]))
    assert network(picture(40)).shape == (1, 3, 40, 40)  # smaller than a window


def test_unistainnet_stains_all_markers_of_a_pass_and_refuses_others(monkeypatch):
    torch.manual_seed(2)
    options = {"labels": {"ER": 2, "PR": 3}, "window": 64, "width": 8, "class_dim": 4, "uni": "tiny"}
    network = unistainnet.generator_network(options).eval()
    asked = []
    monkeypatch.setattr(network.uni, "grid", lambda he, n: asked.append(n) or torch.zeros(len(he), n, n, 1024))
    he = picture(72)
    with torch.no_grad():
        er, pr = network.stain(he, ["ER", "PR"])
        assert er.shape == he.shape and not torch.equal(er, pr) and asked == [4] * 4
        torch.testing.assert_close(network(he), er)
    with pytest.raises(WeightsError, match="stain ER, PR, not HER2"):
        network.stain(he, ["HER2"])


def test_systems_that_only_stain_are_found_to_stain_and_refused_to_train():
    for name in STAINING_ONLY:
        assert callable(find_stainer(name).generator_network)
        with pytest.raises(ConfigError, match=f"{name} is not trained here"):
            find_system(name)


@pytest.mark.parametrize(
    ("module", "options", "sampling", "words"),
    [
        (histdist, {"chain": 50}, {"up": 80}, "more steps than the chain's 50"),
        (histdist, {}, {"upp": 3}, "did you mean"),
        (dvst, {"window": 64}, {"n_steps": 3}, "leaves gaps"),
    ],
)
def test_sampling_that_cannot_be_is_refused(module, options, sampling, words):
    with pytest.raises(ConfigError, match=words):
        module.check_sampling(options, sampling)


def test_the_published_size_of_dvst_has_pixarts_names():
    with torch.device("meta"):
        state = diffusers.PixArtTransformer2DModel(**dvst.SIZES["published"][1]).state_dict()
        hint = dvst.HeHint().state_dict()
    assert tuple(state["pos_embed.proj.weight"].shape) == (1152, 8, 2, 2)
    assert tuple(state["transformer_blocks.27.attn2.to_k.weight"].shape) == (1152, 1024)
    assert "caption_projection.linear_1.weight" not in state
    assert tuple(hint["spatial_conv_layers.3.2.weight"].shape) == (128, 64, 3, 3)


def test_without_phikon_histdist_says_what_to_fetch(monkeypatch, tmp_path):
    monkeypatch.setenv("WSISTAIN_MODELS", str(tmp_path))
    monkeypatch.setenv("WSISTAIN_HOME", str(tmp_path))
    with pytest.raises(WeightsError, match="hf download owkin/phikon"):
        histdist.generator_network({"size": "tiny"})

"""The SD-Turbo translator: numbers of the real configuration, parity with diffusers, adapters, saving and loading."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from wsistain.errors import WeightsError
from wsistain.networks.sd_turbo import PUBLISHED_UNET, PUBLISHED_VAE, build_parts, embed_prompt, load_base
from wsistain.networks.turbo import (
    ALPHA_BAR_LAST,
    UNET_TARGETS,
    OneStepTranslator,
    SkipVae,
    Training,
    adapt_unet,
    adapt_vae,
    alpha_bars,
    clean_latent,
    merge_adapters,
    recompute_activations,
    unet_adapter_targets,
)

pytest.importorskip("diffusers", reason="the extra 'train' is not installed")
pytest.importorskip("peft", reason="the extra 'train' is not installed")


def count(module: nn.Module, word: str = "") -> int:
    return sum(p.numel() for name, p in module.named_parameters() if word in name)


def adapted(module: nn.Module) -> int:
    return sum(hasattr(layer, "lora_A") for layer in module.modules())


def tiny_translator(*, whole: bool = True, training: Training | None = None) -> OneStepTranslator:
    torch.manual_seed(0)
    training = training or Training(rank_unet=4, rank_vae=2)
    unet, autoencoder = load_base("tiny")
    vae = SkipVae(autoencoder)
    adapt_unet(unet, training)
    adapt_vae(vae, training)
    return OneStepTranslator(unet, vae, embed_prompt("tiny", "a text"), whole=whole)


def shake_adapters(module: nn.Module) -> None:
    """Second factors start at 0; give them values, so that adapters do something."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "lora_B" in name or "skip_conv" in name:
                parameter.add_(0.05 * torch.randn_like(parameter))


def picture(n: int = 1, px: int = 64) -> Tensor:
    return torch.rand(n, 3, px, px, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize(("rank", "wanted"), [(8, (2_507_552, 4_827_136, 776_736)), (128, None)])
def test_adapters_of_the_real_unet_have_the_published_counts(rank: int, wanted: tuple[int, ...] | None) -> None:
    with torch.device("meta"):
        unet, _ = build_parts(PUBLISHED_VAE, PUBLISHED_UNET)
        assert count(unet) == 865_910_724
        groups = unet_adapter_targets(unet)
        assert [len(groups[g]) for g in ("down", "up", "rest")] == [94, 147, 17]
        adapt_unet(unet, Training(rank_unet=rank, rank_vae=4))
    found = tuple(count(unet, f".{g}.weight") for g in ("down", "up", "rest"))
    assert sum(found) == {8: 8_111_424, 128: 129_782_784}[rank]
    if wanted is not None:
        assert found == wanted
    trained = {n for n, p in unet.named_parameters() if p.requires_grad and "lora" not in n}
    assert trained == {"conv_in.base_layer.weight", "conv_in.base_layer.bias"}
    assert sum(p.numel() for n, p in unet.named_parameters() if n in trained) == 11_840


def test_adapters_of_the_real_vae_have_the_published_counts() -> None:
    with torch.device("meta"):
        _, autoencoder = build_parts(PUBLISHED_VAE, PUBLISHED_UNET)
        assert count(autoencoder) == 83_653_863
        vae = SkipVae(autoencoder)
        shapes = [tuple(vae.get_submodule(f"skip_conv_{k}").weight.shape[:2]) for k in (1, 2, 3, 4)]
        adapt_vae(vae, Training(rank_unet=8, rank_vae=4))
    assert shapes == [(512, 512), (512, 256), (512, 128), (256, 128)]
    assert (adapted(vae.encoder), adapted(vae.decoder), adapted(vae)) == (
        31,
        39,
        70 + 4,
    )  # 70 and the skip convolutions
    assert count(vae, "lora_") == 893_224
    skips = [p for n, p in vae.named_parameters() if "skip_conv" in n and "lora" not in n]
    assert sum(p.numel() for p in skips) == 491_520
    assert all(p.requires_grad for p in skips)


def test_pix2pix_turbo_leaves_the_first_convolution_without_an_adapter() -> None:
    with torch.device("meta"):
        unet, _ = build_parts(PUBLISHED_VAE, PUBLISHED_UNET)
        adapt_unet(unet, Training(rank_unet=8, rank_vae=4, adapt_conv_in=False))
    assert adapted(unet) == 94 + 147 + 17 - 1
    assert unet.get_parameter("conv_in.weight").requires_grad


def test_every_adapter_is_switched_on() -> None:
    from peft.tuners.tuners_utils import BaseTunerLayer

    for layer in tiny_translator().modules():
        if isinstance(layer, BaseTunerLayer):
            assert list(layer.lora_A) == layer.active_adapters


def test_one_step_equals_the_schedulers_own(vectors: Path) -> None:
    v = np.load(vectors / "turbo_one_step.npz")
    np.testing.assert_allclose(alpha_bars().numpy(), v["alphas_cumprod"], rtol=1e-6)
    assert pytest.approx(float(v["alpha_bar_999"]), rel=1e-6) == ALPHA_BAR_LAST
    found = clean_latent(torch.from_numpy(v["latent"]), torch.from_numpy(v["eps"]))
    np.testing.assert_allclose(found.numpy(), v["prev_sample"], rtol=1e-5, atol=1e-5)


def test_clean_latent_undoes_the_forward_noising() -> None:
    clean, noise = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noisy = ALPHA_BAR_LAST**0.5 * clean + (1 - ALPHA_BAR_LAST) ** 0.5 * noise
    torch.testing.assert_close(clean_latent(noisy, noise), clean)


def test_vae_with_skips_gives_the_authors_numbers(vectors: Path) -> None:
    from diffusers import AutoencoderKL

    v = np.load(vectors / "turbo_vae_skip.npz")
    vae = SkipVae(
        AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * 4,
            up_block_types=["UpDecoderBlock2D"] * 4,
            block_out_channels=[8, 16, 24, 24],
            layers_per_block=2,
            norm_num_groups=4,
        )
    )
    state = {k[3:].replace("decoder.skip_conv", "skip_conv"): torch.from_numpy(v[k]) for k in v if k.startswith("sd/")}
    vae.load_state_dict(state)
    with torch.no_grad():
        code = vae.encode(torch.from_numpy(v["img"]))
        np.testing.assert_allclose(code.mean.numpy(), v["latent_mean"], rtol=1e-5, atol=1e-5)
        for k, skip in enumerate(code.skips):
            np.testing.assert_allclose(skip.numpy(), v[f"skip{k}"], rtol=1e-5, atol=1e-5)
        for gain, name in ((1.0, "decoded"), (0.5, "decoded_gamma05")):
            vae.gain = gain
            np.testing.assert_allclose(vae.decode(code.mean, code.skips).numpy(), v[name], rtol=1e-4, atol=2e-5)
        np.testing.assert_allclose(vae.decode(code.mean, ()).numpy(), v["decoded_noskip"], rtol=1e-4, atol=2e-5)


def test_without_skips_it_is_diffusers_own_vae() -> None:
    _, autoencoder = load_base("tiny")
    vae, image = SkipVae(autoencoder), picture()
    with torch.no_grad():
        code, posterior = vae.encode(image), autoencoder.encode(image).latent_dist
        torch.testing.assert_close(code.mean, posterior.mean)
        torch.testing.assert_close(code.std, posterior.std)
        torch.testing.assert_close(vae.decode(code.mean, ()), autoencoder.decode(code.mean).sample)


def test_new_adapters_change_nothing_and_new_skips_next_to_nothing() -> None:
    torch.manual_seed(3)
    unet, autoencoder = load_base("tiny")
    plain = OneStepTranslator(
        copy.deepcopy(unet), SkipVae(copy.deepcopy(autoencoder), gain=0.0), embed_prompt("tiny", "x")
    )
    vae = SkipVae(autoencoder)
    adapt_unet(unet, Training(rank_unet=4, rank_vae=2))
    adapt_vae(vae, Training(rank_unet=4, rank_vae=2))
    with torch.no_grad():
        difference = OneStepTranslator(unet, vae, plain.prompt)(picture()) - plain(picture())
    assert 0 < difference.abs().max() < 1e-2


def test_merging_keeps_the_output_and_removes_every_adapter() -> None:
    translator = tiny_translator()
    shake_adapters(translator)
    with torch.no_grad():
        before = translator(picture())
        merge_adapters(translator)
        after = translator(picture())
    torch.testing.assert_close(after, before, atol=1e-4, rtol=0)
    assert adapted(translator) == 0
    assert count(translator, "lora_") == 0


@pytest.mark.parametrize("whole", [True, False])
def test_what_was_trained_comes_back(whole: bool) -> None:
    translator = tiny_translator(whole=whole)
    base = copy.deepcopy(translator)
    shake_adapters(translator)
    with torch.no_grad():
        translator.prompt.add_(1.0)
        before = translator(picture())
    state = {n: t.clone() for n, t in translator.trained_state().items()}
    assert whole == ("unet.conv_out.base_layer.weight" in state)
    assert {"prompt", "unet.conv_in.base_layer.weight", "vae.skip_conv_1.base_layer.weight"} <= set(state)
    fresh = tiny_translator(whole=True) if whole else base
    with torch.no_grad():
        for parameter in fresh.parameters() if whole else ():
            parameter.add_(1.0)  # a base that is stored whole need not be the same
        fresh.load_trained(state, "here")
        torch.testing.assert_close(fresh(picture()), before, atol=1e-4, rtol=0)
    assert not any(p.requires_grad for p in fresh.parameters())


def test_tensors_that_do_not_fit_are_named_and_nothing_is_changed() -> None:
    translator = tiny_translator()
    before = {n: t.clone() for n, t in translator.state_dict().items()}
    good = {n: t + 1 for n, t in translator.trained_state().items()}
    bad = {
        "missing prompt": {n: t for n, t in good.items() if n != "prompt"},
        "surplus other": good | {"other": torch.zeros(1)},
        r"shapes differ: prompt is \(1, 1, 1\), wanted \(1, 7, 16\)": good | {"prompt": torch.zeros(1, 1, 1)},
    }
    for message, tensors in bad.items():
        with pytest.raises(WeightsError, match=f"w.safetensors does not fit the network: {message}"):
            translator.load_trained(tensors, "w.safetensors")
    for name, tensor in translator.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_staining_is_deterministic_and_sampling_is_not() -> None:
    translator, image = tiny_translator(), picture()
    with torch.no_grad():
        assert torch.equal(translator(image), translator(image))
        torch.manual_seed(5)
        first = translator(image, sample=True)
        assert not torch.equal(first, translator(image, sample=True))
        torch.manual_seed(5)
        assert torch.equal(first, translator(image, sample=True))


def test_pictures_of_a_batch_do_not_see_each_other() -> None:
    translator, images = tiny_translator(), picture(3)
    with torch.no_grad():
        together = translator(images)
        torch.testing.assert_close(together, torch.cat([translator(i[None]) for i in images]), atol=1e-4, rtol=0)


def test_other_sizes_pass_when_they_are_multiples_of_64() -> None:
    translator = tiny_translator()
    with torch.no_grad():
        assert translator(torch.zeros(1, 3, 64, 128)).shape == (1, 3, 64, 128)
    with pytest.raises(ValueError, match="multiples of 64"):
        translator(torch.zeros(1, 3, 64, 72))


def test_sources_in_zero_to_one_are_shifted_before_the_vae() -> None:
    translator, image = tiny_translator(), picture()
    with torch.no_grad():
        plain = translator((image + 1) / 2)
        translator.input_range = "01"
        assert torch.equal(translator(image), plain)


def test_recomputed_activations_give_the_same_gradients() -> None:
    gradients = []
    for recompute in (False, True):
        translator = tiny_translator().train()
        shake_adapters(translator)
        if recompute:
            recompute_activations(translator.unet, [translator.vae])
        translator(picture()).square().mean().backward()
        gradients.append({n: p.grad for n, p in translator.named_parameters() if p.requires_grad})
    assert len(gradients[0]) > 100
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_only_what_is_asked_for_takes_gradients() -> None:
    adapters_only = tiny_translator(training=Training(rank_unet=4, rank_vae=2, conv_in=False, skips=False))
    assert all("lora_" in n for n, p in adapters_only.named_parameters() if p.requires_grad)
    everything = tiny_translator(training=Training(rank_unet=4, rank_vae=2, base=True))
    assert all(p.requires_grad for p in everything.parameters())


def test_targets_hold_no_layer_twice() -> None:
    unet, _ = load_base("tiny")
    groups = unet_adapter_targets(unet, UNET_TARGETS)
    names = [n for g in groups.values() for n in g]
    assert len(names) == len(set(names))
    assert "conv_in" in groups["down"] and "conv_out" in groups["rest"]

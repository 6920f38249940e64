"""SD-Turbo as a one-step image translator, after Parmar et al. 2024 ("One-step image translation with text-to-image
models", arXiv:2403.12036).

A picture is encoded by the VAE; its latent, without added noise, goes once through the U-Net at the last time step;
the prediction of the clean latent is decoded. The inputs of the encoder's four blocks are added before the decoder's
blocks through 1x1 convolutions, so that fine structure survives the eight-fold reduction. Low-rank adapters (peft)
train; the pretrained weights rest.

Nothing of diffusers is replaced at run time: `SkipVae` takes the blocks of an `AutoencoderKL` as parts and says in
its own forward passes what happens. Sizes follow from the parts; no width is written here.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from wsistain.networks.facts import NetworkFacts
from wsistain.published.tensors import check_fit

LAST_STEP = 999
SIZE_MULTIPLE = 64  # eight-fold reduction in the VAE times eight-fold in the U-Net
TURBO_FACTS = NetworkFacts("tile", size_multiple=SIZE_MULTIPLE)
"""Group norm and attention: statistics of the tile that cannot be frozen."""

UNET_TARGETS = (
    *("to_q", "to_k", "to_v", "to_out.0", "conv", "conv1", "conv2", "conv_in", "conv_shortcut", "conv_out"),
    *("proj_in", "proj_out", "ff.net.2", "ff.net.0.proj"),
)
VAE_TARGETS = (
    *("conv1", "conv2", "conv_in", "conv_shortcut", "conv", "conv_out", "to_q", "to_k", "to_v", "to_out.0"),
    *("skip_conv_1", "skip_conv_2", "skip_conv_3", "skip_conv_4"),
)
VAE_ALPHA = 8  # peft's default, which the published checkpoints were trained with: scale 2 at rank 4


def alpha_bars(steps: int = 1000, first: float = 0.00085, last: float = 0.012) -> Tensor:
    """Products of 1 - beta up to each of `steps` times, (steps,): Stable Diffusion's "scaled linear" betas.

    In float32, as the base model's own schedule: the last one differs from float64's by 7e-7 of its value.
    """
    betas = torch.linspace(first**0.5, last**0.5, steps, dtype=torch.float32).square()
    return (1 - betas).cumprod(0)


ALPHA_BAR_LAST = float(alpha_bars()[LAST_STEP])  # 0.00466009...


def clean_latent(noisy: Tensor, noise: Tensor, alpha_bar: float = ALPHA_BAR_LAST) -> Tensor:
    """The latent without noise that the predicted `noise` implies: (z - sqrt(1 - a) e) / sqrt(a), same shape.

    Equal to one DDPM update from the last step. The division multiplies errors by 14.6: give it float32.
    """
    signal, rest = math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
    return (noisy - rest * noise) / signal


@dataclass(frozen=True)
class Code:
    """What the encoder says of a picture.

    mean, std : posterior of the latent, float (b, 4, h/8, w/8), not scaled.
    skips     : inputs of the encoder's blocks, finest first.
    """

    mean: Tensor
    std: Tensor
    skips: tuple[Tensor, ...]

    def latent(self, sample: bool) -> Tensor:
        """One draw from the posterior (global random generator), or its mean."""
        return self.mean + self.std * torch.randn_like(self.mean) if sample else self.mean


Run = Callable[[nn.Module, Tensor], Any]
"""How a block is applied: plainly, or with its activations recomputed in the backward pass."""


def _plain(block: nn.Module, h: Tensor) -> Any:
    return block(h)


def _recomputed(block: nn.Module, h: Tensor) -> Any:
    return checkpoint(block, h, use_reentrant=False) if torch.is_grad_enabled() else block(h)


def run_down_blocks(encoder: Any, image: Tensor, run: Run = _plain) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Output of a VAE encoder's last down block, float (b, c, h/8, w/8), and the inputs of all of them, finest first.

    image : float (b, 3, h, w) in [-1, 1]; h and w multiples of 8.
    """
    h = encoder.conv_in(image)
    inputs = []
    for block in encoder.down_blocks:
        inputs.append(h)
        h = run(block, h)
    return h, tuple(inputs)


def encode_image(encoder: Any, quant_conv: nn.Module, image: Tensor, run: Run = _plain) -> Code:
    """The code that a VAE's `encoder` and `quant_conv` give `image`, float (b, 3, h, w) in [-1, 1]."""
    h, skips = run_down_blocks(encoder, image, run)
    h = encoder.mid_block(h)
    h = encoder.conv_out(F.silu(encoder.conv_norm_out(h)))
    mean, logvar = quant_conv(h).float().chunk(2, dim=1)
    return Code(mean, (0.5 * logvar.clamp(-30.0, 20.0)).exp(), skips)


class SkipVae(nn.Module):
    """A VAE whose decoder also sees what its encoder's blocks saw.

    vae  : a diffusers `AutoencoderKL`; its encoder, decoder and the two convolutions between them become parts.
    gain : factor on the skips before their convolutions.

    `scaling` is the factor between this VAE's latents and the U-Net's; `checkpointing` recomputes activations in the
    backward pass.

    Parameters keep the names of diffusers; the four 1x1 convolutions are `skip_conv_1..4`, the first fed by the
    deepest skip. They start at the constant 1e-5, so the untouched VAE is the starting point.
    """

    encoder: Any
    decoder: Any

    def __init__(self, vae: Any, gain: float = 1.0) -> None:
        super().__init__()
        self.encoder, self.decoder = vae.encoder, vae.decoder
        self.quant_conv, self.post_quant_conv = vae.quant_conv, vae.post_quant_conv
        self.scaling = float(vae.config.scaling_factor)
        self.gain = gain
        self.checkpointing = False
        given = [block.resnets[0].in_channels for block in reversed(self.encoder.down_blocks)]
        wanted = [block.resnets[0].in_channels for block in self.decoder.up_blocks]
        for k, (c_in, c_out) in enumerate(zip(given, wanted, strict=True), start=1):
            conv = nn.Conv2d(c_in, c_out, 1, bias=False)
            nn.init.constant_(conv.weight, 1e-5)
            self.add_module(f"skip_conv_{k}", conv)

    def encode(self, image: Tensor) -> Code:
        """The code of `image`, float (b, 3, h, w) in [-1, 1]; h and w multiples of 8."""
        return encode_image(self.encoder, self.quant_conv, image, _recomputed if self.checkpointing else _plain)

    def decode(self, latent: Tensor, skips: Sequence[Tensor]) -> Tensor:
        """The picture of `latent` (not scaled), float (b, 3, h, w), not clamped; no skips: the plain VAE.

        The last convolution runs outside autocast: bfloat16 would round the picture by up to half a grey level.
        """
        h = self.decoder.conv_in(self.post_quant_conv(latent))
        h = self.decoder.mid_block(h)
        deepest_first = tuple(reversed(skips))
        run = _recomputed if self.checkpointing else _plain
        for k, block in enumerate(self.decoder.up_blocks):
            if deepest_first:
                h = h + self.get_submodule(f"skip_conv_{k + 1}")(deepest_first[k] * self.gain)
            h = run(block, h)
        h = F.silu(self.decoder.conv_norm_out(h))
        with torch.autocast(h.device.type, enabled=False):
            image: Tensor = self.decoder.conv_out(h.float())
        return image


class OneStepTranslator(nn.Module):
    """One direction of translation: VAE with skips, U-Net and the embedding of the text that names the target.

    unet        : diffusers `UNet2DConditionModel`; directions may share it.
    prompt      : float (1, n, c), embedding of the text.
    input_range : "pm1" as the images come, "01" for checkpoints trained on sources in [0, 1].
    whole       : `trained_state` holds every tensor: the base lies nowhere else.

    `forward` maps float (b, 3, h, w) in [-1, 1] to the same; h and w multiples of 64. Deterministic unless asked
    to sample.
    """

    prompt: Tensor
    step: Tensor

    def __init__(
        self,
        unet: nn.Module,
        vae: SkipVae,
        prompt: Tensor,
        input_range: Literal["pm1", "01"] = "pm1",
        whole: bool = False,
    ) -> None:
        super().__init__()
        self.unet, self.vae = unet, vae
        self.input_range, self.whole = input_range, whole
        self.register_buffer("prompt", prompt)
        self.register_buffer("step", torch.tensor(LAST_STEP), persistent=False)

    @property
    def facts(self) -> NetworkFacts:
        """Those of every such translator."""
        return TURBO_FACTS

    def forward(self, image: Tensor, sample: bool = False) -> Tensor:
        """The translated image; `sample` draws the latent from its posterior instead of taking the mean."""
        if image.shape[-2] % SIZE_MULTIPLE or image.shape[-1] % SIZE_MULTIPLE:
            raise ValueError(f"images of {tuple(image.shape[-2:])} px; wanted multiples of {SIZE_MULTIPLE}")
        code = self.vae.encode((image + 1) / 2 if self.input_range == "01" else image)
        noisy = code.latent(sample) * self.vae.scaling
        text = self.prompt.expand(len(image), -1, -1).to(image.dtype)
        noise = self.unet(noisy.to(image.dtype), self.step, encoder_hidden_states=text).sample
        clean = clean_latent(noisy, noise.float())
        return self.vae.decode((clean / self.vae.scaling).to(image.dtype), code.skips).clamp(-1, 1)

    def trained_state(self) -> dict[str, Tensor]:
        """The tensors that make this translator differ from its base, and the prompt's embedding, by name."""
        parameters = self.named_parameters()
        return {"prompt": self.prompt} | {n: p.detach() for n, p in parameters if self.whole or p.requires_grad}

    def load_trained(self, tensors: Mapping[str, Tensor], where: str) -> None:
        """Take over what `trained_state` gave, every name and shape matched, and merge the adapters for good.

        Raises WeightsError naming `where` and what differs; nothing is changed then.
        """
        wanted = self.trained_state()
        check_fit(wanted, tensors, where)
        with torch.no_grad():
            for name, tensor in wanted.items():
                tensor.copy_(tensors[name])
        self.requires_grad_(False)
        merge_adapters(self)


def adapter_targets(module: nn.Module, suffixes: Sequence[str]) -> list[str]:
    """Names of the linear and convolutional layers of `module` that end in one of `suffixes`, in its order."""
    return [
        name
        for name, layer in module.named_modules()
        if isinstance(layer, (nn.Linear, nn.Conv2d)) and any(name == s or name.endswith(f".{s}") for s in suffixes)
    ]


def unet_adapter_targets(unet: nn.Module, suffixes: Sequence[str] = UNET_TARGETS) -> dict[str, list[str]]:
    """The U-Net's adapted layers in three groups: `down` (with conv_in), `up`, `rest` (the middle and conv_out)."""
    groups: dict[str, list[str]] = {"down": [], "up": [], "rest": []}
    for name in adapter_targets(unet, suffixes):
        if name == "conv_in" or name.startswith("down_blocks."):
            groups["down"].append(name)
        else:
            groups["up" if name.startswith("up_blocks.") else "rest"].append(name)
    return groups


def add_adapters(module: nn.Module, targets: Mapping[str, Sequence[str]], rank: int, alpha: int) -> None:
    """Put a low-rank adapter on every layer in `targets` (adapter name to layer names) and switch all of them on.

    First factors are Gaussian (standard deviation 1 / rank), second ones zero: the output is unchanged at first.
    """
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.tuners_utils import BaseTunerLayer

    for adapter, names in targets.items():
        config = LoraConfig(r=rank, lora_alpha=alpha, init_lora_weights="gaussian", target_modules=list(names))
        with warnings.catch_warnings():  # several adapters on one module are meant
            warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")
            inject_adapter_in_model(config, module, adapter)
    for name, layer in module.named_modules():
        if isinstance(layer, BaseTunerLayer):
            layer.set_adapter([adapter for adapter, names in targets.items() if name in names])


def merge_adapters(module: nn.Module) -> None:
    """Add every adapter into the weights below it and remove it; the output stays, up to rounding."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapted = [(name, layer) for name, layer in module.named_modules() if isinstance(layer, BaseTunerLayer)]
    for name, layer in adapted:
        layer.merge()
        parent, _, child = name.rpartition(".")
        setattr(module.get_submodule(parent), child, layer.get_base_layer())


@dataclass(frozen=True)
class Training:
    """What trains in a translator.

    rank_unet, rank_vae : ranks of the adapters (the U-Net's alpha equals its rank; the VAE's is 8).
    adapt_conv_in       : the U-Net's first convolution carries an adapter too (CycleGAN-Turbo; not Pix2Pix-Turbo).
    conv_in, skips      : the U-Net's first convolution, the skip convolutions train in full.
    base                : everything else trains in full as well (bases that were never trained).
    """

    rank_unet: int
    rank_vae: int
    adapt_conv_in: bool = True
    conv_in: bool = True
    skips: bool = True
    base: bool = False


def adapt_unet(unet: nn.Module, training: Training) -> None:
    """Freeze the U-Net and add its three adapters; what `training` names takes gradients."""
    unet.requires_grad_(False)
    suffixes = [s for s in UNET_TARGETS if training.adapt_conv_in or s != "conv_in"]
    add_adapters(unet, unet_adapter_targets(unet, suffixes), training.rank_unet, training.rank_unet)
    _mark(unet, training.base, ("conv_in.",) if training.conv_in else ())


def adapt_vae(vae: SkipVae, training: Training) -> None:
    """Freeze the VAE and add its adapter `vae`; what `training` names takes gradients."""
    vae.requires_grad_(False)
    add_adapters(vae, {"vae": adapter_targets(vae, VAE_TARGETS)}, training.rank_vae, VAE_ALPHA)
    _mark(vae, training.base, ("skip_conv_",) if training.skips else ())


def _mark(module: nn.Module, everything: bool, prefixes: tuple[str, ...]) -> None:
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(everything or "lora_" in name or name.startswith(prefixes))


def recompute_activations(unet: Any, vaes: Iterable[SkipVae]) -> None:
    """From now on the backward pass computes activations again instead of keeping them: less memory, more time."""
    unet.enable_gradient_checkpointing()
    for vae in vaes:
        vae.checkpointing = True


def store_frozen(module: nn.Module, dtype: torch.dtype, keep: Sequence[nn.Module] = ()) -> None:
    """Keep the weights of linear and convolutional layers that do not train in `dtype`, all but those within `keep`.

    For a training whose autocast computes in `dtype`: the numbers stay, and the copies of frozen weights go that
    autocast makes at every use and that each pass keeps for its backward.
    """
    whole = {id(layer) for part in keep for layer in part.modules()}
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)) and id(layer) not in whole:
            for parameter in layer.parameters(recurse=False):
                if not parameter.requires_grad:
                    parameter.data = parameter.data.to(dtype)

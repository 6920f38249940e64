"""The critic of the turbo systems: small trained heads on a frozen CLIP image tower.

After Kumari et al. 2022 ("Ensembling off-the-shelf models for GAN training"), as used by img2img-turbo: pictures are
augmented differentiably (Zhao et al. 2020), seen by CLIP, and judged at three levels: two token maps and the
embedding of the whole.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from wsistain.networks.clip_tower import ClipImageTower


def augment(image: Tensor) -> Tensor:
    """`image` (b, 3, h, w) with random colour, place and hole, each of its own; differentiable in the image.

    Brightness moves by up to 0.5, saturation and contrast scale by up to 2 and 0.5 to 1.5, the picture shifts by up
    to an eighth of its edges (zeros come in), and a hole of half the edges becomes zero. Global random generator.
    """
    return cutout(translate(change_colour(image)))


def _random(image: Tensor) -> Tensor:
    return torch.rand(len(image), 1, 1, 1, dtype=image.dtype, device=image.device)


def change_colour(image: Tensor) -> Tensor:
    """Random brightness, then saturation, then contrast of each picture."""
    image = image + _random(image) - 0.5
    gray = image.mean(dim=1, keepdim=True)
    image = (image - gray) * (2 * _random(image)) + gray
    mean = image.mean(dim=(1, 2, 3), keepdim=True)
    return (image - mean) * (_random(image) + 0.5) + mean


def translate(image: Tensor, share: float = 0.125) -> Tensor:
    """Each picture shifted by whole pixels, up to `share` of its edges either way; what comes in is 0."""
    b, _, h, w = image.shape
    reach_y, reach_x = int(h * share + 0.5), int(w * share + 0.5)
    y0 = torch.randint(0, 2 * reach_y + 1, (b, 1, 1, 1), device=image.device)
    x0 = torch.randint(0, 2 * reach_x + 1, (b, 1, 1, 1), device=image.device)
    padded = F.pad(image, (reach_x, reach_x, reach_y, reach_y))
    rows = (y0 + torch.arange(h, device=image.device).view(1, 1, h, 1)).expand(b, image.shape[1], h, padded.shape[3])
    columns = (x0 + torch.arange(w, device=image.device).view(1, 1, 1, w)).expand(b, image.shape[1], h, w)
    return padded.gather(2, rows).gather(3, columns)


def cutout(image: Tensor, share: float = 0.5) -> Tensor:
    """Each picture with a rectangle of `share` of its edges set to 0; its centre is anywhere, so it may stick out."""
    b, _, h, w = image.shape
    size_y, size_x = int(h * share + 0.5), int(w * share + 0.5)
    top = torch.randint(0, h + (1 - size_y % 2), (b, 1, 1, 1), device=image.device) - size_y // 2
    left = torch.randint(0, w + (1 - size_x % 2), (b, 1, 1, 1), device=image.device) - size_x // 2
    y = torch.arange(h, device=image.device).view(1, 1, h, 1)
    x = torch.arange(w, device=image.device).view(1, 1, 1, w)
    hole = (y >= top) & (y < top + size_y) & (x >= left) & (x < left + size_x)
    return image * (~hole).to(image.dtype)


class _Blur(nn.Module):
    """Binomial filter of four taps, zeros outside, stride 1: a map of n x n becomes (n - 1) x (n - 1)."""

    filt: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        row = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.register_buffer("filt", torch.outer(row, row).expand(channels, 1, 4, 4).contiguous(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.filt.to(x.dtype), padding=1, groups=self.channels)


def _map_head(channels: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(
        spectral_norm(nn.Conv2d(channels, hidden, 3, padding=1)),
        nn.LeakyReLU(0.2),
        _Blur(hidden),
        spectral_norm(nn.Conv2d(hidden, 1, 1, stride=2)),
    )


class CriticHeads(nn.Module):
    """The trained part of one critic: logits of CLIP's maps and embedding, a list of (b, 3, 3), (b, 3, 3), (b, 1).

    width, out : channels of the maps and of the embedding; hidden : channels within the heads.
    """

    def __init__(self, width: int = 768, out: int = 512, hidden: int = 256, n_maps: int = 2) -> None:
        super().__init__()
        self.maps = nn.ModuleList(_map_head(width, hidden) for _ in range(n_maps))
        self.whole = nn.Sequential(
            spectral_norm(nn.Linear(out, hidden)), nn.LeakyReLU(0.2), spectral_norm(nn.Linear(hidden, 1))
        )

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        *maps, whole = features
        return [head(m).squeeze(1) for head, m in zip(self.maps, maps, strict=True)] + [self.whole(whole)]


class ClipCritic(nn.Module):
    """Critics of several domains over one frozen tower; each domain has its own heads.

    tower   : CLIP's image tower; it takes no gradient for its weights, but pictures do.
    domains : names, such as "ihc" and "he": a critic is named after what it holds for real.
    """

    def __init__(self, tower: ClipImageTower, domains: Iterable[str], hidden: int = 256) -> None:
        super().__init__()
        self.tower = tower
        self.heads = nn.ModuleDict({d: CriticHeads(tower.width, tower.out, hidden, len(tower.taps)) for d in domains})

    def forward(self, image: Tensor, domain: str) -> list[Tensor]:
        """Logits of augmented pictures, float (b, 3, h, w) in [-1, 1], at each level: positive is real.

        The heads compute in float32, outside autocast: their spectral norms need it.
        """
        features = self.tower(augment(image))
        with torch.autocast(image.device.type, enabled=False):
            logits: list[Tensor] = self.heads[domain]([f.float() for f in features])
        return logits

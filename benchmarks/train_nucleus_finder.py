"""Train the network that finds nuclei on H&E, on phantom slides whose nuclei are known.

    python benchmarks/train_nucleus_finder.py --output wsistain/networks/nucleus_finder.safetensors

Nothing but the phantom is read. Densities, sizes, dyes, blur and noise are varied far beyond it, since real laboratories
differ more than its slides do. Slides 5000 and up; `benchmarks/read.py` judges on others.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save_file
from scipy import ndimage
from torch import Tensor

from wsistain import __version__
from wsistain.markers import EOSIN, HAEMATOXYLIN
from wsistain.networks.nucleus_finder import NucleusFinder
from wsistain.phantom.config import PhantomConfig
from wsistain.phantom.render import Phantom

CROP, BATCH, SIGMA_UM = 112, 8, 1.6
F32 = NDArray[np.float32]


def ellipses(phantom: Phantom, size: int, mpp: float) -> tuple[F32, F32, F32]:
    """(centres, nuclei, doubtful) of a phantom's section A, float32 (size, size) at `mpp`.

    centres : a Gaussian at each nucleus of which 2 um or more are in the section; nuclei: their ellipses; doubtful:
    ellipses of thinner slices, which may be found or not.
    """
    cells, gy, gx = phantom.cells_um("a", 0, 0, size * mpp, size * mpp)
    path, section = phantom.path_um("a", cells), phantom.sections["a"]
    # The widest cut of each ellipsoid inside the slab.
    away = np.maximum(np.maximum(section.z0 - cells.z, cells.z - section.z1), 0)
    cut = np.sqrt(np.clip(1 - (away / cells.c) ** 2, 0, 1))
    centres, nuclei, doubtful = (np.zeros((size, size), np.float32) for _ in range(3))
    for k in range(len(cells)):
        a, b = max(cells.a[k] * cut[k], 0.7), max(cells.b[k] * cut[k], 0.7)
        reach = int(np.ceil((max(a, 3 * SIGMA_UM) + 1) / mpp))
        cy, cx = gy[k] / mpp - 0.5, gx[k] / mpp - 0.5
        y0, x0 = max(int(cy) - reach, 0), max(int(cx) - reach, 0)
        window = np.s_[y0 : int(cy) + reach + 1, x0 : int(cx) + reach + 1]
        if nuclei[window].size == 0:
            continue
        rows, cols = np.indices(nuclei[window].shape, dtype=np.float32)
        dy, dx = (rows + y0 - cy) * mpp, (cols + x0 - cx) * mpp
        cos, sin = np.cos(cells.turn[k]), np.sin(cells.turn[k])
        inside = ((cos * dx + sin * dy) / a) ** 2 + ((cos * dy - sin * dx) / b) ** 2 <= 1
        if path[k] >= 2.0:
            nuclei[window] = np.maximum(nuclei[window], inside)
            bell = np.exp(-(dy * dy + dx * dx) / (2 * SIGMA_UM**2)).astype(np.float32)
            centres[window] = np.maximum(centres[window], bell)
        elif path[k] > 0.2:
            doubtful[window] = np.maximum(doubtful[window], inside)
    return centres, nuclei, doubtful * (1 - nuclei)


def material(slides: int, size: int) -> list[tuple[NDArray[np.uint8], F32]]:
    """(H&E uint8 (size, size, 3) at 0.5 um per px, targets float32 (3, size, size)) of each slide."""
    rng, made = np.random.default_rng(5000), []
    for k in range(slides):
        contrast = float(rng.choice([1.0, 1.0, 1.5, 2.5]))
        config = PhantomConfig(height=size, width=size, mpp=0.5, seed=5000 + k, whole=True, contrast=contrast)
        phantom = Phantom(config)
        made.append((phantom.render("he_a", 0, 0, size, size), np.stack(ellipses(phantom, size, 0.5))))
    return made


def seen(rng: np.random.Generator, od: F32) -> F32:
    """Haematoxylin (h, w) of optical densities (h, w, 3) as a laboratory of another day would show it."""
    dyes = np.array([HAEMATOXYLIN, EOSIN]) * rng.uniform(0.8, 1.25, (2, 3)) + rng.uniform(0, 0.06, (2, 3))
    dyes /= np.linalg.norm(dyes, axis=1, keepdims=True)
    h = (od @ np.linalg.pinv(dyes.T)[0].astype(np.float32)).clip(0, None)
    if rng.random() < 0.5:
        h = ndimage.gaussian_filter(h, rng.uniform(0, 1.0))
    h = h ** rng.uniform(0.8, 1.3) * rng.uniform(0.4, 1.5) + rng.uniform(0, 0.12)
    # Background that is not even, as cytoplasm and thick places are.
    cloud = ndimage.zoom(rng.normal(0, 1, (5, 5)), (h.shape[0] / 5, h.shape[1] / 5), order=1)
    h = h + np.float32(rng.uniform(0, 0.06)) * cloud
    return (h + rng.normal(0, rng.uniform(0, 0.04), h.shape)).clip(0, None).astype(np.float32)


def sample(rng: np.random.Generator, he: NDArray[np.uint8], targets: F32) -> tuple[Tensor, Tensor]:
    """One training pair at 1 um per px: haematoxylin (1, CROP, CROP), targets (3, CROP, CROP)."""
    scale = rng.uniform(1.3, 2.5)  # px of 0.5 um per px of the network: nuclei from 0.8 to 1.5 times their size
    edge = int(np.ceil(CROP * scale)) + 2
    y, x = rng.integers(0, [he.shape[0] - edge + 1, he.shape[1] - edge + 1])
    od = -np.log10(np.maximum(he[y : y + edge, x : x + edge], 1) / np.float32(255))
    parts = torch.from_numpy(np.concatenate([od.transpose(2, 0, 1), targets[:, y : y + edge, x : x + edge]]))
    small = F.interpolate(parts[None], size=(CROP, CROP), mode="bilinear", antialias=True)[0].numpy()
    turn, flip = int(rng.integers(4)), bool(rng.integers(2))
    small = np.rot90(small, turn, axes=(1, 2))[:, :, :: -1 if flip else 1].copy()
    return torch.from_numpy(seen(rng, small[:3].transpose(1, 2, 0)))[None], torch.from_numpy(small[3:])


def loss_of(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy of centres, weighted where they are, and of nuclei, where they are not doubtful."""
    centres, nuclei, doubtful = targets[:, 0], targets[:, 1], targets[:, 2]
    sure = (1 - doubtful).clamp(0, 1)
    at = F.binary_cross_entropy_with_logits(logits[:, 0], centres, reduction="none") * (1 + 4 * centres) * sure
    of = F.binary_cross_entropy_with_logits(logits[:, 1], nuclei, reduction="none") * sure
    return 2 * at.mean() + of.mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--slides", type=int, default=48)
    parser.add_argument("--size", type=int, default=900)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    pool = material(args.slides, args.size)
    print(f"{len(pool)} slides, {time.process_time():.0f} s of CPU", flush=True)
    finder = NucleusFinder()
    optimiser = torch.optim.Adam(finder.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=args.steps)
    running = 0.0
    for step in range(1, args.steps + 1):
        pairs = [sample(rng, *pool[int(rng.integers(len(pool)))]) for _ in range(BATCH)]
        x, targets = (torch.stack(parts) for parts in zip(*pairs, strict=True))
        loss = loss_of(finder(x), targets)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(finder.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        running += float(loss.detach())
        if step % 50 == 0:
            print(f"step {step}  loss {running / 50:.4f}  {time.process_time():.0f} s of CPU", flush=True)
            running = 0.0
        if step % 250 == 0 or step == args.steps:
            about = {
                "what": "finds nuclei on H&E; input: haematoxylin, 1 um per px",
                "trained_on": f"{len(pool)} phantom slides, {step} steps of {BATCH} crops of {CROP} px",
                "wsistain_version": __version__,
                "licence": "Apache-2.0",
            }
            save_file({n: t.contiguous() for n, t in finder.state_dict().items()}, str(args.output), metadata=about)


if __name__ == "__main__":
    main()

"""Train the nucleus counter that ATST-Net's L5 uses, on phantom patches whose counts are known.

    wsistain phantom patches PATCHES --markers ER,PR,Ki67,HER2 --train 112 --val 12 --size 512 --slides 28 --seed 21 \\
        --mpp 0.5 --pairing aligned
    python benchmarks/train_nucleus_counter.py PATCHES --output wsistain/networks/nucleus_counter.safetensors

The counter sees what ATST-Net shows it: the saturation of the haematoxylin alone inside a mask (the whole picture, the
automatic annotation, or a rectangle). Target: one nucleus of density at each centre in `CellsB`. Held-out slides give
the figures printed at the end.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from wsistain import __version__
from wsistain.data.pictures import read_picture
from wsistain.networks.nucleus_counter import SmallCounter
from wsistain.optics.masks import Annotation, annotate, haematoxylin_saturation

CROP, BATCH, SIGMA, CELL = 160, 8, 3.0, 32
DENSITY_UNIT = 100.0  # nuclei a px are tiny numbers


def patches(root: Path, split: str) -> list[tuple[Path, Path]]:
    """Every IHC picture of a split with its table of cells, all markers."""
    found = []
    for base in sorted(root.glob("*/TrainValAB")):
        for picture in sorted((base / f"{split}B").iterdir()):
            found.append((picture, base / f"{split}CellsB" / f"{picture.stem}.parquet"))
    return found


def dots(table: Path, height: int, width: int) -> np.ndarray:
    """float32 (height, width): how many nuclei have their centre in each pixel."""
    cells = pq.read_table(table, columns=["y_px", "x_px"])
    y, x = (np.floor(cells[name].to_numpy() + 0.5).astype(int) for name in ("y_px", "x_px"))
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    image = np.zeros((height, width), np.float32)
    np.add.at(image, (y[inside], x[inside]), 1)
    return image


def draw_mask(rng: np.random.Generator, ihc: np.ndarray) -> np.ndarray:
    """What the counter may look at: everything, the annotation, or a rectangle; bool (h, w)."""
    h, w = ihc.shape[:2]
    kind = rng.random()
    if kind < 0.4:
        return np.ones((h, w), bool)
    if kind < 0.75:
        return annotate(ihc, Annotation(closing_radius=int(rng.integers(5, 31))))
    mask = np.zeros((h, w), bool)
    y, x = rng.integers(0, h // 2), rng.integers(0, w // 2)
    mask[y : y + rng.integers(h // 4, h), x : x + rng.integers(w // 4, w)] = True
    return mask


def sample(rng: np.random.Generator, ihc: np.ndarray, points: np.ndarray) -> tuple[Tensor, Tensor]:
    """One training pair: saturation (1, CROP, CROP), dots inside the mask (1, CROP, CROP)."""
    y, x = rng.integers(0, [ihc.shape[0] - CROP + 1, ihc.shape[1] - CROP + 1])
    ihc, points = ihc[y : y + CROP, x : x + CROP], points[y : y + CROP, x : x + CROP]
    mask = draw_mask(rng, ihc)
    turn, flip = int(rng.integers(4)), bool(rng.integers(2))
    ihc, points, mask = (np.rot90(a, turn)[:, :: -1 if flip else 1].copy() for a in (ihc, points, mask))
    light = torch.from_numpy(ihc).permute(2, 0, 1)[None] / 255
    shown = torch.from_numpy(mask.astype(np.float32))[None, None]
    # saturation is stretched over its picture: a crop of a larger one would have been darker
    dim = float(rng.uniform(0.4, 1.0))
    return haematoxylin_saturation(light, shown)[0] * dim, torch.from_numpy(points * mask)[None]


def blur(points: Tensor) -> Tensor:
    """Dots as Gaussians of SIGMA px; what leaves the picture is lost, as for cut nuclei."""
    at = torch.arange(-9, 10, dtype=torch.float32)
    row = torch.exp(-at.square() / (2 * SIGMA**2))
    row = row / row.sum()
    return F.conv2d(F.conv2d(points, row.view(1, 1, 1, -1), padding=(0, 9)), row.view(1, 1, -1, 1), padding=(9, 0))


def loss_of(density: Tensor, points: Tensor) -> Tensor:
    """Squared error of the density, and of the counts in squares of CELL px.

    An absolute error of the counts makes no nuclei at all a solution: most squares under a mask are empty.
    """
    wanted = blur(points)
    cells = F.avg_pool2d(density - wanted, CELL) * CELL**2
    return ((density - wanted) * DENSITY_UNIT).square().mean() + 0.1 * cells.square().mean()


@torch.no_grad()
def evaluate(counter: SmallCounter, found: list[tuple[Path, Path]]) -> dict[str, float]:
    """Counts against the truth on whole patches: correlation, mean absolute error, mean truth; whole and annotated."""
    result: dict[str, float] = {}
    for name in ("whole", "annotated"):
        counted, true = [], []
        for picture, table in found:
            ihc = read_picture(picture)
            mask = np.ones(ihc.shape[:2], bool) if name == "whole" else annotate(ihc)
            light = torch.from_numpy(ihc).permute(2, 0, 1)[None] / 255
            shown = torch.from_numpy(mask.astype(np.float32))[None, None]
            counted.append(float(counter.count(haematoxylin_saturation(light, shown))))
            true.append(float((dots(table, *mask.shape) * mask).sum()))
        a, b = np.array(counted), np.array(true)
        result[f"{name}_r"] = float(np.corrcoef(a, b)[0, 1])
        result[f"{name}_mean_error"] = float(np.abs(a - b).mean())
        result[f"{name}_bias"] = float((a - b).mean())
        result[f"{name}_mean_truth"] = float(b.mean())
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patches", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    pool = [(read_picture(p), t) for p, t in patches(args.patches, "train")]
    train = [(ihc, dots(table, *ihc.shape[:2])) for ihc, table in pool]
    counter = SmallCounter()
    optimiser = torch.optim.Adam(counter.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1.5e-3, total_steps=args.steps)
    begin, running = time.process_time(), 0.0
    for step in range(1, args.steps + 1):
        pairs = [sample(rng, *train[int(rng.integers(len(train)))]) for _ in range(BATCH)]
        x, points = (torch.stack(parts) for parts in zip(*pairs, strict=True))
        loss = loss_of(counter(x), points)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(counter.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        running += float(loss.detach())
        if step % 50 == 0:
            print(f"step {step}  loss {running / 50:.4f}  {time.process_time() - begin:.0f} s of CPU", flush=True)
            running = 0.0
    counter.eval()
    figures = evaluate(counter, patches(args.patches, "val"))
    about = {
        "what": "density counter of nuclei, input: haematoxylin saturation inside a mask, 0.5 um per px",
        "trained_on": f"{len(train)} phantom patches, {args.steps} steps of {BATCH} crops of {CROP} px",
        "wsistain_version": __version__,
        "licence": "Apache-2.0",
        **{k: f"{v:.4f}" for k, v in figures.items()},
    }
    save_file({n: t.contiguous() for n, t in counter.state_dict().items()}, str(args.output), metadata=about)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()

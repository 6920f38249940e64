"""Sample sheets: what the generator makes of a few held-out patches, next to what it should have made."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from wsistain.config import DataConfig
from wsistain.data.layouts import PatchRef
from wsistain.data.patches import read_pair
from wsistain.data.pictures import read_picture, resize_short
from wsistain.errors import DataError
from wsistain.networks.facts import ManyMarkers
from wsistain.runtime.files import write_bytes
from wsistain.runtime.jpeg import encode_jpeg

N_ROWS = 4
_GAP = 6
_HEAD = 18


@dataclass(frozen=True)
class SheetRow:
    """One held-out patch: name, uint8 (h, w, 3) pictures (None where there is none) and marker."""

    name: str
    he: np.ndarray
    real: np.ndarray | None
    truth: np.ndarray | None
    marker: str | None = None


def _centre(pixels: np.ndarray, edge: int) -> np.ndarray:
    y, x = (pixels.shape[0] - edge) // 2, (pixels.shape[1] - edge) // 2
    return np.ascontiguousarray(pixels[y : y + edge, x : x + edge])


def sheet_rows(refs: Sequence[PatchRef], cfg: DataConfig) -> list[SheetRow]:
    """A few patches spread over `refs`, resized as in training, the centre of each. Raises DataError."""
    sources = [r for r in refs if r.he is not None]
    picked = [sources[i] for i in np.unique(np.linspace(0, len(sources) - 1, N_ROWS).round().astype(int))]
    rows = []
    for ref in picked:
        he, real = read_pair(ref)
        truth = read_picture(ref.truth) if ref.truth else None
        pictures: list[np.ndarray | None] = []
        for picture in (he, real, truth):
            if picture is not None and cfg.load_px is not None:
                picture = resize_short(picture, cfg.load_px)
            if picture is not None and min(picture.shape[:2]) < cfg.crop_px:
                raise DataError(f"{ref.name} is smaller than the crop {cfg.crop_px} (data.crop_px)")
            pictures.append(None if picture is None else _centre(picture, cfg.crop_px))
        if pictures[0] is not None:
            rows.append(SheetRow(ref.name, pictures[0], pictures[1], pictures[2], ref.marker))
    return rows


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Within the block the network is in evaluation mode; afterwards every part is as it was."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def from_pixels(pixels: Tensor) -> Tensor:
    """Float (b, 3, h, w) in [-1, 1] from uint8 (b, h, w, 3): 0 is -1, 255 is 1."""
    return pixels.permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous()


def to_pixels(images: Tensor) -> np.ndarray:
    """Uint8 (b, h, w, 3) from float (b, 3, h, w) in [-1, 1], rounded to nearest."""
    levels = images.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    return levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def stain_rows(network: nn.Module, rows: Sequence[SheetRow], device: torch.device) -> list[np.ndarray]:
    """The virtual stain of every row, uint8 (h, w, 3) each, one at a time so that a large crop fits."""

    def stain(row: SheetRow) -> np.ndarray:
        x = from_pixels(torch.from_numpy(row.he)[None].to(device))
        if row.marker is not None and isinstance(network, ManyMarkers):
            y = network.stain(x, [row.marker])[0]
        else:
            y = network(x)
        pixels: np.ndarray = to_pixels(y)[0]
        return pixels

    with evaluating(network):
        return [stain(row) for row in rows]


def write_sheet(path: Path, rows: Sequence[SheetRow], virtual: Sequence[np.ndarray]) -> np.ndarray:
    """A JPEG with one row a patch: H&E | virtual | real | truth (that column only where there is one).

    Returns its pixels before they were packed, uint8 (h, w, 3).
    """
    columns = ["H&E", "virtual", "real"] + (["truth"] if any(r.truth is not None for r in rows) else [])
    edge = rows[0].he.shape[0]
    step = edge + _GAP
    sheet = Image.new("RGB", (len(columns) * step - _GAP, _HEAD + len(rows) * step - _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(columns):
        draw.text((column * step + 2, 2), title, fill="black")
    for row, (patch, fake) in enumerate(zip(rows, virtual, strict=True)):
        for column, picture in enumerate((patch.he, fake, patch.real, patch.truth)[: len(columns)]):
            if picture is not None:
                sheet.paste(Image.fromarray(picture), (column * step, _HEAD + row * step))
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.asarray(sheet)
    write_bytes(path, encode_jpeg(pixels, small=True))
    return pixels

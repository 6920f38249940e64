"""What is checked before a step is kept, and what is written then."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsistain.errors import TrainingError
from wsistain.systems.base import Reversible, System
from wsistain.training.bank import keep_features, spread_over
from wsistain.training.header import reverse_header
from wsistain.training.samples import SheetRow, stain_rows, write_sheet
from wsistain.training.schedule import Ema
from wsistain.training.setup import Material, network_mpp
from wsistain.weights.file import Header, save_weights
from wsistain.weights.find import BEST

_MOST_WEIGHT = 1e8
"""Largest weight of a network that still learns: where a rate was far too high, they are larger before a loss is NaN."""


def rate_now(system: System) -> float:
    """The learning rate of a system's first optimiser."""
    return float(next(iter(system.optimizers.values())).param_groups[0]["lr"])


def check_finite(
    healthy: Tensor, values: Tensor, terms: Mapping[str, Tensor], done: int, rate: float = 0.0, start: int = 0
) -> None:
    """TrainingError naming the terms that are not finite; `healthy` is False from the first step that had one."""
    if not healthy:
        broken = [name for name, good in zip(terms, values.isfinite().tolist(), strict=True) if not good]
        again = f"; if it comes back at once, delete the checkpoint of step {start} first" if start else ""
        raise TrainingError(
            f"a loss is not finite by step {done} ({', '.join(broken) or 'at an earlier step'}); lower the learning rate "
            f"(now {rate:g}) or use precision float32, and go on with --resume{again}"
        )


def check_sane(system: Any, done: int) -> None:
    """TrainingError where a trained weight is not finite or so large that the next loss will not be: not worth keeping."""
    trained = [p for p in system.parameters() if p.requires_grad]
    largest = float(torch.stack([p.detach().abs().max().float() for p in trained]).max())
    if not largest <= _MOST_WEIGHT:
        raise TrainingError(
            f"the networks have run away by step {done} (weights up to {largest:.3g}), and this is not kept; lower the "
            f"learning rate (now {rate_now(system):g}) or use precision float32, and go on with --resume"
        )


def write_samples(
    output: Path, step: int, system: System, ema: Ema | None, rows: Sequence[SheetRow], device: torch.device
) -> NDArray[np.uint8]:
    """`samples/step_XXXXXX.jpg`, from the mean parameters where there are such; returns the sheet, uint8 (h, w, 3)."""
    with ema.applied() if ema is not None else nullcontext():
        virtual = stain_rows(system.generator(), rows, device)
    return write_sheet(output / "samples" / f"step_{step:06d}.jpg", rows, virtual)


def write_best(output: Path, system: System, ema: Ema | None, header: Header) -> None:
    """`weights.best.safetensors`: the network that stains, as it is now."""
    with ema.applied() if ema is not None else nullcontext():
        save_weights(output / BEST, header, system.generator_state())


def write_weights(output: Path, system: System, ema: Ema | None, header: Header, step: int, steps: int) -> None:
    """`weights.safetensors` as of `step`; its header says so where training is not finished.

    A system that also trains the way back gets `weights.ihc-to-he.safetensors` beside it.
    """
    note = "" if step >= steps else f"training is not finished: step {step} of {steps}"
    header = header.model_copy(update={"step": step, "note": note})
    with ema.applied() if ema is not None else nullcontext():
        save_weights(output / "weights.safetensors", header, system.generator_state())
    if isinstance(system, Reversible):
        back = reverse_header(header, system)
        save_weights(output / f"weights.{back.direction}.safetensors", back, system.reverse_generator_state())


def end_with_features(output: Path, material: Material, device: str) -> None:
    """At the end of a run: its weights keep what their networks see in some of the training pictures."""
    cfg = material.config
    mpp = network_mpp(cfg, material.sizes)
    pictures = spread_over(material.patches, mpp, cfg.data.load_px)
    for path in (output / "weights.safetensors", output / BEST):
        if path.is_file():
            keep_features(path, pictures, device)

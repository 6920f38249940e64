"""Small training configurations for tests."""

from pathlib import Path
from typing import Any

from wsistain.config import TrainConfig, validate


def tiny_run(root: Path, *, system: str = "pix2pix", data: dict[str, Any] | None = None, **keys: Any) -> TrainConfig:
    """A configuration over MIST patches under `root` that trains in about a second with `tiny=True`."""
    values = {
        "system": system,
        "marker": "ER",
        "data": {"root": str(root), "crop_px": 64, "workers": 0, "mpp": 0.4661, **(data or {})},
        "epochs": 2,
        "decay_epochs": 2,
        "batch_size": 2,
        "steps": 6,
        "device": "cpu",
        **keys,
    }
    return validate(TrainConfig, values, "test")

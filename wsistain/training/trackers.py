"""Where a run is followed from outside: TensorBoard, and every other tracker that accelerate knows, by name."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from numpy.typing import NDArray

from wsistain.config import TrainConfig
from wsistain.errors import ConfigError

_BOARD = "tensorboard"
_PACKAGES = {"comet_ml": "comet_ml", "dvclive": "dvclive"}


def tracked_elsewhere(cfg: TrainConfig) -> list[str]:
    """The trackers that accelerate opens; TensorBoard is ours, since a resumed run must drop what came after its checkpoint.

    Raises ConfigError for a name that is not known, one whose package is not installed, and options of none of them.
    """
    known = sorted(LOGGER_TYPE_TO_CLASS)
    for name in cfg.trackers:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]!r}?" if near else f"wanted some of {', '.join(known)}"
            raise ConfigError(f"trackers: {name!r} is not known; {hint}")
        if name not in [str(available) for available in get_available_trackers()]:
            raise ConfigError(f"tracker {name} needs its package: pip install {_PACKAGES.get(name, name)}")
    strange = sorted(set(cfg.tracker_options) - set(cfg.trackers))
    if strange:
        raise ConfigError(f"tracker_options.{strange[0]} belongs to no tracker; add {strange[0]} to trackers")
    return [name for name in cfg.trackers if name != _BOARD]


class Trackers:
    """The open trackers of the main process."""

    def __init__(self, accelerator: Accelerator, cfg: TrainConfig, output: Path, start: int) -> None:
        self._accelerator, self._board = accelerator, None
        if _BOARD in cfg.trackers:
            from torch.utils.tensorboard import SummaryWriter

            options = {"purge_step": start + 1, **cfg.tracker_options.get(_BOARD, {})}
            try:
                self._board = SummaryWriter(str(output / "tensorboard"), **options)
            except TypeError as error:
                raise ConfigError(f"tracker_options.tensorboard: {error}") from None
        if accelerator.log_with:
            options = {n: {"name": output.name} if n == "wandb" else {} for n in cfg.trackers}
            for name, given in cfg.tracker_options.items():
                options[name] = {**options.get(name, {}), **given}
            try:
                accelerator.init_trackers("wsistain", config=_flat(cfg.model_dump(mode="json")), init_kwargs=options)
            except TypeError as error:
                raise ConfigError(f"tracker_options: {error}") from None

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Numbers after `step` steps, by name."""
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
        if self._accelerator.trackers:
            self._accelerator.log(dict(values), step=step)

    def text(self, name: str, text: str, step: int) -> None:
        """A line of words; TensorBoard alone has a place for it."""
        if self._board is not None:
            self._board.add_text(name, text, step)

    def picture(self, name: str, rgb: NDArray[np.uint8], step: int) -> None:
        """A picture, uint8 (h, w, 3), in every tracker that takes pictures."""
        if self._board is not None:
            self._board.add_image(name, rgb, step, dataformats="HWC")
        for tracker in self._accelerator.trackers:
            if hasattr(tracker, "log_images"):
                tracker.log_images({name: rgb[None]}, step=step)

    def close(self) -> None:
        """Write what is held back; accelerate's end with the run (`stop_processes`)."""
        if self._board is not None:
            self._board.close()


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested keys as dotted ones, and values as every tracker takes them: numbers, words, nothing nested."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{above}{key}.")
        else:
            flat[f"{above}{key}"] = value if isinstance(value, bool | int | float | str) else str(value)
    return flat

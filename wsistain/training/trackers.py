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
from wsistain.errors import ConfigError, TrainingError

_BOARD = "tensorboard"
_BOARD_OPTIONS = ("comment", "filename_suffix", "flush_secs", "max_queue")
"""What SummaryWriter takes and is not ours to say (its folder, and what a resumed run drops)."""
_PACKAGES = {"comet_ml": "comet_ml", "dvclive": "dvclive"}


def tracked_elsewhere(cfg: TrainConfig) -> list[str]:
    """The trackers that accelerate opens; TensorBoard is ours, since a resumed run must drop what came after its checkpoint.

    Raises ConfigError for a name that is not known, one whose package is not installed, and options of none of them or that
    TensorBoard does not take.
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
    odd = sorted(set(cfg.tracker_options.get(_BOARD, {})) - set(_BOARD_OPTIONS))
    if odd:
        raise ConfigError(
            f"tracker_options.{_BOARD}: {odd[0]} is no option; wanted some of {', '.join(_BOARD_OPTIONS)}"
        )
    return [name for name in cfg.trackers if name != _BOARD]


class Trackers:
    """The open trackers of the main process. TrainingError where one that is not ours cannot be started."""

    def __init__(self, accelerator: Accelerator, cfg: TrainConfig, output: Path, start: int) -> None:
        self._accelerator, self._board = accelerator, None
        if _BOARD in cfg.trackers:
            from torch.utils.tensorboard import SummaryWriter

            options = cfg.tracker_options.get(_BOARD, {})
            self._board = SummaryWriter(str(output / "tensorboard"), purge_step=start + 1, **options)
        if accelerator.log_with:
            options = {n: {"name": output.name} if n == "wandb" else {} for n in cfg.trackers}
            for name, given in cfg.tracker_options.items():
                options[name] = {**options.get(name, {}), **given}
            try:
                accelerator.init_trackers("wsistain", config=_flat(cfg.model_dump(mode="json")), init_kwargs=options)
            except TypeError as error:
                raise ConfigError(f"tracker_options: {error}") from None
            except Exception as error:  # theirs are of every kind: no login, no network, no data base
                accelerator.trackers = []  # what has not begun cannot be ended either
                names = ", ".join(str(name) for name in accelerator.log_with)
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
                raise TrainingError(
                    f"{names} cannot be started ({type(error).__name__}: {reason[:160]}); see to it (its login, address or "
                    "package), or train with --set trackers=[tensorboard]"
                ) from error

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

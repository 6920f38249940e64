from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from accelerate import tracking
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.data.made_patches import make_mist
from tests.training.made_runs import tiny_run
from wsistain.errors import ConfigError, TrainingError
from wsistain.training.loop import train
from wsistain.training.processes import start_processes
from wsistain.training.trackers import Trackers, tracked_elsewhere


def test_tensorboard_has_terms_rates_and_pictures_by_default(tmp_path: Path) -> None:
    train(tiny_run(make_mist(tmp_path / "data"), steps=2), tmp_path / "run", tiny=True)
    board = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    board.Reload()
    assert {"terms/gan", "terms/l1", "lr", "images_per_second"} <= set(board.Tags()["scalars"])
    assert board.Tags()["images"] == ["samples"]
    assert [event.step for event in board.Scalars("terms/gan")] == [1, 2]


def test_a_run_may_be_followed_by_nobody(tmp_path: Path) -> None:
    train(tiny_run(make_mist(tmp_path / "data"), steps=1, trackers=[]), tmp_path / "run", tiny=True)
    assert not (tmp_path / "run" / "tensorboard").exists() and not (tmp_path / "run" / "trackers").exists()


class Noted(tracking.GeneralTracker):
    """Stands for a tracker that is installed: keeps what it is told."""

    name = "noted"
    requires_logging_directory = False
    told: ClassVar[list[Any]] = []

    def __init__(self, run_name: str, **options: Any) -> None:
        super().__init__()
        self.told.append(("opened", run_name, options))

    @property
    def tracker(self) -> None:
        return None

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.told.append(("settings", values))

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        self.told.append(("log", step, values))

    def log_images(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        self.told.append(("images", step, {name: picture.shape for name, picture in values.items()}))

    def finish(self) -> None:
        self.told.append(("finished",))


def _install(monkeypatch: pytest.MonkeyPatch, kind: type[Noted]) -> None:
    """Let `kind` be W&B's tracker, as if its package were here."""
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "wandb", kind)
    monkeypatch.setattr(
        tracking, "_available_trackers", [*tracking.get_available_trackers(), tracking.LoggerType.WANDB]
    )
    monkeypatch.setattr("wsistain.training.trackers.get_available_trackers", lambda: tracking._available_trackers)


def test_a_tracker_of_accelerate_is_told_settings_numbers_and_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _install(monkeypatch, Noted)
    monkeypatch.setattr(Noted, "told", [])
    cfg = tiny_run(tmp_path, trackers=["wandb"], tracker_options={"wandb": {"entity": "lab"}})
    accelerator = start_processes(cfg, tmp_path / "trackers")
    trackers = Trackers(accelerator, cfg, tmp_path / "run_7", 0)
    trackers.scalars({"terms/gan": 0.5}, 3)
    trackers.picture("samples", np.zeros((4, 6, 3), np.uint8), 3)
    trackers.close()
    accelerator.end_training()
    opened, (_, settings), log, images, _ = Noted.told
    assert opened == ("opened", "wsistain", {"name": "run_7", "entity": "lab"})
    assert settings["data.crop_px"] == 64 and settings["system"] == "pix2pix"
    assert log == ("log", 3, {"terms/gan": 0.5}) and images == ("images", 3, {"samples": (1, 4, 6, 3)})


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"trackers": ["tensorbord"]}, "did you mean 'tensorboard'"),
        ({"trackers": ["mlflow"]}, "needs its package: pip install mlflow"),
        ({"tracker_options": {"wandb": {}}}, "belongs to no tracker"),
    ],
)
def test_trackers_that_are_not_here_are_refused(tmp_path: Path, keys: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        tracked_elsewhere(tiny_run(tmp_path, **keys))


def test_options_that_a_tracker_does_not_take_are_refused(tmp_path: Path) -> None:
    cfg = tiny_run(tmp_path, tracker_options={"tensorboard": {"colour": 1}})
    with pytest.raises(ConfigError, match=r"tracker_options.tensorboard: colour is no option; wanted some of comment"):
        start_processes(cfg)


def test_a_tracker_that_cannot_be_started_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Unreachable(Noted):
        def start(self) -> None:
            raise ConnectionError("no such host")

        def finish(self) -> None:
            raise AttributeError("run")

    _install(monkeypatch, Unreachable)
    cfg = tiny_run(tmp_path, trackers=["wandb"])
    accelerator = start_processes(cfg, tmp_path / "trackers")
    with pytest.raises(TrainingError, match=r"wandb cannot be started \(ConnectionError: no such host\)"):
        Trackers(accelerator, cfg, tmp_path / "run_7", 0)
    accelerator.end_training()  # ends no tracker that has not begun

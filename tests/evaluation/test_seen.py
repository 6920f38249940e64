"""Slides that weights were trained on: told where they are measured, left out on request."""

from pathlib import Path

import pytest

from tests.data.made_patches import save, tissue
from tests.training.made_runs import tiny_run
from wsistain.errors import DataError
from wsistain.evaluation.report import evaluate
from wsistain.training.loop import train


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MIST's layout whose two parts share two of six slides."""
    base = tmp_path_factory.mktemp("leaky") / "data" / "ER" / "TrainValAB"
    for part, slides in (("train", (0, 1, 2, 3)), ("val", (2, 3, 4, 5))):
        for k in slides:
            he, ihc = tissue(k, 64)
            for side, picture in (("A", he), ("B", ihc)):
                save(picture, base / f"{part}{side}" / f"10M{k}_{int(part == 'val')}_0.png")
    return base.parents[1]


def _measured(weights: list[Path | str], root: Path, split: str) -> tuple[list[str], int]:
    found = evaluate(weights, root, split=split, output=None, device="cpu", workers=1, mpp=0.5)
    return found["warnings"], found["data"]["n_slides"]


def test_slides_that_were_trained_on_are_told_and_left_out_on_request(root: Path, tmp_path: Path) -> None:
    data = {"mpp": 0.5, "crop_px": 64}
    official = train(tiny_run(root, steps=1, data=data), tmp_path / "official", tiny=True)
    (warning, twice), n = _measured([official], root, "val")
    assert twice.startswith("2 of 4 patches measured here are, byte for byte, in the training part")
    assert n == 4 and warning.startswith(
        "official was trained on 2 of the 4 slides measured here (2 of 4 patches; 10M2, 10M3)"
    )
    assert "--split slide" in warning
    assert _measured([official], root, "slide") == ([], 2)
    by_slide = train(
        tiny_run(root, steps=1, data={**data, "split": "slide", "val_share": 0.5}), tmp_path / "own", tiny=True
    )
    held = {
        line.split(",")[0] for line in (tmp_path / "own" / "split.csv").read_text().splitlines() if line.endswith("val")
    }
    assert _measured([by_slide], root, "slide") == ([], len(held))
    assert _measured([], root, "slide") == ([], 2)  # no weights: none of the training part


def test_what_is_left_when_everything_was_seen_is_said(root: Path, tmp_path: Path) -> None:
    (tmp_path / "all.csv").write_text(
        "slide,part\n" + "".join(f"10M{k},{'val' if k == 0 else 'train'}\n" for k in range(6))
    )
    data = {"mpp": 0.5, "split": "file", "split_file": str(tmp_path / "all.csv")}
    first = train(tiny_run(root, steps=1, data=data), tmp_path / "a", tiny=True)
    (tmp_path / "all.csv").write_text(
        "slide,part\n" + "".join(f"10M{k},{'val' if k == 5 else 'train'}\n" for k in range(6))
    )
    second = train(tiny_run(root, steps=1, data=data), tmp_path / "b", tiny=True)
    with pytest.raises(DataError, match="each of the 6 slides was trained on by some of the weights"):
        _measured([first, second], root, "slide")

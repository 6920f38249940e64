"""Pictures that another program made, and reports that may stand side by side."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.made_patches import make_mist, tissue
from wsistain.cli import main
from wsistain.data.layouts import list_patches
from wsistain.data.pictures import read_picture
from wsistain.errors import DataError
from wsistain.evaluation.given import GivenPictures
from wsistain.evaluation.leaderboard import leaderboard
from wsistain.evaluation.report import evaluate


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_mist(tmp_path_factory.mktemp("data"), n_train=2, n_val=3)


def _made(root: Path, folder: Path, part: str = "B") -> Path:
    """The pictures of one side of the held-out patches under the same names, as another program might leave them."""
    folder.mkdir()
    for path in (root / "ER" / "TrainValAB" / f"val{part}").iterdir():
        Image.open(path).save(folder / f"{path.stem}.tif")
    return folder


def test_pictures_of_another_program_are_a_row_of_the_same_table(root: Path, tmp_path: Path) -> None:
    given = [_made(root, tmp_path / "theirs"), _made(root, tmp_path / "identity", "A")]
    found = evaluate([], root, given=given, output=tmp_path / "o", device="cpu", workers=1)
    rows = found["systems"]
    assert rows["theirs"]["kind"] == "pictures" and rows["theirs"]["metrics"]["ssim"]["value"] == pytest.approx(1.0)
    assert rows["identity-2"]["metrics"]["ssim"] == rows["identity"]["metrics"]["ssim"]
    assert "theirs" in (tmp_path / "o" / "report.html").read_text()
    # A row that is the data set itself is told.
    assert {
        "3 of 3 pictures of theirs are the real IHC itself",
        "3 of 3 pictures of identity-2 are the H&E itself",
    } <= set(found["warnings"])


def test_pictures_that_lie_otherwise_than_their_he_or_under_other_names_are_told(root: Path, tmp_path: Path) -> None:
    refs = list_patches("mist", root, "ER", "val")
    for how in ("right", "mirrored", "shuffled"):
        folder = tmp_path / how
        folder.mkdir()
        for k, ref in enumerate(refs):
            he = 255 - read_picture(refs[(k + 1) % 3].he if how == "shuffled" else ref.he) // 2
            Image.fromarray(he[:, ::-1] if how == "mirrored" else he).save(folder / f"{ref.name}.png")
            # As a stain lies: dark where the H&E is dark.
            Image.fromarray(255 - np.asarray(Image.open(folder / f"{ref.name}.png"))).save(folder / f"{ref.name}.png")
    told = {how: GivenPictures(how, tmp_path / how, refs).doubts(refs) for how in ("right", "mirrored", "shuffled")}
    assert told["right"] == []
    assert "3 of 3 pictures of mirrored lie otherwise than their H&E" in told["mirrored"][0]
    assert "mirrored left to right" in told["mirrored"][0]
    assert f"{refs[0].name} fits the H&E of {refs[1].name} as it is" in told["shuffled"][0]
    # A picture that cannot be read is told elsewhere.
    (tmp_path / "right" / f"{refs[0].name}.png").write_bytes(b"none")
    assert GivenPictures("right", tmp_path / "right", refs).doubts(refs) == []


def test_missing_doubled_and_odd_pictures_are_named(root: Path, tmp_path: Path) -> None:
    folder = _made(root, tmp_path / "theirs")
    first = sorted(folder.iterdir())[0]
    Image.fromarray(tissue(0, 96)[0]).save(first.with_suffix(".png"))
    with pytest.raises(DataError, match=f"2 pictures of {first.stem}"):
        evaluate([], root, given=[folder], output=None, device="cpu", workers=1)
    first.with_suffix(".png").unlink()
    Image.fromarray(np.zeros((40, 96, 3), np.uint8)).save(first)
    with pytest.raises(DataError, match="is 40 x 96 px, its patch 96 x 96"):
        evaluate([], root, given=[folder], output=None, device="cpu", workers=1)
    first.unlink()
    with pytest.raises(DataError, match=f"lacks the pictures of 1 of 3 patches .{first.stem}"):
        evaluate([], root, given=[folder], output=None, device="cpu", workers=1)
    with pytest.raises(DataError, match="there is no folder"):
        evaluate([], root, given=[tmp_path / "absent"], output=None, device="cpu", workers=1)


def test_only_reports_on_the_same_pictures_stand_side_by_side(root: Path, tmp_path: Path) -> None:
    board = tmp_path / "board"
    for name in ("a", "b"):
        evaluate([], root, given=[_made(root, tmp_path / name)], output=board / name, device="cpu", workers=1)
    assert set(leaderboard(board, tmp_path / "o")["systems"]) >= {"a", "b", "identity"}
    elsewhere = json.loads((board / "b" / "results.json").read_text())  # another processor: another last digit
    elsewhere["systems"]["identity"]["metrics"]["ssim"]["value"] += 1e-9
    (board / "b" / "results.json").write_text(json.dumps(elsewhere))
    assert "b" in leaderboard(board, tmp_path / "o", overwrite=True)["systems"]
    other = make_mist(tmp_path / "other", n_train=2, n_val=3)
    picture = sorted((other / "ER" / "TrainValAB" / "valB").iterdir())[0]
    pixels = np.array(Image.open(picture))
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(picture)
    evaluate([], other, output=board / "c", device="cpu", workers=1)
    with pytest.raises(DataError, match=r"not measured on the same pictures \(names or pixels differ\)"):
        leaderboard(board, tmp_path / "o", overwrite=True)
    # Reports of before, which hold no hashes: what they say of the H&E itself tells.
    for name, ssim in (("a", 0.5), ("b", 0.5), ("c", 0.6)):
        path = board / name / "results.json"
        old = json.loads(path.read_text())
        del old["data"]["pictures_sha256"]
        old["systems"]["identity"]["metrics"]["ssim"]["value"] = ssim
        path.write_text(json.dumps(old))
    with pytest.raises(DataError, match="identity, which is a matter of the pictures alone"):
        leaderboard(board, tmp_path / "o", overwrite=True)


def test_the_command_takes_folders_and_a_number(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = _made(root, tmp_path / "theirs")
    arguments = [
        "evaluate",
        "--data",
        str(root),
        "--pictures",
        str(folder),
        "--pictures",
        "1",
        "-o",
        str(tmp_path / "o"),
    ]
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--workers", "1", "--device", "cpu"])
    assert not stop.value.code, capsys.readouterr().err
    assert "theirs" in json.loads((tmp_path / "o" / "results.json").read_text())["systems"]

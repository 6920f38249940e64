"""A folder of pictures stained into PNGs."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.data.made_patches import make_mist, save, tissue
from tests.evaluation.made import make_weights
from wsistain.cli import main
from wsistain.data.pictures import read_picture
from wsistain.errors import ConfigError, DataError, OutputError
from wsistain.evaluation.report import evaluate
from wsistain.evaluation.stain_folder import stain_folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    save(tissue(0, 64)[0], tmp_path / "in" / "a.png")
    save(tissue(1, 80)[0], tmp_path / "in" / "below" / "b.tif")
    (tmp_path / "in" / "notes.txt").write_text("x")
    return tmp_path / "in"


def test_every_picture_becomes_a_png_of_its_name_and_size(pictures: Path, tmp_path: Path) -> None:
    record = stain_folder(pictures, tmp_path / "out", weights="identity")
    assert (record["pictures"], record["marker"], record["virtual"]) == (2, "ER", True)
    assert json.loads((tmp_path / "out" / "stain.json").read_text()) == record
    for name in ("a.png", "below/b.png"):
        source = next((pictures / name).parent.glob(f"{Path(name).stem}.*"))
        np.testing.assert_array_equal(read_picture(tmp_path / "out" / name), read_picture(source))
    assert not (tmp_path / "out" / "notes.png").exists()


def test_what_is_stained_is_what_evaluate_stains(tmp_path: Path) -> None:
    root = make_mist(tmp_path / "data", n_train=1, n_val=2)
    weights = make_weights(tmp_path / "w.safetensors")
    arguments = ["stain", str(root / "ER" / "TrainValAB" / "valA"), "-o", str(tmp_path / "out"), "-w", str(weights)]
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--mpp", "0.4661", "--device", "cpu"])
    assert not stop.value.code
    found = evaluate([weights], root, given=[tmp_path / "out"], output=None, device="cpu", workers=1, mpp=0.4661)[
        "systems"
    ]
    assert found["out"]["metrics"] == found["w"]["metrics"]


def test_a_scale_that_nobody_says_is_asked_for(pictures: Path, tmp_path: Path) -> None:
    weights = make_weights(tmp_path / "w.safetensors")
    with pytest.raises(ConfigError, match=r"stated nowhere .*: pass --mpp \(these weights stain at 0.4661"):
        stain_folder(pictures, tmp_path / "out", weights=str(weights))
    assert not (tmp_path / "out").exists()
    (pictures / "manifest.json").write_text(json.dumps({"parameters": {"mpp": 0.5}}))
    assert stain_folder(pictures, tmp_path / "out", weights=str(weights), device="cpu")["pictures_mpp"] == 0.5
    with pytest.raises(DataError, match=r"manifest\.json says 0\.5 um per px, found --mpp 0\.25"):
        stain_folder(pictures, tmp_path / "other", weights=str(weights), mpp=0.25)
    assert not (tmp_path / "other").exists()


def test_pictures_and_places_that_cannot_be_used_are_refused_first(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(OutputError, match="is the folder that is stained"):
        stain_folder(pictures, pictures, weights="identity")
    with pytest.raises(DataError, match="no folder"):
        stain_folder(tmp_path / "absent", out, weights="identity")
    save(tissue(2, 64)[0], pictures / "a.jpg")
    with pytest.raises(DataError, match="two pictures called a"):
        stain_folder(pictures, out, weights="identity")
    (pictures / "a.jpg").unlink()
    (pictures / "bad.png").write_bytes(b"none")
    with pytest.raises(DataError, match=r"1 of 3 pictures cannot be used: bad\.png"):
        stain_folder(pictures, out, weights="identity")
    assert not out.exists()
    (pictures / "bad.png").unlink()
    stain_folder(pictures, out, weights="identity")
    with pytest.raises(OutputError, match="holds stained pictures already"):
        stain_folder(pictures, out, weights="identity")
    assert stain_folder(pictures, out, weights="identity", overwrite=True)["pictures"] == 2


def _brown(seed: int, px: int = 64) -> np.ndarray:
    """Blue and brown pixels, uint8 (px, px, 3)."""
    rng = np.random.default_rng(seed)
    return np.where(rng.integers(0, 2, (px, px, 1)) == 0, (110, 110, 180), (140, 90, 50)).astype(np.uint8)


def test_pictures_of_another_stain_and_virtual_ones_are_refused_unless_asked_for(
    pictures: Path, tmp_path: Path
) -> None:
    weights, ihc = str(make_weights(tmp_path / "w.safetensors")), tmp_path / "ihc"
    save(_brown(0), ihc / "a.png")
    with pytest.raises(
        DataError, match=r"are to be stained from H&E, but it looks like haematoxylin with DAB.*--any-stain"
    ):
        stain_folder(ihc, tmp_path / "out", weights=weights, mpp=0.4661, device="cpu")
    made = stain_folder(pictures, tmp_path / "made", weights=weights, mpp=0.4661, device="cpu")
    assert made["warnings"] == []
    with pytest.raises(DataError, match=r"a.png is a virtual ER stain that wsistain made"):
        stain_folder(tmp_path / "made", tmp_path / "out", weights=weights, mpp=0.4661, device="cpu")
    assert not (tmp_path / "out").exists()
    for folder in (ihc, tmp_path / "made"):
        record = stain_folder(
            folder, tmp_path / "out", weights=weights, mpp=0.4661, device="cpu", any_stain=True, overwrite=True
        )
        assert record["warnings"] == []


def test_single_pictures_of_another_stain_are_named(tmp_path: Path) -> None:
    for k in range(12):
        save(tissue(k, 64)[0] if k != 4 else _brown(k), tmp_path / "in" / f"{k:02d}.png")
    weights = make_weights(tmp_path / "w.safetensors")
    record = stain_folder(tmp_path / "in", tmp_path / "out", weights=str(weights), mpp=0.4661, device="cpu")
    assert record["warnings"] == ["1 of 12 pictures do not look like H&E: 04.png; read nothing from their stains"]


def test_evaluation_refuses_he_that_is_none(tmp_path: Path) -> None:
    base = make_mist(tmp_path, n_train=1, n_val=2) / "ER" / "TrainValAB"
    for path in (base / "valA").iterdir():
        save(_brown(0, 96), path)
    with pytest.raises(
        DataError, match=r"valA are taken for H&E, but it looks like haematoxylin with DAB.*pass --any-stain"
    ):
        evaluate([], tmp_path, output=None, workers=1)
    assert evaluate([], tmp_path, output=None, workers=1, any_stain=True)["systems"]

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

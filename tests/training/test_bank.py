"""A finished run keeps what its network sees in the training pictures; weights that exist can be given it."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.generators.test_features import alive
from tests.optics.test_familiar import tissue
from wsistain.cli import main
from wsistain.errors import DataError, WeightsError
from wsistain.systems.cut import generator_network
from wsistain.training.bank import add_bank, keep_features
from wsistain.weights.file import Header, load_tensors, read_header, save_weights

OPTIONS = {"n_blocks": 1, "ngf": 8}
PICTURES = [tissue(k) for k in range(6)]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "w.safetensors"
    header = Header(system="cut", options=OPTIONS, markers=["ER"], mpp=2.0, tile_px=64, size_multiple=4)
    save_weights(path, header, alive(generator_network(OPTIONS)).state_dict())
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("trainA")
    for k, picture in enumerate(PICTURES):
        Image.fromarray(picture).save(made / f"{k}.png")
    (made / "notes.txt").write_text("no picture")
    return made


def test_finished_weights_keep_what_their_network_sees(weights: Path) -> None:
    before, threads = load_tensors(weights), torch.get_num_threads()
    keep_features(weights, PICTURES[:1], "cpu")
    assert read_header(weights).features is None  # too few to tell
    keep_features(weights, PICTURES, "cpu")
    header, after = read_header(weights), load_tensors(weights)
    assert header.features is not None and header.features.layer in dict(generator_network(OPTIONS).named_modules())
    assert before.keys() == after.keys() and all(torch.equal(v, after[k]) for k, v in before.items())
    assert torch.get_num_threads() == threads


def test_the_command_writes_a_bank_into_weights(
    weights: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, out = weights.read_bytes(), tmp_path / "banked.safetensors"
    with pytest.raises(SystemExit, match="0"):
        main(["weights", "bank", str(weights), str(folder), "--output", str(out)])
    assert "squares" in capsys.readouterr().out and weights.read_bytes() == before
    header = read_header(out)
    assert header.familiar is not None and header.features is not None
    assert all(torch.equal(v, load_tensors(out)[k]) for k, v in load_tensors(weights).items())
    with pytest.raises(SystemExit, match="0"):
        main(["weights", "show", str(out)])
    assert "features  256 squares of training pictures" in capsys.readouterr().out


def test_what_cannot_be_a_bank_is_refused_and_nothing_is_written(weights: Path, folder: Path, tmp_path: Path) -> None:
    before = weights.read_bytes()
    with pytest.raises(DataError, match="holds no pictures"):
        add_bank(weights, tmp_path / "nowhere")
    few = tmp_path / "few"
    few.mkdir()
    Image.fromarray(PICTURES[0]).save(few / "0.png")
    with pytest.raises(DataError, match="too little tissue"):
        add_bank(weights, few)
    with pytest.raises(WeightsError, match="exists"):
        add_bank(weights, folder, weights)
    save_weights(weights, read_header(weights).model_copy(update={"direction": "ihc-to-he"}), load_tensors(weights))
    with pytest.raises(WeightsError, match="ihc-to-he"):
        add_bank(weights, folder)
    assert before != weights.read_bytes()

"""Model cards and hub folders."""

import json
from pathlib import Path

import pytest
import yaml

from tests.data.made_patches import make_mist
from tests.evaluation.made import make_weights
from wsistain.cli import main
from wsistain.errors import OutputError, WeightsError
from wsistain.evaluation.report import evaluate
from wsistain.weights.card import hub_folder, model_card
from wsistain.weights.file import load_tensors, read_header, save_weights


def _front(card: str) -> dict[str, object]:
    _, front, _ = card.split("---\n", 2)
    return dict(yaml.safe_load(front))


def test_a_card_says_what_the_file_and_the_report_know(tmp_path: Path) -> None:
    weights = make_weights(tmp_path / "w.safetensors")
    root = make_mist(tmp_path / "data", n_train=1, n_val=3)
    evaluate([weights], root, output=tmp_path / "o", device="cpu", workers=1, mpp=0.4661)
    card = model_card(weights, tmp_path / "o" / "results.json")
    front, header = _front(card), read_header(weights)
    assert front["pipeline_tag"] == "image-to-image" and "ER" in list(front["tags"])  # type: ignore[call-overload]
    for words in (
        header.system,
        f"{header.mpp:g} um per px",
        "| SSIM | ",
        "not for diagnosis",
        "On 3 patches of 2 slides",
    ):
        assert words in card
    (ssim,) = [line for line in card.splitlines() if line.startswith("| SSIM |")]
    assert " to " in ssim  # an interval
    (r_p,) = [line for line in card.splitlines() if line.startswith("| R_p % |")]
    found = json.loads((tmp_path / "o" / "results.json").read_text())["systems"][weights.stem]["metrics"]["r_p"][
        "value"
    ]
    assert float(r_p.split("|")[2]) == pytest.approx(100 * found, rel=1e-3)
    other = make_weights(tmp_path / "other.safetensors", seed=5)
    with pytest.raises(WeightsError, match="holds no measurement of"):
        model_card(other, tmp_path / "o" / "results.json")
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(WeightsError, match=r"is no results\.json"):
        model_card(weights, tmp_path / "x.json")


@pytest.mark.parametrize(
    ("licence", "wanted"),
    [("Apache-2.0", "apache-2.0"), ("CC BY-NC-SA 4.0 (stated)", "cc-by-nc-sa-4.0"), ("mine | b", "other")],
)
def test_licences_get_the_hubs_names_or_their_own_words(tmp_path: Path, licence: str, wanted: str) -> None:
    source = make_weights(tmp_path / "w.safetensors")
    path = tmp_path / "l.safetensors"
    save_weights(path, read_header(source).model_copy(update={"licence": licence}), load_tensors(source))
    card = model_card(path)
    assert _front(card)["license"] == wanted and licence.replace("|", "\\|") in card


def test_a_hub_folder_holds_weights_and_card_and_nothing_is_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = make_weights(tmp_path / "w.safetensors")
    with pytest.raises(SystemExit) as stop:
        main(["weights", "push", str(weights), "-o", str(tmp_path / "hub"), "--repo", "lab/x"])
    assert not stop.value.code and "hf upload lab/x" in capsys.readouterr().out
    assert (tmp_path / "hub" / "weights.safetensors").read_bytes() == weights.read_bytes()
    assert _front((tmp_path / "hub" / "README.md").read_text())
    assert "--weights weights.safetensors" in (tmp_path / "hub" / "README.md").read_text()
    with pytest.raises(OutputError, match="is not empty"):
        hub_folder(weights, tmp_path / "hub")
    with pytest.raises(OutputError, match="is a file"):
        hub_folder(weights, weights)
    with pytest.raises(OutputError, match="of the weights themselves"):
        hub_folder(weights, tmp_path, overwrite=True)
    with pytest.raises(SystemExit):
        main(["weights", "show", str(weights), "--card"])
    assert "library_name: wsistain" in capsys.readouterr().out
    assert json.loads(json.dumps(_front(model_card(weights))))["library_name"] == "wsistain"


def test_show_takes_a_run_and_its_best_or_last(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in ("weights.safetensors", "weights.best.safetensors"):
        make_weights(run / name)
    for name, wanted in ((f"{run}", "weights.best.safetensors"), (f"{run}@last", "weights.safetensors")):
        with pytest.raises(SystemExit) as stop:
            main(["weights", "show", name])
        said = capsys.readouterr().out
        assert not stop.value.code and str(run / wanted) in said and f"--weights {name}" in said
    (run / "weights.best.safetensors").unlink()
    with pytest.raises(SystemExit) as stop:
        main(["weights", "show", f"{run}@best"])
    assert stop.value.code == 2 and "best weights need a run with val_every" in capsys.readouterr().err

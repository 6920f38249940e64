"""The papers' figures of made patches: what is drawn is what is there, and what lacks something says so."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from tests.evaluation.made import make_mist, make_weights, section
from wsistain.cli import app
from wsistain.errors import ConfigError
from wsistain.evaluation.chosen import Wanted, choose_patches
from wsistain.evaluation.drawing import Sheet, heat, links
from wsistain.evaluation.figures import Wish, draw_figures, focal_picture, plan_between, tsne_points
from wsistain.evaluation.rows import find_candidates
from wsistain.markers import find_marker
from wsistain.networks.resnet50 import ResNet50Features
from wsistain.optics.scoring import stain_od

ER = find_marker("ER")


@pytest.fixture(scope="module")
def mist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_mist(tmp_path_factory.mktemp("mist"), n_val=4)


def wish(mist: Path, output: Path, weights: list[Path], **values: object) -> Wish:
    candidates = find_candidates(weights, "ER")
    chosen = choose_patches(Wanted(mist, "mist", ER, "val"), candidates)
    return Wish(chosen, ER, candidates, output, nets=output, **values)  # type: ignore[arg-type]


def test_masks_plan_and_attention_are_sheets_of_the_patches(mist: Path, tmp_path: Path) -> None:
    weights = make_weights(tmp_path / "narrow.safetensors")
    drawn = {f.name: f for f in draw_figures(wish(mist, tmp_path / "out", [weights], n_shown=2))}
    assert [len(drawn[n].files) for n in ("masks", "plan", "attention")] == [2, 2, 2]
    for name in ("masks", "plan", "attention"):
        picture = np.asarray(Image.open(drawn[name].files[0]))
        assert picture.ndim == 3 and min(picture.shape[:2]) > 300 and picture.std() > 20
    masks = np.asarray(Image.open(drawn["masks"].files[0]))
    assert masks.shape[0] > 2 * 320  # real IHC and one network
    assert "pass --results" in drawn["correlations"].why_not and "curl" in drawn["tsne"].why_not


def test_without_weights_only_what_needs_an_encoder_is_left_out(mist: Path, tmp_path: Path) -> None:
    drawn = {f.name: f for f in draw_figures(wish(mist, tmp_path, [], n_shown=1), ["masks", "plan", "attention"])}
    assert drawn["masks"].files and "pass --weights" in drawn["plan"].why_not == drawn["attention"].why_not
    with pytest.raises(ConfigError, match="figure 'mask' is not known; wanted some of tsne"):
        draw_figures(wish(mist, tmp_path, []), ["mask"])


def test_correlations_are_those_of_the_report(mist: Path, tmp_path: Path) -> None:
    systems = {
        n: {"label": n, "kind": "weights", "metrics": {"r_c": {"value": c}, "r_p": {"value": p}}}
        for n, c, p in (("good", 0.9, 0.8), ("poor", 0.5, None), ("fair", 0.7, 0.25))
    }
    (tmp_path / "results.json").write_text(json.dumps({"systems": systems, "data": {}}))
    (figure,) = draw_figures(wish(mist, tmp_path / "out", [], results=tmp_path), ["correlations"])
    text = figure.files[0].read_text()
    assert "good: 90.00, 80.00" in text and "fair: 70.00, 25.00" in text and "poor" not in text
    assert text.startswith('<svg xmlns="http://www.w3.org/2000/svg"') and "<script" not in text


def test_the_tsne_keeps_groups_apart_that_are_apart_and_is_the_same_again() -> None:
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    features = rng.normal(size=(30, 20)) + np.repeat([[0.0], [9.0]], 15, axis=0)
    at = tsne_points(features)
    centres = at[:15].mean(0), at[15:].mean(0)
    spread = max(np.linalg.norm(at[:15] - centres[0], axis=1).max(), np.linalg.norm(at[15:] - centres[1], axis=1).max())
    assert np.linalg.norm(centres[0] - centres[1]) > spread
    assert np.array_equal(at, tsne_points(features))
    with pytest.raises(ValueError, match="too few"):
        tsne_points(features[:5])


def test_the_tsne_is_of_resnet_features_of_both_sides(
    mist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.setattr("wsistain.networks.resnet50.ResNet50Features", lambda: ResNet50Features(16))
    torch.manual_seed(0)
    save_file(ResNet50Features(16).state_dict(), tmp_path / "resnet50-0676ba61.safetensors")
    (figure,) = draw_figures(wish(mist, tmp_path, []), ["tsne"])
    lines = (tmp_path / "tsne.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * 4 and {line.split(",")[0] for line in lines[1:]} == {"H&E", "real IHC"}
    assert "not told to be the published one" in figure.files[0].read_text()


def test_focal_density_is_zero_on_glass_and_higher_on_brown() -> None:
    _, ihc = section(0, 64, positive=1.0)
    assert focal_picture(np.full((8, 8, 3), 255, np.uint8)).max() == 0
    brown = stain_od(ihc) > 0.2
    assert brown.any() and focal_picture(ihc)[brown].mean() > 5 * focal_picture(ihc)[~brown].mean()


def test_a_plan_between_equal_features_goes_from_each_place_to_itself() -> None:
    torch.manual_seed(0)
    feature = torch.randn(1, 8, 16, 16)
    plan = plan_between(feature, feature, side=4)
    assert plan.shape == (16, 16) and plan.sum() == pytest.approx(1, abs=0.2)
    assert plan.argmax(axis=1).tolist() == list(range(16))
    turned = plan_between(feature, feature.flip(3), side=4)
    assert turned.argmax(axis=1).reshape(4, 4).tolist() == np.arange(16).reshape(4, 4)[:, ::-1].tolist()


def test_heat_rises_from_white_and_shows_what_is_no_number() -> None:
    row = heat(np.array([[0.0, 0.25, 0.5, 1.0, np.nan]]))[0].astype(int).sum(axis=1)
    assert row[0] == 765 and all(row[:3] > row[1:4]) and row[4] == 510
    he, ihc = section(0, 64)
    assert links(he, ihc, np.arange(16), 4).shape[1] > 2 * 320
    sheet = Sheet(("one",))
    with pytest.raises(ValueError, match="2 pictures in 1 columns"):
        sheet.add("a", [he, ihc])


def test_the_command_draws_what_it_can_and_refuses_what_was_named_and_cannot(mist: Path, tmp_path: Path) -> None:
    command = ["figures", "--data", str(mist), "--nets", str(tmp_path), "--patches", "1", "--output"]
    result = CliRunner().invoke(app, [*command, str(tmp_path / "a")])
    assert result.exit_code == 0 and "masks: " in result.output and "plan: not drawn" in result.output
    again = CliRunner().invoke(app, [*command, str(tmp_path / "a")])
    assert "is not empty" in str(again.exception)
    named = CliRunner().invoke(app, [*command, str(tmp_path / "b"), "--only", "plan"])
    assert "plan could not be drawn" in str(named.exception)

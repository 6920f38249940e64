"""Held-out patches measured while training: what is kept as the best, and when a run ends."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.training.made_runs import tiny_run
from wsistain.errors import ConfigError, WeightsError
from wsistain.evaluation.report import evaluate
from wsistain.evaluation.rows import find_candidates
from wsistain.phantom.products import make_patches
from wsistain.training.loop import train
from wsistain.training.validation import Best, Validation, gain
from wsistain.weights.file import read_header
from wsistain.weights.find import find_weights


def _told(monkeypatch: pytest.MonkeyPatch, values: list[float]) -> None:
    """Let validation find these values of ssim, one after another, by step."""

    def measure(self: Validation, network: Any, ema: Any, device: Any) -> dict[str, float]:
        return {"ssim": values.pop(0)}

    monkeypatch.setattr(Validation, "measure", measure)


def _validations(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "validation" in line]


def test_gains_follow_the_side_that_is_better() -> None:
    assert gain("ssim", 0.1, None) and gain("ssim", 0.3, 0.2) and not gain("ssim", 0.2, 0.2)
    assert gain("positive_error", 0.1, 0.2) and not gain("positive_error", 0.3, 0.2)
    best = Best("ssim")
    assert [best.take(k, {"ssim": v}) for k, v in enumerate((0.2, 0.1, 0.3))] == [True, False, True]
    assert (best.value, best.step, best.since) == (0.3, 2, 0)
    assert not best.take(9, {}) and best.since == 1


def test_validation_measures_what_evaluate_measures(tmp_path: Path, patches: Path) -> None:
    cfg = tiny_run(patches, steps=2, val_every=1, val_metrics=["ssim", "css", "positive_error"])
    run = tmp_path / "run"
    train(cfg, run, tiny=True)
    first, last = _validations(run)
    assert (first["step"], last["step"], first["best"]) == (1, 2, True)
    results = evaluate(str(run / "weights.safetensors"), patches, output=None, device="cpu", workers=1, mpp=0.4661)
    (mine,) = [s for s in results["systems"].values() if s["kind"] == "weights"]
    for name in ("ssim", "css", "positive_error"):
        assert last["validation"][name] == pytest.approx(mine["metrics"][name]["value"], abs=2e-6)


def test_the_best_weights_lie_beside_the_last_and_are_what_a_run_means(
    tmp_path: Path, patches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _told(monkeypatch, [0.2, 0.5, 0.4])
    run = tmp_path / "run"
    train(tiny_run(patches, steps=3, val_every=1, val_metrics=["ssim"]), run, tiny=True)
    best, last = run / "weights.best.safetensors", run / "weights.safetensors"
    assert (read_header(best).step, read_header(last).step) == (2, 3)
    assert read_header(best).note == "best of its run so far: ssim 0.5 on held-out patches"
    assert find_weights(str(run), "ER") == find_weights(f"{run}@best", "ER") == best
    assert find_weights(f"{run}@last", "ER") == last
    for given in (run, tmp_path):
        (candidate,) = find_candidates([given], "ER")
        assert (candidate.name, Path(candidate.spec.weights)) == ("run", best.resolve())
    train(tiny_run(patches, steps=1), tmp_path / "plain", tiny=True)
    assert find_weights(str(tmp_path / "plain"), "ER").name == "weights.safetensors"
    with pytest.raises(WeightsError, match=r"holds no weights\.best\.safetensors"):
        find_weights(f"{tmp_path / 'plain'}@best", "ER")


def test_a_run_without_gain_ends_and_stays_ended_when_resumed(
    tmp_path: Path, patches: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    _told(monkeypatch, [0.2, 0.5, 0.4, 0.3, 0.6])
    cfg = tiny_run(patches, steps=9, val_every=1, val_metrics=["ssim"], patience=2)
    weights = train(cfg, tmp_path, tiny=True)
    assert read_header(weights).step == 4 and "2 validations without gain" in capfd.readouterr().err
    train(cfg, tmp_path, tiny=True, resume=True)
    assert read_header(weights).step == 4 and "ended without gain" in capfd.readouterr().err
    with pytest.raises(ConfigError, match=r"options.lr would change nothing; --set patience=null lets it go on"):
        train(cfg.model_copy(update={"options": {"lr": 1e-5}}), tmp_path, tiny=True, resume=True)
    train(cfg.model_copy(update={"patience": None, "val_every": 9}), tmp_path, tiny=True, resume=True)
    assert read_header(weights).step == 9 and read_header(tmp_path / "weights.best.safetensors").step == 9


def test_validations_of_another_metric_do_not_count_as_without_gain(
    tmp_path: Path, patches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _told(monkeypatch, [0.4, 0.5, 0.5])
    cfg = tiny_run(patches, steps=3, val_every=1, val_metrics=["ssim"])
    train(cfg, tmp_path, tiny=True)
    monkeypatch.setattr(Validation, "measure", lambda *_: {"css": 0.3})
    other = cfg.model_copy(update={"val_metrics": ["css"], "patience": 1, "steps": 4})
    assert read_header(train(other, tmp_path, tiny=True, resume=True)).step == 4


def test_a_run_that_is_validated_trains_to_the_same_bytes(tmp_path: Path, patches: Path) -> None:
    cfg = tiny_run(patches, system="cyclegan", steps=2)
    plain = train(cfg, tmp_path / "plain", tiny=True).read_bytes()
    assert train(cfg.model_copy(update={"val_every": 1}), tmp_path / "val", tiny=True).read_bytes() == plain


def test_the_phantoms_truth_is_measured_where_there_is_one(tmp_path: Path) -> None:
    make_patches(tmp_path / "data", markers="ER", train=2, val=2, size=128, slides=2, seed=3, mpp=1.0)
    cfg = tiny_run(tmp_path / "data", steps=1, val_every=1, data={"mpp": None})
    weights = train(cfg, tmp_path / "run", tiny=True)
    (line,) = _validations(tmp_path / "run")
    assert {"cell_auc", "css", "positive_error"} <= set(line["validation"])
    assert read_header(weights).mpp == 1.0


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"val_every": 1, "val_metrics": ["sim"]}, "'sim' is not known"),
        ({"val_every": 1, "val_metrics": ["fid"]}, "fid needs published networks"),
        ({"val_every": 1, "best_metric": "positive_fraction"}, "no better side"),
        ({"patience": 2}, "set val_every too"),
        ({"val_every": 1, "val_metrics": ["cell_auc"]}, "cannot be measured on these patches"),
    ],
)
def test_what_cannot_be_measured_is_refused(tmp_path: Path, patches: Path, keys: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        train(tiny_run(patches, steps=1, **keys), tmp_path / "run", tiny=True)

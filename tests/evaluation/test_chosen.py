"""Patches are split and scaled as the weights were trained, or somebody is asked."""

import json
from pathlib import Path

import pytest

from tests.evaluation.made import make_mist, make_weights, section, write
from wsistain.data.layouts import list_patches
from wsistain.errors import ConfigError
from wsistain.evaluation.chosen import Wanted, choose_patches
from wsistain.evaluation.report import evaluate
from wsistain.evaluation.rows import Candidate, find_candidates
from wsistain.markers import find_marker
from wsistain.weights.file import TrainedOn, load_network, read_header, save_weights

ER = find_marker("ER")


def make_ihc4bc(root: Path, patients: int = 8) -> Path:
    for p in range(patients):
        for side, picture in zip(("HandE", "IHC"), section(p, 96), strict=True):
            write(root / side / "ER" / f"p{p}" / "s0" / f"{p}.png", picture)
    return root


def trained(path: Path, on: TrainedOn | None, *, mpp: float = 0.25, data: str = "90 ihc4bc patches") -> Candidate:
    """Weights whose header says where they were trained, as `evaluate` finds them."""
    network, header = load_network(make_weights(path, mpp=mpp))
    save_weights(path, header.model_copy(update={"trained_on": on, "training_data": data}), network.state_dict())
    return find_candidates([path], "ER")[0]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_ihc4bc(tmp_path_factory.mktemp("ihc4bc"))


def wanted(root: Path, **values: object) -> Wanted:
    return Wanted(root, "ihc4bc", ER, "val", **values)  # type: ignore[arg-type]


def test_the_patients_and_the_scale_are_those_of_the_weights(root: Path, tmp_path: Path) -> None:
    mine = trained(tmp_path / "a.safetensors", TrainedOn(layout="ihc4bc", mpp=0.25, val_share=0.4, split_seed=3))
    chosen = choose_patches(wanted(root), [mine])
    kept = list_patches("ihc4bc", root, ER, "val", val_share=0.4, split_seed=3)
    assert chosen.refs == kept != list_patches("ihc4bc", root, ER, "val")
    assert not {r.slide for r in chosen.train} & {r.slide for r in chosen.refs}
    assert (chosen.mpp, chosen.val_share, chosen.split_seed, chosen.warnings) == (0.25, 0.4, 3, ())
    results = evaluate([tmp_path / "a.safetensors"], root, layout="ihc4bc", nets=tmp_path, workers=1)
    assert results["data"]["n_pairs"] == len(kept) and results["data"]["split_seed"] == 3
    assert results["systems"]["a"]["patches_resampled_by"] == 1.0


def test_weights_that_disagree_with_each_other_or_with_the_user_are_refused(root: Path, tmp_path: Path) -> None:
    on = [TrainedOn(layout="ihc4bc", mpp=m, val_share=0.4, split_seed=s) for m, s in ((0.25, 3), (0.25, 4), (0.5, 3))]
    a, b, c = (trained(tmp_path / f"{n}.safetensors", o) for n, o in zip("abc", on, strict=True))
    with pytest.raises(ConfigError, match=r"held out different patients: a .*split_seed 3\), b .*one by one"):
        choose_patches(wanted(root), [a, b])
    with pytest.raises(ConfigError, match=r"val_share 0\.1 is not that of a \(0\.4\): patients it was trained on"):
        choose_patches(wanted(root, val_share=0.1), [a])
    with pytest.raises(ConfigError, match="split_seed 0 is not that of a"):
        choose_patches(wanted(root, split_seed=0), [a])
    with pytest.raises(ConfigError, match=r"c was trained on ihc4bc patches taken for 0\.5 um per px, found 0\.25"):
        choose_patches(wanted(root), [a, c])
    with pytest.raises(ConfigError, match=r"taken for 0\.25 um per px, found 0\.4"):
        choose_patches(wanted(root, mpp=0.4), [a])


def test_a_scale_that_nobody_states_is_asked_for_and_a_split_that_nobody_states_is_told(
    root: Path, tmp_path: Path
) -> None:
    silent = trained(tmp_path / "a.safetensors", None, data="IHC4BC ER, the authors' split")
    with pytest.raises(ConfigError, match=r"stated nowhere.*pass --mpp"):
        choose_patches(wanted(root), [silent])
    chosen = choose_patches(wanted(root, mpp=0.25), [silent])
    assert len(chosen.warnings) == 1 and "does not say which patients it held out" in chosen.warnings[0]
    elsewhere = trained(tmp_path / "b.safetensors", TrainedOn(layout="mist", mpp=0.4661), data="MIST ER")
    assert choose_patches(wanted(root, mpp=0.25), [elsewhere]).warnings == ()
    assert choose_patches(wanted(root), []).mpp is None  # baselines need none


def test_the_scale_is_the_users_the_manifests_the_data_sets_or_the_weights(tmp_path: Path) -> None:
    mist = make_mist(tmp_path / "mist")
    manifest = mist / "ER" / "manifest.json"
    manifest.write_text(json.dumps({"parameters": {"kind": "made", "mpp": 0.25, "marker": "ER"}}))
    wish = Wanted(mist, "mist", ER, "val")
    trained_here = trained(tmp_path / "a.safetensors", TrainedOn(layout="mist", mpp=0.5))
    assert choose_patches(wish, [trained_here]).mpp == 0.25
    manifest.unlink()
    assert choose_patches(wish, []).mpp is None
    assert choose_patches(wish, [trained_here]).mpp == 0.5
    elsewhere = trained(tmp_path / "b.safetensors", TrainedOn(layout="bci", mpp=0.46))
    with pytest.raises(ConfigError, match=r"stated nowhere.*pass --mpp"):
        choose_patches(wish, [elsewhere])
    assert choose_patches(Wanted(mist, "mist", ER, "val", mpp=0.4), [elsewhere]).mpp == 0.4


def test_a_split_is_not_chosen_where_the_data_set_has_one(tmp_path: Path) -> None:
    mist = make_mist(tmp_path / "mist")
    for values, words in (
        ({"val_share": 0.2}, "comes with a split"),
        ({"split_seed": 1}, "--split-seed is for ihc4bc"),
    ):
        with pytest.raises(ConfigError, match=words):
            choose_patches(Wanted(mist, "mist", ER, "val", **values), [])
    with pytest.raises(ConfigError, match="not between 0 and 1"):
        choose_patches(Wanted(mist, "ihc4bc", ER, "val", val_share=1.0), [])


def test_training_writes_what_evaluation_follows(root: Path, tmp_path: Path) -> None:
    from wsistain.config import TrainConfig, validate
    from wsistain.training.loop import train

    data = {"layout": "ihc4bc", "root": str(root), "crop_px": 64, "load_px": 72, "mpp": 0.25}
    data |= {"val_share": 0.3, "split_seed": 5}
    values = {"system": "pix2pix", "data": data, "steps": 1, "device": "cpu"}
    weights = train(validate(TrainConfig, values, "here"), tmp_path / "run", tiny=True)
    on = read_header(weights).trained_on
    assert on == TrainedOn(layout="ihc4bc", mpp=0.25, val_share=0.3, split_seed=5)
    assert read_header(weights).mpp == pytest.approx(0.25 * 96 / 72)  # patches are shrunk before they are cropped
    results = evaluate([weights], root, layout="ihc4bc", nets=tmp_path, workers=1, output=tmp_path / "scores")
    report = json.loads((tmp_path / "run" / "data.json").read_text())
    measured = (tmp_path / "scores" / "pairs.csv").read_text().splitlines()[1:]
    assert sorted({line.split("/")[0].split(",")[-1] for line in measured}) == report["held_out_slides"]
    assert (results["data"]["patch_mpp"], results["data"]["val_share"], results["data"]["split_seed"]) == (0.25, 0.3, 5)
    (row,) = (s for s in results["systems"].values() if s["kind"] == "weights")
    assert row["patches_resampled_by"] == pytest.approx(72 / 96, abs=1e-3) and not results["warnings"]

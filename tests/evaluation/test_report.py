import csv
import io
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from tests.evaluation.made import make_bci, make_mist, make_weights, section, write
from wsistain.data.pictures import resize
from wsistain.errors import ConfigError, DataError, OutputError, WeightsError
from wsistain.evaluation import patches as patches_module
from wsistain.evaluation.deep import NET_FILES, DeepMetrics
from wsistain.evaluation.fidelity import psnr, ssim
from wsistain.evaluation.leaderboard import leaderboard
from wsistain.evaluation.metrics import METRICS
from wsistain.evaluation.patches import Pass, read_patch, run_pass
from wsistain.evaluation.report import evaluate
from wsistain.evaluation.rows import Identity, MeanColour, Network, find_candidates
from wsistain.generators.load import load_generator
from wsistain.markers import find_marker
from wsistain.optics.scoring import integrated_density


@pytest.fixture(scope="module")
def mist(tmp_path_factory):
    return make_mist(tmp_path_factory.mktemp("mist"))


@pytest.fixture(scope="module")
def reported(mist, tmp_path_factory):
    """A finished report of one random generator, and its folder."""
    folder = tmp_path_factory.mktemp("reported")
    weights = make_weights(folder / "runs" / "narrow" / "weights.safetensors")
    nets = folder / "no_nets"
    nets.mkdir()
    results = evaluate(weights, mist, output=folder / "report", nets=nets, workers=1, pictures=2)
    return results, folder


def value(results, system, metric):
    return results["systems"][system]["metrics"][metric]["value"]


def test_baselines_are_always_beside_the_weights(reported):
    results, _ = reported
    assert list(results["systems"]) == ["identity", "mean_colour", "real", "narrow"]
    assert value(results, "identity", "r_c") == pytest.approx(1)
    assert results["systems"]["mean_colour"]["note"].endswith("the training split")
    assert results["systems"]["narrow"]["system"] == "cut" and results["systems"]["narrow"]["training_data"] == "made"


def test_numbers_are_those_of_the_pictures(reported, mist):
    results, _ = reported
    base = mist / "ER" / "TrainValAB"
    from wsistain.data.layouts import list_patches

    refs = list_patches("mist", mist, "ER", "val")
    pairs = [read_patch(r)[:2] for r in refs]
    assert len(pairs) == 6 and base.is_dir()
    assert value(results, "identity", "ssim") == pytest.approx(np.mean([ssim(a, b) for a, b in pairs]))
    assert value(results, "identity", "psnr") == pytest.approx(np.mean([psnr(a, b) for a, b in pairs]))
    virtual, real = (np.array([integrated_density(p[k]) for p in pairs]) for k in (0, 1))
    assert value(results, "identity", "iod") == pytest.approx(abs(virtual.sum() - real.sum()) * 1e-7)
    assert value(results, "identity", "r_p") == pytest.approx(np.corrcoef(virtual, real)[0, 1])


def test_each_number_has_an_interval_over_slides_and_the_number_of_pictures(reported):
    results, _ = reported
    assert results["data"]["n_slides"] == 3 and results["data"]["n_pairs"] == 6
    entry = results["systems"]["narrow"]["metrics"]["ssim"]
    assert entry["ci_low"] <= entry["value"] <= entry["ci_high"] and entry["n"] == 6
    assert set(results["systems"]["narrow"]["slides"]) == {"val0", "val1", "val2"}


def test_what_needs_networks_is_missing_with_the_command(reported):
    results, folder = reported
    assert {"fid", "kid", "kid_asp", "lpips_alex", "phv_avg", "phv_1"} <= set(results["missing"])
    assert "fid" not in results["systems"]["narrow"]["metrics"]
    assert NET_FILES["inception_fid"].url in results["missing"]["fid"]["commands"][0]
    for name in ("results.md", "report.html"):
        assert NET_FILES["resnet50"].url in (folder / "report" / name).read_text()


def test_all_files_are_written_and_agree(reported):
    results, folder = reported
    report = folder / "report"
    assert json.loads((report / "results.json").read_text()) == results
    rows = list(csv.DictReader(io.StringIO((report / "results.csv").read_text())))
    assert [r["system"] for r in rows] == list(results["systems"])
    assert float(rows[3]["ssim"]) == pytest.approx(value(results, "narrow", "ssim"))
    assert float(rows[3]["ssim_spread"]) > 0 and rows[3]["r_p_spread"] == ""
    pairs = list(csv.DictReader(io.StringIO((report / "pairs.csv").read_text())))
    assert len(pairs) == 24
    mine = [float(r["ssim"]) for r in pairs if r["system"] == "narrow"]
    assert np.mean(mine) == pytest.approx(value(results, "narrow", "ssim"))
    assert not list(report.glob("*.part"))


def test_the_markdown_table_has_the_papers_columns_and_every_convention(reported):
    _, folder = reported
    text = (folder / "report" / "results.md").read_text()
    header = next(line for line in text.splitlines() if line.startswith("|  | SSIM"))
    for label in ("PSNR", "CSS", "FID", "KID", "PHV avg", "IoD", "R_c", "R_p", "R_avg"):
        assert label in header
    assert "uniform window 7" in text and "Fiji" in text


def test_the_page_stands_alone_and_shows_tables_plots_and_pictures(reported):
    _, folder = reported
    html = (folder / "report" / "report.html").read_text()
    assert (
        "http"
        not in html.replace("http-equiv", "")
        .replace(NET_FILES["resnet50"].url, "")
        .split("<h2>Conventions")[0]
        .split("<pre>")[0]
    )
    assert 'src="' in html and 'src="http' not in html and "<link" not in html and "@import" not in html
    assert html.count('<table class="sortable">') >= 3
    assert html.count("<svg") == 6 and html.count("data:image/jpeg;base64,") == 2 * 4
    for system in ("Identity", "Mean-colour", "narrow"):
        assert system in html


def test_names_with_markup_are_escaped(mist, tmp_path):
    weights = make_weights(tmp_path / "<b>&x.safetensors")
    evaluate(weights, mist, output=tmp_path / "o", nets=tmp_path, workers=1, limit=2, pictures=1)
    html = (tmp_path / "o" / "report.html").read_text()
    assert "<b>&x" not in html and "&lt;b&gt;&amp;x" in html


def test_worker_processes_give_the_same_numbers(mist, tmp_path, monkeypatch):
    monkeypatch.setattr(patches_module, "_INLINE_PAIRS", 2)
    here = evaluate([], mist, nets=tmp_path, workers=1, limit=3)
    there = evaluate([], mist, nets=tmp_path, workers=2, limit=3)
    for system in here["systems"]:
        assert here["systems"][system]["metrics"] == there["systems"][system]["metrics"]


def test_levels_are_reported_and_unknown_slides_give_no_interval(tmp_path):
    results = evaluate(
        [], make_bci(tmp_path / "bci"), layout="bci", marker="HER2", split="test", nets=tmp_path, workers=1
    )
    assert results["data"]["levels"] == {"1+": 3, "3+": 3} and results["data"]["n_slides"] == 0
    levels = results["systems"]["identity"]["levels"]
    whole = value(results, "identity", "psnr")
    assert np.mean([levels[k]["psnr"]["value"] for k in ("1+", "3+")]) == pytest.approx(whole)
    assert results["systems"]["identity"]["metrics"]["psnr"]["ci_low"] is None
    assert any("do not tell their slides" in note for note in results["notes"])


def test_unreadable_patches_are_listed_and_the_others_measured(tmp_path):
    root = make_mist(tmp_path / "m", n_val=4)
    base = root / "ER" / "TrainValAB"
    broken = base / "valB" / "val1_1_0.png"
    broken.write_bytes(broken.read_bytes()[:200])
    write(base / "valA" / "val2_2_0.png", section(0, 80)[0])
    results = evaluate([], root, nets=tmp_path, workers=1)
    assert results["data"]["n_pairs"] == 2
    assert {u["name"]: u["why"] for u in results["data"]["unreadable"]} == {
        "val1_1_0": "val1_1_0.png is cut short",
        "val2_2_0": "its pictures differ in size (80 x 80, 96 x 96)",
    }
    for path in (base / "valB").iterdir():
        path.write_bytes(b"nothing")
    with pytest.raises(DataError, match="none of 4 patches can be used"):
        evaluate([], root, nets=tmp_path, workers=1)


def test_names_that_do_not_match_are_refused_as_in_training(tmp_path):
    root = make_mist(tmp_path / "m", n_val=3)
    base = root / "ER" / "TrainValAB"
    (base / "valB" / "val0_0_0.png").rename(base / "valB" / "other_0_0.png")
    with pytest.raises(DataError, match="do not match"):
        evaluate([], root, nets=tmp_path, workers=1)


def test_bad_arguments_are_refused_before_anything_is_measured(mist, tmp_path):
    for arguments, error, words in (
        ({"split": "best"}, ConfigError, "split 'best'"),
        ({"size": 8}, ConfigError, "at least 64"),
        ({"limit": 0}, ConfigError, "limit 0"),
        ({"nets": tmp_path / "absent"}, ConfigError, "is not a folder"),
        ({"layout": "msit"}, DataError, "layout 'msit'"),
        ({"marker": "CD99"}, ConfigError, "CD99"),
    ):
        with pytest.raises(error, match=words):
            evaluate([], mist, **{"nets": tmp_path, "workers": 1, **arguments})
    with pytest.raises(WeightsError, match="stains HER2, not ER"):
        evaluate(make_weights(tmp_path / "her2.safetensors", marker="HER2"), mist, nets=tmp_path)
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "results.json").write_text("{}")
    with pytest.raises(OutputError, match="--overwrite"):
        evaluate([], mist, output=tmp_path / "o", nets=tmp_path)


def test_a_folder_of_runs_stands_for_all_its_runs_and_names_stay_unique(tmp_path):
    for k, name in enumerate(("a", "b")):
        make_weights(tmp_path / "runs" / name / "weights.safetensors", seed=k)
    make_weights(tmp_path / "runs" / "c" / "weights.safetensors", marker="PR")
    make_weights(tmp_path / "a.safetensors")
    found = find_candidates([tmp_path / "runs", tmp_path / "a.safetensors", "identity"], "ER")
    assert [c.name for c in found] == ["a", "b", "a-2"]
    with pytest.raises(WeightsError, match="none of the 3 runs"):
        find_candidates([tmp_path / "runs"], "HER2")


def test_results_of_several_folders_become_one_leaderboard(reported, mist, tmp_path):
    _, folder = reported
    other = make_weights(tmp_path / "wide" / "weights.safetensors", seed=3)
    again = make_weights(tmp_path / "narrow" / "weights.safetensors", seed=4)
    (tmp_path / "all").mkdir()
    (folder / "report").rename(tmp_path / "all" / "first")
    try:
        second = evaluate([other, again], mist, output=tmp_path / "all" / "second", nets=folder / "no_nets", workers=1)
        merged = leaderboard(tmp_path / "all", tmp_path / "board")
        assert list(merged["systems"]) == ["identity", "mean_colour", "real", "narrow", "wide", "second/narrow"]
        assert value(merged, "wide", "ssim") == value(second, "wide", "ssim")
        assert "second/narrow" in (tmp_path / "board" / "report.html").read_text()
        evaluate([], mist, output=tmp_path / "all" / "third", nets=folder / "no_nets", workers=1, limit=3)
        with pytest.raises(DataError, match="not measured on the same pictures"):
            leaderboard(tmp_path / "all", tmp_path / "board", overwrite=True)
        with pytest.raises(OutputError, match="--overwrite"):
            leaderboard(tmp_path / "all", tmp_path / "board")
    finally:
        (tmp_path / "all" / "first").rename(folder / "report")
    with pytest.raises(DataError, match=r"no results\.json"):
        leaderboard(mist, tmp_path / "empty")


def test_a_network_sees_the_whole_patch_padded_to_its_multiple(tmp_path):
    generator = load_generator(make_weights(tmp_path / "w.safetensors"), "ER", device="cpu")
    he = section(1, 101)[0][:, :90]
    stained = Network("w", generator, 0.4661).stain(he)
    assert stained.shape == he.shape
    padded = np.pad(he, [(0, 3), (0, 2), (0, 0)], mode="symmetric")
    assert np.array_equal(stained, generator.stain(padded[None], [(0, 0)])[0][:101, :90])


def test_patches_are_resampled_for_a_generator_of_another_scale(tmp_path):
    generator = load_generator(make_weights(tmp_path / "w.safetensors", mpp=1.8644), "ER", device="cpu")
    coarse = Network("w", generator, 0.4661)
    assert coarse.scale == pytest.approx(0.25) and coarse.facts()["patches_resampled_by"] == 0.25
    assert coarse.stain(section(1, 128)[0]).shape == (128, 128, 3)
    assert Network("w", generator, 1.8).scale == 1.0
    assert Network("w", generator, None).scale == 1.0


def test_mean_colour_moves_the_mean_and_nothing_else():
    he, ihc = section(0, 96)
    stainer = MeanColour(he.reshape(-1, 3).mean(0), ihc.reshape(-1, 3).mean(0), "one patch")
    moved = stainer.stain(he)
    assert np.abs(moved.reshape(-1, 3).mean(0) - ihc.reshape(-1, 3).mean(0)).max() < 3
    for channel in range(3):
        assert np.corrcoef(moved[..., channel].ravel(), he[..., channel].ravel())[0, 1] > 0.95


class Oracle:
    """Knows the real IHC."""

    name = "oracle"

    def __init__(self, answers):
        self._answers = answers

    def facts(self):
        return {"kind": "weights"}

    def stain(self, he, size=None):
        return self._answers[he.tobytes()]


def test_a_perfect_stain_has_perfect_numbers(mist):
    from wsistain.data.layouts import list_patches

    refs = list_patches("mist", mist, "ER", "val")
    answers = {read_patch(r)[0].tobytes(): read_patch(r)[1] for r in refs}
    deep = DeepMetrics(torch.device("cpu"))
    results, unusable = run_pass(refs, Pass([Identity(), Oracle(answers)], find_marker("ER"), deep), workers=1)
    assert not unusable
    for result in results:
        perfect, plain = result.measures.systems["oracle"], result.measures.systems["identity"]
        assert perfect["ssim"] == pytest.approx(1) and perfect["vif"] == pytest.approx(1, abs=1e-6)
        assert perfect["psnr"] == math.inf and perfect["dice"] == 1 and perfect["hausdorff"] == 0
        assert perfect["int_den"] == result.measures.real["int_den"]
        assert perfect["positive_error"] == perfect["h_score_error"] == 0
        assert plain["ssim"] < 0.9 and plain["dice"] < perfect["dice"]


def test_pictures_can_be_measured_at_another_size(mist, tmp_path):
    results = evaluate([], mist, nets=tmp_path, workers=1, limit=2, size=64)
    assert results["data"]["sizes"] == ["64 x 64"] and "64 px" in results["measured_at"]
    whole = evaluate([], mist, nets=tmp_path, workers=1, limit=2)
    assert value(results, "identity", "ssim") != value(whole, "identity", "ssim")


def test_at_a_size_pictures_that_are_not_square_are_left_out_and_said(tmp_path):
    root = make_mist(tmp_path / "mist")
    names = [path.name for path in sorted((root / "ER" / "TrainValAB" / "valA").iterdir())]
    for folder in ("valA", "valB"):
        path = root / "ER" / "TrainValAB" / folder / names[0]
        write(path, np.asarray(Image.open(path))[:70])
    results = evaluate([], root, nets=tmp_path, workers=1, size=64)
    assert results["data"]["sizes"] == ["64 x 64"]
    assert [
        names[0].startswith(u["name"]) and "squashed to 64 x 64" in u["why"] for u in results["data"]["unreadable"]
    ] == [True]


def test_at_a_size_a_network_of_that_scale_is_given_that_size_and_its_own_output_is_measured(tmp_path):
    seen = []

    class Noted:
        spec = load_generator(make_weights(tmp_path / "w.safetensors", mpp=0.93), "ER", device="cpu").spec

        def stain(self, tiles, positions):
            seen.append(tiles.shape[1:3])
            return tiles // 2

    he = section(1, 96)[0]
    own = Network("own", Noted(), 0.4661)  # 96 px become 48 at its scale
    assert np.array_equal(own.stain(he, 48), resize(he, 48, 48) // 2) and seen.pop() == (48, 48)
    assert np.array_equal(own.stain(he, 50), np.pad(resize(he, 50, 50), [(0, 2), (0, 2), (0, 0)])[:50, :50] // 2)
    assert seen.pop() == (52, 52)  # padded to its multiple
    fine = Network("fine", Noted(), 0.93)
    assert fine.stain(he, 48).shape == (48, 48, 3) and seen.pop() == (96, 96)
    assert fine.facts()["stained_px"] == ["96 x 96"]


def test_the_report_at_a_size_says_which_network_stained_at_another(mist, tmp_path):
    weights = [make_weights(tmp_path / f"{n}.safetensors", mpp=mpp) for n, mpp in (("fine", 0.4661), ("coarse", 0.7))]
    results = evaluate(weights, mist, nets=tmp_path, workers=1, limit=2, size=64)
    notes = [n for n in results["notes"] if "was given patches of" in n]
    assert len(notes) == 1 and notes[0].startswith("fine stains at 0.4661") and "96 x 96 px" in notes[0]


def test_tables_print_what_the_papers_print(reported):
    results, folder = reported
    narrow = results["systems"]["narrow"]["metrics"]
    line = next(
        x for x in (folder / "report" / "results.md").read_text().splitlines() if x.startswith("| narrow") and "±" in x
    )
    assert f"{narrow['psnr']['value']:.3f} ± {narrow['psnr']['spread']:.3f}" in line
    assert f"{100 * narrow['r_c']['value']:.2f} ± {100 * narrow['r_c']['spread']:.2f}" in line
    assert narrow["ssim_float"]["value"] > narrow["ssim"]["value"] and narrow["iod_cells"]["n"] == 6
    assert narrow["r_p"]["spread"] is None


def test_the_real_section_has_a_row_with_its_paired_rate_and_nothing_it_is_compared_with_itself_in(reported, mist):
    from wsistain.data.layouts import list_patches
    from wsistain.evaluation.fidelity import gray_correlation

    results, _ = reported
    real = results["systems"]["real"]
    pairs = [read_patch(r)[:2] for r in list_patches("mist", mist, "ER", "val")]
    assert real["kind"] == "baseline" and not {"ssim", "psnr", "r_p", "iod", "area_r"} & set(real["metrics"])
    assert value(results, "real", "r_c") == pytest.approx(np.mean([gray_correlation(ihc, he) for he, ihc in pairs]))
    assert value(results, "real", "positive_fraction") > 0


def test_progress_counts_every_patch(mist, tmp_path):
    seen = []
    evaluate([], mist, nets=tmp_path, workers=1, progress=lambda *event: seen.append(event))
    assert seen == [("identity and mean_colour", k, 6) for k in range(1, 7)]


def test_every_metric_of_the_catalogue_says_how_it_is_computed():
    for name, metric in METRICS.items():
        assert len(metric.convention) > 5 and metric.label, name

"""Scores of pictures: the truth scores as the truth, and pictures that are not the test's are refused."""

import json
import shutil

import imagecodecs
import numpy as np
import pytest
from typer.testing import CliRunner

from tests.benchmark.conftest import SMALL, TASK
from wsistain.benchmark.cells import arrays_of
from wsistain.benchmark.edition import V0
from wsistain.benchmark.entry import Entry, read_entry
from wsistain.benchmark.score import score
from wsistain.cli import app
from wsistain.data.layouts import list_patches
from wsistain.data.pictures import read_picture
from wsistain.errors import ConfigError, DataError, OutputError
from wsistain.evaluation.report import evaluate

NAME = TASK.name


@pytest.fixture(scope="module")
def refs(first):
    return list_patches("mist", TASK.folder(first[0], "test"), "ER", "val")


@pytest.fixture(scope="module")
def scored(first, refs, tmp_path_factory):
    """Rows of the H&E, and of the aligned truth with a probability and a trust that know a little."""
    folder = tmp_path_factory.mktemp("scored")
    none = folder / "nets"
    none.mkdir()
    for name in ("truth", "chance", "trust"):
        (folder / name).mkdir()
    for ref in refs:
        picture = read_picture(ref.truth)
        (folder / "truth" / f"{ref.name}.png").write_bytes(imagecodecs.png_encode(picture))
        brown = picture[..., 2].astype(int) + 20 < picture[..., 0]
        (folder / "chance" / f"{ref.name}.png").write_bytes(
            imagecodecs.png_encode(np.where(brown, 230, 25).astype(np.uint8))
        )
        (folder / "trust" / f"{ref.name}.png").write_bytes(imagecodecs.png_encode(np.full(brown.shape, 9, np.uint8)))
    (folder / "truth" / "entry.yaml").write_text(
        "{system: Oracle, budget: short, seed: 3, crops: 10, learning_rate: 1.0e-3}"
    )
    options = {"edition": SMALL, "nets": none, "workers": 1}
    maps = {"chances": folder / "chance", "trust": folder / "trust"}
    rows = {
        "oracle": score(folder / "truth", first[0], NAME, output=folder / "rows" / "oracle.json", **maps, **options),
        "identity": score("identity", first[0], NAME, output=folder / "rows" / "identity.json", **options),
    }
    return folder, rows


def test_the_truth_scores_as_the_truth_and_the_he_does_not(scored):
    _, rows = scored
    truth, identity = rows["oracle"]["metrics"], rows["identity"]["metrics"]
    assert (
        truth["cell_auc"]["value"] == pytest.approx(rows["oracle"]["attainable"]["truth_cell_auc"])
        and truth["cell_auc"]["value"] > 0.9
    )
    assert truth["cell_h_error"]["value"] == 0 < identity["cell_h_error"]["value"]
    assert (
        truth["ssim_truth"]["value"] == pytest.approx(1) and identity["cell_auc"]["value"] < truth["cell_auc"]["value"]
    )
    assert (
        rows["oracle"]["entry"]
        == Entry(system="Oracle", budget="short", seed=3, crops=10, learning_rate=1e-3).model_dump()
    )
    assert rows["identity"]["entry"]["budget"] == "none"


def test_a_row_names_no_folder_of_the_machine_it_was_scored_on(scored):
    folder, rows = scored
    assert rows["oracle"]["missing"] and str(folder.parent) not in (folder / "rows" / "oracle.json").read_text()


def test_a_row_carries_the_same_places_and_the_identitys_what_is_the_same_for_all(scored):
    _, rows = scored
    oracle, identity = rows["oracle"]["sights"], rows["identity"]["sights"]
    assert [(s["name"], s["y"], s["x"]) for s in oracle] == [(s["name"], s["y"], s["x"]) for s in identity]
    assert all(set(s) == {"name", "y", "x", "stain"} for s in oracle)
    assert all(set(s) == {"name", "y", "x", "stain", "he", "truth", "other"} for s in identity)
    assert [s["stain"] for s in identity] == [s["he"] for s in identity]
    assert [s["stain"] for s in oracle] == [s["truth"] for s in identity]  # the oracle gave the truth, losslessly


def test_the_papers_metrics_are_those_of_evaluate(scored, first):
    folder, rows = scored
    found = evaluate([], TASK.folder(first[0], "test"), nets=folder / "nets", workers=1, given=[folder / "truth"])
    theirs = found["systems"]["truth-2"]["metrics"]
    ours = rows["oracle"]["metrics"]
    assert {"ssim", "psnr", "vif", "r_c", "cell_auc"} <= theirs.keys()
    assert all(ours[name] == value for name, value in theirs.items())


def test_probability_and_trust_are_read_where_the_cells_are(scored):
    folder, rows = scored
    metrics = rows["oracle"]["metrics"]
    assert metrics["information"]["value"] > 0.3 and 0 <= metrics["calibration_error"]["value"] < 0.2
    assert metrics["error_at_50"]["value"] == pytest.approx(metrics["error_at_100"]["value"])  # a constant trust
    assert "information" not in rows["identity"]["metrics"]
    cells = arrays_of(json.loads((folder / "rows" / "oracle.json").read_text())["cells"])
    assert {len(v) for v in cells.values()} == {metrics["information"]["n"]} and set(cells) == {
        "picture",
        "positive",
        "od",
        "chance",
        "trust",
    }


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda f, n: (f / f"{n[0]}.png").unlink(), "1 missing"),
        (lambda f, n: shutil.copy(f / f"{n[0]}.png", f / "other_1_1.png"), r"1 too many \(other_1_1\)"),
        (lambda f, n: shutil.copy(f / f"{n[0]}.png", f / f"{n[0]}.bmp"), "1 there twice"),
        (lambda f, n: (f / f"{n[0]}.png").write_bytes(imagecodecs.png_encode(np.zeros((64, 96, 3), np.uint8))), "is 64 x 96 px"),
        (lambda f, n: (f / f"{n[0]}.png").write_bytes(b"no"), "is none of|not a picture|cannot"),
    ],
    ids=["missing", "extra", "twice", "size", "damaged"],
)  # fmt: skip
def test_pictures_that_are_not_the_tests_are_refused_and_no_row_is_written(scored, first, refs, tmp_path, spoil, told):
    folder = tmp_path / "mine"
    shutil.copytree(scored[0] / "truth", folder)
    spoil(folder, [r.name for r in refs])
    with pytest.raises(DataError, match=told):
        score(folder, first[0], NAME, output=tmp_path / "row.json", edition=SMALL, nets=scored[0] / "nets", workers=1)
    assert not (tmp_path / "row.json").exists()


def test_a_coloured_map_of_probability_is_refused(scored, first, tmp_path):
    with pytest.raises(DataError, match="wanted grey"):
        score(
            scored[0] / "truth", first[0], NAME, output=tmp_path / "row.json", chances=scored[0] / "truth", edition=SMALL,
            nets=scored[0] / "nets", workers=1,
        )  # fmt: skip


def test_forms_say_what_a_budget_needs_and_rows_are_not_replaced_unasked(scored, first, tmp_path):
    form = tmp_path / "entry.yaml"
    form.write_text("{system: X, budget: short, seed: 1}")
    with pytest.raises(ConfigError, match="seed and crops"):
        read_entry(tmp_path, None)
    form.write_text("{system: X, speed: 1}")
    with pytest.raises(ConfigError, match="speed"):
        read_entry(tmp_path, form)
    assert read_entry(scored[0] / "chance", None).system == "chance"
    with pytest.raises(OutputError, match="there already"):
        score("identity", first[0], NAME, output=scored[0] / "rows" / "identity.json", edition=SMALL)
    with pytest.raises(OutputError, match=r"reads from \*\.json"):
        score("identity", first[0], NAME, output=tmp_path / "row.txt", edition=SMALL)


def test_data_that_were_not_checked_are_not_scored_on(first, tmp_path):
    arguments = [
        "benchmark",
        "score",
        "identity",
        "--on",
        V0.conditions[0].name,
        "-o",
        str(tmp_path / "r.json"),
        "--data",
    ]
    for root, told in ((tmp_path, "holds no benchmark data"), (first[0], "'?small'? is no edition")):
        result = CliRunner().invoke(app, [*arguments, str(root)])
        assert isinstance(result.exception, DataError | ConfigError)
        with pytest.raises((DataError, ConfigError), match=told):
            raise result.exception
    with pytest.raises(DataError, match=r"edition small .* wanted v0"):
        score("identity", first[0], NAME, output=tmp_path / "r.json", edition=V0)

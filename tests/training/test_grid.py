"""Grids of training runs: what a file may say, resuming, refusing, and the shipped tables."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from tests.data.made_patches import make_mist
from wsistain.cli import app
from wsistain.errors import ConfigError, OutputError, TrainingError
from wsistain.training import grid as grids
from wsistain.training.grid import read_grid, train_grid
from wsistain.weights.file import read_header

TABLES = sorted((Path(__file__).resolve().parents[2] / "configs" / "tables").glob("*.yaml"))


@pytest.fixture(scope="module")
def patches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("patches")
    for marker in ("ER", "PR"):
        make_mist(root, marker=marker, n_train=3, n_val=1, px=128)
    return root


def write_grid(folder: Path, **changes: Any) -> Path:
    values = {
        "title": "a table",
        "base": "pix2pix",
        "metrics": ["ssim", "r_c"],
        "markers": ["ER", "PR"],
        "rows": [{"name": "plain", "label": "L1"}, {"name": "strong", "set": {"options.weights": {"l1": 5.0}}}],
        **changes,
    }
    path = folder / "table.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def small(root: Path) -> list[str]:
    return [f"data.root={root}", "data.layout=mist", "data.mpp=0.4661", "steps=2", "device=cpu"]


@pytest.mark.parametrize("path", TABLES, ids=lambda p: p.stem)
def test_every_row_of_a_shipped_table_is_valid_at_full_size_and_tiny(path: Path) -> None:
    for tiny in (False, True):
        grid, plans = read_grid(path, tiny=tiny)
        assert len({p.folder for p in plans}) == len(grid.rows) * len(grid.markers)
    settings = [json.dumps(p.config.model_dump(mode="json"), sort_keys=True) for p in read_grid(path)[1]]
    assert len(set(settings)) == len(settings)  # no row is another one by mistake
    assert all(set(row.published) == set(grid.markers) for row in grid.rows)


def test_dotted_and_nested_keys_go_over_the_base_row_by_row(tmp_path: Path) -> None:
    rows = [{"name": "a", "set": {"options.weights.l1": 7.0, "data": {"flip": False}}}, {"name": "b", "base": "cut"}]
    path = write_grid(tmp_path, rows=rows, set={"options": {"lr": 1.0e-3}, "seed": 5}, markers=["PR"])
    a, b = (p.config for p in read_grid(path, ["seed=6", "data.root=here"])[1])
    assert a.options["weights"]["l1"] == 7.0 and a.options["lr"] == 1e-3
    assert (a.data.flip, a.data.load_px, a.data.root, a.marker) == (False, 286, "here", "PR")
    assert (b.system, b.options["lr"], b.seed) == ("cut", 1e-3, 6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rows": [{"name": "a"}, {"name": "A"}]}, "rows a and A would share a folder"),
        ({"rows": [{"name": "a", "sett": {}}]}, "did you mean 'set'"),
        ({"rows": [{"name": "../a"}]}, "rows.0.name"),
        ({"rows": [{"name": "identity"}]}, "identity is a row of every evaluation"),
        ({"rows": [{"name": "a", "of": "b"}]}, "row a is of 'b', which is no earlier row"),
        ({"rows": [{"name": "a", "set": {"options.weights.l2": 1}}]}, "row a, ER: options of pix2pix.*weights.l2"),
        ({"rows": [{"name": "a", "set": {"epoch": 1}}]}, "row a, ER: epoch is not a known key; did you mean 'epochs'"),
        ({"rows": [{"name": "a", "base": "usigan", "set": {"batch_size": 1}}]}, "row a, ER: batch_size 1 leaves"),
        ({"rows": [{"name": "a", "published": {"ER": [1.0]}}]}, "published.ER needs 2 numbers"),
        ({"rows": [{"name": "a", "published": {"Ki67": [1.0, 2.0]}}]}, "published.Ki67 is none of the row's markers"),
        ({"base": None}, "row plain has no base"),
        ({"base": "pix2pixx"}, "no training configuration of that name"),
        ({"metrics": ["ssim", "r_q"]}, "'r_q' is not known; did you mean"),
        ({"markers": ["ER", "EX"]}, "EX"),
    ],
)
def test_a_fault_in_any_row_is_told_before_anything_starts(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        train_grid(write_grid(tmp_path, **changes), tmp_path / "runs", tiny=True)
    assert not (tmp_path / "runs").exists()


def test_markers_and_rows_are_chosen_by_row_not_by_set(tmp_path: Path) -> None:
    path = write_grid(tmp_path)
    chosen = [p.folder for p in read_grid(path, only=["PR/plain", "strong"])[1]]
    assert chosen == ["PR/plain", "ER/strong", "PR/strong"]
    with pytest.raises(ConfigError, match="has no row 'weak'; its rows: plain, strong"):
        read_grid(path, only=["weak"])
    with pytest.raises(ConfigError, match="choose among them with --row"):
        read_grid(path, ["marker=ER"])


def test_finished_rows_are_left_alone_and_an_interrupted_one_goes_on(
    tmp_path: Path, patches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out, said = write_grid(tmp_path), tmp_path / "runs", []
    rows = {"overrides": small(patches), "tiny": True, "tell": said.append}
    real = grids.train

    def dies(cfg: Any, folder: Path, **kwargs: Any) -> Path:
        if folder.name == "strong":
            raise KeyboardInterrupt
        return real(cfg, folder, **kwargs)

    monkeypatch.setattr(grids, "train", dies)
    with pytest.raises(KeyboardInterrupt):
        train_grid(path, out, **rows)
    first = (out / "ER" / "plain" / "weights.safetensors").stat().st_mtime_ns
    monkeypatch.setattr(grids, "train", real)
    said.clear()
    weights = train_grid(path, out, **rows)
    assert [w.relative_to(out).parent.as_posix() for w in weights] == ["ER/plain", "PR/plain", "ER/strong", "PR/strong"]
    assert [line.rsplit(": ", 1)[1] for line in said] == ["finished already"] * 2 + ["goes on", "begins"]
    assert (out / "ER" / "plain" / "weights.safetensors").stat().st_mtime_ns == first
    assert read_header(weights[3]).markers == ["PR"]
    facts = json.loads((out / "grid.json").read_text())
    assert [row["label"] for row in facts["rows"]] == ["L1", "strong"]
    with pytest.raises(OutputError, match=r"trained with other settings \(config.seed\)"):
        train_grid(path, out, overrides=[*small(patches), "seed=9"], tiny=True)
    (out / "ER" / "plain" / "row.json").unlink()
    with pytest.raises(OutputError, match="not of this grid"):
        train_grid(path, out, **rows)


def test_a_row_that_fails_does_not_stop_the_others(
    tmp_path: Path, patches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = grids.train

    def fails(cfg: Any, folder: Path, **kwargs: Any) -> Path:
        if folder.name == "plain":
            raise TrainingError("a loss is not finite")
        return real(cfg, folder, **kwargs)

    monkeypatch.setattr(grids, "train", fails)
    with pytest.raises(TrainingError, match=r"1 of 2 rows failed: ER/plain \(a loss is not finite\)"):
        train_grid(write_grid(tmp_path, markers=["ER"]), tmp_path / "runs", overrides=small(patches), tiny=True)
    assert (tmp_path / "runs" / "ER" / "strong" / "weights.safetensors").is_file()


def test_a_row_of_another_has_its_tensors_under_its_own_options(tmp_path: Path, patches: Path) -> None:
    rows = [{"name": "guided"}, {"name": "unguided", "of": "guided", "set": {"options": {"sampling": {"n_steps": 3}}}}]
    path = write_grid(tmp_path, base="miu_diff", rows=rows, markers=["ER"])
    trained, borrowed = train_grid(path, tmp_path / "runs", overrides=small(patches), tiny=True)
    assert read_header(borrowed).options["sampling"]["n_steps"] == 3
    assert read_header(trained).options["sampling"]["n_steps"] != 3
    assert read_header(trained).options["score"] == read_header(borrowed).options["score"]


def test_a_whole_shipped_table_trains_and_is_put_into_the_papers_form(tmp_path: Path, patches: Path) -> None:
    sets = [word for item in small(patches) for word in ("--set", item)]
    command = ["train", "--grid", "usigan-table-5", "--output", str(tmp_path / "runs"), "--tiny", *sets]
    done = CliRunner().invoke(app, [*command, "--row", "baseline", "--row", "tcyc-uot"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    measure = ["evaluate", "--grid", str(tmp_path / "runs"), "--data", str(patches), "--output", str(tmp_path / "t")]
    done = CliRunner().invoke(app, [*measure, "--workers", "1", "--pictures", "0"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    table = (tmp_path / "t" / "table.md").read_text()
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert lines[0].count("|") == 7 and "R_c" in lines[0]
    assert [line.split("|")[1].strip() for line in lines[2:7]] == [
        *("baseline", "L1 w OT", "L1 w UOT", "L_tcyc (OT)", "L_tcyc (UOT)")
    ]
    assert "–" not in lines[2].split("|")[2] and "–" in lines[3].split("|")[2]
    assert "| L_tcyc (UOT) | 86.35 | 46.3 | 0.464 | 32.84 | 0.4991 |" in table
    assert "Not trained yet: ER/l1-ot, ER/l1-uot, ER/tcyc-ot" in table
    assert json.loads((tmp_path / "t" / "table.json").read_text())["measured"]["baseline"]["ER"]["r_c"] is not None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train"], "give a configuration"),
        (["train", "cut", "--grid", "usigan-table-5"], "and not both"),
        (["train", "cut", "--row", "a"], "--row belongs to --grid"),
        (["train", "--grid", "usigan-table-99"], "no grid of that name; there are asp_dgrank-table-2"),
    ],
)
def test_the_command_line_says_what_a_grid_needs(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        CliRunner().invoke(app, words, catch_exceptions=False)


def test_the_grid_that_the_page_shows_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "tables.md").read_text(encoding="utf-8")
    (block,) = (b for b in page.split("```") if b.lstrip().startswith("title:"))
    path = tmp_path / "my_table.yaml"
    path.write_text(block, encoding="utf-8")
    grid, plans = read_grid(path)
    assert len(plans) == 2 * len(grid.rows) == 8

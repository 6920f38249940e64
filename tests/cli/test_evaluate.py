"""`wsistain evaluate` as a user meets it."""

import json
import os
import subprocess
import sys

import pytest

from tests.evaluation.made import make_mist, make_weights
from wsistain.cli import main


@pytest.fixture(scope="module")
def mist(tmp_path_factory):
    return make_mist(tmp_path_factory.mktemp("mist"), n_val=3)


def call(arguments, capsys):
    """(exit code, standard output, standard error) of the command line in this process."""
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return stop.value.code, out, err


def test_several_weights_after_one_option_make_one_table(mist, tmp_path, capsys):
    weights = [make_weights(tmp_path / f"{n}.safetensors", seed=k) for k, n in enumerate("ab")]
    code, out, _ = call(
        ["evaluate", "--weights", *weights, "--data", mist, "--layout", "mist", "--marker", "ER", "--split", "val",
         "--output", tmp_path / "o", "--nets", tmp_path, "--workers", "1"], capsys)  # fmt: skip
    assert code == 0
    assert out.splitlines()[-1] == f"report: {tmp_path / 'o' / 'report.html'}"
    results = json.loads((tmp_path / "o" / "results.json").read_text())
    assert list(results["systems"]) == ["identity", "mean_colour", "real", "a", "b"]
    assert {p.name for p in (tmp_path / "o").iterdir()} >= {"results.json", "results.csv", "results.md", "report.html"}
    assert "missing: " in out and "Identity" in out


def test_exactly_one_job_is_wanted(mist, tmp_path, capsys):
    for arguments, words in (
        ([], "found none of them"),
        (["--data", mist, "--slides", "x"], "found --data and --slides"),
        (["--data", mist], "--weights is missing"),
        (["stray", "--data", mist], "'stray' belongs to no option"),
    ):
        code, _, err = call(["evaluate", *arguments, "-o", tmp_path / "o"], capsys)
        assert code == 2 and words in err and len(err.splitlines()) == 1
    assert not (tmp_path / "o").exists()


def test_missing_data_weights_and_slides_end_with_one_sentence(mist, tmp_path, capsys):
    for arguments in (
        ["--weights", "identity", "--data", tmp_path / "absent"],
        ["--weights", tmp_path / "absent.safetensors", "--data", mist],
        ["--slides", tmp_path / "absent.ome.zarr"],
        ["--leaderboard", tmp_path],
    ):
        code, _, err = call(["evaluate", *arguments, "-o", tmp_path / "o"], capsys)
        assert code == 2 and len(err.splitlines()) == 1 and "Traceback" not in err
    assert not (tmp_path / "o").exists()


def test_help_has_examples_and_does_not_import_torch():
    script = (
        "import sys; sys.argv = ['wsistain', 'evaluate', '--help']\n"
        "from wsistain.cli import app\n"
        "try:\n    app()\nexcept SystemExit:\n    pass\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "200"}
    )
    assert done.stdout.splitlines()[-1] == "False"
    assert "wsistain evaluate --weights" in done.stdout and "--reference" in done.stdout


def test_evaluate_sets_sampling_alone() -> None:
    from wsistain.cli.evaluate import _sampling
    from wsistain.errors import ConfigError

    assert _sampling(["sampling.n_steps=20", "sampling.guidance=mi"]) == {"n_steps": 20, "guidance": "mi"}
    for wrong in ("n_steps=3", "sampling=3", "tiling.stride=2"):
        with pytest.raises(ConfigError, match="evaluate takes sampling"):
            _sampling([wrong])

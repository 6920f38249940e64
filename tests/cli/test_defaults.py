"""Settings from the command line, the environment and wsistain.toml: which wins, what is refused, what is told."""

import json

import pytest

from tests.cli.test_run import SMALL, call
from tests.pipeline.slides import tissue_picture, write_slide
from wsistain.cli import defaults
from wsistain.cli.defaults import settle
from wsistain.errors import ConfigError


@pytest.fixture
def here(tmp_path, monkeypatch):
    """(the working folder, the user's file of settings)."""
    user = tmp_path / "home" / "wsistain.toml"
    user.parent.mkdir()
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    found = (("wsistain.toml of the user", user), ("wsistain.toml of the working folder", work / "wsistain.toml"))
    monkeypatch.setattr(defaults, "places", lambda: found)
    return work, user


def test_each_place_wins_over_the_one_below_it(here, monkeypatch):
    work, user = here
    user.write_text('norm = "slide"\nseed = 1\ndevice = "cpu"\nweights = "a"\nseries = 1\n[output]\nchunk = 128\n')
    (work / "wsistain.toml").write_text('seed = 2\ndevice = "cpu"\nweights = "b"\nseries = 2\n[output]\nngff = 0.4\n')
    monkeypatch.setenv("WSISTAIN_DEVICE", "cuda")
    monkeypatch.setenv("WSISTAIN_WEIGHTS", "c")
    monkeypatch.setenv("WSISTAIN_SERIES", "3")
    monkeypatch.setenv("WSISTAIN_OUTPUT__SHARD", "1024")
    monkeypatch.setenv("WSISTAIN_OUTPUT__FORMATS", "zarr,ome-tiff")
    (work / "c.yaml").write_text("weights: d\nseries: 4\n")
    settled = settle(work / "c.yaml", ["series=5"], {"strict": True, "reader": None})
    cfg = settled.config
    assert (cfg.norm, cfg.seed, cfg.device, cfg.weights, cfg.series, cfg.strict) == ("slide", 2, "cuda", "d", 5, True)
    assert (cfg.output.chunk, cfg.output.ngff, cfg.output.shard) == (128, "0.4", 1024)
    assert cfg.output.formats == ("zarr", "ome-tiff") and cfg.reader == "auto"
    assert settled.origins == {
        "norm": "wsistain.toml of the user",
        "output.chunk": "wsistain.toml of the user",
        "seed": "wsistain.toml of the working folder",
        "output.ngff": "wsistain.toml of the working folder",
        "device": "WSISTAIN_DEVICE",
        "output.shard": "WSISTAIN_OUTPUT__SHARD",
        "output.formats": "WSISTAIN_OUTPUT__FORMATS",
        "weights": "--config c.yaml",
        "series": "command line",
        "strict": "command line",
    }
    assert len(settled.told) == 3 and str(user) in settled.told[0] and "device=cuda" in settled.told[2]
    assert "weights" not in " ".join(settled.told)  # what another place overrules was not taken


def test_a_value_that_is_a_mapping_is_replaced_as_a_whole(here, monkeypatch):
    work, _ = here
    (work / "wsistain.toml").write_text('[sampling]\nguidance = "none"\n')
    monkeypatch.setenv("WSISTAIN_SAMPLING__N_STEPS", "300")
    settled = settle()
    assert settled.config.sampling == {"n_steps": 300}
    assert settled.origins == {"sampling.n_steps": "WSISTAIN_SAMPLING__N_STEPS"}
    (work / "c.yaml").write_text("sampling: {}\n")
    assert settle(work / "c.yaml").config.sampling == {}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('nrom = "tile"', "nrom is not a known key; did you mean 'norm'"),
        ("[output]\nchunkk = 3", "did you mean 'chunk'"),
        ("[run]\nnorm = 3", "run is not a known key"),
        ('norm = "til"', "'tile'"),
        ("a = [", "is not TOML"),
        ("\x00", "is not TOML"),
        ("weights = 2026-01-01", "valid string"),
    ],
)
def test_a_wrong_file_is_named_with_the_key(here, text, wanted):
    work, _ = here
    (work / "wsistain.toml").write_text(text)
    with pytest.raises(ConfigError, match=wanted) as told:
        settle()
    assert str(work / "wsistain.toml") in str(told.value)


def test_a_file_that_is_none_is_refused(here):
    work, user = here
    (work / "wsistain.toml").mkdir()
    with pytest.raises(ConfigError, match="no regular file"):
        settle()
    (work / "wsistain.toml").rmdir()
    user.write_text("#" * (2 << 20))
    with pytest.raises(ConfigError, match="larger than settings"):
        settle()


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("WSISTAIN_NROM", "tile", "did you mean WSISTAIN_NORM"),
        ("WSISTAIN_MODEL", "x", "did you mean WSISTAIN_MODELS"),
        ("WSISTAIN_OUTPUT__CHUNKK", "3", "output.chunkk is not a known key"),
        ("WSISTAIN_TILING__BLOCK", "big", "tiling.block"),
        ("WSISTAIN_SAMPLING", "{", "WSISTAIN_SAMPLING"),
    ],
)
def test_a_variable_that_is_wrong_is_named(here, monkeypatch, name, value, wanted):
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=wanted):
        settle()


def test_variables_of_others_are_left_alone_and_listed(here, monkeypatch, capsys):
    monkeypatch.setenv("WSISTAIN_IMAGE", "wsistain.sif")
    monkeypatch.setenv("WSISTAIN_NORM", "")
    assert not settle().origins
    code, out, err = call(["config"], capsys)
    assert code == 0 and "WSISTAIN_IMAGE is no setting" in err and "WSISTAIN" not in out


def test_a_run_says_what_it_took_and_keeps_it(here, monkeypatch, capsys):
    work, _ = here
    slide = write_slide(work / "a.tiff", tissue_picture(96, 96))
    (work / "wsistain.toml").write_text('weights = "identity"\nall_tiles = true\n')
    monkeypatch.setenv("WSISTAIN_OUTPUT__PREVIEW_PX", "64")
    code, out, err = call(["run", slide, *SMALL, "--log-file", "a.log", "-v"], capsys)
    assert code == 0, err
    assert "Settings from" in out and "weights=identity" in out and "output.preview_px=64" in out
    kept = json.loads((work / "a.ER.run.json").read_text())["provenance"]["settings_from"]
    assert kept["weights"] == "wsistain.toml of the working folder" and kept["tiling.block"] == "command line"
    assert kept["output.preview_px"] == "WSISTAIN_OUTPUT__PREVIEW_PX"
    assert str(work) not in json.dumps(kept)
    assert "a.tiff" in err and "norm tile" in err  # -v tells the plan
    log = (work / "a.log").read_text()
    assert "Settings from" in log and "a.ER.ome.zarr" in log.splitlines()[-1]
    code, out, err = call(["run", slide, *SMALL, "--overwrite", "-q", "--weights", "identity"], capsys)
    assert (code, err) == (0, "") and len(out.splitlines()) == 1 and "a.ER.ome.zarr" in out

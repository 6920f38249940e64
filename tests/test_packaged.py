"""What ships beside the code is found, and in the wheel too."""

import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from wsistain.cli import app
from wsistain.errors import ConfigError
from wsistain.packaged import packaged_folder, training_config

ROOT = Path(__file__).resolve().parents[1]


def test_a_bare_name_is_a_shipped_configuration() -> None:
    found = training_config(Path("usigan"))
    assert found.samefile(ROOT / "configs" / "train" / "usigan.yaml")


def test_a_file_in_the_way_of_the_name_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("usigan").write_text("system: cut\n")
    assert training_config(Path("usigan")) == Path("usigan")
    for wrong in ("usigan.yaml", "configs/usigan"):
        assert training_config(Path(wrong)) == Path(wrong)  # a path stays a path, though no such file is there


def test_a_folder_of_that_name_is_not_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("demo").mkdir()  # as `make demo` leaves one
    assert training_config(Path("demo")).name == "demo.yaml"


def test_an_unknown_name_is_refused_with_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no file usigun.*asp, .*usigan"):
        training_config(Path("usigun"))
    result = CliRunner().invoke(app, ["train", "usigun", "--output", str(tmp_path / "run")])
    assert result.exit_code != 0
    assert not (tmp_path / "run").exists()


def test_the_wheel_holds_every_packaged_folder() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    for name in ("workflows", "configs"):
        assert settings["force-include"][name] == f"wsistain/{name}"
        assert packaged_folder(name).is_dir()


def test_a_missing_folder_is_said() -> None:
    with pytest.raises(ConfigError, match="nowhere is not part of this installation"):
        packaged_folder("nowhere")

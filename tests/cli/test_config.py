"""`wsistain config` prints what `wsistain run` would run with, for people and for --config."""

import yaml
from typer.testing import CliRunner

from wsistain.cli import app
from wsistain.config import RunConfig, validate

RUN = CliRunner()


def test_it_prints_every_default_with_its_meaning():
    text = RUN.invoke(app, ["config"]).stdout
    assert validate(RunConfig, yaml.safe_load(text), "printed") == RunConfig()
    assert yaml.safe_load(text) == RunConfig().model_dump(mode="json")
    assert "weights: demo  # file, folder, hub id" in text and "\n  ngff: '0.5'  # " in text


def test_values_of_a_file_and_of_the_command_stand_in_it(tmp_path):
    (tmp_path / "c.yaml").write_text("norm: tile\noutput: {chunk: 256}\n")
    text = RUN.invoke(app, ["config", "--config", str(tmp_path / "c.yaml"), "--set", "device=cpu"]).stdout
    values = yaml.safe_load(text)
    assert (values["norm"], values["output"]["chunk"], values["device"]) == ("tile", 256, "cpu")
    (tmp_path / "again.yaml").write_text(text)
    again = RUN.invoke(app, ["config", "--config", str(tmp_path / "again.yaml")]).stdout
    assert yaml.safe_load(again) == values and "chunk: 256  # edge of a compressed chunk, px; from --config" in again

"""What all commands share: how much they tell, the panels of their help, and one sentence for what was typed wrongly."""

import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from wsistain.cli import app, main
from wsistain.cli.panels import LEAST_OPTIONS, PANELS, TELLING
from wsistain.config import RunConfig


def commands(group=None, name="wsistain"):
    """Every command by its full name."""
    group = group or typer.main.get_command(app)
    for word, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{name} {word}")
        else:
            yield f"{name} {word}", command


COMMANDS = dict(commands())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_can_tell_more_less_and_to_a_file(name):
    typed = {word: option for option in COMMANDS[name].params for word in option.opts}
    for word in ("-v", "--verbose", "-q", "--quiet", "--log-file"):
        assert typed[word].rich_help_panel == TELLING
    own = [p for p in COMMANDS[name].params if p.param_type_name == "option" and p.rich_help_panel != TELLING]
    panels = {option.rich_help_panel for option in own if option.name != "help"}
    assert panels <= {*PANELS.values()} if len(own) > LEAST_OPTIONS else True
    shorts = [word for option in COMMANDS[name].params for word in option.opts if len(word) == 2]
    assert len(shorts) == len(set(shorts))


def test_fixed_values_are_shown_in_the_help():
    text = CliRunner().invoke(app, ["run", "--help"], env={"COLUMNS": "200"}).output
    for words in ("auto|tile|slide|field", "he-to-ihc|ihc-to-he", "0.5|0.4", "openslide|tiffslide", "What is written"):
        assert words in text
    assert "4:4:4|4:2:2|4:2:0" in CliRunner().invoke(app, ["export", "--help"], env={"COLUMNS": "200"}).output


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("rum", "did you mean 'run'? See 'wsistain --help'"),
        ("--foo", "no such option: --foo"),
        ("run", "missing argument"),
        ("run a.svs --worker 2", "--workers"),
        ("run a.svs --norm slid", "'tile'"),
        ("weights lst", "see 'wsistain weights --help'"),
        ("run a.svs -v -q", "exclude each other"),
        ("markers --log-file", "requires an argument"),
    ],
)
def test_what_is_typed_wrongly_is_one_sentence(capsys, typed, wanted):
    with pytest.raises(SystemExit) as left:
        main(typed.split())
    err = capsys.readouterr().err
    assert left.value.code == 2 and err.startswith("wsistain: ") and len(err.splitlines()) == 1
    assert wanted.lower() in err.lower()


def test_a_group_alone_still_shows_its_help(capsys):
    with pytest.raises(SystemExit):
        main(["weights"])
    said = capsys.readouterr()
    assert "fetch" in said.out + said.err


def test_the_log_of_a_command_ends_with_its_result_and_lists_what_was_typed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["wsistain", "markers"])
    with pytest.raises(SystemExit) as left:
        main(["markers", "--log-file", str(tmp_path / "a.log")])
    lines = Path(tmp_path / "a.log").read_text().splitlines()
    assert left.value.code == 0 and "wsistain markers" in lines[0] and "HER2" in lines[-2]


def test_help_reads_no_settings_and_imports_little():
    code = "import sys, wsistain.cli; sys.exit(bool({'torch', 'pydantic_settings', 'zarr'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_no_setting_is_called_as_another_variable_of_ours():
    from wsistain.cli.defaults import OTHERS

    assert not {name.upper() for name in RunConfig.model_fields} & OTHERS

"""What can be trained, what keys mean, and keys that are typed without their place."""

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.data.made_patches import make_mist
from tests.training.made_runs import tiny_run
from wsistain import systems
from wsistain.cli import main
from wsistain.config import TrainConfig, dump_yaml, load_config
from wsistain.errors import ConfigError
from wsistain.systems import SYSTEMS, find_system, system_class
from wsistain.training.listing import options_of, shipped_configs, table_of, whole_keys
from wsistain.training.loop import train
from wsistain.weights.file import load_network, read_header


def _leave(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    text = capsys.readouterr()
    return int(stop.value.code or 0), text.out + text.err


def test_every_shipped_configuration_says_what_it_is_of_and_what_it_asks_for() -> None:
    facts = {f.name: f for f in shipped_configs()}
    assert {f.system for f in facts.values()} == set(SYSTEMS)
    assert facts["cut"].paper == "CUT (Park et al. 2020)" and facts["cut"].needs == "unpaired"
    assert facts["ot_stainnet"].needs == "weak pairs; SD-Turbo, CLIP ViT-B/32, VGG16 and LPIPS"
    for f in facts.values():
        assert f.paper and f.memory != "-", f.name
        assert any(unit in f.time for unit in ("hour", "minutes", "not known")), f.name
    assert len({len(line.split("  ")[0]) for line in table_of(list(facts.values()))[:1]}) == 1


def test_the_list_is_there_without_torch() -> None:
    code = "import sys; from wsistain.cli import main\ntry: main(['train', '--list'])\nfinally: assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usigan" in done.stdout and "estimates" in done.stdout


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_key_has_a_meaning_and_the_text_is_yaml_that_trains(system: str) -> None:
    lines = options_of(system)
    bare = [line for line in lines[1:] if not line.rstrip().endswith(":") and "  # " not in line]
    assert not bare, bare
    values = yaml.safe_load("\n".join(lines))
    assert values["options"] == find_system(system).Config.preset("paper", {}).model_dump(mode="json")
    TrainConfig.model_validate(values)


def test_a_key_alone_is_given_its_place() -> None:
    assert whole_keys(["lr=1e-4", "steps=5", "root=x", "options.lr=2", "gan=0"], "cut") == [
        "options.lr=1e-4",
        "steps=5",
        "data.root=x",
        "options.lr=2",
        "options.weights.gan=0",
    ]
    assert whole_keys(["lr=1"], "ot_stainnet") == ["options.optim.lr=1"]
    for wrong, near in (
        ("lrr", "options.lr"),
        ("stepps", "steps"),
        ("crop", "data.crop_px"),
        ("gann", "options.weights.gan"),
    ):
        with pytest.raises(ConfigError, match=rf"{wrong} is not a known key of cut; did you mean {near}\?"):
            whole_keys([f"{wrong}=1"], "cut")
    with pytest.raises(ConfigError, match="--help-options cut' lists all"):
        whole_keys(["zzzzzz=1"], "cut")
    with pytest.raises(ConfigError, match=r"mpp could be data\.mpp or options\.mpp; write it out"):
        whole_keys(["mpp=1"], "lpstain")


def test_the_command_finds_keys_and_trains_every_marker(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "data"
    for marker in ("ER", "PR"):
        make_mist(root, marker=marker, n_train=2, n_val=1)
    (tmp_path / "cfg.yaml").write_text(dump_yaml(tiny_run(root, steps=1)))
    command = ["train", str(tmp_path / "cfg.yaml"), "-o", str(tmp_path / "run"), "--tiny", "--markers", "er,PR"]
    code, said = _leave([*command, "--set", "lr=1e-3"], capsys)
    assert code == 0, said
    for marker in ("ER", "PR"):
        assert read_header(tmp_path / "run" / marker / "weights.safetensors").markers == [marker]
        assert load_config(TrainConfig, tmp_path / "run" / marker / "config.yaml").options["lr"] == 1e-3
    code, said = _leave([*command, "--set", "marker=PR"], capsys)
    assert code == 2 and "and not both" in said


def test_systems_of_installed_packages_are_found_by_entry_point_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered = [
        EntryPoint("mine", "tests.training.my_system:Mine", systems.GROUP),
        EntryPoint("cut", "tests.training.my_system:Mine", systems.GROUP),
        EntryPoint("broken", "tests.training.my_system:Absent", systems.GROUP),
    ]
    monkeypatch.setattr(systems, "entry_points", lambda group: offered if group == systems.GROUP else [])
    systems.installed_systems.cache_clear()
    try:
        assert system_class("cut").__name__ == "CUT"  # ours are not taken from us
        with pytest.raises(ConfigError, match="is not complete"):
            system_class("broken")
        weights = train(tiny_run(make_mist(tmp_path / "d"), system="mine", steps=1), tmp_path / "run", tiny=True)
        assert read_header(weights).system == "mine" and load_network(weights)[0] is not None
    finally:
        systems.installed_systems.cache_clear()


@pytest.mark.parametrize("name", ["tests.training.my_system:Mine", "os.path"])
def test_a_configuration_cannot_name_a_module(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(systems, "import_module", asked.append)
    with pytest.raises(ConfigError, match="a module is never named here"):
        find_system(name)
    assert not asked

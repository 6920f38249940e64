"""The recipes of images and packages name what pyproject.toml names."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import wsistain

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
IN_THE_IMAGES = [
    Requirement(line)
    for group in (PROJECT["dependencies"], *(PROJECT["optional-dependencies"][e] for e in ("train", "batch", "remote")))
    for line in group
]
CONDA_NAMES = {"pytorch": "torch", "openslide": "openslide-bin"}


def locked():
    lines = (ROOT / "containers" / "lock.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


@pytest.mark.parametrize("wanted", IN_THE_IMAGES, ids=str)
def test_the_lock_holds_a_version_in_range_of_everything_that_the_images_install(wanted):
    assert wanted.specifier.contains(locked()[canonicalize_name(wanted.name)]), "make lock"


def test_the_lock_and_the_constraints_name_the_same_torch():
    assert f"torch=={locked()['torch']}" in (ROOT / "constraints.txt").read_text().splitlines()


def test_the_files_that_the_apptainer_recipe_copies_are_there_and_are_all_that_the_wheel_is_made_of():
    text = (ROOT / "containers" / "wsistain.def").read_text()
    copied = re.findall(r"^    (\S+) /src/\1$", text, re.MULTILINE)
    assert all((ROOT / name).exists() for name in copied)
    assert {"pyproject.toml", "README.md", "LICENSE", "wsistain", "configs", "workflows", "containers"} == set(copied)


def test_the_conda_recipe_asks_for_what_the_project_asks_for():
    recipe = yaml.safe_load((ROOT / "containers" / "conda" / "recipe.yaml").read_text())
    assert recipe["context"]["version"] == wsistain.__version__
    run = dict(line.split(" ", 1) for line in recipe["requirements"]["run"])
    assert run.pop("python") == PROJECT["requires-python"]
    found = {canonicalize_name(CONDA_NAMES.get(name, name)): wanted for name, wanted in run.items()}
    wanted = {
        canonicalize_name(Requirement(line).name): Requirement(line).specifier for line in PROJECT["dependencies"]
    }
    assert found.keys() == wanted.keys()
    assert all(Requirement(f"x{found[name]}").specifier == wanted[name] for name in wanted if name != "openslide-bin")

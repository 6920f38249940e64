"""What an index of packages shows of wsistain: the metadata that its build makes."""

import re
import tomllib
from pathlib import Path

import pytest
from hatchling.metadata.core import ProjectMetadata
from hatchling.plugin.manager import PluginManager

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def core():
    return ProjectMetadata(str(ROOT), PluginManager()).core


def test_no_link_of_the_description_leads_nowhere_on_an_index(core):
    targets = re.findall(r"\]\(([^)\s]+)", core.readme)
    assert not [t for t in targets if not re.match(r"https?://|#", t)]
    assert "<img" not in core.readme and core.readme_content_type == "text/markdown"


def test_the_description_keeps_the_words_of_the_readme(core):
    assert "![" in (ROOT / "README.md").read_text(encoding="utf-8") and "![" not in core.readme
    for line in ("pip install wsistain", "docs/running.md: what a run does", "not for diagnosis"):
        assert line in core.readme, line
    assert "\n\n\n" not in core.readme and "(docs/" not in core.readme


def test_the_classifiers_are_known_and_say_what_is_there(core):
    """hatchling refuses classifiers that the index does not know."""
    assert {"Typing :: Typed", "Framework :: napari"} <= set(core.classifiers)
    assert (ROOT / "wsistain" / "py.typed").is_file() and "napari.manifest" in core.entry_points


def test_every_address_of_the_project_is_a_whole_one(core):
    assert all(re.match(r"https://[\w.-]+\.\w+", address) for address in core.urls.values())


def test_the_source_distribution_holds_what_the_description_names():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = {t.split("/")[0] for t in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in t}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert named <= set(project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"])

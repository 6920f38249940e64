"""What the pages tell people to type exists."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from wsistain.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "workflows" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def code_of(page: Path) -> list[str]:
    """Lines of code of a page, fenced or indented, continued lines joined."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    fenced = [line for block in re.findall(r"```[a-z]*\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    return fenced + [line[4:] for line in text.splitlines() if line.startswith("    ")]


def words_of(line: str) -> list[str]:
    """The words of a shell line up to its comment or pipe."""
    words = shlex.split(line, comments=True)
    return words[: words.index("|")] if "|" in words else words


def options_of(command) -> set[str]:
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}


LINES = [
    (page.relative_to(ROOT).as_posix(), line.strip())
    for page in PAGES
    for line in code_of(page)
    if line.strip().startswith("wsistain ")
]


def test_the_pages_show_commands():
    assert len(LINES) > 20 and {words_of(line)[1] for _, line in LINES} >= {"run", "batch", "info", "export", "train"}


@pytest.mark.parametrize(("page", "line"), LINES)
def test_every_command_of_the_pages_is_one(page, line):
    command, words = typer.main.get_command(app), words_of(line)[1:]
    while hasattr(command, "commands"):
        assert words and words[0] in command.commands, f"{page}: {line}"
        command, words = command.commands[words[0]], words[1:]
    words = words[: words.index("--")] if "--" in words else words
    known = options_of(command)
    used = {word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)}
    assert used <= known | {"--help", "-h"}, f"{page}: {line}"


def test_the_dask_commands_of_the_pages_are_dasks():
    from distributed.cli.dask_scheduler import main as scheduler
    from distributed.cli.dask_worker import main as worker

    text = (ROOT / "docs" / "clusters.md").read_text(encoding="utf-8")
    assert not re.findall(r"dask-(?:worker|scheduler)(?=[ ,\]])", text)  # distributed no longer installs these
    lines = [
        line for line in code_of(ROOT / "docs" / "clusters.md") if re.search(r"\bdask[ ,]+(worker|scheduler)\b", line)
    ]
    assert len(lines) >= 5
    for line in lines:
        kind = worker if re.search(r"\bdask[ ,]+worker\b", line) else scheduler
        used = set(re.findall(r"(?<![\w-])--[a-z-]+", line))
        assert used <= options_of(kind), line


def test_every_link_between_the_pages_leads_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.relative_to(ROOT)}: {target}"


def test_every_page_has_its_place_in_the_site():
    """`make docs` refuses a page that the navigation leaves out; this tells it sooner."""
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    left_out = [
        page
        for page in (ROOT / "docs").rglob("*.md")
        if f"- {page.relative_to(ROOT / 'docs').as_posix()}\n" not in site
    ]
    assert not left_out, "add them to nav: in mkdocs.yml"


def test_every_system_has_its_page():
    from wsistain.systems import SYSTEMS

    pages = {page.stem for page in (ROOT / "docs" / "systems").glob("*.md")}
    assert set(SYSTEMS) == pages


def test_the_configurations_that_the_readme_names_are_there():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in re.findall(r"configs/[\w/]+\.yaml", text):
        assert (ROOT / name).is_file(), name

"""What the pages tell people to type exists."""

import json
import re
import shlex
from pathlib import Path

import pytest
import typer

from wsistain.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "workflows" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES += sorted((ROOT / "docs").rglob("*.ipynb"))


def text_of(page: Path) -> str:
    """A page as Markdown; of a notebook its text, and its commands as fenced code."""
    text = page.read_text(encoding="utf-8")
    if page.suffix != ".ipynb":
        return text
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(text)["cells"]]
    parts = [
        f"```{source.removeprefix('%%sh')}\n```" if kind == "code" else source
        for kind, source in cells
        if kind == "markdown" or source.startswith("%%sh")
    ]
    return "\n\n".join(parts)


def code_of(page: Path) -> list[str]:
    """Lines of code of a page, fenced or indented, continued lines joined."""
    text = text_of(page).replace("\\\n", " ")
    fenced = [line for block in re.findall(r"```[a-z]*\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    return fenced + [line[4:] for line in text.splitlines() if line.startswith("    ")]


def words_of(line: str) -> list[str]:
    """The words of a shell line up to its comment or pipe."""
    words = shlex.split(line, comments=True)
    return words[: words.index("|")] if "|" in words else words


def options_of(command) -> set[str]:
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}


COMMANDS = typer.main.get_command(app)

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
    command, words = COMMANDS, words_of(line)[1:]
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
        for target in re.findall(r"\]\(([^)#\s]+)", text_of(page)):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.relative_to(ROOT)}: {target}"


def test_every_page_has_its_place_in_the_site():
    """`make docs` refuses a page that the navigation leaves out; this tells it sooner."""
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    left_out = [
        page
        for page in PAGES
        if page.is_relative_to(ROOT / "docs") and f"- {page.relative_to(ROOT / 'docs').as_posix()}\n" not in site
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


def test_the_data_card_tells_the_numbers_of_the_edition():
    from wsistain.benchmark.edition import V0

    card = (ROOT / "docs" / "phantom_card.md").read_text(encoding="utf-8")
    told = [
        f"edition | {V0.name},",
        f"of {V0.size} px at {V0.mpp:g} um per px; {V0.train} to train on, {V0.val} to validate, {V0.test} to test",
        f"{V0.seeds[0]} for the slides of training and validation, {V0.seeds[1]} for those of the test",
        f"{V0.visibility:g}: the share",
        f"{V0.pictures()} pictures a condition",
    ]
    assert not [words for words in told if words not in card], "tell it in docs/phantom_card.md"
    named = set(re.findall(r"`(\w+-c\d-\w+)`", card))
    assert named and named <= {condition.name for condition in V0.conditions}
    assert {f"`{condition.pairing}`" for condition in V0.conditions} <= set(re.findall(r"`\w+`", card))


def test_the_model_card_tells_what_the_headers_of_the_demonstration_weights_say():
    from wsistain.weights.file import read_header
    from wsistain.weights.find import shipped_folder

    card = (ROOT / "docs" / "demo_card.md").read_text(encoding="utf-8")
    weights = sorted(shipped_folder().glob("demo-*.safetensors"))
    assert len(weights) == 4
    for path in weights:
        header = read_header(path)
        assert f"`{path.stem}`" in card and f"{header.markers[0]} {header.step}" in card, path.stem
        assert f"{header.mpp:g} um per px" in card and header.licence in card
        assert f"systems/{header.system}.md" in card and header.norm in card

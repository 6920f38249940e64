"""The notebooks of the documentation run from the first cell to the last, and what they show is what they keep, where they keep it."""

import base64
import importlib.util
import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "tutorials").glob("*.ipynb"))
QUICK = {"slurm"}
"""Run by default; the others take 15 to 60 seconds of a core and are marked slow."""


def run_notebook(path, folder):
    spec = importlib.util.spec_from_file_location("tutorials", ROOT / "scripts" / "tutorials.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.run_notebook(path, folder)


def shown(notebook):
    """What kinds of output each cell of code has."""
    return [
        (cell.source.splitlines()[0], sorted({o.get("name", o.output_type) for o in cell.outputs}))
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


@pytest.mark.parametrize(
    "path",
    [pytest.param(p, id=p.stem, marks=() if p.stem in QUICK else pytest.mark.slow) for p in NOTEBOOKS],
)
def test_a_notebook_runs_and_shows_what_it_keeps(path, tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "work").mkdir()
    notebook = run_notebook(path, tmp_path / "work")
    kept = nbformat.read(path, as_version=4)
    if any(cell.get("outputs") for cell in kept.cells):
        assert shown(notebook) == shown(kept), "make tutorials"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_is_kept_whole_small_and_without_places_of_a_machine(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert path.stat().st_size < 400_000
    assert notebook.cells[0].source.startswith("# ") and "not for diagnosis" in path.read_text(encoding="utf-8")
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            assert output.output_type != "error" and output.get("name") != "stderr", cell.source
            told = output.get("text", "") + output.get("data", {}).get("text/plain", "")
            assert not re.search(r"/(tmp|home|root|work|Users|var|builds)/|\b[\w-]+\.local\b|\bpid\b", told), told


def test_pictures_of_the_notebooks_are_jpegs():
    outputs = [
        output
        for path in NOTEBOOKS
        for cell in nbformat.read(path, as_version=4).cells
        for output in cell.get("outputs", [])
        if any(kind.startswith("image/") for kind in output.get("data", {}))
    ]
    assert all(base64.b64decode(o.data["image/jpeg"])[:2] == b"\xff\xd8" for o in outputs)

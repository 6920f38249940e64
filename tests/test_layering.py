"""Who may import whom: arrows drawn the wrong way are found by reading the imports."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "wsistain"

BASE = {"errors", "markers", "config", "numerics", "runtime"}
MATHS = BASE | {"optics", "ot", "networks", "diffusion", "losses", "published"}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "runtime": {"errors", "runtime"},
    "numerics": set(),
    "markers": {"errors", "config"},
    "config": {"errors"},
    "packaged": {"errors"},
    "slide": {"errors", "config", "slide"},
    "tiling": {"errors", "config", "slide", "tiling"},
    "output": {"errors", "config", "runtime", "tiling", "slide", "output"},
    "optics": BASE | {"optics", "networks"},
    "ot": BASE,
    "networks": MATHS,
    "diffusion": MATHS,
    "losses": MATHS,
    "phantom": BASE | {"phantom", "slide"},
    "systems": MATHS | {"systems"},
    "data": BASE | {"slide", "optics", "data"},
    "published": BASE | {"published", "weights"},
    "weights": MATHS | {"systems", "weights"},
    "generators": MATHS | {"systems", "weights", "generators"},
    "evaluation": MATHS | {"data", "evaluation", "slide", "tiling", "output", "weights", "generators", "phantom"},
    "training": MATHS | {"packaged", "systems", "data", "weights", "generators", "evaluation", "training"},
    "batch": BASE | {"slide", "output", "optics", "packaged", "pipeline", "batch"},
    "pipeline": BASE | {"slide", "tiling", "output", "weights", "generators", "networks", "systems", "pipeline"},
}
NO_TORCH = ("slide", "tiling", "output", "phantom")


def imports_of(path: Path) -> set[str]:
    """First parts below wsistain of everything that a file imports from it, and 'torch' where it imports torch."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{a.name}" for a in node.names] if node.module == "wsistain" else [node.module]
        for name in names:
            parts = name.split(".")
            if parts[0] == "wsistain" and len(parts) > 1:
                found.add(parts[1])
            elif parts[0] == "torch":
                found.add("torch")
    return found - {"__version__"}


def files_of(part: str) -> list[Path]:
    return sorted((ROOT / part).rglob("*.py")) if (ROOT / part).is_dir() else [ROOT / f"{part}.py"]


@pytest.mark.parametrize("part", sorted(MAY_IMPORT))
def test_imports_follow_the_layers(part):
    for path in files_of(part):
        wrong = imports_of(path) - {"torch"} - MAY_IMPORT[part]
        assert not wrong, f"{path.relative_to(ROOT)} may not import {sorted(wrong)}"


@pytest.mark.parametrize("part", NO_TORCH)
def test_slides_know_nothing_of_torch(part):
    assert not [p for p in files_of(part) if "torch" in imports_of(p)]


def test_no_system_imports_another():
    from wsistain.systems import SYSTEMS

    systems = {place.partition(":")[0].rpartition(".")[2] for place in SYSTEMS.values()}
    for path in (ROOT / "systems").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("wsistain.systems."):
                other = node.module.rsplit(".", 1)[1]
                assert other not in systems, f"{path.name} imports {other}"


def test_the_command_line_answers_without_torch():
    code = "import sys, wsistain, wsistain.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_public_names_are_pinned():
    import wsistain

    assert set(wsistain.__all__) == {
        "WsistainError",
        "__version__",
        "evaluate",
        "load_generator",
        "open_slide",
        "run",
        "train",
    }
    assert all(getattr(wsistain, name) for name in wsistain.__all__)

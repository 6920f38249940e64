"""Who may import whom: arrows drawn the wrong way, circles and modules without tests are found by reading the imports.

docs/house.md tells the same to people.
"""

import ast
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent / "wsistain"

GROUND = {"errors", "config", "markers", "numerics", "runtime"}
MATHS = GROUND | {"optics", "ot", "published", "networks", "diffusion", "losses"}
STAINING = MATHS | {"systems", "weights", "generators"}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "numerics": set(),
    "config": {"errors"},
    "markers": {"errors", "config"},
    "packaged": {"errors"},
    "runtime": {"errors"},
    "slide": {"errors", "config", "runtime"},
    "tiling": {"errors", "config", "slide"},
    "output": {"errors", "config", "runtime", "slide", "tiling"},
    "ot": {"errors", "numerics"},
    "optics": GROUND,
    "published": GROUND,
    "networks": GROUND | {"optics", "ot", "published"},
    "diffusion": GROUND | {"optics", "ot", "networks"},
    "losses": GROUND | {"optics", "ot", "published", "networks", "diffusion"},
    "systems": MATHS,
    "weights": MATHS | {"systems"},
    "generators": MATHS | {"systems", "weights"},
    "data": GROUND | {"slide", "optics"},
    "phantom": GROUND | {"slide"},
    "pipeline": STAINING | {"slide", "tiling", "output"},
    "pages": {"errors", "runtime"},
    "evaluation": STAINING | {"slide", "tiling", "output", "data", "phantom", "pages"},
    "reading": STAINING | {"slide", "tiling", "output", "evaluation", "pages"},
    "pairing": GROUND | {"slide", "optics", "data", "evaluation", "pages"},
    "benchmark": STAINING | {"data", "evaluation", "phantom", "pages"},
    "training": STAINING | {"packaged", "data", "evaluation", "pages"},
    "viewing": GROUND | {"slide", "optics", "output", "evaluation"},
    "batch": GROUND | {"packaged", "slide", "optics", "output", "pipeline", "pages"},
    "cli": STAINING
    | {
        "packaged",
        "slide",
        "tiling",
        "output",
        "data",
        "phantom",
        "pipeline",
        "evaluation",
        "reading",
        "pairing",
        "benchmark",
        "training",
        "batch",
        "viewing",
    },
    "__main__": {"cli"},
}
"""Room, or module at the root, to the others that it may import. There are no exceptions."""

AT_THE_ROOT = {"__init__", "__main__", "errors", "config", "markers", "numerics", "ot", "packaged"}
NO_TORCH = ("slide", "tiling", "output", "phantom", "runtime", "pages", "batch", "viewing")


class Import(NamedTuple):
    """One import of a module of ours, or of torch.

    late      : inside a function, so it happens when that is called.
    for_types : under `if TYPE_CHECKING`, so it never happens.
    """

    target: str
    late: bool = False
    for_types: bool = False


@cache
def modules() -> dict[str, Path]:
    """Name below wsistain ("slide.tiff"; "slide" is its `__init__`, "" the root's) to file."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports_of(name: str) -> frozenset[Import]:
    """Everything of ours that a module imports, and torch."""
    found: set[Import] = set()

    def look(node: ast.AST, late: bool, for_types: bool) -> None:
        for child in ast.iter_child_nodes(node):
            names: list[str] = []
            if isinstance(child, ast.Import):
                names = [alias.name for alias in child.names]
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{name} imports relatively; write the whole name"
                names = [f"{child.module}.{alias.name}" for alias in child.names]
            for full in names:
                top, _, below = full.partition(".")
                if top == "wsistain":
                    target = below if below in modules() else below.rpartition(".")[0]
                    found.add(Import(target, late, for_types))
                elif top == "torch":
                    found.add(Import("torch", late, for_types))
            is_function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            is_guard = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            look(child, late or is_function, for_types or is_guard)

    look(ast.parse(modules()[name].read_text(encoding="utf-8")), False, False)
    return frozenset(found)


def room_of(name: str) -> str:
    return name.partition(".")[0]


def circle_in(arrows: dict[str, set[str]]) -> list[str]:
    """The names along one circle of arrows, [] where there is none."""
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        return [str(name) for name in error.args[1]]
    return []


def test_every_room_and_module_at_the_root_has_its_rule():
    rooms = {room_of(name) for name in modules()} - {""}
    assert rooms == set(MAY_IMPORT), "a new room needs a row in MAY_IMPORT and a place in docs/house.md"
    assert {p.stem for p in ROOT.glob("*.py")} == AT_THE_ROOT


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_imports_follow_the_layers(room):
    for name in modules():
        if room_of(name) == room:
            wrong = {room_of(i.target) for i in imports_of(name)} - MAY_IMPORT[room] - {room, "torch", ""}
            assert not wrong, f"{name} may not import {sorted(wrong)}"


def test_the_rules_themselves_allow_no_circle():
    assert not circle_in(MAY_IMPORT)


def test_no_room_stands_on_itself_by_way_of_others():
    arrows: dict[str, set[str]] = {}
    for name in modules():
        others = {room_of(i.target) for i in imports_of(name) if not i.for_types} - {room_of(name), "", "torch"}
        arrows.setdefault(room_of(name), set()).update(others)
    assert not circle_in(arrows)


def test_no_module_stands_on_itself_not_even_by_a_late_import():
    arrows = {
        n: {i.target for i in imports_of(n) if not i.for_types and i.target in modules()} - {n, ""} for n in modules()
    }
    assert not circle_in(arrows)


def test_the_root_itself_imports_nothing_but_for_types():
    assert all(i.for_types for i in imports_of(""))


@pytest.mark.parametrize("room", NO_TORCH)
def test_slides_and_tables_know_nothing_of_torch(room):
    assert not [n for n in modules() if room_of(n) == room and "torch" in {i.target for i in imports_of(n)}]


def test_a_circle_would_be_found():
    assert circle_in({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})
    assert not circle_in({"a": {"b", "c"}, "b": {"c"}})


def test_no_system_imports_another():
    from wsistain.systems import SYSTEMS

    systems = {place.partition(":")[0].partition(".")[2] for place in SYSTEMS.values()}
    for name in modules():
        if room_of(name) == "systems":
            assert not {i.target for i in imports_of(name)} & systems - {name}, f"{name} imports another system"


TESTED_IN: dict[str, str] = {
    # commands: through the command line that people type
    "cli.batch": "test_docs.py",
    "cli.benchmark": "benchmark/test_make.py",
    "cli.commands": "cli/test_run.py",
    "cli.figures": "evaluation/test_figures.py",
    "cli.markers": "test_markers.py",
    "cli.panels": "cli/test_commands.py",
    "cli.phantom": "phantom/test_products.py",
    "cli.train": "training/test_grid.py",
    # together, since they are measured alike
    "systems.dvst": "systems/test_stainers.py",
    "systems.histdist": "systems/test_stainers.py",
    "systems.unistainnet": "systems/test_stainers.py",
    "cli.view": "viewing/test_serve.py",
    # parts of a reader, a writer or a table: through the whole that has no other parts
    "batch.dicom": "batch/test_scan.py",
    "batch.workflow": "batch/test_batch.py",
    "output.trust": "viewing/test_trust.py",
    "generators.known": "reading/test_trust.py",
    "reading.stained": "reading/test_trust.py",
    "reading.blocks": "reading/test_nuclei.py",
    "reading.facts": "reading/test_read.py",
    "reading.scored": "reading/test_read.py",
    "optics.bank": "reading/test_trust.py",
    "optics.stored_bank": "generators/test_features.py",
    "optics.feature_bank": "generators/test_features.py",
    "evaluation.drawing": "evaluation/test_figures.py",
    "evaluation.slide_page": "evaluation/test_slides.py",
    "evaluation.grid_table": "training/test_grid.py",
    "evaluation.leaderboard": "evaluation/test_report.py",
    "evaluation.metrics": "evaluation/test_report.py",
    "evaluation.orientation": "benchmark/test_orientation.py",
    "evaluation.page": "evaluation/test_report.py",
    "evaluation.pair": "evaluation/test_truth.py",
    "evaluation.patches": "evaluation/test_report.py",
    "evaluation.rows": "evaluation/test_report.py",
    "evaluation.stain_map": "evaluation/test_slides.py",
    "evaluation.svg": "evaluation/test_report.py",
    "evaluation.tables": "evaluation/test_report.py",
    "output.codec": "output/test_store.py",
    "output.ome_xml": "output/test_export.py",
    "output.same": "output/test_journal.py",
    "output.shard": "output/test_store.py",
    "slide.base": "slide/test_resample.py",
    "slide.glass": "slide/test_segment.py",
    "slide.grid": "slide/test_resample.py",
    "slide.ink": "slide/test_segment.py",
    "slide.ngff": "slide/test_zarr_reader.py",
    "slide.place": "slide/test_reader.py",
    "slide.proof": "slide/test_tiff.py",
    "slide.pyramid": "slide/test_reader.py",
    "slide.roi_file": "slide/test_roi.py",
    "slide.tiff_codec": "slide/test_tiff.py",
    "slide.tiff_codes": "slide/test_tiff.py",
    "slide.tiff_ome": "slide/test_tiff.py",
    "slide.tiff_pages": "slide/test_tiff.py",
    "slide.tiff_scale": "slide/test_tiff.py",
    "slide.tiff_structure": "slide/test_tiff.py",
    "slide.units": "slide/test_mpp.py",
    "slide.zarr_pictures": "slide/test_zarr_reader.py",
    "slide.zarr_store": "slide/test_zarr_reader.py",
    # a run is tested as one: what it writes, and what it survives
    "generators.device": "pipeline/test_faults.py",
    "generators.load": "pipeline/test_norm.py",
    "generators.network": "pipeline/test_norm.py",
    "generators.spec": "pipeline/test_run.py",
    "generators.tiling": "pipeline/test_norm.py",
    "pairing.cut": "pairing/test_run.py",
    "pairing.folder": "pairing/test_run.py",
    "pairing.page": "pairing/test_run.py",
    "pairing.sections": "pairing/test_align.py",
    "pipeline.engine": "pipeline/test_graph.py",
    "pipeline.job": "pipeline/test_graph.py",
    "pipeline.kit": "pipeline/test_faults.py",
    "pipeline.norm_file": "pipeline/test_norm.py",
    "pipeline.planning": "pipeline/test_run.py",
    "pipeline.report": "pipeline/test_run.py",
    "pipeline.tasks": "pipeline/test_graph.py",
    "runtime.event": "pipeline/test_run.py",
    "runtime.say": "cli/test_run.py",
    "tiling.plan": "pipeline/test_graph.py",
    # the view: through its addresses
    "viewing.guard": "viewing/test_app.py",
    "viewing.samples": "viewing/test_gallery.py",
    "viewing.tables": "viewing/test_gallery.py",
    "viewing.tiles": "viewing/test_app.py",
    # backbones: through the metric or loss that reads them
    "networks.alexnet": "losses/test_perceptual.py",
    "networks.clip_tower": "networks/test_clip_critic.py",
    "networks.dye_layer": "systems/test_lpstain.py",
    "networks.expression": "systems/test_lpstain.py",
    "networks.inception": "networks/test_feature_nets.py",
    "networks.layers": "networks/test_resnet.py",
    "networks.nucleus_finder": "reading/test_nuclei.py",
    "reading.cells": "reading/test_nuclei.py",
    "reading.grid": "reading/test_nuclei.py",
    "cli.read": "reading/test_read.py",
    "reading.qupath": "reading/test_table.py",
    "reading.project": "reading/test_read.py",
    "reading.source": "reading/test_read.py",
    "reading.sources": "reading/test_fit.py",
    "reading.told": "reading/test_read.py",
    "networks.receptive_field": "pipeline/test_norm.py",
    "networks.resnet50": "networks/test_feature_nets.py",
    "networks.shift_tolerant": "losses/test_perceptual.py",
    "networks.slide_norm": "pipeline/test_norm.py",
    "networks.vgg": "losses/test_perceptual.py",
    "numerics": "test_ot.py",
    "optics.restain": "systems/test_lpstain.py",
    # the phantom is one model: its parts are tested by what is true of the tissue
    "phantom.anatomy": "phantom/test_truth.py",
    "phantom.cells": "phantom/test_truth.py",
    "phantom.background": "phantom/test_versions.py",
    "phantom.config": "phantom/test_truth.py",
    "phantom.glass": "phantom/test_versions.py",
    "phantom.kinds": "phantom/test_versions.py",
    "phantom.lumen": "phantom/test_versions.py",
    "phantom.manifest": "phantom/test_products.py",
    "phantom.nearest_centres": "phantom/test_truth.py",
    "phantom.nuclei": "phantom/test_render.py",
    "phantom.optics": "phantom/test_render.py",
    "phantom.paint": "phantom/test_truth.py",
    "phantom.processes": "phantom/test_products.py",
    "phantom.quick_slide": "phantom/test_tiff.py",
    "phantom.stroma": "phantom/test_versions.py",
    "phantom.tables": "phantom/test_truth.py",
    "phantom.together": "phantom/test_products.py",
    "phantom.varied": "phantom/test_versions.py",
    "benchmark.compare": "benchmark/test_board.py",
    "benchmark.edition": "benchmark/test_make.py",
    "benchmark.entry": "benchmark/test_score.py",
    "benchmark.listed": "benchmark/test_make.py",
    # a system is trained, saved and loaded again
    "published.catalogue": "cli/test_weights.py",
    "published.fetch": "cli/test_weights.py",
    "systems.base": "systems/test_baselines.py",
    "systems.cyclegan": "systems/test_baselines.py",
    "systems.miu_sampling": "systems/test_miu_diff.py",
    "systems.pix2pix": "systems/test_baselines.py",
    "systems.pyramidp2p": "systems/test_baselines.py",
    "systems.resnet_family": "systems/test_usigan.py",
    "systems.turbo_parts": "systems/test_turbo_systems.py",
    "systems.turbo_two_way": "systems/test_turbo_systems.py",
    "cli.stain": "evaluation/test_stain_folder.py",
    "runtime.children": "training/test_going_on.py",
    "training.folder": "training/test_loop.py",
    "training.header": "training/test_loop.py",
    "training.keeping": "training/test_loop.py",
    "training.setup": "training/test_loop.py",
    "training.start": "training/test_going_on.py",
    "training.stopping": "training/test_going_on.py",
    "training.summary": "training/test_loop.py",
    "weights.find": "cli/test_weights.py",
}
"""Module without a test file of its own name to the one that tests it."""

TESTED_BY_USE = {"__main__": "one line; the tests of the command line run `python -m wsistain`"}


def mirror_of(name: str) -> str:
    """The test file of a module, below tests/."""
    *rooms, module = name.split(".")
    return "/".join([*rooms, f"test_{module}.py"])


@cache
def reached_from(test: str) -> frozenset[str]:
    """Modules that a test file imports or names, those that these import or name, and so on."""

    def named(place: str, source: str) -> set[str]:
        found = set()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and node.module:
                found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                loaded = node.value.partition(":")[0]  # modules that are loaded by name, commands by their own
                found |= {loaded, f"wsistain.cli.{loaded}"} if place == "cli.commands" else {loaded}
        return found

    seen: set[str] = set()
    waiting = {test}
    helpers = {".".join(p.relative_to(TESTS.parent).with_suffix("").parts): p for p in TESTS.rglob("*.py")}
    while waiting:
        place = waiting.pop()
        seen.add(place)
        path = TESTS / place if place.endswith(".py") else helpers.get(place) or modules()[place]
        for full in named(place, path.read_text(encoding="utf-8")):
            below = (
                full.removeprefix("wsistain.") if full.startswith("wsistain.") else "" if full == "wsistain" else full
            )
            ours = below if below in modules() and full.startswith("wsistain") else full if full in helpers else None
            if ours is not None and ours not in seen:
                waiting.add(ours)
    return frozenset(seen)


def test_every_module_has_its_test_file_or_says_where_it_is_tested():
    lost = [
        name
        for name, path in modules().items()
        if path.name != "__init__.py"
        and not (TESTS / mirror_of(name)).is_file()
        and name not in {**TESTED_IN, **TESTED_BY_USE}
    ]
    assert not lost, f"write tests/{mirror_of(lost[0])}, or say in TESTED_IN where {lost[0]} is tested"


def test_the_table_of_tests_is_true():
    assert not {**TESTED_IN, **TESTED_BY_USE}.keys() - modules().keys(), "a module that is gone"
    for name, test in TESTED_IN.items():
        assert name in reached_from(test), f"{test} does not reach {name}"


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
        "view",
    }
    assert all(getattr(wsistain, name) for name in wsistain.__all__)


def test_type_checkers_and_the_program_find_the_same_public_names():
    """`tests/typed_user.py` says of which types they are; mypy checks it."""
    import wsistain

    typed = {i.target for i in imports_of("") if i.for_types}
    assert typed == {place.removeprefix("wsistain.") for place in wsistain._PUBLIC.values()}
    aliases = {
        alias.name
        for node in ast.walk(ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name  # the form that strict checkers take for an export
    }
    assert aliases == set(wsistain._PUBLIC)
    assert (ROOT / "py.typed").is_file()
    assert "tests/typed_user.py" in (TESTS.parent / "pyproject.toml").read_text(encoding="utf-8")

"""One registry: rows of the package and of a user's file; a new row is enough for every command."""

import json

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from tests.batch.sheets import read_sheet
from tests.pipeline.slides import small_config
from wsistain.cli import app
from wsistain.errors import ConfigError, WsistainError
from wsistain.markers import DAB, ENVIRONMENT, MARKERS, Marker, find_marker, known_markers, panel, user_file

ROWS = """
markers:
  - {name: made53, compartment: nuclear, aliases: [TMADE53], expression: {against: true, shift: -0.3}}
  - name: Made-Cyto
    compartment: cytoplasmic
    cutoffs: [0.2, 0.4, 0.7]
    cutoffs_source: our validation
    chromogen: {name: fast red, od: [0.21, 0.85, 0.48]}
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Writes the user's file and points to it."""

    def write(text):
        path = tmp_path / "own.yaml"
        path.write_text(text)
        monkeypatch.setenv(ENVIRONMENT, str(path))
        return path

    return write


def test_a_file_adds_markers_with_what_follows_from_the_rest_filled_in(own):
    own(ROWS)
    made53, cyto = find_marker("tmade53"), find_marker("made-cyto")
    assert (made53.name, made53.chromogen, made53.cutoffs, made53.origin) == (
        "made53",
        DAB,
        (0.15, 0.35, 0.60),
        "own.yaml",
    )
    assert made53.prompt == "immunohistochemistry made53 stain" and made53.expression.follows == "differentiation"
    assert cyto.positive_od == 0.2 and sum(c * c for c in cyto.chromogen.od) == pytest.approx(1)
    assert list(known_markers()) == [*MARKERS, "made53", "Made-Cyto"]
    assert Marker.model_validate(made53.model_dump(mode="json")) == made53
    facts = cyto.facts()
    assert facts["cutoffs_source"] == "our validation" and json.loads(json.dumps(facts)) == facts


def test_of_a_built_in_marker_a_file_may_change_the_cutoffs_alone(own):
    own("markers: [{name: ER, cutoffs: [0.1, 0.3, 0.5], cutoffs_source: scanner 2}]")
    er = find_marker("ER")
    assert er.positive_od == 0.1 and er.origin == "own.yaml" and er.expression == MARKERS["ER"].expression


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("markers: [{name: made53}]", "compartment is missing"),
        ("markers: [{name: made53, compartment: golgi}]", "compartment"),
        ("markers: [{name: p/53, compartment: nuclear}]", "name"),
        ("markers: [{name: made53, compartment: nuclear, aliases: [er]}]", "'er' means ER already"),
        ("markers: [{name: er, compartment: nuclear}]", "'er' means ER already"),
        ("markers: [{name: ER, compartment: nuclear}]", "ER is built in"),
        ("markers: [{name: a, compartment: nuclear}, {name: a, compartment: nuclear}]", "there twice"),
        ("markers: [{name: made53, compartment: nuclear, cutoffs: [0.1, 0.3, 0.5]}]", "without their cutoffs_source"),
        ("markers: [{name: p, compartment: nuclear, cutoffs: [0.3, 0.2, 0.5], cutoffs_source: x}]", "that rise"),
        ("markers: [{name: made53, compartment: nuclear, chromogen: AEC}]", "'AEC' is not known"),
        ("markers: [{name: p, compartment: nuclear, chromogen: {name: b, od: [0.66, 0.7, 0.3]}}]", "from haematoxylin"),
        ("markers: [{name: p, compartment: nuclear, chromogen: {name: b, od: [0, 0, 0]}}]", "not all 0"),
        ("markers: [{name: p, compartment: nuclear, expression: {panel: true}}]", "expression.panel is not a known"),
        ("markers: [{name: p, compartment: nuclear, origin: built in}]", "origin is not a known key"),
        ("markers: [{name: p, compartment: nuclear, colour: brown}]", "colour is not a known key"),
        ("markers: {made53: nuclear}", "markers"),
        ("marker: []", "marker is not a known key"),
        ("- 1", "wanted keys and values"),
        ("markers: [", "is not YAML"),
    ],
)
def test_a_wrong_file_is_one_sentence_that_names_it(own, text, words):
    path = own(text)
    with pytest.raises(ConfigError) as refusal:
        find_marker("ER")
    assert words in str(refusal.value) and str(path) in str(refusal.value) and "\n" not in str(refusal.value)


def test_the_file_is_the_one_that_is_named_else_that_of_the_user_and_never_of_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "wsistain").mkdir()
    (tmp_path / "wsistain" / "markers.yaml").write_text("markers: [{name: MadeA, compartment: membranous}]")
    (tmp_path / "wsistain-markers.yaml").write_text("markers: [{name: MadeB, compartment: membranous}]")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert user_file() is None  # the variable is there and empty
    monkeypatch.delenv(ENVIRONMENT)
    assert set(known_markers()) - set(MARKERS) == {"MadeA"}
    monkeypatch.setenv(ENVIRONMENT, "wsistain-markers.yaml")
    assert set(known_markers()) - set(MARKERS) == {"MadeB"}
    monkeypatch.setenv(ENVIRONMENT, "none.yaml")
    with pytest.raises(ConfigError, match=r"none\.yaml, which is no file"):
        find_marker("ER")


def test_cells_have_cutoffs_of_their_own_where_a_row_says_so(own):
    er = find_marker("ER")
    assert er.positive_cell_od == er.at_cells[0] == 0.11 and er.positive_od == er.cutoffs[0] == 0.15
    own("markers: [{name: ER, cutoffs: [0.2, 0.4, 0.6], cutoffs_source: ours}]")  # pixels and cells are changed apart
    assert find_marker("ER").positive_od == 0.2 and find_marker("ER").at_cells == er.at_cells
    own("markers: [{name: MadeD, compartment: nuclear}]")
    assert find_marker("MadeD").at_cells == find_marker("MadeD").cutoffs
    her2 = find_marker("HER2")
    assert her2.positive_cell_od == her2.at_cells[1] < her2.positive_od
    own("markers: [{name: HER2, cell_cutoffs: [0.03, 0.05, 0.08], cutoffs_source: ours}]")
    assert find_marker("HER2").positive_cell_od == 0.05 and find_marker("HER2").cutoffs == her2.cutoffs


def test_a_changed_file_is_read_again(own):
    own(ROWS)
    assert "made53" in known_markers()
    own("markers: [{name: MadeC, compartment: membranous}]")
    assert "made53" not in known_markers() and "MadeC" in known_markers()


def test_rows_of_the_package_are_sound():
    assert sum(m.expression.slide_score for m in MARKERS.values()) <= 1
    names = [word for m in MARKERS.values() for word in m.spellings]
    assert len(names) == len(set(names))
    for marker in MARKERS.values():
        assert marker.origin == "built in" and marker.cutoffs_source and marker.prompt
        assert marker.expression.shares is None or marker.expression.shares[0] in {m.name for m in panel()}


@pytest.mark.parametrize("system", ["usigan", "atst_net", "aligned"])
def test_systems_that_measure_brown_refuse_another_dye(own, system):
    own(ROWS)
    from wsistain.systems import find_system, system_class

    with pytest.raises(ConfigError, match="measures DAB, and Made-Cyto is shown by fast red"):
        system_class(system)(find_system(system).Config.tiny({}), find_marker("Made-Cyto"))


def by_row(name, monkeypatch, own):
    monkeypatch.setitem(MARKERS, name, Marker(name=name, compartment="nuclear"))


def by_file(name, monkeypatch, own):
    own(ROWS)


@pytest.mark.parametrize(("name", "known"), [("made53", by_row), ("Made-Cyto", by_file)])
def test_a_new_row_is_enough_for_every_command(name, known, tmp_path, monkeypatch, own):
    from wsistain.config import TrainConfig
    from wsistain.evaluation.report import evaluate
    from wsistain.phantom.config import PhantomConfig
    from wsistain.phantom.products import make_slide
    from wsistain.pipeline.run import run
    from wsistain.training.loop import train

    cli = CliRunner()
    unknown = cli.invoke(app, ["phantom", "slide", str(tmp_path / "s"), "--marker", name])
    assert isinstance(unknown.exception, WsistainError) and f"'{name}' is not known" in str(unknown.exception)
    known(name, monkeypatch, own)
    assert name in cli.invoke(app, ["markers"]).output

    make_slide(tmp_path / "s", PhantomConfig(height=160, width=192, seed=12, whole=True, marker=name))
    columns = pq.read_schema(tmp_path / "s" / "cells_a.parquet").names
    assert {f"level_{name}", "level_ER"} <= set(columns)
    (report,) = run(tmp_path / "s" / "he_a.tiff", name, tmp_path / "out", config=small_config(all_tiles=True))
    assert report.provenance["marker_definition"]["name"] == name

    size = ["--train", "2", "--val", "1", "--slides", "2", "--size", "96", "--seed", "3"]
    made = cli.invoke(app, ["phantom", "patches", str(tmp_path / "p"), "--markers", name, *size])
    assert made.exit_code == 0, made.output
    options = {"ngf": 2, "ndf": 2}
    data = {"root": str(tmp_path / "p"), "crop_px": 64}
    config = TrainConfig(system="pix2pix", marker=name, data=data, options=options, steps=1, device="cpu")
    weights = train(config, tmp_path / "t", tiny=True)
    assert json.loads((tmp_path / "t" / "data.json").read_text())["marker"]["name"] == name
    found = evaluate(weights, tmp_path / "p", marker=name, nets=tmp_path, workers=1, pictures=0)
    assert found["data"]["marker_definition"]["name"] == name and found["truth"]["n_cells"] > 0

    (tmp_path / "sheet.csv").write_text(f"path,markers\nx.svs,{name}\n")
    (entry,) = read_sheet(tmp_path / "sheet.csv", ["ER"])
    assert entry.markers == (name,)

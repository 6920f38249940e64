"""`wsistain read` on a finished run: files that agree with one another, and refusals before anything is written."""

import csv
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile

from tests.pipeline.slides import small_config
from tests.reading.made import MPP, tissue
from wsistain.errors import ConfigError, OutputError, SlideError
from wsistain.output.reading import read_stain
from wsistain.pipeline.run import run
from wsistain.reading.project import make_project
from wsistain.reading.read import read
from wsistain.slide.roi import parse_region


def test_the_files_of_a_reading_agree(reading):
    table = pq.read_table(reading.files["table"])
    features = json.loads(reading.files["objects"].read_text())["features"]
    assert table.num_rows == len(features) == reading.n_cells > 100
    assert np.allclose(table["y_um"].to_numpy(), table["y_px"].to_numpy() * MPP)
    classes = table["class"].to_pylist()
    positive = sum(c in ("1+", "2+", "3+") for c in classes) / len(classes)
    with reading.files["scores"].open() as file:
        line = next(csv.DictReader(file))
    assert line["region"] == "slide" and int(line["cells"]) == len(classes)
    assert float(line["percent_positive"]) == pytest.approx(100 * positive, abs=1e-3)
    told = json.loads(reading.files["facts"].read_text())
    assert told["scores"]["slide"]["percent_positive"]["value"] == float(line["percent_positive"])
    assert "research" in told["provenance"]["statement"]
    assert told["provenance"]["stain"]["marker"] == "ER" and told["provenance"]["slide"]["fingerprint"]


def test_drawn_shapes_and_classes_are_scored_by_the_cells_inside_them(stained, reading, tmp_path):
    def square(kind, name, y, x, size):
        ring = [[x, y], [x + size, y], [x + size, y + size], [x, y + size], [x, y]]
        told = {"objectType": "annotation", "classification": {"name": kind}, **({"name": name} if name else {})}
        return {
            "type": "Feature", "properties": told, "geometry": {"type": "Polygon", "coordinates": [ring]}
        }  # fmt: skip

    drawn = tmp_path / "drawn.geojson"
    shapes = [square("Tumor", "nest", 0, 0, 200), square("Tumor", "", 210, 0, 100), square("Necrosis", "", 50, 50, 80)]
    drawn.write_text(json.dumps({"type": "FeatureCollection", "features": shapes}))
    copy = tmp_path / "he.ER.ome.zarr"
    shutil.copytree(stained[1], copy)
    found = read([copy], slide=stained[0], roi=drawn, without=["Necrosis"], trust=False)[0]
    table = pq.read_table(found.files["table"])
    y, x, region = (table[name].to_numpy(zero_copy_only=False) for name in ("y_px", "x_px", "region"))
    dead = (y > 50) & (y < 130) & (x > 50) & (x < 130)
    nest = (y < 200) & (x < 200) & ~dead
    other = (y > 210) & (y < 310) & (x < 100)
    assert dead.any() and (region[dead] == "Necrosis").all() and (region[nest | other] == "Tumor").all()
    with found.files["scores"].open() as file:
        cells = {line["region"]: int(line["cells"]) for line in csv.DictReader(file)}
    assert cells == {
        "slide": nest.sum() + other.sum(), "class Tumor": nest.sum() + other.sum(), "class Necrosis": dead.sum(),
        "shape nest": nest.sum(), "shape Tumor 2": other.sum(), "shape Necrosis 1": dead.sum(),
    }  # fmt: skip
    assert list(json.loads(found.files["facts"].read_text())["scores"]["shapes"]) == ["nest", "Tumor 2", "Necrosis 1"]
    assert "Shape nest" in found.files["report"].read_text()


def test_of_a_part_of_a_slide_its_cells_alone_are_read_and_as_those_of_the_whole(stained, reading, tmp_path):
    part = run(stained[0], "ER", tmp_path, config=small_config(), region=parse_region("96,64,150,180"))[0].output
    (top, left), (height, width) = read_stain(part).origin_um, read_stain(part).levels[0]
    found = read([part], trust=False)[0]
    here, whole = (pq.read_table(r.files["table"]) for r in (found, reading))
    y, x = (whole[name].to_numpy() for name in ("y_px", "x_px"))
    inside = (y * MPP >= top) & (x * MPP >= left) & (y < top / MPP + height) & (x < left / MPP + width)
    inside = whole.filter(pa.array(inside))
    assert found.slide.not_read == 0 and 10 < found.n_cells == inside.num_rows < reading.n_cells
    assert all(here[name].equals(inside[name]) for name in ("id", "area_um2", "geometry"))
    y, x = here["y_um"].to_numpy() - top, here["x_um"].to_numpy() - left
    far = (np.minimum(y, x) > 5) & (y < height * MPP - 5) & (x < width * MPP - 5)  # the stain ends at its edge
    assert far.any() and np.array_equal(here["dab_od"].to_numpy()[far], inside["dab_od"].to_numpy()[far])


def test_cells_lie_where_the_phantom_s_do(reading):
    table, truth = pq.read_table(reading.files["table"]), tissue()[2]
    found = np.stack([table["y_px"].to_numpy(), table["x_px"].to_numpy()], 1)
    for cell in truth.to_pylist()[::20]:  # the phantom's first pixel has its middle at 0, ours at 0.5
        assert np.hypot(*(found - [cell["y_px"] + 0.5, cell["x_px"] + 0.5]).T).min() < 10


def test_a_second_reading_and_other_slides_are_refused(stained, reading, tmp_path):
    he, stain = stained
    with pytest.raises(OutputError, match="exists; pass --overwrite"):
        read([stain])
    with pytest.raises(OutputError, match="does not exist"):
        read([tmp_path / "none.ome.zarr"])
    with pytest.raises(ConfigError, match="name every stain once"):
        read([stain, stain], overwrite=True)
    with pytest.raises(SlideError, match="virtual"):
        read([stain], slide=stain, overwrite=True)
    other = tmp_path / "other.tif"
    picture = tifffile.imread(he)
    picture[0, 0] = 7
    tifffile.imwrite(
        other, picture, photometric="rgb", tile=(256, 256), resolution=(2e4, 2e4), resolutionunit="CENTIMETER"
    )
    with pytest.raises(SlideError, match="is not the slide of which"):
        read([stain], slide=other, overwrite=True)


def test_the_slide_is_looked_for_and_missed_in_one_sentence(stained, tmp_path):
    he, stain = stained
    moved = tmp_path / "moved" / stain.name
    shutil.copytree(stain, moved)
    shutil.copy(he, tmp_path / he.name)  # the folder above the results
    assert read([moved])[0].n_cells > 100
    (tmp_path / he.name).unlink()
    with pytest.raises(SlideError, match="--slide"):
        read([moved], overwrite=True)
    assert (tmp_path / "moved" / "he.ER.cells.parquet").is_file()  # of the first reading


def test_the_qupath_folder_is_whole(reading):
    folder = make_project(reading)
    assert sorted(p.name for p in folder.iterdir()) == ["cells.geojson", "he.ER.ome.tif", "make_project.groovy"]
    assert str(reading.facts["slide"]["path"]) in (folder / "make_project.groovy").read_text()
    with pytest.raises(OutputError, match="overwrite"):
        make_project(reading)


def test_the_command_reads_and_says_what(stained, capsys):
    from wsistain.cli import main

    with pytest.raises(SystemExit) as ended:
        main(["read", str(stained[1]), "--overwrite", "--threads", "1"])
    assert ended.value.code == 0 and "percent positive" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["read", str(stained[1]), "--without", "Necrosis"])
    assert ended.value.code == 2 and "--roi" in capsys.readouterr().err


def test_run_reads_what_it_stained_and_an_overwritten_stain_keeps_no_old_cells(tmp_path, capsys):
    from tests.reading.made import write_he
    from wsistain.cli import main

    def run(*options):
        with pytest.raises(SystemExit) as ended:
            main(["run", he.as_uri(), "--weights", "identity", "--output", str(tmp_path), *options])
        return ended.value.code, capsys.readouterr()

    he = write_he(tmp_path).rename(tmp_path / "<h> e.tif")  # a batch hands such names on as URLs
    code, said = run("--read")
    assert code == 0 and "<h> e.ER.scores.csv: 107 cells" in said.out.replace("\n", "")
    read_at = (tmp_path / "<h> e.ER.read.json").stat().st_mtime_ns
    assert run("--read", "--resume")[0] == 0  # what was read is not read again
    assert (tmp_path / "<h> e.ER.read.json").stat().st_mtime_ns == read_at
    assert run("--overwrite")[0] == 0
    assert not list(tmp_path.glob("<h> e.ER.cells.*")) and not (tmp_path / "<h> e.ER.read.json").exists()
    code, said = run("--read", "--direction", "ihc-to-he")
    assert code == 2 and "--direction" in said.err

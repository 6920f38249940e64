"""`wsistain run` and `info` as a user meets them: exit codes, one sentence, nothing half-written."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from tests.pipeline.slides import level0, tissue_picture, write_slide
from wsistain.cli import app, main
from wsistain.errors import WsistainError
from wsistain.phantom.quick_slide import render_quick

SMALL = [
    *("--set", "tiling.stride=64", "--set", "tiling.overlap=16", "--set", "tiling.block=256"),
    *("--set", "output.chunk=64", "--set", "output.shard=128"),
]


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    return write_slide(tmp_path_factory.mktemp("cli") / "case.v2.tiff", tissue_picture(300, 400))


def call(arguments, capsys):
    """(exit code, standard output, standard error) of the command line in this process."""
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return stop.value.code, out, err


def test_a_run_ends_with_the_place_of_its_result(slide, tmp_path, capsys):
    code, out, _ = call(["run", slide, "-w", "identity", "-o", tmp_path, "--marker", "er,HER2", *SMALL], capsys)
    assert code == 0
    assert {p.name for p in tmp_path.iterdir()} == {
        f"case.v2.{m}.{kind}" for m in ("ER", "HER2") for kind in ("ome.zarr", "preview.jpg", "run.json")
    }
    assert "case.v2.HER2.ome.zarr" in out.splitlines()[-1]
    assert "not a stain" in out


def test_the_older_ome_zarr_is_written_exported_and_resumed(slide, tmp_path, capsys):
    arguments = ["run", slide, "-w", "identity", "-o", tmp_path, "--ngff", "0.4", *SMALL]
    code, _, err = call(arguments, capsys)
    stain = tmp_path / "case.v2.ER.ome.zarr"
    assert code == 0, err
    assert (stain / ".zattrs").is_file() and not (stain / "zarr.json").exists()
    code, out, _ = call(["export", stain, tmp_path / "x.ome.tif", "--lossless"], capsys)
    assert code == 0 and np.array_equal(tifffile.imread(tmp_path / "x.ome.tif"), level0(stain))
    code, out, _ = call([*arguments, "--resume"], capsys)
    assert code == 0 and "finished" in out
    code, _, err = call([*arguments, "--set", "output.ngff=0.5", "--ngff", "0.3", "--overwrite"], capsys)
    assert code == 2 and "--ngff" in err and (stain / ".zattrs").is_file()


def test_only_what_was_drawn_in_qupath_is_stained(tmp_path, capsys):
    picture = tissue_picture(300, 900)
    wide = write_slide(tmp_path / "wide.tiff", picture)

    def feature(x: int, kind: str) -> dict:
        ring = [[x, 120], [x + 60, 120], [x + 60, 180], [x, 180], [x, 120]]
        coordinates = [ring] if kind == "Polygon" else [[ring]]
        properties = {"objectType": "annotation", "classification": {"name": "Tumor", "color": [200, 0, 0]}}
        geometry = {"type": kind, "coordinates": coordinates}
        return {"type": "Feature", "id": f"0a{x}", "geometry": geometry, "properties": properties}

    features = [feature(150, "Polygon"), feature(700, "MultiPolygon"), feature(440, "Polygon")]
    features[2]["properties"]["classification"]["name"] = "Stroma"
    (tmp_path / "q.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    arguments = ["--roi", tmp_path / "q.geojson", "--roi-class", "Tumor"]
    code, out, err = call(["run", wide, "-w", "identity", "-o", tmp_path, *arguments, *SMALL], capsys)
    assert code == 0, err
    assert "2 areas (2 Tumor)" in out and "not asked for: 1 Stroma" in out
    assert json.loads((tmp_path / "wide.ER.run.json").read_text())["provenance"]["config"]["roi_class"] == "Tumor"
    origin = json.loads((tmp_path / "wide.ER.run.json").read_text())["plan"]["origin_px"]
    stained = np.full_like(picture, 255)
    found = level0(tmp_path / "wide.ER.ome.zarr")
    stained[origin["y"] :, origin["x"] :][: len(found), : found.shape[1]] = found
    for x in (150, 700):
        drawn = (slice(120, 180), slice(x, x + 60))
        assert np.array_equal(stained[drawn], picture[drawn])
    between = (slice(100, 200), slice(400, 500))  # tissue that nobody drew round, further away than edges fade
    assert (picture[between][..., 1] < 200).all() and (stained[between] == 255).all()


def test_plan_only_prints_the_plan_and_writes_nothing(slide, tmp_path, capsys):
    code, out, _ = call(["run", slide, "-w", "identity", "-o", tmp_path / "o", "--plan-only", *SMALL], capsys)
    assert code == 0 and not (tmp_path / "o").exists()
    assert json.loads(out)[0]["output_px"] == {"height": 300, "width": 400}


def test_the_plan_is_not_changed_by_where_the_result_goes(slide, capsys):
    first, second = (call(["run", slide, "-w", "identity", "-o", o, "--plan-only"], capsys)[1] for o in ("a", "b"))
    assert first == second


def test_every_broken_file_ends_in_one_sentence_and_leaves_nothing(real_data, tmp_path, capsys):
    files = sorted((real_data / "bad").iterdir())
    assert len(files) > 10
    for file in files:
        out = tmp_path / file.name
        for arguments in (["run", file, "-o", out], ["run", file, "-o", out, "--mpp", "0.5"], ["info", file]):
            code, _, err = call([*arguments, "-w", "identity", *(["--overwrite"] * ("run" in arguments))], capsys)
            if file.name == "zeroed_tile_data.svs":
                assert code == 0, err
                continue
            assert code == 2, file.name
            assert err.startswith("wsistain: ") and len(err.strip().splitlines()) == 1, err
            assert file.name in err and "Traceback" not in err and not out.exists()
    facts = json.loads((tmp_path / "zeroed_tile_data.svs" / "zeroed_tile_data.ER.run.json").read_text())
    assert facts["unreadable_tiles"] == 8


def test_strict_refuses_undecodable_tiles(real_data, tmp_path, capsys):
    code, _, err = call(
        ["run", real_data / "bad" / "zeroed_tile_data.svs", "-w", "identity", "-o", tmp_path, "--strict"], capsys
    )
    assert code == 2 and "cannot be decoded" in err
    assert not list(tmp_path.glob("*.ome.zarr/zarr.json"))


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--marker", "ERX"], "ER, PR"),
        (["--set", "tiling.overlp=3"], "overlap"),
        (["--set", "norm=slid"], "norm"),
        (["--weights", "nowhere.safetensors"], "weights list"),
        (["--region", "1,2,3"], "X,Y,W,H"),
        (["--region", "9000,9000,10,10"], "outside the slide"),
        (["--norm", "slide"], "instance norm"),
        (["--roi", "missing.geojson"], "missing.geojson"),
        (["--roi-class", "Tumor"], "--roi FILE.geojson"),
        (["--config", "missing.yaml"], "missing.yaml"),
        (["--mpp", "400"], "--mpp"),
        (["--resume", "--overwrite"], "exclude each other"),
        (["--set", "tiling.overlap=1500"], "overlap"),
        (["--set", "tiling.block=1000"], "block"),
        (["--scheduler", "tcp://127.0.0.1:9"], "scheduler"),
        (["--device", "cuda:9"], "--device cpu"),
        (["--set", "output.zstd_level=12", "--ngff", "0.4"], "zstd level 12 is above 9"),
    ],
)
def test_bad_options_are_one_sentence(slide, tmp_path, capsys, arguments, wanted):
    code, _, err = call(["run", slide, "-w", "identity", "-o", tmp_path / "o", *arguments], capsys)
    assert code == 2 and wanted in err, err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "o").exists()


def test_a_slide_without_mpp_is_refused_by_name_of_the_option(tmp_path, capsys):
    path = tmp_path / "plain.tiff"
    tifffile.imwrite(path, tissue_picture(128, 128), tile=(64, 64), photometric="rgb", metadata=None)
    code, _, err = call(["run", path, "-w", "identity", "-o", tmp_path / "o"], capsys)
    assert code == 2 and "--mpp" in err


def test_a_pickle_is_refused_as_weights(slide, tmp_path, capsys):
    import torch

    torch.save({"x": torch.zeros(1)}, tmp_path / "net.pth")
    code, _, err = call(["run", slide, "-w", tmp_path / "net.pth", "-o", tmp_path / "o"], capsys)
    assert code == 2 and "weights import" in err


def test_an_output_in_an_unwritable_place_is_refused(slide, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    code, _, err = call(["run", slide, "-w", "identity", "-o", tmp_path / "file" / "o"], capsys)
    assert code == 2 and "cannot be made" in err


def test_info_tells_what_a_slide_is(slide, capsys):
    code, out, _ = call(["info", slide, "-w", "identity", "--json"], capsys)
    facts = json.loads(out)
    assert code == 0 and facts["width_px"] == 400 and facts["mpp"] == pytest.approx(0.5) and facts["tiles"] > 0
    assert facts["tissue_share"] > 0.3 and facts["expected_seconds"] >= 0


def test_every_command_has_an_example_in_its_help():
    runner = CliRunner()
    names = [c.name or c.callback.__name__ for c in app.registered_commands] + [
        f"{g.name}" for g in app.registered_groups
    ]
    assert {"run", "info", "export", "train"} <= set(names)
    for name in names:
        result = runner.invoke(app, [name, "--help"])
        assert result.exit_code == 0 and f"wsistain {name}" in result.output, name


def test_a_fault_of_ours_is_one_line_and_a_log_file(monkeypatch, capsys, slide):
    import wsistain.slide.reader

    def broken(*args, **kwargs):
        raise RuntimeError("wires crossed")

    monkeypatch.setattr(wsistain.slide.reader, "open_slide", broken)
    code, _, err = call(["info", slide], capsys)
    assert code == 1 and "wires crossed" in err and len(err.strip().splitlines()) == 1
    log = err.strip().rsplit(" ", 1)[1]
    assert "Traceback" in Path(log).read_text()


def test_errors_are_all_children_of_one():
    import wsistain.errors as errors

    kinds = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, Exception)]
    assert len(kinds) > 4 and all(issubclass(e, WsistainError) for e in kinds)


def test_help_answers_without_torch_and_fast():
    code = (
        "import sys, time; start = time.process_time(); from typer.testing import CliRunner; from wsistain.cli import app; "
        "r = CliRunner().invoke(app, ['--help']); print(r.exit_code, 'torch' in sys.modules, time.process_time() - start)"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert out[:2] == ["0", "False"] and float(out[2]) < 5


def test_black_that_was_not_scanned_stays_white_and_tissue_beside_it_is_whole(tmp_path, capsys):
    inner = render_quick(600, 600, 400, 500, shape=(2000, 2000), mpp=0.5, seed=0)
    picture = np.zeros((700, 800, 3), np.uint8)
    picture[150:550, 150:650] = inner
    slide = write_slide(tmp_path / "black.tiff", picture)
    code, _, err = call(["run", slide, "-w", "identity", "-o", tmp_path, *SMALL], capsys)
    assert code == 0, err
    stained = level0(tmp_path / "black.ER.ome.zarr")
    assert np.array_equal(stained[152:548, 152:648], picture[152:548, 152:648])
    outside = np.ones((700, 800), bool)
    outside[148:552, 148:652] = False
    assert (stained[outside] == 255).all()
    assert not json.loads((tmp_path / "black.ER.run.json").read_text())["warnings"]


def test_pen_over_tissue_is_said_and_kept_in_the_report(tmp_path, capsys):
    picture = render_quick(600, 600, 600, 800, shape=(2000, 2000), mpp=0.5, seed=0)
    picture[200:400, 250:550] = (20, 110, 60)
    slide = write_slide(tmp_path / "pen.tiff", picture)
    code, out, err = call(["run", slide, "-w", "identity", "-o", tmp_path, *SMALL], capsys)
    assert code == 0, err
    assert out.count("pen lies over") == 1
    report = json.loads((tmp_path / "pen.ER.run.json").read_text())
    assert 100 * 150 * 1e-6 <= report["quality"]["pen_mm2"] <= 140 * 190 * 1e-6  # with a rim of up to 20 um
    assert "pen lies over" in report["warnings"][0]
    code, out, _ = call(["info", slide, "--json", "-w", "identity"], capsys)
    assert code == 0 and json.loads(out)["quality"] == report["quality"]
    assert json.loads(out)["warnings"] == report["warnings"]


def test_areas_beside_the_slide_are_said(tmp_path, capsys):
    slide = write_slide(tmp_path / "s.tiff", tissue_picture(300, 400))
    rings = [[[x, 120], [x + 60, 120], [x + 60, 180], [x, 180]] for x in (150, 5000)]
    shapes = [{"type": "Polygon", "coordinates": [ring]} for ring in rings]
    (tmp_path / "q.geojson").write_text(json.dumps({"type": "GeometryCollection", "geometries": shapes}))
    code, out, err = call(
        ["run", slide, "-w", "identity", "-o", tmp_path, "--roi", tmp_path / "q.geojson", *SMALL], capsys
    )
    assert code == 0, err
    assert "1 of 2 areas" in out and "lie outside the slide" in out

"""`wsistain info`: what the file holds, what was chosen, and every fact also where the slide cannot be stained."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.slide.made import picture, write_tiff
from tests.slide.test_tiff_pages import write_stack
from wsistain.cli import app


def info(*words: object) -> tuple[int, dict, str]:
    result = CliRunner().invoke(app, ["info", *map(str, words), "--json", "-w", "identity"])
    said = result.stderr + (str(result.exception) if result.exception else "")
    return result.exit_code, json.loads(result.stdout) if result.stdout.startswith("{") else {}, said


def test_what_the_file_holds_and_what_was_chosen_is_said(tmp_path: Path) -> None:
    path = write_stack(tmp_path / "s.svs", [-2.0, 0.0, 2.0])
    _, rows, _ = info(path)
    assert (rows["series"], rows["levels"]) == (1, [{"width": 160, "height": 128}])
    assert [part["used"] for part in rows["holds"]] == [False, True, False]
    assert "offset 0 is taken" in rows["notes"][0]
    assert info(path, "--series", "2")[1]["series"] == 2


@pytest.mark.parametrize("um", [352.8, 0.001])
def test_facts_of_a_slide_without_a_usable_mpp_are_shown_before_it_is_refused(tmp_path: Path, um: float) -> None:
    path = write_tiff(tmp_path / "s.tif", [picture(90, 120)], um=um)
    code, rows, said = info(path)
    assert code != 0 and "--mpp" in said
    assert (rows["width_px"], rows["height_px"], rows["mpp"], rows["format"]) == (120, 90, None, "generic-tiff")


def test_facts_of_a_slide_too_coarse_for_the_weights_are_shown_before_it_is_refused(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "s.tif", [picture(256, 256)], um=8.0)
    result = CliRunner().invoke(app, ["info", str(path), "--json"])
    assert result.exit_code != 0 and json.loads(result.stdout)["mpp"] == pytest.approx(8.0, rel=1e-3)

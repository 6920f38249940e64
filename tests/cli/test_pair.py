import numpy as np
import pytest

from tests.pairing.made import MPP, wavy, write_pair
from wsistain.cli import main
from wsistain.cli.pair import _told
from wsistain.output.recognise import virtual_png


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["pair", *arguments])
    return int(ended.value.code or 0)


def test_a_sheet_goes_on_after_a_pair_that_fails(tmp_path, capsys):
    he, _ = write_pair(tmp_path, wavy()[0])
    sheet = tmp_path / "pairs.tsv"
    sheet.write_text(f"he\tihc\tslide\n{he.name}\tgone.png\tbad\n{he.name}\tihc.png\tgood\n")
    options = [str(sheet), "--output", str(tmp_path / "out"), "--patch-mpp", "2", "--patch-size", "256"]
    options += ["--he-mpp", str(MPP), "--ihc-mpp", str(MPP), "--part", "val"]
    assert run(*options) == 2
    told = capsys.readouterr()
    assert (
        "1 of 2 pairs" in told.out
        and "section 1: turned" in told.out
        and "bad: " in told.err
        and "gone.png" in told.err
    )
    made = tmp_path / "out" / "ER"
    assert [p.name for p in (made / "pairs").iterdir() if not p.name.startswith(".")] == ["good"]
    assert (made / "patches.csv").read_text().count(",val,good,good,1,") == len(
        list((made / "TrainValAB/valA").iterdir())
    )


def test_which_of_several_sections_was_taken_is_told():
    section = {"section": 1, "ihc_section": 3, "turn_deg": -0.2, "is_mirrored": True, "residual_um": {"median": 1.26}}
    facts = {"ihc": {"pieces": 3}, "n_patches": 7, "part": "train", "sections": [section]}
    assert _told(facts) == ("7 patches (train); section 1 is the IHC's 3, turned 0 degrees, face down, residual 1.3 um")


def test_one_slide_alone_and_options_of_one_pair_are_refused(tmp_path, capsys):
    assert run(str(tmp_path / "a.svs")) == 2 and "is alone" in capsys.readouterr().err
    assert run(str(tmp_path / "a.tsv"), "--patient", "P1") == 2 and "columns patient" in capsys.readouterr().err
    assert run("a.svs", "b.svs", "--part", "test") == 2 and "'auto', 'train'" in capsys.readouterr().err


def test_a_virtual_stain_is_no_slide_of_a_pair(tmp_path, capsys):
    he, _ = write_pair(tmp_path, wavy()[0])
    (tmp_path / "made.png").write_bytes(virtual_png(np.full((64, 64, 3), 200, np.uint8), {"marker": "ER"}))
    assert run(str(he), str(tmp_path / "made.png"), "--output", str(tmp_path / "out")) == 2
    assert "made.png is a virtual ER stain that wsistain made; a pair wants two real slides" in capsys.readouterr().err

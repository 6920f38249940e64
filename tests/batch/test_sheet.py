"""Sample sheets: names that cannot become paths, and every file accounted for."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pipeline.slides import tissue_picture, write_slide
from wsistain.batch.sheet import ID, make_id, read_sheet, scan_folder, with_folders, write_sheet
from wsistain.errors import ConfigError


@given(st.text(max_size=300), st.lists(st.text(max_size=5)))
def test_a_made_name_is_safe_and_new(name, taken):
    made = make_id(name, taken)
    assert ID.fullmatch(made) and made not in (".", "..")
    assert made.lower() not in {t.lower() for t in taken}


@pytest.mark.parametrize("name", ["../x", "a/b", "/etc", "..", ".hidden", "a\\b", "-rf", "x" * 200, "a b", "a\n"])
def test_names_that_lead_elsewhere_are_refused(tmp_path, name):
    sheet = tmp_path / "s.tsv"
    sheet.write_text(f'slide\tpath\n"{name}"\tx.svs\n')
    if name == "a\n":
        sheet.write_text('slide\tpath\n"a\\n"\tx.svs\n')
    with pytest.raises(ConfigError, match="is no name"):
        read_sheet(sheet, ["ER"])


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", "names no slide"),
        ("slide\tpath\n", "names no slide"),
        ("slide\tpfad\na\tb\n", "columns"),
        ("slide\tpath\tpath\na\tb\tc\n", "columns"),
        ("slide\tpath\na\tx.svs\nA\ty.svs\n", "twice"),
        ("slide\tpath\na\t\n", "path is missing"),
        ("path\tmpp\nx.svs\t1e9\n", "mpp"),
        ("path\tmpp\nx.svs\tnan\n", "mpp"),
        ("path\tmarkers\nx.svs\tER,CD3\n", "CD3"),
        ("path\na\tb\n", "2 cells"),
    ],
)
def test_a_bad_sheet_is_one_sentence_with_its_row(tmp_path, text, wanted):
    sheet = tmp_path / "s.tsv"
    sheet.write_text(text)
    with pytest.raises(ConfigError, match=wanted) as error:
        read_sheet(sheet, ["ER"])
    assert "s.tsv" in str(error.value) and "\n" not in str(error.value)


def test_a_sheet_gives_markers_mpp_and_paths_from_its_own_folder(tmp_path):
    sheet = tmp_path / "s.csv"
    sheet.write_text("slide,path,markers,mpp\nfirst,in/x.svs,her2,0.25\n,s3://bucket/y.svs,,\n")
    first, second = read_sheet(sheet, ["ER", "PR"])
    assert first.path == str(tmp_path / "in" / "x.svs") and first.markers == ("HER2",) and first.mpp == 0.25
    assert second.path == "s3://bucket/y.svs" and second.slide == "y" and second.tag == "ER-PR" and second.mpp is None


def test_slides_with_one_file_name_get_folders_of_their_own(tmp_path):
    sheet = tmp_path / "s.csv"
    sheet.write_text("slide,path\na,one/case.svs\nb,two/Case.tiff\nc,three.svs\n")
    assert [e.folder for e in read_sheet(sheet, ["ER"])] == ["a", "b", "."]


def test_a_written_sheet_reads_back(tmp_path):
    sheet = tmp_path / "s.csv"
    sheet.write_text('slide,path,mpp\na,"x, y.svs",0.25\nb,z.svs,\n')
    entries = with_folders(read_sheet(sheet, ["ER", "Ki67"]))
    write_sheet(tmp_path / "t.tsv", entries)
    assert read_sheet(tmp_path / "t.tsv", []) == entries


def test_every_file_of_a_folder_is_a_slide_or_has_a_reason(tmp_path):
    picture = tissue_picture(96, 128)
    write_slide(tmp_path / "my case.tiff", picture)
    (tmp_path / "copy.tiff").write_bytes((tmp_path / "my case.tiff").read_bytes())
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "broken.svs").write_bytes((tmp_path / "my case.tiff").read_bytes()[:500])
    (tmp_path / ".hidden").write_text("")
    (tmp_path / "results.zarr").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x.tiff").write_bytes(b"")
    (tmp_path / "more").mkdir()
    write_slide(tmp_path / "more" / "my case.tiff", tissue_picture(96, 128, 5))
    entries, refused = scan_folder(tmp_path, ["ER"], recursive=True, without=tmp_path / "out")
    assert [e.slide for e in entries] == ["copy", "my_case"]
    reasons = {r.path.rsplit("/", 1)[1]: (r.reason, r.is_slide) for r in refused}
    assert set(reasons) == {"my case.tiff", "notes.txt", "broken.svs", "results.zarr"}
    assert "same slide" in reasons["my case.tiff"][0] and not reasons["my case.tiff"][1]
    assert not reasons["notes.txt"][1] and reasons["broken.svs"][1]


def test_a_virtual_stain_is_no_slide(tmp_path):
    from tests.pipeline.slides import small_config
    from wsistain.pipeline.run import run

    run(write_slide(tmp_path / "a.tiff", tissue_picture(128, 128)), "ER", tmp_path, config=small_config())
    assert json.loads((tmp_path / "a.ER.ome.zarr" / "zarr.json").read_text())["attributes"]["wsistain"]["virtual"]
    entries, refused = scan_folder(tmp_path, ["ER"])
    assert [e.slide for e in entries] == ["a"]
    (stain,) = [r for r in refused if r.path.endswith(".zarr")]
    assert "virtual" in stain.reason and not stain.is_slide


def test_a_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no folder"):
        scan_folder(tmp_path / "x", ["ER"])

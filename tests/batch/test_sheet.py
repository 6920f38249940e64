"""Sample sheets: names that cannot become paths, and every file accounted for."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.batch.sheets import read_sheet
from wsistain.batch.sheet import ID, Entry, fresh_name, listed_slides, parse_sheet, safe_name, write_sheet
from wsistain.errors import ConfigError
from wsistain.slide.place import local_place, plain_place


@given(st.text(max_size=300), st.lists(st.text(max_size=5)))
def test_a_made_name_is_safe_and_new(name, taken):
    made = fresh_name(safe_name(name), {t.lower() for t in taken})
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


def test_a_written_sheet_reads_back(tmp_path):
    sheet = tmp_path / "s.csv"
    sheet.write_text('slide,path,mpp\na,"x, y.svs",0.25\nb,z.svs,\n')
    entries = read_sheet(sheet, ["ER", "Ki67"])
    write_sheet(tmp_path / "t.tsv", entries)
    assert read_sheet(tmp_path / "t.tsv", []) == entries


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("s.csv", "path,patient_id,mpp\r\nx.svs,P01,0.5\r\n"),
        ("s.csv", "Path;MPP\nx.svs;0,5\n"),
        ("s.tsv", "path;mpp\nx.svs;0.5\n"),
        ("s.csv", 'PATH\tMpp\t\n"x.svs"\t0.5\t\t\n\n\t\t\n'),
        ("s.csv", ("\ufeffpath,mpp\n x.svs , 0.5\n").encode()),
        ("s.tsv", "path\tmpp\nx.svs\t0.5\n".encode("utf-16")),
        ("s.txt", "path\tmpp\nx.svs\t0.5\n".encode("utf-16-le")),
        ("s.txt", "path\tmpp\nx.svs\t0.5\n".encode("utf-16-be")),
        ("s.csv", '"mpp";"path"\n"0.5";"x.svs"\n'),
        ("s.csv", "sep=;\r\nmpp;path\r\n0.5;x.svs\r\n"),
        ("s.csv", "sep=,\npath,mpp\nx.svs,0.5\n"),
        ("s.csv", "path,mpp\rx.svs,0.5\r"),
    ],
)
def test_sheets_as_spreadsheets_save_them_are_read(tmp_path, name, raw):
    (tmp_path / name).write_bytes(raw if isinstance(raw, bytes) else raw.encode())
    (entry,) = read_sheet(tmp_path / name, ["ER"])
    assert (entry.path, entry.mpp, entry.slide) == (str(tmp_path / "x.svs"), 0.5, "x")


def test_columns_that_are_passed_over_are_named_and_near_misses_refused(tmp_path):
    sheet = tmp_path / "s.csv"
    sheet.write_text("path,Patient,case no\nx.svs,1,2\n")
    assert parse_sheet(sheet, ["ER"])[1] == ["Patient", "case no"]
    for name in ("marker", "mpp (um)", "slides", "stain"):
        sheet.write_text(f"path,{name}\nx.svs,HER2\n")
        with pytest.raises(ConfigError, match="did you mean"):
            read_sheet(sheet, ["ER"])


def test_home_and_names_in_any_bytes_are_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    sheet = tmp_path / "s.txt"
    sheet.write_bytes(b"path\n~/a.tif\nPr\xe4.tif\nfile:///x/%7B1%7D%E4.tif\n~nobody~/b.tif\n")
    assert [e.path for e in read_sheet(sheet, ["ER"])] == [
        str(tmp_path / "home" / "a.tif"),
        str(tmp_path / "Pr\udce4.tif"),
        "/x/{1}\udce4.tif",
        str(tmp_path / "~nobody~" / "b.tif"),
    ]


@given(st.binary(min_size=1, max_size=60).filter(lambda b: not set(b) & set(b"/\0") and b != b"."))
def test_any_name_of_a_file_comes_through_the_sheet(name):
    path = "/x/" + os.fsdecode(name)
    place = plain_place(path)
    assert place.isascii() and place.isprintable() and not set(place) & set("{}\t\"'$`*?[]\\;&|<>")
    assert local_place(place) == path


def test_areas_of_a_slide_are_checked_and_come_through_the_sheet(tmp_path):
    ring = [[0, 0], [50, 0], [50, 50], [0, 50]]
    shape = {"type": "Polygon", "coordinates": [ring]}
    feature = {"type": "Feature", "geometry": shape, "properties": {"classification": {"name": "Tumor"}}}
    areas = tmp_path / "in" / "Fläche 1.geojson"
    areas.parent.mkdir()
    areas.write_text(json.dumps(feature))
    sheet = areas.parent / "s.tsv"
    sheet.write_text(f"path\troi\troi_class\na.svs\t{areas.name}\tTumor\nb.svs\t\t\n", encoding="utf-8")
    entries = read_sheet(sheet, ["ER"])
    assert [(e.roi, e.roi_class) for e in entries] == [(str(areas), "Tumor"), ("", "")]
    write_sheet(tmp_path / "w.tsv", entries)
    assert [(e.roi, e.roi_class) for e in read_sheet(tmp_path / "w.tsv", ["ER"])] == [(str(areas), "Tumor"), ("", "")]
    for roi, classes, wanted in (
        (areas.name, "Stroma", "row 2: .*no area of class 'Stroma'"),
        ("none.geojson", "", "row 2: .*cannot be read"),
        ("", "Tumor", "row 2: .*has no roi"),
        (areas.name, "Tümor", "not plain text"),
    ):
        sheet.write_text(f"path\troi\troi_class\na.svs\t{roi}\t{classes}\n", encoding="utf-8")
        with pytest.raises(ConfigError, match=wanted):
            read_sheet(sheet, ["ER"])


def test_a_row_names_one_of_several_pictures(tmp_path):
    sheet = tmp_path / "s.csv"
    sheet.write_text("path,slide,series\na.tif,one,0\na.tif,two,2\nb.tif,three,\n")
    entries, _ = parse_sheet(sheet, ["ER"])
    assert [e.series for e in entries] == [0, 2, None]
    write_sheet(tmp_path / "out.tsv", entries)
    assert parse_sheet(tmp_path / "out.tsv", ["ER"])[0] == entries
    for cell in ("-1", "1.0", "two", "9" * 30):
        sheet.write_text(f"path,series\na.tif,{cell}\n")
        with pytest.raises(ConfigError, match=r"row 2: series .* is no number"):
            parse_sheet(sheet, ["ER"])


def test_the_sheet_of_a_batch_can_be_looked_up_again(tmp_path):
    entries = [
        Entry("a", "/x/b {1}'\udce4.svs", ("ER", "PR"), folder="sub", fingerprint="f1"),
        Entry("b", "/x/c.svs", ("HER2",)),
    ]
    write_sheet(tmp_path / "s.tsv", entries)
    assert listed_slides(tmp_path / "s.tsv", ["ER"]) == entries
    (tmp_path / "own.tsv").write_text("slide\tpath\nc17\tslides/c17.svs\n")
    assert listed_slides(tmp_path / "own.tsv", ["Ki67"])[0].markers == ("Ki67",)


@pytest.mark.parametrize(
    "text", ["slide\tpath\n../x\ta.svs\n", "slide\tpath\nx\t\n", "slide\tpath\tfolder\nx\ta\t..\n"]
)
def test_a_sheet_that_leads_elsewhere_is_not_looked_up(tmp_path, text):
    (tmp_path / "s.tsv").write_text(text)
    with pytest.raises(ConfigError, match="line 2"):
        listed_slides(tmp_path / "s.tsv", ["ER"])
    with pytest.raises(ConfigError, match="--sheet"):
        listed_slides(tmp_path / "none.tsv", ["ER"])

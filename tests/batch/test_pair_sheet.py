import pytest

from wsistain.batch.pair_sheet import parse_pairs, slide_name
from wsistain.errors import ConfigError


def write(folder, text: str):
    path = folder / "pairs.tsv"
    path.write_text(text.replace(" ", "\t"))
    return path


def test_rows_say_what_they_say_and_take_the_rest_from_the_command(tmp_path):
    path = write(tmp_path, "HE ihc patient marker he_mpp part\na_1.svs b.svs P1 PR 0.25 val\n/x/c.svs d.svs\n")
    first, second = parse_pairs(path, "ER", "auto")
    assert first == {
        "he": str(tmp_path / "a_1.svs"), "ihc": str(tmp_path / "b.svs"), "marker": "PR", "slide": "a-1",
        "patient": "P1", "part": "val", "he_mpp": 0.25,
    }  # fmt: skip
    assert second["he"] == "/x/c.svs" and second["marker"] == "ER" and second["part"] == "auto"
    assert second["patient"] is None and "he_mpp" not in second


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("he path\na b\n", "wanted he and ihc"),
        ("he ihc patients\na b c\n", "'patients'"),
        ("he ihc he\na b c\n", "each once"),
        ("he ihc\na.svs\n", "row 2: the ihc slide is missing"),
        ("he ihc part\na.svs b.svs test\n", "row 2: the part 'test'"),
        ("he ihc slide\na.svs b.svs ../x\n", "row 2: the name '../x' is no name"),
        ("he ihc he_mpp\na.svs b.svs 352\n", "row 2: mpp '352'"),
        ("he ihc\na.svs b.svs\nx/a.svs c.svs\n", "row 3: a is there twice for ER"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_row(tmp_path, text, told):
    with pytest.raises(ConfigError, match=told):
        parse_pairs(write(tmp_path, text), "ER", "auto")


def test_names_do_not_end_like_the_place_of_a_patch():
    assert slide_name("10M_3_4.svs") == "10M_3-4" and slide_name("P7 er.svs") == "P7_er"

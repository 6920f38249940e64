from pathlib import Path

import numpy as np
import pytest

from tests.data.made_patches import make_mist, save, tissue
from wsistain.data.layouts import held_out, list_patches, slide_of, split_report, with_masks
from wsistain.data.patches import check_patches, read_pair
from wsistain.errors import DataError

DOT = np.full((8, 8, 3), 200, dtype=np.uint8)


@pytest.mark.parametrize(
    ("name", "slide"),
    [
        ("10M2102916_10_15", "10M2102916"),
        ("10M2102916_10_15_0_1", "10M2102916"),
        ("lab_7_10_15", "lab_7"),
        ("patient/region/s_1_2", "s"),
        ("tile", None),
        ("tile_3", None),
        ("3_4", None),
    ],
)
def test_the_slide_is_what_stands_before_the_position(name: str, slide: str | None) -> None:
    assert slide_of(name) == slide


@pytest.mark.parametrize("below", [".", "ER", "ER/TrainValAB"])
def test_mist_is_found_from_any_folder_on_the_way(tmp_path: Path, below: str) -> None:
    make_mist(tmp_path, n_train=3)
    refs = list_patches("mist", tmp_path / below, "ER", "train")
    assert [r.name for r in refs] == ["trainSlide0_0_0", "trainSlide0_2_0", "trainSlide1_1_0"]
    assert {r.slide for r in refs} == {"trainSlide0", "trainSlide1"}
    assert all(r.he is not None and r.ihc is not None and r.he.name == r.ihc.name for r in refs)
    assert all(r.truth is None for r in refs)


def test_the_held_out_part_of_mist_comes_with_its_truth(tmp_path: Path) -> None:
    make_mist(tmp_path)
    val = list_patches("mist", tmp_path, "ER", "val")
    assert [r.truth.name for r in val if r.truth] == [r.he.name for r in val if r.he]
    assert val == list_patches("mist", tmp_path, "ER", "test")


def test_a_marker_folder_may_be_spelled_as_in_other_data_sets(tmp_path: Path) -> None:
    make_mist(tmp_path, marker="Her2")
    assert len(list_patches("mist", tmp_path, "HER2", "train")) == 5


def test_names_that_do_not_match_are_counted_and_named(tmp_path: Path) -> None:
    base = make_mist(tmp_path, n_train=5) / "ER" / "TrainValAB"
    for name in ("trainSlide0_0_0", "trainSlide1_1_0"):
        (base / "trainB" / f"{name}.png").unlink()
    save(DOT, base / "trainB" / "stray_1_1.png")
    with pytest.raises(DataError) as error:
        list_patches("mist", tmp_path, "ER", "train")
    text = str(error.value)
    assert "holds 5 pictures" in text and "trainB 4" in text
    assert "2 only in trainA (trainSlide0_0_0, trainSlide1_1_0)" in text
    assert "1 only in trainB (stray_1_1)" in text
    unpaired = list_patches("mist", tmp_path, "ER", "train", paired=False)
    assert sum(r.he is not None for r in unpaired) == 5
    assert sum(r.ihc is not None for r in unpaired) == 4


def test_only_the_first_three_names_are_listed(tmp_path: Path) -> None:
    base = make_mist(tmp_path, n_train=6) / "ER" / "TrainValAB"
    for path in sorted((base / "trainB").iterdir())[:5]:
        path.unlink()
    with pytest.raises(DataError, match=r"\(trainSlide0_0_0, trainSlide0_2_0, trainSlide0_4_0 \.\.\.\)"):
        list_patches("mist", tmp_path, "ER", "train")


def test_pairs_may_differ_in_format_but_not_in_name(tmp_path: Path) -> None:
    he, ihc = tissue(0, 16)
    save(he, tmp_path / "trainA" / "s_0_0.jpg")
    save(ihc, tmp_path / "trainB" / "s_0_0.png")
    (ref,) = list_patches("mist", tmp_path, "PR", "train")
    assert ref.ihc is not None and ref.ihc.suffix == ".png"
    save(he, tmp_path / "trainA" / "s_0_0.png")
    with pytest.raises(DataError, match="two pictures of one name"):
        list_patches("mist", tmp_path, "PR", "train")


@pytest.mark.parametrize("layout", ["mist", "bci", "bci_ab", "ihc4bc", "ab"])
def test_a_folder_of_nothing_is_refused_with_what_was_wanted(tmp_path: Path, layout: str) -> None:
    with pytest.raises(DataError, match=r"no folder|found none of"):
        list_patches(layout, tmp_path, "HER2", "train")
    with pytest.raises(DataError, match="there is no folder"):
        list_patches(layout, tmp_path / "absent", "HER2", "train")


def test_empty_folders_and_unknown_layouts_are_refused(tmp_path: Path) -> None:
    (tmp_path / "trainA").mkdir()
    (tmp_path / "trainB").mkdir()
    (tmp_path / "trainA" / "notes.txt").write_text("no picture")
    with pytest.raises(DataError, match="holds no pictures"):
        list_patches("mist", tmp_path, "ER", "train")
    with pytest.raises(DataError, match="wanted one of mist"):
        list_patches("misty", tmp_path, "ER", "train")


def test_an_incomplete_truth_folder_is_refused(tmp_path: Path) -> None:
    base = make_mist(tmp_path) / "ER" / "TrainValAB"
    next((base / "valTruthB").iterdir()).unlink()
    with pytest.raises(DataError, match=r"valTruthB lacks 1 of 2 patches"):
        list_patches("mist", tmp_path, "ER", "val")


def test_bci_names_with_a_plus_keep_their_level(tmp_path: Path) -> None:
    names = ["00001_train_0", "00002_train_1+", "00003_train_2+", "00004_train_3+"]
    for name in names:
        for side in ("HE", "IHC"):
            save(DOT, tmp_path / side / "train" / f"{name}.png")
    save(DOT, tmp_path / "HE" / "test" / "00009_test_2+.png")
    save(DOT, tmp_path / "IHC" / "test" / "00009_test_2+.png")
    refs = list_patches("bci", tmp_path, "HER2", "train")
    assert [r.level for r in refs] == ["0", "1+", "2+", "3+"]
    assert [r.name for r in refs] == names
    assert all(r.slide is None for r in refs)
    assert [r.level for r in list_patches("bci", tmp_path, "HER2", "val")] == ["2+"]
    with pytest.raises(DataError, match="BCI holds HER2 only"):
        list_patches("bci", tmp_path, "ER", "train")
    save(DOT, tmp_path / "HE" / "train" / "odd.png")
    save(DOT, tmp_path / "IHC" / "train" / "odd.png")
    with pytest.raises(DataError, match=r"1 of 5 names .* \(odd\)"):
        list_patches("bci", tmp_path, "HER2", "train")


@pytest.mark.parametrize(("layout", "name"), [("bci_ab", "00001_train_3+"), ("ab", "slideX_4_5")])
@pytest.mark.parametrize("above", [".", "AB"])
def test_side_by_side_pairs_are_cut_in_the_middle(tmp_path: Path, layout: str, name: str, above: str) -> None:
    he, ihc = tissue(3, 24)
    save(np.hstack([he, ihc]), tmp_path / above / "train" / f"{name}.png")
    (ref,) = list_patches(layout, tmp_path, "HER2", "train")
    assert ref.level == ("3+" if layout == "bci_ab" else None)
    assert ref.slide == (None if layout == "bci_ab" else "slideX")
    found_he, found_ihc = read_pair(ref)
    np.testing.assert_array_equal(found_he, he)
    np.testing.assert_array_equal(found_ihc, ihc)


def test_a_picture_of_odd_width_is_no_pair(tmp_path: Path) -> None:
    save(np.full((4, 9, 3), 9, dtype=np.uint8), tmp_path / "train" / "s_1_1.png")
    (ref,) = list_patches("ab", tmp_path, "ER", "train")
    with pytest.raises(DataError, match="9 px wide: not two pictures"):
        read_pair(ref)


def _ihc4bc(root: Path, n_patients: int) -> None:
    for patient in range(n_patients):
        for region in ("r1", "r2"):
            for side in ("HandE", "IHC"):
                save(DOT, root / "Images" / side / "Her2" / f"P{patient:02d}" / region / "0_0.jpg")


def test_ihc4bc_is_split_by_patient_never_by_tile(tmp_path: Path) -> None:
    _ihc4bc(tmp_path, 10)
    parts = {s: list_patches("ihc4bc", tmp_path, "HER2", s, val_share=0.3) for s in ("train", "val")}
    slides = {s: {r.slide for r in refs} for s, refs in parts.items()}
    assert len(slides["val"]) == 3 and len(slides["train"]) == 7
    assert not slides["train"] & slides["val"]
    assert len(parts["train"]) + len(parts["val"]) == 20
    assert parts["val"] == list_patches("ihc4bc", tmp_path, "HER2", "val", val_share=0.3)
    seeds = {
        frozenset(r.slide for r in list_patches("ihc4bc", tmp_path, "HER2", "val", val_share=0.3, split_seed=s))
        for s in range(5)
    }
    assert len(seeds) > 1
    assert {r.name for r in parts["train"]} >= {f"{p}/r1/0_0" for p in slides["train"]}


def test_holding_out_needs_two_patients_and_leaves_one() -> None:
    with pytest.raises(DataError, match="wanted at least 2"):
        held_out({"only"}, 0.5, 0)
    assert len(held_out({"a", "b"}, 0.99, 0)) == 1
    assert len(held_out({str(i) for i in range(50)}, 0.01, 0)) == 1


def test_the_split_report_finds_slides_on_both_sides(tmp_path: Path) -> None:
    make_mist(tmp_path)
    for part, names in (("train", ["a_1_1", "b_1_1"]), ("val", ["b_2_2", "noslide"])):
        for name in names:
            for side in "AB":
                save(DOT, tmp_path / "x" / f"{part}{side}" / f"{name}.png")
    train, val = (list_patches("mist", tmp_path / "x", "ER", s) for s in ("train", "val"))
    report = split_report(train, val)
    assert report["slides_in_both"] == ["b"]
    assert report["patches_without_slide"] == 1
    clean = split_report(*(list_patches("mist", tmp_path, "ER", s) for s in ("train", "val")))
    assert clean["slides_in_both"] == []
    assert clean["train_slides"] == 2


def test_masks_are_found_by_name_and_missing_ones_named(tmp_path: Path) -> None:
    make_mist(tmp_path, n_train=3)
    refs = list_patches("mist", tmp_path, "ER", "train")
    for ref in refs:
        save(DOT, tmp_path / "masks" / f"{ref.name}.png")
    assert [r.mask.stem for r in with_masks(refs, tmp_path / "masks") if r.mask] == [r.name for r in refs]
    (tmp_path / "masks" / f"{refs[1].name}.png").unlink()
    with pytest.raises(DataError, match=rf"1 of 3 patches \({refs[1].name}\)"):
        with_masks(refs, tmp_path / "masks")


@pytest.mark.parametrize(
    ("width", "text"), [(48, "3 square pictures side by side, wanted two"), (16, "1 square picture ")]
)
def test_other_numbers_of_panels_than_two_are_no_pair(tmp_path: Path, width: int, text: str) -> None:
    path = save(np.zeros((16, width, 3), np.uint8), tmp_path / "ab" / "train" / "a.png")
    (ref,) = list_patches("ab", tmp_path / "ab", "ER", "train")
    with pytest.raises(DataError, match=text):
        read_pair(ref)
    (fault,) = check_patches([ref]).unreadable
    assert fault.path == path and text.strip() in fault.why
    save(np.zeros((16, 32, 3), np.uint8), path)
    assert check_patches([ref]).sizes == {(16, 16)}

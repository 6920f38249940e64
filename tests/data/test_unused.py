from pathlib import Path

from tests.data.made_patches import make_mist, save, tissue
from wsistain.data.layouts import list_patches
from wsistain.data.unused import by_reason, unused_files


def test_what_is_left_out_is_named_with_its_reason(tmp_path: Path) -> None:
    root = make_mist(tmp_path, n_train=3)
    folder = root / "ER" / "TrainValAB" / "trainA"
    (folder / "notes.txt").write_text("x")
    (folder / ".hidden.png").write_bytes(b"x")
    (folder / "below").mkdir()
    (folder / "gone.png").symlink_to(tmp_path / "absent.png")
    refs = [r for split in ("train", "val") for r in list_patches("mist", root, "ER", split, paired=False)]
    kept = [r for r in refs if r.name not in ("trainSlide0_0_0", "gone")]
    found = {u.path.name: u.why for u in unused_files(kept, deep=False) if u.path.parent == folder}
    assert found == {
        "notes.txt": "no picture by its name (.txt)",
        ".hidden.png": "hidden",
        "below": "a folder: this layout reads none below",
        "gone.png": "a link to nothing",
        "trainSlide0_0_0.png": "not among the patches that were chosen",
    }
    assert "1 hidden" in by_reason(unused_files(kept, deep=False))


def test_a_patients_folder_behind_a_link_is_read_and_nothing_of_it_is_unused(tmp_path: Path) -> None:
    for side in ("HandE", "IHC"):
        for patient in ("a", "b"):
            save(tissue(0, 16)[0], tmp_path / "data" / side / "ER" / patient / "sub" / "x.png")
        moved = (tmp_path / "data" / side / "ER" / "b").rename(tmp_path / f"{side}_b")
        (tmp_path / "data" / side / "ER" / "b").symlink_to(moved)
    refs = [r for split in ("train", "val") for r in list_patches("ihc4bc", tmp_path / "data", "ER", split)]
    assert {r.slide for r in refs} == {"a", "b"}
    assert unused_files(refs, deep=True) == []
    (tmp_path / "data" / "IHC" / "ER" / "b" / "sub" / "Thumbs.db").write_text("x")
    (only,) = unused_files(refs, deep=True)
    assert only.path.name == "Thumbs.db"

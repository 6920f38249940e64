import pytest

from wsistain.config import DataConfig, PatchFilter, validate
from wsistain.data.filter import filter_patches
from wsistain.data.layouts import list_patches
from wsistain.errors import DataError
from wsistain.pairing.folder import rows_as_text


def made(folder, **by_name):
    """Patches in MIST's layout with a list of what was measured; `by_name` gives columns that differ from good ones."""
    good = {
        "part": "train", "slide": "S", "patient": "P", "section": 1, "y_l0": 0, "x_l0": 0, "residual_um": 2.0,
        "agreement": 0.8, "stretch": 0.02, "tissue": 1.0, "tissue_ihc": 1.0, "fold": 0.0, "fold_ihc": 0.0, "focus": 0.6,
        "focus_ihc": 0.6, "dab": 0.1,
    }  # fmt: skip
    for side in "AB":
        (folder / "ER" / "TrainValAB" / f"train{side}").mkdir(parents=True)
        for name in by_name:
            (folder / "ER" / "TrainValAB" / f"train{side}" / f"{name}.jpg").write_bytes(b"")
    rows = [{**good, "patch": name, **more} for name, more in by_name.items()]
    (folder / "ER" / "patches.csv").write_text(rows_as_text(rows))
    return list_patches("mist", folder, "ER", "train")


def test_without_limits_nothing_is_read_or_left_out(tmp_path):
    refs = made(tmp_path, S_0_0={}, S_0_1={})
    (tmp_path / "ER" / "patches.csv").unlink()
    assert filter_patches(refs, PatchFilter()) == (refs, {})
    as_errors_advise = validate(DataConfig, {"root": "data", "filter": None}, "here")
    assert as_errors_advise.filter == PatchFilter()


def test_what_is_left_out_is_told_by_the_first_reason(tmp_path):
    refs = made(
        tmp_path,
        S_0_0={},
        S_0_1={"residual_um": 12.0, "agreement": 0.1},
        S_0_2={"residual_um": None},
        S_0_3={"tissue_ihc": 0.3},
        S_0_4={"fold": 0.2},
        S_0_5={"focus_ihc": 0.2},
        S_0_6={"residual_um": 5.0},
    )
    limits = PatchFilter(max_residual_um=5, min_agreement=0.5, min_tissue=0.5, max_fold=0.1, min_focus=0.25)
    kept, left_out = filter_patches(refs, limits)
    assert [ref.name for ref in kept] == ["S_0_0", "S_0_6"]
    assert left_out == {
        "fold above 0.1": 1, "focus_ihc below 0.25": 1, "residual_um above 5": 1, "residual_um unknown": 1,
        "tissue_ihc below 0.5": 1,
    }  # fmt: skip


def test_a_filter_without_a_list_or_a_line_or_with_nothing_left_is_refused(tmp_path):
    refs = made(tmp_path, S_0_0={}, S_0_1={})
    with pytest.raises(DataError, match=r"leaves none of 2 patches: 2 dab below 0\.5"):
        filter_patches(refs, PatchFilter(min_dab=0.5))
    other = made(tmp_path / "more", S_0_0={})
    (tmp_path / "more" / "ER" / "TrainValAB" / "trainA" / "S_9_9.jpg").write_bytes(b"")
    (tmp_path / "more" / "ER" / "TrainValAB" / "trainB" / "S_9_9.jpg").write_bytes(b"")
    with pytest.raises(DataError, match="no line for S_9_9"):
        filter_patches(list_patches("mist", tmp_path / "more", "ER", "train"), PatchFilter(max_fold=0.5))
    (tmp_path / "more" / "ER" / "patches.csv").unlink()
    with pytest.raises(DataError, match="wsistain pair"):
        filter_patches(other, PatchFilter(max_fold=0.5))

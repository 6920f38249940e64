"""Automatic masks kept beside a patch folder."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.data.made_patches import make_mist, save
from wsistain.data.annotation import annotate_patches, mask_folder
from wsistain.data.layouts import list_patches
from wsistain.data.patches import Look, PatchDataset, read_pair
from wsistain.data.pictures import read_mask
from wsistain.errors import DataError, OutputError
from wsistain.optics.masks import Annotation, annotate

SETTINGS = Annotation(closing_radius=3)


@pytest.fixture
def refs(tmp_path):
    return list_patches("mist", make_mist(tmp_path), "ER", "train")


def test_masks_are_made_once_and_belong_to_their_patch(tmp_path, refs):
    folder = mask_folder(tmp_path / "annotation", "mist-ER-train", SETTINGS)
    found = annotate_patches(refs, folder, SETTINGS)
    assert [r.name for r in found] == [r.name for r in refs]
    for ref in found:
        assert np.array_equal(read_mask(ref.mask), annotate(read_pair(ref)[1], SETTINGS))
    assert json.loads((folder / "settings.json").read_text()) == SETTINGS.as_dict()
    assert not list(folder.rglob("*.part"))
    times = {p: p.stat().st_mtime_ns for p in folder.rglob("*.png")}
    found[0].mask.unlink()
    assert annotate_patches(refs, folder, SETTINGS) == found
    again = {p: p.stat().st_mtime_ns for p in folder.rglob("*.png")}
    assert [p for p in times if times[p] != again[p]] == [found[0].mask]


def test_other_settings_have_another_folder(tmp_path):
    names = {mask_folder(tmp_path, "a", s) for s in (SETTINGS, Annotation(), Annotation(threshold_cap=0.9))}
    assert len(names) == 3


def test_a_sample_cuts_the_mask_with_its_pictures(tmp_path, refs):
    found = annotate_patches(refs, tmp_path / "masks", SETTINGS)
    whole = PatchDataset(found, Look(crop_px=96, flip=False), is_paired=True, seed=0)[(0, 1)]
    assert np.array_equal(whole.mask, annotate(whole.ihc, SETTINGS))
    part = PatchDataset(found, Look(crop_px=40), is_paired=True, seed=0)[(0, 1)]
    assert part.mask.shape == part.ihc.shape[:2] == (40, 40)


def test_a_folder_that_cannot_be_written_and_a_patch_that_cannot_be_read_are_told(tmp_path, refs):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="masks cannot be written: a part of the path is a file"):
        annotate_patches(refs, tmp_path / "file" / "masks", SETTINGS)
    Path(refs[2].ihc).write_bytes(b"")
    with pytest.raises(DataError, match=refs[2].ihc.name):
        annotate_patches(refs, tmp_path / "masks", SETTINGS)


def test_masks_of_side_by_side_patches_come_from_the_right_half(tmp_path):
    rng = np.random.default_rng(0)
    he, ihc = (rng.integers(0, 255, (40, 40, 3), dtype=np.uint8) for _ in range(2))
    for part in ("train", "val"):
        save(np.concatenate([he, ihc], axis=1), tmp_path / part / "a.png")
    refs = list_patches("ab", tmp_path, "ER", "train")
    (found,) = annotate_patches(refs, tmp_path / "masks", SETTINGS)
    assert np.array_equal(read_mask(found.mask), annotate(ihc, SETTINGS))

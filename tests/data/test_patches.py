import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.data.made_patches import coordinates, make_mist, save, tissue
from wsistain.config import DataConfig
from wsistain.data.layouts import PatchRef, list_patches, with_masks
from wsistain.data.patches import (
    Fault,
    Look,
    PatchDataset,
    PatchOrder,
    Sample,
    Samples,
    check_patches,
    collate,
    load_patches,
    patch_loader,
    steps_per_epoch,
)
from wsistain.errors import DataError
from wsistain.markers import find_marker


def _sample(dataset: PatchDataset, key: tuple[int, int]) -> Sample:
    sample = dataset[key]
    assert isinstance(sample, Sample)
    return sample


@given(n=st.integers(1, 40), batch=st.integers(1, 7), processes=st.integers(1, 4), seed=st.integers(0, 5))
def test_every_epoch_sees_every_patch_and_all_processes_get_equally_many(
    n: int, batch: int, processes: int, seed: int
) -> None:
    per_epoch = steps_per_epoch(n, batch, processes)
    orders = [
        PatchOrder(n, batch, seed=seed, start=0, stop=3 * per_epoch, process=p, n_processes=processes)
        for p in range(processes)
    ]
    for epoch in range(3):
        steps = range(epoch * per_epoch, (epoch + 1) * per_epoch)
        seen = [key for step in steps for order in orders for key in order.keys(step)]
        assert {e for e, _ in seen} == {epoch}
        assert {i for _, i in seen} == set(range(n))
        assert len(seen) - n < processes  # no more than needed to fill the last step
        assert all(len({len(o.keys(s)) for o in orders}) == 1 for s in steps)


def test_the_order_differs_between_epochs_and_seeds_but_not_between_calls() -> None:
    def order(seed: int) -> list[list[tuple[int, int]]]:
        return list(PatchOrder(20, 20, seed=seed, start=0, stop=2))

    assert order(0) == order(0)
    assert [i for _, i in order(0)[0]] != [i for _, i in order(0)[1]]
    assert order(0) != order(1)


def test_a_run_that_starts_later_sees_what_remained() -> None:
    whole = list(PatchOrder(7, 2, seed=3, start=0, stop=11))
    assert list(PatchOrder(7, 2, seed=3, start=5, stop=11)) == whole[5:]
    assert len(PatchOrder(7, 2, seed=3, start=5, stop=11)) == 6
    with pytest.raises(DataError, match="no patches"):
        PatchOrder(0, 2, seed=3, start=0, stop=1)


def _coordinate_pair(root: Path, px: int = 64) -> list[PatchRef]:
    pixels = coordinates(px)
    save(pixels, root / "trainA" / "s_0_0.png")
    save(pixels, root / "trainB" / "s_0_0.png")
    save((pixels[..., 0] % 2 * 255).astype(np.uint8), root / "masks" / "s_0_0.png")
    return with_masks(list_patches("mist", root, "ER", "train"), root / "masks")


def test_picture_target_and_mask_share_crop_and_flip(tmp_path: Path) -> None:
    dataset = PatchDataset(_coordinate_pair(tmp_path), Look(crop_px=20), is_paired=True, seed=1)
    corners, flips = set(), set()
    for epoch in range(30):
        sample = _sample(dataset, (epoch, 0))
        assert sample.mask is not None
        np.testing.assert_array_equal(sample.he, sample.ihc)
        np.testing.assert_array_equal(sample.mask, sample.he[..., 0] % 2 == 1)
        corners.add((int(sample.he[0, :, 0].min()), int(sample.he[0, 0, 1])))
        flips.add(bool(sample.he[0, 0, 0] > sample.he[0, 1, 0]))
    assert len(corners) > 20 and flips == {True, False}
    assert {y for _, y in corners} <= set(range(45)) and max(x for x, _ in corners) > 35


def test_no_flip_means_no_flip(tmp_path: Path) -> None:
    dataset = PatchDataset(_coordinate_pair(tmp_path), Look(crop_px=20, flip=False), is_paired=True, seed=1)
    assert all((np.diff(_sample(dataset, (e, 0)).he[0, :, 0].astype(int)) == 1).all() for e in range(12))


def test_patches_are_resized_before_they_are_cut_and_masks_stay_masks(tmp_path: Path) -> None:
    dataset = PatchDataset(_coordinate_pair(tmp_path), Look(crop_px=16, load_px=32), is_paired=True, seed=1)
    sample = _sample(dataset, (0, 0))
    assert sample.he.shape == (16, 16, 3)
    assert np.abs(np.diff(sample.he[0, 2:-2, 0].astype(int))).mean() == pytest.approx(2, abs=0.2)
    assert sample.mask is not None and sample.mask.dtype == bool


def test_whole_patches_may_be_shrunk_from_an_epoch_on(tmp_path: Path) -> None:
    look = Look(crop_px=16, flip=False, shrink_from_epoch=2)
    dataset = PatchDataset(_coordinate_pair(tmp_path), look, is_paired=True, seed=1)
    spans = [int(np.ptp(_sample(dataset, (epoch, 0)).he[..., 0])) for epoch in range(4)]
    assert spans[:2] == [15, 15] and min(spans[2:]) > 55


def test_a_sample_depends_on_its_key_alone(tmp_path: Path) -> None:
    refs = list_patches("mist", make_mist(tmp_path), "ER", "train")
    first = PatchDataset(refs, Look(crop_px=32, stain_jitter=0.5), is_paired=False, seed=4)
    again = pickle.loads(pickle.dumps(first))
    keys = [(e, i) for e in range(2) for i in range(len(refs))]
    forward = {k: _sample(first, k) for k in keys}
    backward = {k: _sample(again, k) for k in reversed(keys)}
    for key in keys:
        np.testing.assert_array_equal(forward[key].he, backward[key].he)
        np.testing.assert_array_equal(forward[key].ihc, backward[key].ihc)
    assert any((forward[(0, i)].he != forward[(1, i)].he).any() for i in range(len(refs)))
    other = PatchDataset(refs, Look(crop_px=32, stain_jitter=0.5), is_paired=False, seed=5)
    assert any((_sample(other, k).he != forward[k].he).any() for k in keys)


def test_unpaired_targets_go_round_and_have_their_own_crop(tmp_path: Path) -> None:
    refs = list_patches("mist", make_mist(tmp_path, n_train=6), "ER", "train")
    dataset = PatchDataset(refs, Look(crop_px=32), is_paired=False, seed=0)
    for epoch in range(3):
        assert sorted(dataset.partner(epoch, i).name for i in range(6)) == [r.name for r in refs]
    partners = [[dataset.partner(e, i).name for i in range(6)] for e in range(3)]
    assert partners[0] != partners[1] != partners[2]
    lone = PatchDataset(_coordinate_pair(tmp_path / "c"), Look(crop_px=20), is_paired=False, seed=1)
    assert any((_sample(lone, (e, 0)).he != _sample(lone, (e, 0)).ihc).any() for e in range(3))


def test_unpaired_sides_may_differ_in_number(tmp_path: Path) -> None:
    for i in range(5):
        save(tissue(i, 32)[0], tmp_path / "trainA" / f"a_{i}_0.png")
    for i in range(2):
        save(tissue(i, 32)[1], tmp_path / "trainB" / f"b_{i}_0.png")
    refs = list_patches("mist", tmp_path, "ER", "train", paired=False)
    dataset = PatchDataset(refs, Look(crop_px=16), is_paired=False, seed=0)
    assert len(dataset) == 5
    assert {dataset.partner(0, i).name for i in range(5)} == {"b_0_0", "b_1_0"}
    assert _sample(dataset, (0, 4)).ihc.shape == (16, 16, 3)


def test_faults_travel_as_values_and_name_the_patch(tmp_path: Path) -> None:
    refs = list_patches("mist", make_mist(tmp_path, px=96), "ER", "train")
    small = PatchDataset(refs, Look(crop_px=128), is_paired=True, seed=0)
    fault = small[(0, 0)]
    assert isinstance(fault, Fault) and "smaller than the crop 128" in fault.why and refs[0].name in fault.why
    good = PatchDataset(refs, Look(crop_px=32), is_paired=True, seed=0)
    assert collate([good[(0, 1)], fault]) == fault
    batch = collate([good[(0, 1)], good[(0, 2)]])
    assert isinstance(batch, Samples)
    assert batch.he.shape == (2, 32, 32, 3) and batch.he.dtype == torch.uint8 and batch.mask is None
    assert batch.names == (refs[1].name, refs[2].name)


def test_every_unreadable_patch_is_listed_and_sizes_are_told(tmp_path: Path) -> None:
    base = make_mist(tmp_path, n_train=6) / "ER" / "TrainValAB"
    files = sorted((base / "trainA").iterdir())
    files[0].write_bytes(files[0].read_bytes()[:300])
    files[2].write_text("no picture")
    save(tissue(0, 40)[1], base / "trainB" / files[4].name)
    check = check_patches(list_patches("mist", tmp_path, "ER", "train"))
    assert [u.path.name for u in check.unreadable] == [files[0].name, files[2].name, files[4].name]
    assert [u.why.split(":")[0] for u in check.unreadable] == [
        "is cut short",
        "is not a picture",
        "differs in size from what belongs to it",
    ]
    assert check.sizes == {(96, 96)}


def test_sizes_of_side_by_side_pairs_are_those_of_one_picture(tmp_path: Path) -> None:
    save(np.zeros((20, 80, 3), dtype=np.uint8), tmp_path / "train" / "s_1_1.png")
    check = check_patches(list_patches("ab", tmp_path, "ER", "train"))
    assert check.sizes == {(20, 40)} and not check.unreadable


def test_the_configuration_leads_to_patches_and_masks(tmp_path: Path) -> None:
    make_mist(tmp_path, n_train=2)
    cfg = DataConfig(root=str(tmp_path), crop_px=32)
    refs = load_patches(cfg, find_marker("ER"), "train")
    assert [r.mask for r in refs] == [None, None]
    for ref in refs:
        save(np.zeros((96, 96), dtype=np.uint8), tmp_path / "m" / f"{ref.name}.png")
    masked = load_patches(cfg.model_copy(update={"masks": "m"}), find_marker("ER"), "train")
    assert all(r.mask is not None for r in masked)


def test_a_list_of_names_chooses_the_training_patches(tmp_path: Path) -> None:
    make_mist(tmp_path, n_train=3)
    every = [r.name for r in load_patches(DataConfig(root=str(tmp_path), crop_px=32), find_marker("ER"), "train")]
    listing = tmp_path / "names.txt"
    cfg = DataConfig(root=str(tmp_path), crop_px=32, names=str(listing))
    listing.write_text(f"# good ones\n{every[2]}.jpg\n\n{every[0]}\n")
    assert [r.name for r in load_patches(cfg, find_marker("ER"), "train")] == [every[0], every[2]]
    assert load_patches(cfg, find_marker("ER"), "val")
    listing.write_text(f"{every[0]}\nnot_there.png\n")
    with pytest.raises(DataError, match="1 are not among the 3 training patches: not_there"):
        load_patches(cfg, find_marker("ER"), "train")
    listing.write_text("# nothing\n")
    with pytest.raises(DataError, match="names 0 patches"):
        load_patches(cfg, find_marker("ER"), "train")


def test_batches_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    refs = list_patches("mist", make_mist(tmp_path), "ER", "train")
    dataset = PatchDataset(refs, Look(crop_px=32, stain_jitter=0.5), is_paired=True, seed=0)
    order = PatchOrder(len(refs), 2, seed=0, start=1, stop=7)
    here, away = (list(patch_loader(dataset, order, workers=w)) for w in (0, 2))
    assert len(here) == len(away) == 6
    assert [len(b.names) for b in here] == [2, 1, 2, 2, 1, 2]
    for a, b in zip(here, away, strict=True):
        assert a.names == b.names
        assert torch.equal(a.he, b.he) and torch.equal(a.ihc, b.ihc)

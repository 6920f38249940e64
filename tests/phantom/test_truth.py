"""What the tables say is what the pictures show."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from wsistain.phantom import paint
from wsistain.phantom.biology import rank_auc
from wsistain.phantom.config import PhantomConfig, SectionPairing
from wsistain.phantom.kinds import LUMINAL, TUMOUR
from wsistain.phantom.nearest_centres import nearest_centres
from wsistain.phantom.paint import Painter
from wsistain.phantom.render import COUNTED_UM, Phantom
from wsistain.phantom.tables import cell_table

SIZE = 512


def amounts(rgb, optics):
    """(h, w) amounts of haematoxylin and DAB from the slide's own dyes."""
    od = -np.log10(np.clip(rgb.astype(float), 1, None) / np.array(optics.glass))
    dyes = np.array([optics.haematoxylin, optics.chromogen, optics.blood]).T
    h, dab, _ = np.linalg.lstsq(dyes, od.reshape(-1, 3).T, rcond=None)[0].reshape(3, *rgb.shape[:2])
    return h, dab / optics.d_gain


def disc_means(picture, y, x, radius):
    """Mean of a picture in a disc round each place, px."""
    r = int(np.ceil(radius))
    dy, dx = np.mgrid[-r : r + 1, -r : r + 1]
    keep = dy**2 + dx**2 <= radius**2
    padded = np.pad(picture, r, mode="edge")
    return np.array([padded[i : i + 2 * r + 1, j : j + 2 * r + 1][keep].mean() for i, j in zip(y, x, strict=True)])


def open_phantom(marker, seed=12, **more):
    return Phantom(PhantomConfig(height=1536, width=1536, seed=seed, whole=True, marker=marker, **more))


def cells_and_dab(phantom, product="ihc_a", section="a"):
    rgb = phantom.render(product, SIZE, SIZE, SIZE, SIZE)
    table = cell_table(phantom, section, SIZE, SIZE, SIZE, SIZE)
    _, dab = amounts(rgb, phantom.optics["ihc"])
    y, x = (np.rint(table[c].to_numpy()).astype(int).clip(0, SIZE - 1) for c in ("y_px", "x_px"))
    return table, disc_means(dab, y, x, 1.4 / phantom.config.mpp)


@pytest.mark.parametrize(("marker", "seed"), [("ER", 12), ("ER", 21), ("PR", 22), ("Ki67", 21)])
@pytest.mark.parametrize(("product", "section"), [("ihc_a", "a"), ("ihc_b", "b")])
def test_positive_nuclei_are_brown_and_negative_ones_are_not(marker, seed, product, section):
    table, dab = cells_and_dab(open_phantom(marker, seed), product, section)
    positive = table[f"positive_{marker}"].to_numpy(zero_copy_only=False)
    assert len(positive) > 150 and positive.any() and not positive.all()
    assert ((dab > 0.13) == positive).mean() > 0.99


@pytest.mark.parametrize(("score", "share"), [(0, 0.05), (3, 0.9)])
def test_rings_of_her2_are_as_brown_as_the_table_says(score, share):
    phantom = open_phantom("HER2", 21, her2_score=score)
    rgb = phantom.render("ihc_a", SIZE, SIZE, SIZE, SIZE)
    table = cell_table(phantom, "a", SIZE, SIZE, SIZE, SIZE)
    _, dab = amounts(rgb, phantom.optics["ihc"])
    tumour = np.asarray(table["type"].to_pylist()) == "tumour"
    y, x = (np.rint(table[c].to_numpy()).astype(int).clip(0, SIZE - 1) for c in ("y_px", "x_px"))
    near = disc_means(dab, y, x, 7.0 / phantom.config.mpp)[tumour]
    level = table["level_HER2"].to_numpy()[tumour]
    positive = table["positive_HER2"].to_numpy(zero_copy_only=False)[tumour]
    assert (positive.mean() < share) if score == 0 else (positive.mean() > share)
    assert (near > 0.08).mean() == pytest.approx(positive.mean(), abs=0.12)
    assert level.min() >= 0 and level.max() <= 3


def rings(phantom, monkeypatch):
    """(DAB of the picture on the border of each tumour cell of section A, whether the cell is positive).

    Which pixels border which cell is taken from the painter, how brown they are from the finished picture.
    """
    seen = {}

    def nearest(*args):
        found = nearest_centres(*args)
        if args[-1] == 2:
            seen.update(distance=found[0], which=found[1], where=args[6], shape=args[2].shape)
        return found

    def membranes(window, ground, cells, *rest):
        seen["cells"] = cells.take(np.isin(cells.kind, (TUMOUR, LUMINAL)))
        seen["live"] = ground["epithelium"] * (1 - ground["dead"]) * ground["body"]
        return Painter._membranes(phantom.painter, window, ground, cells, *rest)

    monkeypatch.setattr(paint, "nearest_centres", nearest)
    monkeypatch.setattr(phantom.painter, "_membranes", membranes)
    _, dab = amounts(phantom.render("ihc_a", SIZE, SIZE, SIZE, SIZE), phantom.optics["ihc"])
    margin = (seen["shape"][0] - SIZE) // 2
    shown = np.pad(dab, margin, constant_values=np.nan).ravel()[seen["where"]]
    distance, cells = seen["distance"], seen["cells"]
    border = (distance[1] - distance[0] < 1.4) & (distance[0] < 6) & (seen["live"].ravel()[seen["where"]] > 0.95)
    border &= ~np.isnan(shown)
    own = seen["which"][0][border]
    count = np.bincount(own, minlength=len(cells))
    mean = np.bincount(own, shown[border], minlength=len(cells)) / np.maximum(count, 1)
    keep = (count >= 30) & (cells.kind == TUMOUR) & (phantom.path_um("a", cells) >= COUNTED_UM)
    return mean[keep], cells.positive[keep, 3]


def test_cells_positive_for_her2_have_brown_borders_and_others_have_not(monkeypatch):
    found = [
        rings(open_phantom("HER2", seed, her2_score=score), monkeypatch) for score, seed in ((0, 21), (1, 22), (2, 33))
    ]
    dab, positive = (np.concatenate(v) for v in zip(*found, strict=True))
    assert len(dab) > 400 and 0.2 < positive.mean() < 0.8
    assert ((dab > 0.105) == positive).mean() > 0.99


def test_the_aligned_truth_is_aligned():
    """The haematoxylin of H&E and that of the truth correlate best without a shift; the weak pair's do not."""
    phantom = open_phantom("Ki67", 21)
    he = phantom.render("he_a", SIZE, SIZE, SIZE, SIZE)
    od = -np.log10(np.clip(he.astype(float), 1, None) / np.array(phantom.optics["he"].glass))
    dyes = np.array([phantom.optics["he"].haematoxylin, phantom.optics["he"].eosin]).T
    h_he = np.linalg.lstsq(dyes, od.reshape(-1, 3).T, rcond=None)[0][0].reshape(SIZE, SIZE)

    def peak(other):
        a, b = (p - gaussian_filter(p, 20) for p in (h_he, other))
        cross = np.fft.irfft2(np.fft.rfft2(a) * np.conj(np.fft.rfft2(b)), s=a.shape)
        at = np.unravel_index(np.argmax(cross), cross.shape)
        return tuple((k + SIZE // 2) % SIZE - SIZE // 2 for k in at), cross.max() / np.sqrt((a**2).sum() * (b**2).sum())

    h_truth, _ = amounts(phantom.render("ihc_a", SIZE, SIZE, SIZE, SIZE), phantom.optics["ihc"])
    h_weak, _ = amounts(phantom.render("ihc_b", SIZE, SIZE, SIZE, SIZE), phantom.optics["ihc"])
    place, height = peak(h_truth)
    assert place == (0, 0) and height > 0.6
    assert peak(h_weak)[1] < 0.5 * height


def gray_correlation(one, other):
    weights = np.array([0.299, 0.587, 0.114])
    return np.corrcoef((one @ weights).ravel(), (other @ weights).ravel())[0, 1]


def test_the_truth_correlates_far_better_than_the_weak_pair():
    phantom = open_phantom("ER", 12)
    he, weak, truth = (phantom.render(p, SIZE, SIZE, SIZE, SIZE) for p in ("he_a", "ihc_b", "ihc_a"))
    assert gray_correlation(he, truth) > 0.4
    assert gray_correlation(he, weak) < 0.6 * gray_correlation(he, truth)


def test_sections_share_the_cells_that_the_tables_say():
    phantom = open_phantom("ER", 12, sections=SectionPairing(distance_um=4.0, shift_um=5.0, deform_um=2.0))
    a = cell_table(phantom, "a", 0, 0, 1536, 1536)
    b = cell_table(phantom, "b", 0, 0, 1536, 1536)
    ids_a, ids_b = set(a["id"].to_pylist()), set(b["id"].to_pylist())
    shared = ids_a & ids_b
    assert 0.25 < len(shared) / len(ids_a) < 0.98
    flagged = np.asarray(a["in_b"].to_pylist())
    assert {i for i, f in zip(a["id"].to_pylist(), flagged, strict=True) if f} == shared
    assert {i for i, f in zip(b["id"].to_pylist(), b["in_a"].to_pylist(), strict=True) if f} == shared
    # A cell has one place in the block: both glasses lead there.
    place = {s: dict(zip(t["id"].to_pylist(), zip(t["y_um"].to_pylist(), t["x_um"].to_pylist(), strict=True), strict=True)) for s, t in (("a", a), ("b", b))}  # fmt: skip
    both = np.array([[place["a"][i], place["b"][i]] for i in shared])
    back = np.stack(phantom.sections["b"].to_block(both[:, 1, 0], both[:, 1, 1]), 1)
    np.testing.assert_allclose(back, both[:, 0], atol=1e-3)
    for name in ("type", "positive_ER", "level_ER", "size_um"):
        one = dict(zip(a["id"].to_pylist(), a[name].to_pylist(), strict=True))
        assert all(one[i] == v for i, v in zip(b["id"].to_pylist(), b[name].to_pylist(), strict=True) if i in shared)


def test_sections_far_apart_share_no_cell():
    phantom = open_phantom("ER", 12, pairing="far")
    assert not any(cell_table(phantom, "a", 200, 200, 700, 700)["in_b"].to_pylist())


def test_nuclei_are_where_the_table_says_and_as_large():
    """Haematoxylin stands out at the centres of the cells against random places."""
    phantom = open_phantom("Ki67", 21)
    table = cell_table(phantom, "a", SIZE, SIZE, SIZE, SIZE)
    h, dab = amounts(phantom.render("ihc_a", SIZE, SIZE, SIZE, SIZE), phantom.optics["ihc"])
    y, x = (np.rint(table[c].to_numpy()).astype(int).clip(0, SIZE - 1) for c in ("y_px", "x_px"))
    rng = np.random.default_rng(0)
    elsewhere = disc_means(h + dab, *rng.integers(0, SIZE, (2, 400)), 2)
    assert np.median(disc_means(h + dab, y, x, 2)) > 2 * np.median(elsewhere)
    assert table["path_um"].to_numpy().min() >= 2.0 and table["path_um"].to_numpy().max() <= 4.0 + 1e-5
    kinds = set(table["type"].to_pylist())
    assert {"tumour", "fibroblast", "lymphocyte"} <= kinds


@pytest.mark.parametrize(("visibility", "low", "high"), [(0.0, 0.0, 0.3), (1.0, 0.55, 1.0)])
def test_visibility_ties_the_size_of_nuclei_to_er(visibility, low, high):
    sizes, positives = [], []
    for seed in (12, 21, 22):
        table = cell_table(open_phantom("ER", seed, visibility=visibility), "a", 256, 256, 900, 900)
        tumour = np.asarray(table["type"].to_pylist()) == "tumour"
        sizes.append(table["size_um"].to_numpy()[tumour])
        positives.append(table["positive_ER"].to_numpy(zero_copy_only=False)[tumour])
    auc = rank_auc(-np.concatenate(sizes), np.concatenate(positives))
    assert low <= abs(2 * auc - 1) <= high


def test_contrast_shows_differentiation_more_plainly_and_changes_nothing_else():
    plain, caricature = (
        cell_table(open_phantom("ER", 12, visibility=1.0, contrast=c), "a", 256, 256, 900, 900) for c in (1.0, 4.0)
    )

    def spread(table, positive):
        tumour = np.asarray(table["type"].to_pylist()) == "tumour"
        chosen = tumour & (table["positive_ER"].to_numpy(zero_copy_only=False) == positive)
        return float(np.median(table["size_um"].to_numpy()[chosen]))

    assert spread(caricature, False) / spread(caricature, True) > 1.1 * spread(plain, False) / spread(plain, True)
    both = set(plain["id"].to_pylist()) & set(caricature["id"].to_pylist())
    assert len(both) > 0.8 * len(plain)  # bigger nuclei push some neighbours out
    levels = [dict(zip(t["id"].to_pylist(), t["level_ER"].to_pylist(), strict=True)) for t in (plain, caricature)]
    assert all(levels[0][i] == levels[1][i] for i in both)

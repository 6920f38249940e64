"""Pictures that lie otherwise than their H&E are refused, however; bad stains that lie right are not."""

import imagecodecs
import numpy as np
import pytest

from tests.benchmark.conftest import SMALL, TASK
from wsistain.benchmark.score import score
from wsistain.data.layouts import list_patches
from wsistain.data.pictures import read_picture
from wsistain.errors import DataError
from wsistain.evaluation.orientation import check_places


@pytest.fixture(scope="module")
def refs(first):
    return list_patches("mist", TASK.folder(first[0], "test"), "ER", "val")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda p, q: p[:, ::-1], "1 of 2 .*fits its H&E mirrored left to right"),
        (lambda p, q: p[::-1], "fits its H&E mirrored top to bottom"),
        (lambda p, q: np.rot90(p, 2), "fits its H&E turned by 180 degrees"),
        (lambda p, q: np.rot90(p), "fits its H&E turned by 90 degrees"),
        (lambda p, q: q, r"fits the H&E of \w+ as it is"),
        (lambda p, q: q.transpose(1, 0, 2), r"fits the H&E of \w+ mirrored along its diagonal"),
    ],
    ids=["mirrored", "upside down", "half a turn", "a quarter", "of another patch", "of another, mirrored"],
)  # fmt: skip
def test_a_picture_that_lies_otherwise_than_its_he_is_refused(first, refs, spoil, told):
    he = {r.name: read_picture(r.he) for r in refs}
    stains = dict(he)
    stains[refs[0].name] = np.ascontiguousarray(spoil(he[refs[0].name], he[refs[1].name]))
    with pytest.raises(DataError, match=told):
        check_places(refs, lambda ref: stains[ref.name])


def test_stains_that_fit_nothing_and_their_own_truth_pass_and_a_mirrored_entry_writes_no_row(first, refs, tmp_path):
    rng = np.random.default_rng(0)
    check_places(refs, lambda ref: read_picture(ref.truth))
    check_places(refs, lambda ref: read_picture(ref.ihc))
    check_places(refs, lambda ref: rng.integers(0, 255, (SMALL.size, SMALL.size, 3)).astype(np.uint8))
    check_places(refs, lambda ref: np.full((SMALL.size, SMALL.size, 3), 200, np.uint8))
    folder = tmp_path / "mirrored"
    folder.mkdir()
    for ref in refs:
        (folder / f"{ref.name}.png").write_bytes(imagecodecs.png_encode(read_picture(ref.he)[:, ::-1].copy()))
    with pytest.raises(DataError, match="2 of 2 pictures do not lie as their H&E does"):
        score(folder, first[0], TASK.name, output=tmp_path / "r.json", edition=SMALL, nets=tmp_path, workers=1)
    assert not (tmp_path / "r.json").exists()

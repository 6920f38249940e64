import hashlib
import json

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from skimage.io import imread

from tests.pairing.made import MPP, tissue, wavy, write_pair
from wsistain.data.layouts import list_patches
from wsistain.data.stated import stated_version
from wsistain.errors import ConfigError, DataError, OutputError, SlideError
from wsistain.markers import DAB
from wsistain.pairing.folder import read_rows
from wsistain.pairing.run import PairJob, make_pair, stain_notes
from wsistain.pairing.sections import look_at_slide
from wsistain.pairing.transform import load_transform
from wsistain.slide.inside import KEY, phantom_text
from wsistain.slide.reader import open_slide


def job_of(he, ihc, **more) -> PairJob:
    values = {"he_mpp": MPP, "ihc_mpp": MPP, "mpp": MPP, "size": 128, "part": "train"}
    return PairJob(str(he), str(ihc), "ER", "S1", **{**values, **more})


def hashes(folder) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != ".lock")
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def error_um(folder, inverse) -> np.ndarray:
    """Distance of the found from the true place at pixels of tissue, um."""
    pieces, _ = load_transform(folder / "ER" / "pairs" / "S1" / "transform.npz")
    y, x = (v[::9].astype(np.float64) for v in np.nonzero(tissue()[0]))
    ty, tx = inverse(y, x)
    fy, fx = pieces[0].map((y + 0.5) * MPP, (x + 0.5) * MPP)
    return np.hypot(fy / MPP - 0.5 - ty, fx / MPP - 0.5 - tx) * MPP


@pytest.fixture(scope="module")
def turned(tmp_path_factory):
    """A pair turned by 97 degrees, face down and stretched by up to 16 um, and what was made of it."""
    folder = tmp_path_factory.mktemp("turned")
    place, inverse = wavy(97, face_down=True)
    slides = write_pair(folder, place)
    text = PngInfo()  # as if the phantom had painted it
    text.add_text(KEY, phantom_text({"kind": "slide", "version": "v1", "visibility": 0.5}))
    with Image.open(slides[0]) as picture:
        picture.save(slides[0], pnginfo=text, compress_level=1)
    facts = make_pair(job_of(*slides, patient="P7"), folder / "out")
    return folder / "out", slides, inverse, facts


def test_a_known_turn_and_stretch_is_found_to_a_fraction_of_a_nucleus(turned):
    out, _, inverse, facts = turned
    error = error_um(out, inverse)
    assert np.median(error) < 2.0 and np.quantile(error, 0.9) < 5.0
    section = facts["sections"][0]
    assert abs(section["turn_deg"] - 97) < 2 and section["is_mirrored"] and section["residual_um"]["median"] < 2.0


def test_patches_lie_over_each_other_and_every_one_has_its_line(turned):
    out, _, _, facts = turned
    refs = list_patches("mist", out, "ER", "train")
    rows = read_rows(out / "ER" / "patches.csv")
    assert len(refs) == facts["n_patches"] == len(rows) > 5
    assert {r["patch"] for r in rows} == {ref.name for ref in refs}
    assert {(r["slide"], r["patient"], r["part"]) for r in rows} == {("S1", "P7", "train")}
    row = max(rows, key=lambda r: float(r["agreement"] or 0))
    he, ihc = (imread(out / "ER" / "TrainValAB" / f"train{side}" / f"{row['patch']}.jpg") for side in "AB")
    assert he.shape == ihc.shape == (128, 128, 3)
    blue = [(255.0 - p[..., 0]) * (p[..., 2] >= p[..., 0]) for p in (he, ihc)]
    assert np.corrcoef(blue[0].ravel(), blue[1].ravel())[0, 1] > 0.5
    whole = imread(out.parent / "he.png")[..., :3]
    cut = whole[int(row["y_l0"]) :, int(row["x_l0"]) :][:128, :128]
    assert np.abs(cut.astype(int) - he).mean() < 8  # JPEG


def test_patches_of_a_phantom_slide_are_synthetic_too(turned):
    assert stated_version(list_patches("mist", turned[0], "ER", "train")) == "v1"


def test_manifest_and_page_say_what_was_done(turned):
    out, _, _, facts = turned
    manifest = json.loads((out / "ER" / "manifest.json").read_text())
    assert manifest["parameters"] == {"format": 1, "kind": "pair", "marker": "ER", "mpp": MPP, "size": 128}
    assert manifest["slides"]["S1"]["patient"] == "P7" and manifest["finished"]
    page = (out / "ER" / "pairs" / "S1" / "page.html").read_text()
    assert "http" not in page.replace("http-equiv", "") and page.count("data:image/jpeg") > 10
    assert json.loads((out / "ER" / "pairs" / "S1" / "pair.json").read_text()) == json.loads(json.dumps(facts))


def test_the_same_slides_give_the_same_bytes_and_a_transform_is_taken_up_again(turned, tmp_path):
    out, slides, _, _ = turned
    make_pair(job_of(*slides, patient="P7"), tmp_path / "again")
    assert hashes(tmp_path / "again") == hashes(out)
    kept = out / "ER" / "pairs" / "S1" / "transform.npz"
    make_pair(job_of(*slides, patient="P7", transform=kept), tmp_path / "kept")
    assert hashes(tmp_path / "kept") == hashes(out)
    with pytest.raises(DataError, match="another HE slide"):
        make_pair(job_of(*reversed(slides), transform=kept), tmp_path / "swapped")


def test_a_pair_that_is_there_is_kept_unless_it_is_to_be_made_anew(turned):
    out, slides, _, _ = turned
    before = hashes(out)
    with pytest.raises(OutputError, match="--overwrite"):
        make_pair(job_of(*slides), out)
    with pytest.raises(OutputError, match="another size"):
        make_pair(job_of(*slides, size=256), out)
    assert hashes(out) == before


def test_unlike_tissue_is_refused_with_what_was_seen_and_leaves_nothing(tmp_path):
    slides = write_pair(tmp_path, wavy()[0], seeds=(0, 3))
    with pytest.raises(
        DataError, match=r"do not show the same tissue.*correlation of haematoxylin in the tissue is 0\.\d\d, wanted"
    ):
        make_pair(job_of(*slides), tmp_path / "out")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").rglob("*"))


def test_slides_named_the_wrong_way_round_are_refused_and_two_of_one_stain_are_noted(tmp_path):
    he, ihc = write_pair(tmp_path, wavy()[0])
    with pytest.raises(DataError, match=r"it is the second that is pink with eosin .* name them the other way round"):
        make_pair(job_of(ihc, he), tmp_path / "out")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").rglob("*"))
    sides = [look_at_slide(open_slide(p, mpp=MPP), dye) for p, dye in ((he, DAB), (ihc, None), (he, None), (ihc, DAB))]
    told = [" ".join(stain_notes(side)) for side in sides]
    assert "looks like H&E" in told[0] and "does not look like H&E" in told[1] and told[2:] == ["", ""]


def test_what_cannot_be_cut_is_refused_before_the_work(tmp_path):
    he, ihc = write_pair(tmp_path, wavy()[0])
    for wrong, told in (({"size": 100}, "multiple of 16"), ({"mpp": 0.2}, "too coarse")):
        with pytest.raises((ConfigError, SlideError), match=told):
            make_pair(job_of(he, ihc, **wrong), tmp_path / "out")
    with pytest.raises(SlideError, match="--ihc-mpp"):
        make_pair(job_of(he, ihc, ihc_mpp=None), tmp_path / "out")
    with pytest.raises(ConfigError, match="one slide"):
        make_pair(job_of(he, he), tmp_path / "out")
    with pytest.raises(ConfigError, match="ends like the place"):
        make_pair(PairJob(str(he), str(ihc), "ER", "S_1_2", he_mpp=MPP, ihc_mpp=MPP, size=128), tmp_path / "out")
    assert not (tmp_path / "out").exists()

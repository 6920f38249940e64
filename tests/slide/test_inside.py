"""That a picture is synthetic is known by its own bytes, wherever they lie and whatever lies beside them."""

import json
import shutil

import pytest
import tifffile

from tests.pipeline.slides import tissue_picture, write_slide
from wsistain.data.layouts import list_patches
from wsistain.data.stated import stated_version
from wsistain.phantom.config import PhantomConfig
from wsistain.phantom.products import make_patches, make_slide
from wsistain.slide.inside import phantom_of
from wsistain.slide.reader import open_slide


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    """A phantom slide of its H&E alone, with its manifest."""
    folder = tmp_path_factory.mktemp("phantom")
    make_slide(folder, PhantomConfig(height=128, width=128, seed=3, whole=True), he_only=True)
    return folder / "he_a.tiff"


def test_a_phantom_slide_is_known_away_from_its_manifest_and_under_another_name(slide, tmp_path):
    copy = shutil.copy(slide, tmp_path / "case 7.tiff")
    for place in (slide, copy, f"file://{slide}"):
        told = phantom_of(place)
        assert told is not None and told["seed"] == 3 and told["kind"] == "slide" and told["product"] == "he_a"
    opened = open_slide(copy)
    assert opened.info.mpp == 0.5 and not opened.info.notes
    opened.close()


def test_a_manifest_makes_no_phantom_of_another_slide_beside_it(slide, tmp_path):
    shutil.copy(slide.parent / "manifest.json", tmp_path)
    for name in ("real.tiff", "he_a.tiff"):
        assert phantom_of(write_slide(tmp_path / name, tissue_picture(64, 64))) is None


def test_a_slide_of_an_older_version_is_known_by_the_manifest_that_holds_its_hash(slide, tmp_path):
    old = shutil.copy(slide, tmp_path / "he_a.tiff")
    tifffile.tiffcomment(old, "")
    assert phantom_of(old) is None
    manifest = json.loads((slide.parent / "manifest.json").read_text())
    from wsistain.phantom.manifest import digest

    manifest["files"]["he_a.tiff"] = digest(tmp_path / "he_a.tiff")
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert phantom_of(old)["seed"] == 3


@pytest.mark.parametrize(
    "text", ["[" * 5000, "{", '{"wsistain": 3}', '{"wsistain": {"phantom": true}}', "wsistain phantom"]
)
def test_other_words_inside_or_beside_say_nothing(text, tmp_path):
    path = tmp_path / "a.tiff"
    tifffile.imwrite(path, tissue_picture(64, 64), description=text)
    (tmp_path / "manifest.json").write_text(text)
    assert phantom_of(path) is None and phantom_of(tmp_path / "missing.tiff") is None


@pytest.mark.parametrize("version", ["v0", "v1"])
def test_patches_copied_without_their_manifest_are_still_synthetic(version, tmp_path):
    make_patches(tmp_path / "a", markers="ER", train=2, val=1, size=64, slides=2, seed=1, version=version)
    shutil.copytree(tmp_path / "a" / "ER" / "TrainValAB", tmp_path / "b" / "ER" / "TrainValAB")
    refs = list_patches("mist", tmp_path / "b", "ER", "train")
    assert len(refs) == 2 and stated_version(refs) == version

"""A run says whether the slide looks like what its weights were trained on."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from tests.reading.made import tissue
from wsistain.config import OutputConfig
from wsistain.generators.load import find_generator
from wsistain.optics.familiar import make_familiar
from wsistain.output.layout import OutputSpec
from wsistain.output.metadata import write_metadata
from wsistain.output.preview import write_preview
from wsistain.output.store import create_output
from wsistain.phantom.config import PhantomConfig
from wsistain.phantom.render import Phantom
from wsistain.pipeline.trust import judge
from wsistain.slide.resample import Sampling
from wsistain.slide.tissue import TissueMask
from wsistain.tiling.plan import make_tiling, plan_run
from wsistain.weights.file import make_header, save_weights

MPP = 0.5


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weights that know the looks of three small phantom slides; nobody stains with them."""
    pictures = []
    for seed in range(3):
        phantom = Phantom(PhantomConfig(height=448, width=448, mpp=MPP, seed=seed, whole=True))
        pictures.append(phantom.render("he_a", 0, 0, 448, 448))
    known = make_familiar(pictures, MPP)
    assert known is not None
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    header = make_header(system="aligned", markers=["ER"], mpp=MPP, tile_px=64, familiar=known)
    save_weights(path, header, {"a": torch.zeros(1)})
    bare = path.with_name("bare.safetensors")
    save_weights(bare, header.model_copy(update={"familiar": None}), {"a": torch.zeros(1)})
    return path, bare


class _Picture:
    """A picture as an open slide."""

    def __init__(self, pixels):
        from tests.reading.made import SIZE
        from wsistain.slide.base import SlideInfo

        self.pixels = pixels
        self.info = SlideInfo("p", (SIZE, SIZE), MPP, "given", ((SIZE, SIZE),), (1.0,), (0, 0), "", "picture", "f")

    def read_level(self, level, y, x, height, width):
        out = np.full((height, width, 3), 255, np.uint8)
        part = self.pixels[max(y, 0) : y + height, max(x, 0) : x + width]
        out[: part.shape[0], : part.shape[1]] = part
        return out


def judged(pixels, weights):
    slide = _Picture(pixels)
    tiling = make_tiling(stride=64, overlap=0, halo=0, size_multiple=1, block=4096)
    plan = plan_run(slide.info, Sampling(0, 1.0, MPP, pixels.shape[:2]), TissueMask.everywhere(slide.info), tiling)
    return judge(slide, plan, find_generator(str(weights), "ER"))


def test_a_slide_like_training_is_told_from_one_that_is_not(weights):
    he = tissue()[0]
    like = judged(he, weights[0])
    other = judged(np.rot90(255 - ndimage.gaussian_filter(255 - he, (4, 4, 0))), weights[0])
    assert like.unlike < 0.4 < 0.8 < other.unlike and other.verdict == "unlike training"
    assert like.squares > 20 and like.distance < other.distance
    assert "unlike training" in other.warnings()[0] and other.describe()["unlike"] == other.unlike


def test_what_is_not_known_is_said_to_be(weights):
    he = tissue()[0]
    unknown = judged(he, weights[1])
    assert unknown.verdict == "not known" and unknown.unlike is None and "do not say" in unknown.why
    assert unknown.warnings() == ()
    glass = judged(np.full_like(he, 250), weights[0])
    assert glass.verdict == "not known" and "too little tissue" in glass.why
    assert judged(he, "identity").verdict == "not known"


def test_the_preview_of_an_unlike_slide_says_so(tmp_path):
    spec = OutputSpec(str(tmp_path / "s.ome.zarr"), 200, 300, 1.0, 128, OutputConfig(chunk=64, shard=128))
    for name, words in (("like training", False), ("unlike training", True)):
        create_output(spec)
        write_metadata(spec, {"marker": "ER", "trust": {"verdict": name}}, "s")
        write_preview(spec, tmp_path / "p.jpg", 300)
        with Image.open(tmp_path / "p.jpg") as picture:
            assert picture.size == (300, 200)
            red = np.asarray(picture)[2, 290].astype(int)
        assert (red[0] - red[1] > 60) == words


def test_weights_of_synthetic_tissue_are_believed_on_no_other_slide(weights):
    from dataclasses import replace

    slide = _Picture(tissue()[0])
    tiling = make_tiling(stride=64, overlap=0, halo=0, size_multiple=1, block=4096)
    plan = plan_run(slide.info, Sampling(0, 1.0, MPP, (320, 320)), TissueMask.everywhere(slide.info), tiling)
    spec = replace(find_generator(str(weights[0]), "ER"), training_data="tissue phantom (synthetic)")
    told = judge(slide, plan, spec)
    assert told.verdict == "unlike training" and "synthetic" in told.warnings()[0]

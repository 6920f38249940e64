"""A stain through LazySlide's interface is the stain; the interface is asked for as LazySlide asks."""

from typing import Any, Protocol, runtime_checkable

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from tests.generators.test_many_markers import weights  # noqa: F401, a fixture
from wsistain.errors import ConfigError
from wsistain.generators.lazyslide import LazySlideStain
from wsistain.generators.load import load_generator


@runtime_checkable
class Wanted(Protocol):
    """What LazySlide looks for, written anew from its documentation: its package needs torchvision."""

    model: Any
    name: str
    output_mpp: float | None
    output_range: tuple[float, float] | None
    stains: tuple[str, ...]

    def get_transform(self) -> Any: ...
    def to(self, device) -> Any: ...
    def try_compile(self, **compile_kws: Any): ...
    def predict(self, image, *args, **kwargs): ...


def test_it_is_what_lazyslide_takes_for_a_virtual_stain():
    model = LazySlideStain("identity", ["ER"])
    assert isinstance(model, Wanted) and model.stains == ("virtual ER",) and model.to("cpu") is model


def test_its_pixels_are_the_generators(weights):  # noqa: F811
    markers = ["HER2", "ER"]
    tiles = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    model = LazySlideStain(str(weights), markers)
    found = model.predict(default_collate([model.get_transform()(tile) for tile in tiles]))
    assert found.shape == (2, 6, 64, 64) and found.dtype == torch.float32
    for k, marker in enumerate(markers):
        wanted = load_generator(weights, marker, device="cpu").stain(tiles, [(0, 0)] * 2)
        got = (found[:, 3 * k : 3 * k + 3] * 255).round().byte().permute(0, 2, 3, 1).numpy()
        assert np.array_equal(got, wanted)


def test_tiles_that_another_transform_made_are_refused():
    with pytest.raises(ConfigError, match="wanted uint8, as get_transform gives them"):
        LazySlideStain("identity", ["ER"]).predict(torch.zeros(1, 3, 8, 8))

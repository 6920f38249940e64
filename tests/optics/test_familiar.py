"""An H&E like those trained on is familiar; blurred, tinted or of another texture it is not."""

import numpy as np
import pytest
from scipy import ndimage

from wsistain.config import validate
from wsistain.errors import ConfigError
from wsistain.optics.familiar import N_LOOKS, Familiar, looks_of, make_familiar, verdict


def tissue(seed, *, tint=(1.0, 1.0, 1.0), blur=0.0):
    """A pink and purple picture with texture, uint8 (192, 192, 3)."""
    rng = np.random.default_rng(seed)
    h = ndimage.gaussian_filter(rng.normal(0, 1, (192, 192)), 2.5) * 1.5 + 0.3
    e = ndimage.gaussian_filter(rng.normal(0, 1, (192, 192)), 1.0) * 0.3 + 0.4
    od = h.clip(0)[..., None] * [0.6, 0.7, 0.3] + e.clip(0)[..., None] * [0.1, 0.6, 0.2]
    light = np.exp(-2.3 * od * tint)
    light = ndimage.gaussian_filter(light, (blur, blur, 0)) + rng.normal(0, 0.005, light.shape)
    return (255 * light).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def known():
    made = make_familiar([tissue(k) for k in range(12)], 0.5)
    assert made is not None
    return made


def share(known, picture):
    return float(np.mean(known.distance(looks_of(picture, 0.5)) > 1))


def test_what_was_trained_on_is_familiar_and_changes_are_not(known):
    assert share(known, tissue(100)) < 0.3
    assert share(known, tissue(100, blur=3.0)) > 0.9
    assert share(known, tissue(100, tint=(1.6, 0.7, 1.3))) > 0.9


def test_glass_has_no_look(known):
    looks = looks_of(np.full((128, 128, 3), 250, np.uint8), 0.5)
    assert looks.shape == (2, 2, N_LOOKS) and np.isnan(looks).all() and np.isnan(known.distance(looks)).all()
    assert make_familiar([np.full((128, 128, 3), 250, np.uint8)] * 4, 0.5) is None


def test_what_weights_know_goes_through_json_and_is_checked(known):
    assert Familiar.model_validate_json(known.model_dump_json()) == known
    for wrong in ({"far": 0}, {"bank": [[1.0] * 3] * 10}, {"spread": [0.0] * N_LOOKS}):
        with pytest.raises(ConfigError):
            validate(Familiar, known.model_dump(mode="json") | wrong, "familiar")


def test_a_look_does_not_depend_on_the_scale_of_the_picture(known):
    picture = tissue(3)
    halved = picture.reshape(96, 2, 96, 2, 3).mean(axis=(1, 3)).round().astype(np.uint8)
    a, b = looks_of(picture, 0.5), looks_of(halved, 1.0)
    assert a.shape == b.shape and np.abs(a[..., :3] - b[..., :3]).max() < 0.02


def test_verdicts_are_in_words():
    assert [verdict(s) for s in (0.01, 0.2, 0.6)] == ["like training", "partly unlike training", "unlike training"]

"""Pix2Pix-Turbo's own terms; what it shares with the other turbo systems is in test_turbo_systems.py."""

import pytest
import torch

from tests.systems.turbo_runs import START, Recorder, batch, build, one_step
from wsistain.errors import DataError
from wsistain.systems.pix2pix_turbo import Config

pytest.importorskip("diffusers", reason="the extra 'train' is not installed")
pytest.importorskip("peft", reason="the extra 'train' is not installed")


def test_the_codes_numbers_are_the_defaults() -> None:
    cfg = Config.preset("paper", {})
    assert cfg.weights.model_dump() == {"adversarial": 0.5, "l2": 1.0, "lpips": 5.0, "likeness": 5.0}
    assert (cfg.model.rank_unet, cfg.model.rank_vae, cfg.critic.real_target) == (8, 4, 0.8)
    assert (cfg.optim.lr, cfg.optim.weight_decay, cfg.optim.clip_norm) == (5e-6, 1e-2, 1.0)
    assert cfg.input_range == "pm1" and Config.preset("official", {}).input_range == "01"


def test_sources_in_zero_to_one_are_an_option_that_the_weights_remember() -> None:
    system, images = build("pix2pix_turbo", {"input_range": "01"}), batch()
    plain = build("pix2pix_turbo")
    assert system.header_options()["input_range"] == "01"
    with torch.no_grad():
        assert torch.equal(system.generator()(images.he), plain.generator()((images.he + 1) / 2))


def test_likeness_is_one_less_the_cosine_and_can_be_left_out() -> None:
    system, images = build("pix2pix_turbo"), batch()
    seen = system.critic.tower(images.ihc)[-1]
    cosine = torch.nn.functional.cosine_similarity(seen, system.text_embedding).mean()
    torch.testing.assert_close(system._likeness(images.ihc), 1 - cosine)
    without = build("pix2pix_turbo", {"weights": {"likeness": 0.0}})
    assert without.training_step(images, START, Recorder(without))["likeness"] == 0
    assert not without.text_embedding.any()


def test_pictures_that_are_not_pairs_are_refused() -> None:
    with pytest.raises(DataError, match=r"data\.pairing to weak"):
        build("pix2pix_turbo").training_step(batch(is_paired=False), START, Recorder(None))


def test_there_is_one_direction_and_no_way_back() -> None:
    system = build("pix2pix_turbo")
    assert list(system.translators.vaes) == ["ihc"]
    assert not hasattr(system, "reverse_generator")


def test_the_loss_falls_on_one_pair() -> None:
    system, images = build("pix2pix_turbo", {"model": {"posterior": "mean"}, "weights": {"adversarial": 0.0}}), batch()
    first = one_step(system, images, 0)
    for step in range(1, 6):
        last = one_step(system, images, step)
    assert last["l2"] < 0.8 * first["l2"]
    assert last["lpips"] < first["lpips"]

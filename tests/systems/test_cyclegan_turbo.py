"""CycleGAN-Turbo's own terms; what it shares with the other turbo systems is in test_turbo_systems.py."""

import pytest
import torch

from tests.systems.turbo_runs import START, Recorder, batch, build, one_step
from wsistain.systems.cyclegan_turbo import Config

pytest.importorskip("diffusers", reason="the extra 'train' is not installed")
pytest.importorskip("peft", reason="the extra 'train' is not installed")


def test_the_codes_numbers_are_the_defaults() -> None:
    cfg = Config.preset("paper", {})
    assert list(cfg.weights.model_dump().values()) == [0.5, 1.0, 10.0, 1.0, 1.0]
    assert (cfg.model.rank_unet, cfg.model.rank_vae, cfg.critic.real_target) == (128, 4, 1.0)
    assert (cfg.optim.weight_decay, cfg.optim.clip_norm) == (1e-2, 10.0)


def test_the_cycle_goes_there_and_back() -> None:
    system, images = build("cyclegan_turbo", {"model": {"posterior": "mean"}}), batch()
    with torch.no_grad():
        there = {"ihc": system.translators(images.he, "ihc"), "he": system.translators(images.ihc, "he")}
        terms = system._cycle(images, there)
        he, ihc = system.translators(there["ihc"], "he"), system.translators(there["he"], "ihc")
    wanted = (he - images.he).abs().mean() + (ihc - images.ihc).abs().mean()
    torch.testing.assert_close(terms["cycle_l1"], wanted)


def test_both_vaes_and_the_shared_unet_train() -> None:
    system = build("cyclegan_turbo")
    record = Recorder(system)
    system.training_step(batch(is_paired=False), START, record)
    for part in ("unet", "vaes.ihc", "vaes.he"):
        assert any(n.startswith(f"translators.{part}.") for n in record.touched[1]), part


def test_the_loss_falls_on_one_pair() -> None:
    system, images = build("cyclegan_turbo", {"model": {"posterior": "mean"}, "weights": {"adversarial": 0.0}}), batch()
    first = one_step(system, images, 0)
    for step in range(1, 6):
        last = one_step(system, images, step)
    for name in ("cycle_l1", "cycle_lpips", "identity_l1", "identity_lpips"):
        assert last[name] < first[name], name

"""OT-StainNet's own term and its options; what it shares with the other turbo systems is tested beside this file."""

import functools
from typing import Any

import pytest
import torch

from tests.systems.turbo_runs import START, Recorder, batch, build, one_step
from wsistain.errors import ConfigError, DataError
from wsistain.losses.semantic import feature_rows
from wsistain.systems.ot_stainnet import Config

pytest.importorskip("diffusers", reason="the extra 'train' is not installed")
pytest.importorskip("peft", reason="the extra 'train' is not installed")


def semantic(options: dict[str, Any] | None = None, fake: torch.Tensor | None = None) -> torch.Tensor:
    """The semantic term of a tiny system for given virtual pictures (the real IHC where none are given)."""
    system, images = build("ot_stainnet", {"semantic": options or {}}), batch()
    fake = images.ihc if fake is None else fake
    return system._semantic(images, {"ihc": fake, "he": images.he})


@functools.cache
def default_term() -> torch.Tensor:
    return semantic({}, batch().he.flip(3))


def test_the_papers_numbers_are_the_defaults() -> None:
    cfg = Config.preset("paper", {})
    assert cfg.weights.model_dump() == {"adversarial": 0.5, "cycle": 10.0, "identity": 1.0, "semantic": 1000.0}
    assert cfg.optim.lr == 1e-5 and cfg.optim.weight_decay == 0
    assert (cfg.semantic.encoder, cfg.semantic.layer, cfg.semantic.solver) == ("base", "down", "exact")
    official = Config.preset("official", {"optim": {"lr": 2e-5}})
    assert official.turbo_steps and official.optim.weight_decay == 1e-2 and official.optim.lr == 2e-5


def test_unknown_options_are_named() -> None:
    with pytest.raises(ConfigError, match=r"semantic\.solvr is not a known key; did you mean 'solver'"):
        Config.preset("paper", {"semantic": {"solvr": "exact"}})


def test_features_are_those_of_the_base_whatever_is_trained() -> None:
    system, images = build("ot_stainnet"), batch()
    vae = system.translators.vae("ihc")
    before = system._rows(images.he)
    for step in range(2):
        one_step(system, images, step)
    assert torch.equal(system._rows(images.he), before)
    assert before.shape == (1, 64, 24)
    assert not any(p.requires_grad for p in system.features.parameters())
    assert not any("lora" in n for n, _ in system.features.named_parameters())
    base = {n.replace(".base_layer", ""): p for n, p in vae.encoder.named_parameters() if "lora" not in n}
    assert all(torch.equal(p, base[n]) for n, p in system.features.encoder.named_parameters())


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"layer": "latent"}, (1, 64, 4)),
        ({"pool": 2}, (1, 16, 24)),
        ({"encoder": "adapted"}, (1, 64, 24)),
        ({"encoder": "clip"}, (1, 49, 16)),
    ],
)
def test_other_readings_of_the_features_are_options(options: dict[str, Any], shape: tuple[int, ...]) -> None:
    system = build("ot_stainnet", {"semantic": options})
    assert system._rows(batch().he).shape == shape
    record = Recorder(system)
    terms = system.training_step(batch(), START, record)
    assert torch.isfinite(terms["semantic"]) and terms["semantic"] > 0
    assert any("translators.vaes.ihc" in n for n in record.touched[1])


def test_the_adapted_encoder_takes_no_gradient_from_its_features() -> None:
    system = build("ot_stainnet", {"semantic": {"encoder": "adapted"}})
    fake = batch().ihc.clone().requires_grad_()
    system._semantic(batch(), {"ihc": fake, "he": batch().he}).backward()
    assert fake.grad is not None and fake.grad.abs().sum() > 0
    assert all(p.grad is None for p in system.parameters())
    assert any(p.requires_grad for p in system.translators.vae("ihc").encoder.parameters())


@pytest.mark.parametrize(
    "options",
    [
        {"solver": "entropic"},
        {"solver": "none"},
        {"alignment": "paper"},
        {"consistency": "l1"},
        {"reverse": True},
    ],
)
def test_every_choice_changes_the_term(options: dict[str, Any]) -> None:
    changed = semantic(options, batch().he.flip(3))
    assert torch.isfinite(changed) and changed > 0
    assert not torch.isclose(changed, default_term(), rtol=1e-6)


def test_raw_features_match_by_their_scale_too() -> None:
    """Two places of unlike direction but like length: raw distances pair them by length, unit ones by direction."""
    he = torch.tensor([[[1.0, 0.0], [0.0, 10.0]]])
    ihc = torch.tensor([[[0.0, 1.0], [10.0, 0.0]]])
    raw, unit = (
        build("ot_stainnet", {"semantic": {"normalize": normalize, "consistency": "l1"}}) for normalize in (False, True)
    )
    for system, swapped in ((raw, False), (unit, True)):
        system._rows = lambda image, swapped=swapped: ihc.flip(1) if swapped else ihc
        assert system._consistency(he, ihc, batch().he) == 0


def test_matching_finds_shifted_tissue_where_places_alone_do_not() -> None:
    """The real IHC shows the H&E's own features elsewhere: matched, they are a perfect guide; unmatched, they are not."""
    system, images = build("ot_stainnet"), batch()
    rows = feature_rows(torch.rand(1, 24, 8, 8, generator=torch.Generator().manual_seed(0)))
    moved = rows[:, torch.randperm(64, generator=torch.Generator().manual_seed(1))]
    system._rows = lambda image: rows  # what the virtual picture shows, if it keeps the H&E's places
    assert system._consistency(rows, moved, images.he) < 1e-6
    unmatched = build("ot_stainnet", {"semantic": {"solver": "none"}})
    unmatched._rows = system._rows
    assert unmatched._consistency(rows, moved, images.he) > 0.01


def test_without_weight_the_term_is_left_out_and_pairs_are_not_needed() -> None:
    system = build("ot_stainnet", {"weights": {"semantic": 0.0}})
    assert system.training_step(batch(is_paired=False), START, lambda optimizer, loss: None)["semantic"] == 0
    with pytest.raises(DataError, match="weak pairs"):
        build("ot_stainnet").training_step(batch(is_paired=False), START, Recorder(system))


def test_the_loss_falls_on_one_pair() -> None:
    system, images = build("ot_stainnet", {"model": {"posterior": "mean"}, "weights": {"adversarial": 0.0}}), batch()
    first = one_step(system, images, 0)
    for step in range(1, 6):
        last = one_step(system, images, step)
    for name in ("cycle", "identity", "semantic"):
        assert last[name] < first[name], name


def test_distance_weights_are_options() -> None:
    images = batch()
    only_l1 = build("ot_stainnet", {"lpips_weight": 0.0})
    made = {"he": images.ihc, "ihc": images.ihc.flip(3)}
    distance = only_l1._distance(made, images)
    wanted = (images.he - images.ihc).abs().mean() + (images.ihc - images.ihc.flip(3)).abs().mean()
    torch.testing.assert_close(distance, wanted)
    assert build("ot_stainnet")._distance(made, images) > distance

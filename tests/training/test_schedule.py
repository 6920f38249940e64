import itertools

import pytest
import torch
from torch import nn

from wsistain.config import DataConfig, TrainConfig
from wsistain.training.schedule import Ema, Length, linear_factor, set_learning_rates


def test_the_rate_falls_first_in_the_31st_of_30_and_10_epochs() -> None:
    factors = [linear_factor(e, 30, 10) for e in range(40)]
    assert factors[:30] == [1.0] * 30
    assert factors[30] == pytest.approx(10 / 11)
    assert factors[39] == pytest.approx(1 / 11)
    steps = [a - b for a, b in itertools.pairwise(factors[29:])]
    assert steps == pytest.approx([1 / 11] * 10)


def test_without_decay_the_rate_is_constant() -> None:
    assert {linear_factor(e, 20, 0) for e in range(20)} == {1.0}


def _config(**keys: object) -> TrainConfig:
    return TrainConfig(system="pix2pix", data=DataConfig(root="."), **keys)


def test_an_epoch_is_one_pass_unless_steps_are_given() -> None:
    length = Length.of(_config(epochs=3, decay_epochs=2), steps_per_epoch=7)
    assert length.steps == 35
    assert [length.progress(s).epoch for s in range(35)] == [s // 7 for s in range(35)]
    assert length.progress(0).steps_per_epoch == 7


@pytest.mark.parametrize("steps", [3, 10, 1000])
def test_given_steps_stretch_the_whole_schedule(steps: int) -> None:
    length = Length.of(_config(epochs=30, decay_epochs=10, steps=steps), steps_per_epoch=7)
    epochs = [length.progress(s).epoch for s in range(steps)]
    assert length.steps == steps
    assert epochs == sorted(epochs) and epochs[0] == 0 and epochs[-1] < 40
    assert epochs[-1] >= 40 - 40 / steps - 1
    assert sum(e >= 30 for e in epochs) == pytest.approx(steps / 4, abs=1)


def test_learning_rates_are_scaled_from_the_first_ones_not_from_the_last() -> None:
    layer = nn.Linear(2, 2)
    optimizer = torch.optim.Adam([{"params": [layer.weight], "lr": 0.1}, {"params": [layer.bias], "lr": 0.01}])
    for factor in (1.0, 0.5, 0.5):
        set_learning_rates({"G": optimizer}, factor)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.05, 0.005])


def test_the_mean_follows_its_formula_and_is_applied_for_a_while_only() -> None:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 1.0)
    ema = Ema(layer, 0.9)
    for step, value in ((100, 2.0), (101, 3.0)):  # past the warm-up
        nn.init.constant_(layer.weight, value)
        ema.update(step)
    expected = 0.9 * (0.9 * 1 + 0.1 * 2) + 0.1 * 3
    assert ema.mean["weight"].item() == pytest.approx(expected)
    with ema.applied():
        assert layer.weight.item() == pytest.approx(expected)
    assert layer.weight.item() == 3.0
    with pytest.raises(ValueError, match="ema_decay"):
        Ema(layer, 1.0)


def test_a_short_run_does_not_save_its_random_start() -> None:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 1.0)
    ema = Ema(layer, 0.9999)
    nn.init.constant_(layer.weight, 0.0)
    ema.update(0)
    assert ema.mean["weight"].item() == pytest.approx(0.1)  # min(0.9999, 1 / 10) of the start
    for step in range(1, 200):
        ema.update(step)
    assert ema.mean["weight"].item() < 1e-6

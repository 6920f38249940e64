"""What `benchmarks/entries.py` can train: every ablation of the papers is a configuration, and another one than its system's."""

import importlib.util
import sys
from pathlib import Path

import pytest
import yaml

from wsistain.config import TrainConfig, validate
from wsistain.training.setup import system_options

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "arms.py"


@pytest.fixture(scope="module")
def arms():
    spec = importlib.util.spec_from_file_location("wsistain_benchmark_arms", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def options_of(arms, arm):
    preset = yaml.safe_load(arms.small_preset(arm.system).read_text())
    config = validate(TrainConfig, arms.over(preset, {"options": arm.changes}), arm.name)
    return system_options(config, tiny=False)


def test_every_ablation_is_valid_over_its_small_preset_and_no_two_are_the_same(arms):
    found = arms.all_ablations()
    plain = {system: options_of(arms, arms.find_arm(system)) for system in {a.system for a in found}}
    seen = [(a.system, options_of(arms, a), a.of) for a in found]
    assert len(found) > 30 and {a.system for a in found} == {
        "usigan",
        "asp_dgrank",
        "ot_stainnet",
        "atst_net",
        "miu_diff",
    }
    same = [a.name for a, (system, options, _) in zip(found, seen, strict=True) if options == plain[system]]
    assert same == ["miu_diff-table-1/no-tuning"]  # the small preset does not tune: one of the two rows need not be run
    assert all(one not in seen[:k] for k, one in enumerate(seen))


def test_a_row_says_what_the_paper_changes_and_whose_weights_it_takes(arms):
    row = arms.find_arm("usigan-table-4/no-uot-ctm")
    assert (row.system, row.changes, row.key) == ("usigan", {"weights": {"tcyc": 0}}, "usigan-table-4-no-uot-ctm")
    inner = arms.find_arm("miu_diff-table-1/i-only")
    assert inner.of == "miu_diff-table-1/miu-diff" and inner.changes["sampling"] == {"guidance": "mi", "tune_from": 40}
    assert arms.find_arm("cut") == arms.Arm("cut", "cut")


@pytest.mark.parametrize("name", ["usigan-table-4/x", "usigan-table-2/asp", "nothing", "nothing/x"])
def test_what_is_no_arm_is_named(arms, name):
    with pytest.raises(SystemExit, match=name.split("/")[0]):
        arms.find_arm(name)

from pathlib import Path

import pytest

from wsistain.benchmark.entry import BUDGETS, read_entry
from wsistain.errors import ConfigError


def _form(folder: Path, text: str) -> Path:
    path = folder / "entry.yaml"
    path.write_text("{" + text + "}")
    return path


@pytest.mark.parametrize("budget", sorted(BUDGETS))
def test_a_row_that_took_more_than_its_budget_holds_is_refused_and_one_that_ended_at_it_is_not(tmp_path, budget):
    crops, seconds = BUDGETS[budget]
    own = f"system: X, budget: {budget}, seed: 1"
    read_entry(tmp_path, _form(tmp_path, f"{own}, crops: {crops + 2}, cpu_seconds: {seconds + 9}"))
    with pytest.raises(ConfigError, match=f"holds {crops:,}; say budget: .*other"):
        read_entry(tmp_path, _form(tmp_path, f"{own}, crops: {2 * crops}"))
    with pytest.raises(ConfigError, match=f"seconds of one core, and the {budget} budget holds {seconds:,.0f}"):
        read_entry(tmp_path, _form(tmp_path, f"{own}, crops: {crops}, cpu_seconds: {2 * seconds}"))
    read_entry(tmp_path, _form(tmp_path, f"system: X, budget: other, crops: {2 * crops}, cpu_seconds: {2 * seconds}"))


def test_what_was_trained_is_not_called_untrained_and_nothing_is_named_as_a_baseline(tmp_path):
    with pytest.raises(ConfigError, match="10 crops are given"):
        read_entry(tmp_path, _form(tmp_path, "system: X, budget: none, crops: 10"))
    read_entry(tmp_path, _form(tmp_path, "system: X, budget: none"))
    with pytest.raises(ConfigError, match="system identity is the name of a baseline"):
        read_entry(tmp_path, _form(tmp_path, "system: identity"))
    (tmp_path / "mean_colour").mkdir()
    with pytest.raises(ConfigError, match="mean_colour is the name of a baseline"):
        read_entry(tmp_path / "mean_colour", None)

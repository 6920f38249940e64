import json
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from wsistain.config import DataConfig, TrainConfig
from wsistain.errors import OutputError
from wsistain.networks.replay import ReplayPool
from wsistain.training import checkpoint
from wsistain.training.checkpoint import check_same_run, find_checkpoints, load_checkpoint, read_state, save_checkpoint
from wsistain.training.processes import make_update, start_processes
from wsistain.training.schedule import Ema


class Toy(nn.Module):
    """A trained part, a frozen part, running statistics and a pool."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        self.base = nn.Linear(3, 4).requires_grad_(False)
        self.pool = ReplayPool(3)
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "G": torch.optim.Adam(self.body.parameters(), lr=0.01, betas=(0.5, 0.999)),
            "S": torch.optim.SGD(self.body.parameters(), lr=0.01, momentum=0.9),
        }

    def step(self, accelerator: Accelerator) -> Tensor:
        x = torch.randn(5, 3)
        for optimizer in self.optimizers.values():
            loss = (self.body(x) - self.base(x)).square().mean()
            make_update(accelerator)(optimizer, loss)
        self.pool.exchange(torch.randn(2, 1, 2, 2))
        return loss.detach()


@pytest.fixture
def accelerator() -> Accelerator:
    return start_processes(TrainConfig(system="x", data=DataConfig(root="."), device="cpu"))


def _save(folder: Path, step: int, toy: Toy, accelerator: Accelerator, ema: Ema | None = None) -> None:
    save_checkpoint(folder, step, toy, toy.optimizers, accelerator, ema=ema, run={"a": 1})


def _tensors(toy: Toy) -> dict[str, Tensor]:
    return {n: t for n, t in toy.state_dict().items() if not n.startswith("base")}


def test_a_system_goes_on_as_if_it_had_never_stopped(tmp_path: Path, accelerator: Accelerator) -> None:
    torch.manual_seed(0)
    toy = Toy()
    ema = Ema(toy.body, 0.9)
    for step in range(3):
        toy.step(accelerator)
        ema.update(step)
    _save(tmp_path, 3, toy, accelerator, ema)
    other = Toy()
    other.base.load_state_dict(toy.base.state_dict())
    other_ema = Ema(other.body, 0.9)
    (found,) = find_checkpoints(tmp_path)
    done = load_checkpoint(found, other, other.optimizers, accelerator, ema=other_ema, run={"a": 1})
    assert done == 3
    for module, mean in ((toy, ema), (other, other_ema)):
        torch.manual_seed(7)
        for step in range(3, 6):
            module.step(accelerator)
            mean.update(step)
    assert all(torch.equal(_tensors(toy)[n], t) for n, t in _tensors(other).items())
    assert all(torch.equal(ema.mean[n], t) for n, t in other_ema.mean.items())
    for name, optimizer in toy.optimizers.items():
        assert optimizer.state_dict()["param_groups"] == other.optimizers[name].state_dict()["param_groups"]


def test_nothing_is_pickled_and_nothing_frozen_is_stored(tmp_path: Path, accelerator: Accelerator) -> None:
    _save(tmp_path, 1, Toy(), accelerator)
    (found,) = find_checkpoints(tmp_path)
    assert {p.name for p in found.iterdir()} == {
        "state.json",
        "parameters.safetensors",
        "optimizers.safetensors",
        "process_0.safetensors",
    }
    assert b"base." not in (found / "parameters.safetensors").read_bytes()
    json.loads((found / "state.json").read_text())


def test_the_last_two_are_kept_and_half_written_ones_are_not_found(tmp_path: Path, accelerator: Accelerator) -> None:
    toy = Toy()
    for step in (2, 4, 6):
        _save(tmp_path, step, toy, accelerator)
    (tmp_path / "step_00000008.part").mkdir()
    assert [p.name for p in find_checkpoints(tmp_path)] == ["step_00000004", "step_00000006"]
    _save(tmp_path, 6, toy, accelerator)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_00000004", "step_00000006"]
    assert find_checkpoints(tmp_path / "absent") == []


def test_a_checkpoint_interrupted_while_it_is_written_is_as_if_it_were_not(
    tmp_path: Path, accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = Toy()
    _save(tmp_path, 2, toy, accelerator)
    calls = []

    def fail(tensors: dict[str, Tensor], path: Path) -> None:
        calls.append(path)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "_save", fail)
    with pytest.raises(KeyboardInterrupt):
        _save(tmp_path, 4, toy, accelerator)
    assert calls and [p.name for p in find_checkpoints(tmp_path)] == ["step_00000002"]


def test_a_damaged_or_foreign_checkpoint_is_refused(tmp_path: Path, accelerator: Accelerator) -> None:
    toy = Toy()
    _save(tmp_path, 2, toy, accelerator)
    (found,) = find_checkpoints(tmp_path)
    with pytest.raises(OutputError, match="does not fit the system"):
        load_checkpoint(found, nn.Linear(3, 3), {}, accelerator, ema=None, run={"a": 1})
    with pytest.raises(OutputError, match="a was 1 and is 2"):
        load_checkpoint(found, toy, toy.optimizers, accelerator, ema=None, run={"a": 2})
    data = (found / "parameters.safetensors").read_bytes()
    (found / "parameters.safetensors").write_bytes(data[:-5])
    with pytest.raises(OutputError, match="delete it to resume from the one before"):
        load_checkpoint(found, toy, toy.optimizers, accelerator, ema=None, run={"a": 1})
    (found / "state.json").write_text("{")
    with pytest.raises(OutputError, match="cannot be read"):
        read_state(found)
    (found / "state.json").write_text('{"format": 99}')
    with pytest.raises(OutputError, match="not a checkpoint of format"):
        read_state(found)


def test_a_run_with_other_settings_is_refused_by_name(tmp_path: Path) -> None:
    check_same_run({"a": 1, "b": {"c": (1, 2)}}, {"b": {"c": [1, 2]}, "a": 1}, tmp_path)
    with pytest.raises(OutputError, match=r"b\.c was 2 and is 3; .*--overwrite"):
        check_same_run({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 3}}, tmp_path)
    with pytest.raises(
        OutputError, match="d was 'absent' and is None; resume with the release of wsistain that began it"
    ):
        check_same_run({"a": 1}, {"a": 1, "d": None}, tmp_path)

import pytest
import torch

from wsistain.errors import ConfigError
from wsistain.generators import device
from wsistain.generators.device import Device, find_device, processor_name


def test_a_device_has_the_kind_that_torch_knows_and_its_own_name():
    found = find_device("cpu")
    assert (found.torch, found.kind, found.name) == ("cpu", "cpu", processor_name())
    assert Device("cuda:1", "H200").kind == "cuda"


@pytest.mark.parametrize("is_network", [True, False])
def test_a_gpu_that_is_not_there_is_refused_whether_or_not_it_is_needed(monkeypatch, is_network):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"device cuda is not here .*try --device cpu"):
        find_device("cuda", is_network=is_network)
    assert find_device("auto", is_network=is_network).torch == "cpu"


def test_what_needs_no_network_stays_on_the_processor(monkeypatch):
    monkeypatch.setattr("wsistain.generators.network.choose_device", lambda wanted: torch.device("cuda"))
    assert find_device("cuda", is_network=False) == Device("cpu", processor_name())


def test_a_machine_that_does_not_name_its_processor_has_an_architecture(monkeypatch):
    monkeypatch.setattr(device.Path, "read_text", lambda *_, **__: "flags : fpu")
    assert processor_name()

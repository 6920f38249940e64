"""What stains: a processor or a GPU, by the kind that torch knows it under and by its own name."""

import platform
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Device:
    """A device that is there.

    torch : what torch calls it, e.g. "cpu", "cuda", "cuda:1".
    name  : the processor's or the GPU's own name.
    """

    torch: str
    name: str

    @property
    def kind(self) -> str:
        """ "cpu", "cuda" or "mps"."""
        return self.torch.partition(":")[0]


def find_device(wanted: str, *, is_network: bool = True) -> Device:
    """The device of this process that `wanted` ("auto", "cpu", "cuda", "cuda:N") means.

    is_network : whether a network is to run; what needs none stays on the processor.

    Raises ConfigError where it is not there, whether or not it is needed.
    """
    if wanted == "cpu" or (wanted == "auto" and not is_network):
        return Device("cpu", processor_name())
    import torch

    from wsistain.generators.network import choose_device

    chosen = choose_device(wanted)
    if chosen.type == "cuda" and is_network:
        return Device(str(chosen), torch.cuda.get_device_name(chosen))
    return Device(str(chosen) if is_network else "cpu", processor_name())


def processor_name() -> str:
    """The name of this machine's processor; its architecture where nothing tells more."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return model or platform.processor() or platform.machine()

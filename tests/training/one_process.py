"""One of several training processes, started by a test: trains and keeps what its own parameters are in the end."""

import sys
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from wsistain.config import TrainConfig, load_config
from wsistain.training import loop


def main(config: str, output: str, own: str) -> None:
    original = loop.save_checkpoint

    def keep(folder: Path, step: int, system: Any, *rest: Any, **keys: Any) -> None:
        original(folder, step, system, *rest, **keys)
        Path(own).mkdir(exist_ok=True)
        tensors = {n: p.detach().contiguous() for n, p in system.named_parameters()}
        save_file(tensors, str(Path(own) / "parameters.safetensors"))

    loop.save_checkpoint = keep
    loop.train(load_config(TrainConfig, Path(config)), Path(output), tiny=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

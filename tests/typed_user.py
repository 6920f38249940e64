"""What a user's type checker knows of wsistain: checked by mypy (`files` in pyproject.toml), never run."""

from pathlib import Path
from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

import wsistain
from wsistain.config import TrainConfig
from wsistain.generators.spec import Generator
from wsistain.pipeline.report import RunReport
from wsistain.slide.base import Slide
from wsistain.viewing.notebook import View


def use(config: TrainConfig, tiles: NDArray[np.uint8]) -> None:
    """Every public name has the type that its documentation promises; `Any` would fail here."""
    assert_type(wsistain.open_slide("slide.svs"), Slide)
    assert_type(wsistain.run("slide.svs", ["ER"], Path("out")), list[RunReport])
    generator = wsistain.load_generator("identity", "ER")
    assert_type(generator, Generator)
    assert_type(generator.stain(tiles, [(0, 0)]), NDArray[np.uint8])
    assert_type(wsistain.train(config, Path("run")), Path)
    assert_type(wsistain.evaluate(["identity"], Path("data")), dict[str, Any])
    assert_type(wsistain.view("slide.ER.ome.zarr", slide="slide.svs"), View)
    assert_type(wsistain.WsistainError("a sentence"), wsistain.WsistainError)
    assert_type(wsistain.__version__, str)

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from tests.data.made_patches import make_mist
from wsistain.config import DataConfig
from wsistain.data.layouts import list_patches
from wsistain.training.samples import evaluating, from_pixels, sheet_rows, stain_rows, to_pixels, write_sheet


def test_pixels_survive_the_way_into_the_network_and_back() -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(1, 16, 16, 3).contiguous()
    unit = from_pixels(levels)
    assert unit.shape == (1, 3, 16, 16) and unit.is_contiguous()
    assert (unit.min().item(), unit.max().item()) == (-1.0, 1.0)
    np.testing.assert_array_equal(to_pixels(unit), levels.numpy())


def test_a_sheet_shows_every_column_there_is(tmp_path: Path) -> None:
    cfg = DataConfig(root=str(make_mist(tmp_path / "data", n_val=3)), crop_px=32)
    for truth, n_columns in ((True, 4), (False, 3)):
        rows = sheet_rows(list_patches("mist", tmp_path / "data", "ER", "val" if truth else "train"), cfg)
        virtual = stain_rows(nn.Identity(), rows, torch.device("cpu"))
        for row, fake in zip(rows, virtual, strict=True):
            np.testing.assert_array_equal(fake, row.he)
        write_sheet(tmp_path / "sheet.jpg", rows, virtual)
        with Image.open(tmp_path / "sheet.jpg") as sheet:
            assert sheet.width == n_columns * 38 - 6
            assert sheet.height > len(rows) * 32
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".part"] == []


def test_evaluation_mode_is_undone_part_by_part() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5))
    network.train()
    network[0].eval()
    with evaluating(network):
        assert not network[1].training
        assert not network(torch.ones(1, 3, 2, 2)).requires_grad
    assert network.training and network[1].training and not network[0].training

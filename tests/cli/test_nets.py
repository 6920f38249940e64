"""`wsistain nets` tells where published networks are and which are not what their name says."""

from pathlib import Path

import torch
from typer.testing import CliRunner

from wsistain.cli import app
from wsistain.published.places import NET_FILES

RUN = CliRunner()


def test_every_network_is_listed_with_the_command_that_gets_it_or_what_it_is(tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.zeros(1)}, tmp_path / "resnet50-0676ba61.pth")
    (tmp_path / "inception_v3_google-0cc3c7bd.safetensors").write_bytes(b"converted")
    lines = RUN.invoke(app, ["nets", "list", "--nets", str(tmp_path)]).output.splitlines()
    told = {line.partition(":")[0]: line for line in lines}
    assert list(told) == list(NET_FILES)
    assert "is not the published resnet50-0676ba61.pth" in told["resnet50"]
    assert told["inception_torchvision"].endswith("(cannot be told to be the published one)")
    assert told["stlpips_alex"].endswith("not here; pip install --no-deps stlpips-pytorch && wsistain nets import")
    assert "curl -L" in told["vgg16"]


def test_import_says_what_was_written_or_what_to_install(tmp_path: Path) -> None:
    result = RUN.invoke(app, ["nets", "import", "--nets", str(tmp_path)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        assert "pip install --no-deps lpips" in str(result.exception)  # no package is installed here
        assert not list(tmp_path.iterdir())
        return
    written = {line.partition(":")[0] for line in result.output.splitlines()}
    assert written and written == {p.stem for p in tmp_path.iterdir()}

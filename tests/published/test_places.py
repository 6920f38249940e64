"""One place for every published network, and one sentence for what is not there."""

from pathlib import Path

import pytest
import torch

from wsistain.errors import ConfigError, WeightsError
from wsistain.published.places import NET_FILES, find_hub_folder, find_net, home_folder, model_folders, require_net


@pytest.fixture(autouse=True)
def _nothing_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WSISTAIN_MODELS", "WSISTAIN_NETS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WSISTAIN_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("wsistain.published.places.find_spec", lambda _: None)  # as if no package were installed
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


@pytest.mark.parametrize("name", NET_FILES)
def test_the_users_folder_comes_before_ours_and_ours_before_other_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    file_name = NET_FILES[name].file_name
    assert find_net(name) is None
    monkeypatch.setenv("WSISTAIN_MODELS", str(tmp_path / "mine"))
    for folder in (tmp_path / "torch" / "checkpoints", tmp_path / "home" / "nets", tmp_path / "mine"):
        path = put(folder / file_name)
        assert find_net(name) == require_net(name) == path
    assert find_net(name, put(tmp_path / "given" / "other.pth").parent) is None  # a given folder is looked at alone


def test_what_is_missing_is_named_with_the_command_that_puts_it_where_it_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(WeightsError, match=rf"curl -L .*{tmp_path / 'home' / 'nets'}.* https://.*set WSISTAIN_MODELS"):
        require_net("lpips_alex")
    monkeypatch.setenv("WSISTAIN_MODELS", str(tmp_path / "with space"))
    with pytest.raises(WeightsError, match=r"-o '.*with space/vgg16"):
        require_net("vgg16")


def test_files_of_the_lpips_package_and_safetensors_are_found_by_their_own_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WSISTAIN_MODELS", str(tmp_path))
    assert find_net("lpips_vgg", tmp_path) is None
    assert put(tmp_path / "lpips" / "weights" / "v0.1" / "vgg.pth") == require_net("lpips_vgg")
    assert put(tmp_path / "resnet50-0676ba61.safetensors") == require_net("resnet50")


def test_a_hub_model_is_found_by_its_short_name_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WeightsError, match="'hf download owner/net'"):
        find_hub_folder("owner/net", "config.json")
    assert find_hub_folder("owner/net", put(home_folder() / "nets" / "net" / "config.json").name).name == "net"
    monkeypatch.setenv("WSISTAIN_MODELS", str(tmp_path))
    assert (
        find_hub_folder("owner/net", put(tmp_path / "owner" / "net" / "config.json").name) == tmp_path / "owner" / "net"
    )


def test_the_variables_old_name_is_refused_and_not_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WSISTAIN_NETS", str(tmp_path))
    with pytest.raises(ConfigError, match="WSISTAIN_NETS is now WSISTAIN_MODELS"):
        find_net("vgg16")
    monkeypatch.setenv("WSISTAIN_MODELS", str(tmp_path))  # both, alike: nothing is passed over
    assert model_folders()[0] == tmp_path

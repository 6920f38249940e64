"""The one reader of foreign tensors and the one matcher: what fits is taken, everything else is told in a sentence."""

import argparse
import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from wsistain.errors import WeightsError
from wsistain.published.tensors import (
    check_finite,
    check_fit,
    load_into,
    read_content,
    read_published,
    read_torchscript,
)

TENSORS = {"a.weight": torch.tensor([1.0, 2.0]), "b.bias": torch.zeros(3), "n": torch.tensor(7)}


class Evil:
    def __reduce__(self):
        return (print, ("code ran",))


def same(found: dict[str, torch.Tensor]) -> bool:
    return found.keys() == TENSORS.keys() and all(torch.equal(t, TENSORS[n]) for n, t in found.items())


@pytest.mark.parametrize("suffix", [".pth", ".bin", ".ckpt", ".pt"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda t: t,
        lambda t: {"state_dict": t, "epoch": 3, "arch": "x"},
        lambda t: {"state_dict": {f"module.{n}": v for n, v in t.items()}},
        lambda t: {"params": {}, "params_ema": t},
        lambda t: {"model": {"netG": {f"module.netG.{n}": v for n, v in t.items()}}},
        lambda t: {n: v.half() if v.is_floating_point() else v for n, v in t.items()},
    ],
)
def test_wrappers_prefixes_and_half_precision_are_taken_off(tmp_path: Path, suffix: str, wrap) -> None:
    torch.save(wrap(TENSORS), tmp_path / f"net{suffix}")
    found = read_published(tmp_path / f"net{suffix}")
    assert same(found) and found["a.weight"].dtype == torch.float32 and found["n"].dtype == torch.int64


def test_arguments_and_numbers_beside_the_tensors_are_left_aside(tmp_path: Path) -> None:
    """Checkpoints of a training, such as PathoDuet's, hold a Namespace and numpy's numbers."""
    beside = {
        "args": argparse.Namespace(lr=0.1, arch="vit", out=[1, 2]),
        "best": np.float64(71.5),
        "epoch": np.int64(3),
        "curve": np.arange(3.0),
    }
    path = tmp_path / "checkpoint_HE.pth"
    torch.save({"state_dict": {"module.a": torch.ones(2)}, **beside}, path)
    assert torch.equal(read_published(path)["a"], torch.ones(2))


@pytest.mark.parametrize("name", ["net.safetensors", "net.pth", "net.bin"])
def test_the_content_decides_and_not_the_name(tmp_path: Path, name: str) -> None:
    save_file(TENSORS, tmp_path / name)
    assert same(read_published(tmp_path / name))


def test_a_prefix_that_only_some_names_have_is_part_of_their_names(tmp_path: Path) -> None:
    torch.save({"module.a": torch.ones(1), "a": torch.zeros(1)}, tmp_path / "net.pth")
    assert read_published(tmp_path / "net.pth").keys() == {"module.a", "a"}


def _saved(content: object, **options: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def _zip(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, b"x" * 100)
    return buffer.getvalue()


def _script() -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), buffer)
    return buffer.getvalue()


REFUSED = {
    "empty": (lambda: b"", "it is empty"),
    "text": (lambda: b"not a checkpoint", "cannot be read as weights: damaged"),
    "page": (lambda: b"\n<!DOCTYPE html><html><title>Google Drive - Virus scan warning", "it is a web page"),
    "page in capitals": (lambda: b"<HTML>Quota exceeded", "it is a web page"),
    "pointer": (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "pointer of Git LFS"),
    "cut off": (lambda: _saved(TENSORS)[:700], "cannot be read as weights: damaged, cut off"),
    "old and cut off": (lambda: _saved(TENSORS, _use_new_zipfile_serialization=False)[:-4], "damaged, cut off"),
    "archive of checkpoints": (lambda: _zip("run/net_G.pth"), r"archive of other files \(run/net_G.pth\); unpack it"),
    "code": (lambda: _saved({"a": Evil()}), "without running code: it holds .*print"),
    "old code": (lambda: _saved({"a": Evil()}, _use_new_zipfile_serialization=False), "without running code"),
    "plain pickle of code": (lambda: pickle.dumps({"a": Evil()}, protocol=2), "without running code"),
    "settings": (lambda: _saved({"a": TENSORS["n"], "opt": argparse.Namespace()}), r"more than tensors \(opt\)"),
    "a whole module": (lambda: _saved(nn.Linear(2, 2)), "without running code: it holds torch.nn"),
    "a list": (lambda: _saved([1, 2]), "holds no named tensors"),
    "nothing": (lambda: _saved({}), "holds no named tensors"),
    "more than tensors": (lambda: _saved({**TENSORS, "epoch": 3}), r"more than tensors \(epoch\)"),
    "sparse": (lambda: _saved({"a": torch.eye(3).to_sparse()}), "more than tensors"),
    "script": (_script, "it is a TorchScript program"),
    "not finite": (lambda: _saved({"a": torch.tensor([1.0, float("nan")])}), r"1 of 1 tensors .* not finite \(a\)"),
    "infinite in half": (lambda: _saved({"a": torch.tensor([float("inf")]).half()}), "not finite"),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
@pytest.mark.parametrize("case", REFUSED)
def test_everything_else_is_refused_in_a_sentence_and_no_code_runs(tmp_path: Path, capsys, case: str) -> None:
    make, words = REFUSED[case]
    (tmp_path / "net_G.pth").write_bytes(make())
    with pytest.raises(WeightsError, match=words) as told:
        read_published(tmp_path / "net_G.pth")
    assert "code ran" not in capsys.readouterr().out
    assert "weights_only" not in str(told.value)  # torch's advice would run the file


def test_bytes_that_were_changed_never_end_in_another_error(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    whole = [_saved(TENSORS), _saved(TENSORS, _use_new_zipfile_serialization=False)]
    path = tmp_path / "net.pth"
    refused = 0
    for trial in range(150):
        data = bytearray(whole[trial % 2])
        for place in random.integers(0, len(data), 4):
            data[place] = random.integers(256)
        path.write_bytes(data)
        try:
            read_published(path)
        except WeightsError:
            refused += 1
    assert refused > 20


def test_a_torchscript_archive_is_read_where_it_is_asked_for(tmp_path: Path) -> None:
    with pytest.warns((DeprecationWarning, FutureWarning)):
        (tmp_path / "clip.pt").write_bytes(_script())
    assert read_torchscript(tmp_path / "clip.pt").keys() == {"weight", "bias"}
    (tmp_path / "clip.pt").write_bytes(_zip("constants.pkl"))
    with pytest.raises(WeightsError, match="not a readable TorchScript"):
        read_torchscript(tmp_path / "clip.pt")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"there is no file of weights at .*absent"):
        read_published(tmp_path / "absent.pth")


FAULTS = [
    ({"weight": torch.zeros(2, 2)}, "missing bias"),
    ({"weight": torch.zeros(2, 2), "bias": torch.zeros(2), "odd": torch.zeros(1)}, "surplus odd"),
    ({"weight": torch.zeros(2, 3), "bias": torch.zeros(2)}, r"weight is \(2, 3\), wanted \(2, 2\)"),
    ({"b": torch.zeros(1)}, "here does not fit the network: missing bias, weight; surplus b$"),
]


@pytest.mark.parametrize(("given", "words"), FAULTS)
def test_what_does_not_fit_is_named_and_changes_nothing(given: dict[str, torch.Tensor], words: str) -> None:
    network = nn.Linear(2, 2)
    before = {n: t.clone() for n, t in network.state_dict().items()}
    with pytest.raises(WeightsError, match=words):
        load_into(network, given, "here")
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())


def test_batch_counters_may_lack_unless_said_otherwise_and_parts_may_be_left_aside() -> None:
    network, source = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
    state = {n: t + 1 for n, t in source.state_dict().items() if n != "num_batches_tracked"}
    load_into(nn.Sequential(network), {f"0.{n}": t for n, t in state.items()} | {"head.w": torch.ones(1)}, "here",
              ignore=("head.",))  # fmt: skip
    assert all(torch.equal(t, network.state_dict()[n]) for n, t in state.items())
    with pytest.raises(WeightsError, match="missing num_batches_tracked"):
        load_into(network, state, "here", may_lack=())


def test_only_the_first_of_many_faults_are_listed() -> None:
    with pytest.raises(WeightsError, match=r"missing n0, n1, n2 and 7 more$"):
        check_fit({f"n{k}": torch.zeros(1) for k in range(10)}, {}, "here")


def test_whole_numbers_are_always_finite() -> None:
    check_finite({"n": torch.tensor(3), "f": torch.tensor(1e38)}, "here")


WEIGHT = torch.randn(4, 3, 3, 3)


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (WEIGHT.to_sparse(), "sparse"),
        (WEIGHT.to(torch.complex64), "complex"),
        (torch.zeros(1).expand(3, 10**9), "more memory than it holds"),
        (torch.zeros(1, dtype=torch.float64).expand(2**20, 2**10), "more memory than it holds"),
        (torch.empty(10**10, device="meta"), "meta device"),
    ],
)
def test_tensors_that_are_not_plain_are_refused(tmp_path, tensor, words):
    torch.save({"netG": {"model.1.weight": tensor, "model.1.bias": torch.zeros(4)}}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=words):
        read_content(tmp_path / "x.pth")


def test_views_of_one_storage_are_plain(tmp_path):
    torch.save({"a": WEIGHT, "b": WEIGHT[:2], "c": [WEIGHT.t() if WEIGHT.dim() == 2 else WEIGHT]}, tmp_path / "x.pth")
    assert set(read_content(tmp_path / "x.pth")) == {"a", "b", "c"}


def test_a_file_that_unpacks_to_gigabytes_is_refused_before_it_is_read(tmp_path):
    plain = io.BytesIO()
    torch.save({"w": torch.zeros(10**6)}, plain)
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_DEFLATED) as new:
        for item in old.infolist():
            new.writestr(item.filename, old.read(item))
    with pytest.raises(WeightsError, match="packed tighter"):
        read_content(tmp_path / "x.pth")

"""Published checkpoints become weights files that stain as the authors' own networks do."""

import pytest
import torch

from tests.authors_checkpoints import resnet, save, unet
from tests.networks.test_resnet import authors_state
from wsistain.errors import OutputError, WeightsError
from wsistain.networks.resnet import ResnetGenerator
from wsistain.published.tensors import read_published
from wsistain.weights import importing
from wsistain.weights.file import load_network, read_header
from wsistain.weights.importing import import_checkpoint

PICTURE = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(9)) * 2 - 1


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("WSISTAIN_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "weights"


def same(network, path):
    with torch.no_grad():
        loaded, header = load_network(path)
        torch.testing.assert_close(loaded(PICTURE), network(PICTURE), atol=2e-5, rtol=1e-4)
    return header


CASES = {
    "cut": {"n_blocks": 9, "spectral": False, "blur": True},
    "asp": {"n_blocks": 6, "spectral": True, "blur": True},
    "usigan": {"n_blocks": 6, "spectral": True, "blur": True},
    "cyclegan": {"n_blocks": 9, "spectral": False, "blur": False},
    "pyramidp2p": {"n_blocks": 9, "spectral": False, "blur": False, "batch": True, "dropout": True},
}


def theirs_halo(system):
    case = CASES[system]
    return ResnetGenerator(case["n_blocks"], 2, blur=case["blur"]).facts.halo_px


@pytest.mark.parametrize("system", CASES)
@pytest.mark.parametrize(("prefix", "wrapper"), [("", None), ("module.", None), ("module.", "state_dict")])
def test_imported_resnets_stain_as_the_authors_network_does(tmp_path, system, prefix, wrapper):
    theirs = resnet(ngf=4, **CASES[system])
    file = save(theirs, tmp_path / "latest_net_G.pth", prefix=prefix, wrapper=wrapper)
    report = import_checkpoint(file, system, marker="er", mpp=0.5)
    header = same(theirs, report.path)
    assert (header.system, header.markers, header.mpp, header.halo_px) == (system, ["ER"], 0.5, theirs_halo(system))
    assert header.norm == ("frozen" if system == "pyramidp2p" else "instance")
    n_kernels = 2 * CASES[system]["n_blocks"] + 6
    assert report.n_folded == (n_kernels if CASES[system]["spectral"] else 0)
    assert report.n_tensors + len(report.surplus) == len(theirs.state_dict())
    assert len(report.surplus) == (4 if CASES[system]["blur"] else 0)


def test_imported_unets_stain_as_the_authors_network_does(tmp_path):
    theirs = unet(6, 4)
    report = import_checkpoint(save(theirs, tmp_path / "G.pth"), "pix2pix", marker="ER", mpp=0.5)
    header = same(theirs, report.path)
    assert header.options == {"n_levels": 6, "ngf": 4, "dropout": 0.5}
    assert header.size_multiple == 64
    assert report.n_tensors == len(theirs.state_dict())


def test_the_authors_own_tensors_give_the_authors_own_picture(tmp_path, vectors, monkeypatch):
    monkeypatch.delitem(importing.BUILT, "ngf")  # the recorded network is narrow
    file, state = authors_state(vectors / "cut_resnet6_generator.npz")
    torch.save(state, tmp_path / "5_net_G.pth")
    report = import_checkpoint(tmp_path / "5_net_G.pth", "asp-er")
    assert len(report.surplus) == sum(name.endswith("filt") for name in state)
    network, header = load_network(report.path)
    with torch.no_grad():
        out = network(torch.from_numpy(file["x"]))
    torch.testing.assert_close(out, torch.from_numpy(file["y"]), atol=1e-4, rtol=0)
    assert (header.system, header.markers, header.mpp, header.tile_px) == ("asp", ["ER"], 0.4661, 1024)
    assert "MIST" in header.training_data
    assert report.sha256 in header.note


def test_running_statistics_of_old_instance_norms_are_left_out(tmp_path):
    theirs = resnet(9, 4, spectral=False, blur=False)
    state = theirs.state_dict()
    state.update({"model.2.running_mean": torch.zeros(4), "model.2.num_batches_tracked": torch.tensor(3)})
    torch.save(state, tmp_path / "G.pth")
    report = import_checkpoint(tmp_path / "G.pth", "cyclegan", marker="ER", mpp=0.5)
    assert set(report.surplus) == {"model.2.running_mean", "model.2.num_batches_tracked"}
    same(theirs, report.path)


def test_half_precision_checkpoints_become_float32(tmp_path):
    theirs = resnet(6, 4, spectral=False, blur=True).half()
    report = import_checkpoint(save(theirs, tmp_path / "G.pth"), "cut", marker="ER", mpp=0.5)
    assert {p.dtype for p in load_network(report.path)[0].parameters()} == {torch.float32}


def broken(change):
    state = resnet(6, 4, spectral=True, blur=True).state_dict()
    change(state)
    return state


DAMAGES = {
    "missing model.27.bias": lambda s: s.pop("model.27.bias"),
    "surplus model.99.weight": lambda s: s.update({"model.99.weight": torch.zeros(1)}),
    "shapes differ": lambda s: s.update({"model.4.bias": torch.zeros(3)}),
    "blur kernel model.7.filt": lambda s: s["model.7.filt"].mul_(2),
    "does not look like a ResNet": lambda s: [s.pop(k) for k in list(s) if k.startswith("model.1.")],
    "more than tensors": lambda s: s.update({"epoch": 3}),
}


@pytest.mark.parametrize("words", DAMAGES)
def test_what_does_not_match_is_named_and_nothing_is_written(tmp_path, home, words):
    torch.save(broken(DAMAGES[words]), tmp_path / "G.pth")
    with pytest.raises(WeightsError, match=words):
        import_checkpoint(tmp_path / "G.pth", "asp-er")
    assert not home.exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 torn zip"])
def test_files_that_are_no_checkpoints_are_refused(tmp_path, content):
    (tmp_path / "G.pth").write_bytes(content)
    with pytest.raises(WeightsError, match="cannot be read"):
        read_published(tmp_path / "G.pth")


class Evil:
    def __reduce__(self):
        return (print, ("code ran",))


def test_a_pickle_with_code_is_refused_without_running_it(tmp_path, capsys):
    torch.save({"model.1.weight": Evil()}, tmp_path / "G.pth")
    with pytest.raises(WeightsError, match="without running code"):
        read_published(tmp_path / "G.pth")
    assert "code ran" not in capsys.readouterr().out


def test_a_generator_of_another_kind_is_refused(tmp_path):
    cut = save(resnet(9, 4, spectral=False, blur=True), tmp_path / "cut.pth")
    with pytest.raises(WeightsError, match=r"another kind than CycleGAN's: .*blur True"):
        import_checkpoint(cut, "cyclegan", marker="ER", mpp=0.5)
    with pytest.raises(WeightsError, match="does not look like a U-Net"):
        import_checkpoint(cut, "pix2pix", marker="ER", mpp=0.5)
    with pytest.raises(WeightsError, match="does not look like a ResNet"):
        import_checkpoint(save(unet(6, 4), tmp_path / "unet.pth"), "cut", marker="ER", mpp=0.5)


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("asp-e", {}, "asp-er"),
        ("cut", {"mpp": 0.5}, "pass --marker"),
        ("cut", {"marker": "ER"}, "pass --mpp"),
        ("asp-her2-bci", {}, "pass --mpp"),
    ],
)
def test_facts_that_are_not_known_are_asked_for(tmp_path, name, given, words):
    file = save(resnet(6, 4, spectral=True, blur=True), tmp_path / "G.pth")
    with pytest.raises(WeightsError, match=words):
        import_checkpoint(file, name, **given)


def test_installed_weights_are_not_replaced_unasked_and_given_facts_win(tmp_path):
    file = save(resnet(6, 64, spectral=True, blur=True), tmp_path / "G.pth")
    first = import_checkpoint(file, "asp-er")
    with pytest.raises(OutputError, match="--overwrite"):
        import_checkpoint(file, "asp-er")
    again = import_checkpoint(file, "asp-er", mpp=0.25, tile_px=512, licence="mine", overwrite=True)
    assert again.path == first.path
    header = read_header(again.path)
    assert (header.mpp, header.tile_px, header.licence) == (0.25, 512, "mine")


def test_a_small_file_that_describes_a_giant_is_refused_in_little_memory(tmp_path):
    import resource

    nested, deep = {"model.model.0.weight": torch.zeros(8192, 3, 2, 2)}, "model.model"
    for _ in range(8):
        deep += ".1.model" if deep == "model.model" else ".3.model"
        nested[f"{deep}.1.weight"] = torch.zeros(1)
    wide = {"model.1.weight": torch.zeros(4096, 3, 7, 7)}
    wide |= {f"model.{k}.conv_block.1.weight": torch.zeros(1) for k in range(10, 60)}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for kind, tensors in (
        ("pix2pix", nested),
        ("cut", wide),
        ("cyclegan", wide),
        ("pix2pix", {**nested, f"{'model.' * 900}weight": torch.zeros(1)}),
    ):
        torch.save(tensors, tmp_path / "x.pth")
        with pytest.raises(WeightsError):
            import_checkpoint(tmp_path / "x.pth", kind, marker="ER", mpp=0.5, output=tmp_path / "x.safetensors")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000  # kB
    assert not (tmp_path / "x.safetensors").exists()


def test_a_batch_norm_without_dropout_is_no_dropout(tmp_path):
    theirs = resnet(9, 4, spectral=False, blur=False, batch=True, dropout=False)
    report = import_checkpoint(save(theirs, tmp_path / "G.pth"), "pyramidp2p", marker="HER2", mpp=0.46)
    assert same(theirs, report.path).options["dropout"] == 0.0


@pytest.mark.parametrize(
    ("name", "blocks", "ngf", "words"),
    [
        ("asp-er", 9, 4, "of 9 residual blocks, and asp-er has 6: it is another network"),
        ("asp-er", 6, 32, "of 32 channels in its first layer, and asp-er has 64"),
        ("usigan-pr", 6, 4, "of 4 channels in its first layer, and usigan-pr has 64"),
    ],
)
def test_a_generator_of_another_depth_or_width_is_not_the_published_one(tmp_path, home, name, blocks, ngf, words):
    file = save(resnet(blocks, ngf, spectral=False, blur=True), tmp_path / "G.pth")
    with pytest.raises(WeightsError, match=words):
        import_checkpoint(file, name)
    assert not home.exists()

"""`wsistain weights` from the command line, against a folder laid out as the authors' hub repository."""

import pytest
import torch

from tests.authors_checkpoints import resnet, save
from wsistain.cli import main
from wsistain.errors import WeightsError
from wsistain.generators.load import find_generator, load_generator
from wsistain.published.catalogue import CATALOGUE, find_published
from wsistain.published.fetch import choose_file
from wsistain.weights import importing


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("WSISTAIN_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Generators, discriminators and patch networks of two data sets and four markers.

    A sixteenth of the published width, which is not looked at here; test_importing does.
    """
    monkeypatch.delitem(importing.BUILT, "ngf")
    folder = tmp_path / "hub"
    (folder / "README.md").parent.mkdir()
    (folder / "README.md").write_text("weights", encoding="utf-8")
    theirs = resnet(6, 4, spectral=True, blur=True)
    for data in ("MIST", "IHC4BC"):
        for marker in ("ER", "PR", "Ki67", "HER2"):
            for part in "GDF":
                path = folder / data / marker / f"80_net_{part}.pth"
                if part == "G":
                    save(theirs, path, prefix="module.")
                else:
                    path.write_bytes(b"not wanted")
    return folder


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as left:
        main(["weights", *map(str, arguments)])
    captured = capsys.readouterr()
    return left.value.code, captured.out, captured.err


def test_fetched_weights_are_converted_listed_shown_and_found_by_run(hub, capsys):
    code, out, _ = run(capsys, "fetch", "usigan-er", "--from", hub, "--accept-license")
    assert code == 0
    assert "not for commercial use" in out
    assert "none missing" in out
    assert "--marker ER --weights usigan-er" in out
    spec = find_generator("usigan-er", "ER")
    assert (spec.mpp, spec.tile_px, spec.name) == (0.4661, 1024, "usigan")
    assert "not for commercial use" in spec.licence
    tiles = torch.randint(0, 255, (1, 64, 64, 3), dtype=torch.uint8).numpy()
    assert load_generator("usigan-er", "ER", device="cpu").stain(tiles, [(0, 0)]).shape == tiles.shape
    code, out, _ = run(capsys, "list")
    here, published = out.split("Published by others")
    assert code == 0
    assert "usigan-er " in here
    assert "usigan-er " not in published
    assert "usigan-pr " in published
    code, out, _ = run(capsys, "show", "usigan-er")
    assert code == 0
    assert "usigan-er.safetensors" in out
    assert "MIST ER" in out


def test_the_hub_is_asked_for_its_files_and_the_right_one_is_downloaded(hub, capsys, monkeypatch):
    import huggingface_hub

    asked = []

    def listing(self, repository):
        return [p.relative_to(hub).as_posix() for p in sorted(hub.rglob("*")) if p.is_file()]

    def download(repository, name):
        asked.append((repository, name))
        return str(hub / name)

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", listing)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert run(capsys, "fetch", "usigan-ki67", "--accept-license")[0] == 0
    assert run(capsys, "fetch", "usigan-her2-ihc4bc", "--accept-license", "--mpp", "0.5")[0] == 0
    assert asked == [("BairdXiong/USIGAN", "MIST/Ki67/80_net_G.pth"), ("BairdXiong/USIGAN", "IHC4BC/HER2/80_net_G.pth")]


def test_no_network_is_one_sentence_with_the_way_out(capsys, monkeypatch):
    import huggingface_hub

    network_error = huggingface_hub.errors.HfHubHTTPError.__bases__[0]

    def fail(self, repository):
        raise network_error("no route to host")

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", fail)
    code, _, err = run(capsys, "fetch", "usigan-er", "--accept-license")
    assert code == 2
    assert "no route to host" in err
    assert "weights import FILE --as usigan-er" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("fetch", "usigan-er"), "--accept-license"),
        (("fetch", "asp-er", "--accept-license"), "visit https://github.com/lifangda01"),
        (("fetch", "usigan-er-ihc4bc", "--accept-license"), "pass --mpp"),
        (("fetch", "usigan-ir", "--accept-license"), "did you mean usigan-"),
        (("fetch", "usigan-er", "--from", "nowhere", "--accept-license"), "is not a folder"),
        (("show", "nonsense"), "weights list"),
        (("import", "none.pth", "--as", "asp-er"), "no file of weights at"),
    ],
)
def test_bad_requests_are_exit_2_and_one_sentence(capsys, home, arguments, words):
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert words in err
    assert len(err.splitlines()) == 1
    assert not home.exists()


def test_fetching_twice_needs_overwrite(hub, capsys):
    assert run(capsys, "fetch", "usigan-er", "--from", hub, "--accept-license")[0] == 0
    code, _, err = run(capsys, "fetch", "usigan-er", "--from", hub, "--accept-license")
    assert code == 2
    assert "--overwrite" in err
    assert run(capsys, "fetch", "usigan-er", "--from", hub, "--accept-license", "--overwrite")[0] == 0


def test_import_writes_where_asked_and_says_how_to_run_it(hub, tmp_path, capsys):
    target = tmp_path / "mine.safetensors"
    file = hub / "MIST" / "ER" / "80_net_G.pth"
    code, out, _ = run(capsys, "import", file, "--as", "cut", "--marker", "PR", "--mpp", "0.5", "-o", target)
    assert code == 0
    assert out.splitlines()[-1] == f"weights: {target}"
    assert f"--marker PR --weights {target}" in out
    assert "model.7.filt" in out
    assert find_generator(str(target), "PR").mpp == 0.5


def test_what_is_not_installed_is_shown_from_the_catalogue(capsys):
    code, out, _ = run(capsys, "show", "asp-her2-bci")
    assert code == 0
    assert "not stated: pass --mpp" in out
    assert "weights import FILE --as asp-her2-bci" in out
    code, out, _ = run(capsys, "list", "--marker", "PR")
    assert "usigan-pr" in out
    assert "usigan-er" not in out


def test_a_marker_is_told_from_one_whose_name_holds_it():
    er = CATALOGUE["usigan-er"]
    assert choose_file(er, ["HER2/latest_net_G.pth", "ER/latest_net_G.pth"]) == "ER/latest_net_G.pth"
    assert choose_file(er, ["mist_er_net_G.pth", "mist_her2_net_G.pth", "mist_er_net_D.pth"]) == "mist_er_net_G.pth"
    assert choose_file(er, ["a.pth", "b.pth"], "b.pth") == "b.pth"


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["ER/10_net_G.pth", "ER/20_net_G.pth"], "2 of the published files .*ER/10_net_G.pth, ER/20_net_G.pth.*--file"),
        (["G.pth"], "none of the published files"),
        (["README.md"], "no checkpoint was found"),
        (["IHC4BC/ER/latest_net_G.pth"], "none of the published files"),
    ],
)
def test_a_file_that_cannot_be_told_is_asked_for(files, words):
    with pytest.raises(WeightsError, match=words):
        choose_file(CATALOGUE["usigan-er"], files)


def test_every_entry_names_a_known_system_and_marker_and_states_its_licence():
    from wsistain.markers import find_marker
    from wsistain.systems import STAINING_ONLY, SYSTEMS

    for name, entry in CATALOGUE.items():
        assert find_published(name) is entry
        assert entry.system in {*SYSTEMS, *STAINING_ONLY}
        assert [find_marker(marker).name for marker in entry.markers] == entry.marker.split(",")
        assert entry.licence
        assert entry.page.startswith("https://")
        assert entry.mpp is not None or entry.note

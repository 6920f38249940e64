"""Detectors of other packages, called by stand-ins with the packages' own signatures; what is missing is one sentence.

The signatures are those of stardist 0.9.2, cellpose 4.2.1 and instanseg-torch 0.1.2.
"""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import ndimage

from wsistain.errors import ConfigError
from wsistain.reading.detectors import is_detector, load_detector


def dark(rgb):
    """Labels of the dark places of a picture of 0..1."""
    return ndimage.label(np.asarray(rgb).mean(axis=2) < 0.5)[0]


class StarDist2D:
    def __init__(self, config, name=None, basedir="."):
        assert config is None
        self.place = (name, basedir)

    @classmethod
    def from_pretrained(cls, name_or_alias=None):
        return cls(None, name_or_alias) if name_or_alias.startswith("2D_") else None

    def predict_instances(
        self, img, axes=None, normalizer=None, sparse=True, prob_thresh=None, nms_thresh=None, scale=None, n_tiles=None,
        show_tile_progress=True, verbose=False, return_labels=True, predict_kwargs=None, nms_kwargs=None,
        overlap_label=None, return_predict=False,
    ):  # fmt: skip
        assert axes == "YXC" and img.dtype == np.float32 and img.max() <= 1 and not show_tile_progress
        return dark(img), {"coord": np.zeros((0, 2, 32))}


class CellposeModel:
    def __init__(
        self, gpu=False, pretrained_model="cpsam_v2", model_type=None, diam_mean=None, device=None, nchan=None,
        use_bfloat16=True,
    ):  # fmt: skip
        assert gpu is torch.cuda.is_available()

    def eval(
        self, x, batch_size=8, resample=True, channels=None, channel_axis=None, z_axis=None, normalize=True, rescale=None,
        diameter=None, flow_threshold=0.4, cellprob_threshold=0.0, do_3D=False, anisotropy=None, flow3D_smooth=0,
        stitch_threshold=0.0, min_size=15, max_size_fraction=0.4, niter=None, augment=False, tile_overlap=0.1, bsize=None,
        compute_masks=True, progress=None,
    ):  # fmt: skip
        assert channel_axis == -1 and channels is None and x.dtype == np.uint8
        return dark(x / 255).astype(np.uint16), [None] * 3, np.zeros(256)


class InstanSeg:
    def __init__(
        self, model_type="brightfield_nuclei", device=None, image_reader="auto", verbosity=1, channels_last=True
    ):
        if not isinstance(model_type, torch.nn.Module) and model_type != "brightfield_nuclei":
            raise Exception(f"Model {model_type} not found in the release data or locally.")
        self.cells = isinstance(model_type, torch.nn.Module)

    def eval_small_image(
        self, image, pixel_size=None, normalise=True, return_image_tensor=True, target="all_outputs",
        rescale_output=True, **kwargs,
    ):  # fmt: skip
        assert pixel_size == 0.5 and target == "nuclei" and not kwargs
        labels = torch.from_numpy(dark(image / 255)).float()[None, None]
        return (labels, image) if return_image_tensor else labels


@pytest.fixture
def packages(monkeypatch):
    """Stand-ins of the three packages."""
    modules = {
        "stardist": ModuleType("stardist"),
        "stardist.models": SimpleNamespace(StarDist2D=StarDist2D),
        "cellpose": ModuleType("cellpose"),
        "cellpose.models": SimpleNamespace(
            CellposeModel=CellposeModel, MODEL_NAMES=["cpsam_v2", "cpdino", "cpsam"], get_user_models=lambda: ["mine"]
        ),
        "instanseg": SimpleNamespace(InstanSeg=InstanSeg),
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture
def picture():
    rgb = np.full((60, 80, 3), 240, np.uint8)
    rgb[10:20, 10:20], rgb[30:44, 50:60] = 80, 60
    return rgb


@pytest.mark.parametrize("name", ["stardist", "cellpose", "instanseg", "stardist:2D_versatile_he", "cellpose:mine"])
def test_each_detector_is_called_as_its_package_wants(name, packages, picture):
    detector = load_detector(name)
    labels = detector(picture)
    assert labels.dtype == np.int32 and labels.shape == (60, 80) and list(np.unique(labels)) == [0, 1, 2]
    assert name.split(":")[0] in detector.told and detector.key


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # TorchScript, in which InstanSeg keeps its models
def test_models_are_taken_from_files_and_folders(packages, tmp_path, picture):
    folder = tmp_path / "mymodel"
    folder.mkdir()
    before = load_detector(f"stardist:{folder}").key
    (folder / "config.json").write_text("{}")
    assert load_detector(f"stardist:{folder}").key != before  # another model is another key
    torch.jit.save(torch.jit.script(torch.nn.Identity()), str(tmp_path / "own.pt"))
    assert load_detector(f"instanseg:{tmp_path / 'own.pt'}")(picture).max() == 2
    (tmp_path / "own").write_bytes(b"weights")
    assert load_detector(f"cellpose:{tmp_path / 'own'}")(picture).max() == 2


@pytest.mark.parametrize("name", ["stardist", "cellpose", "instanseg"])
def test_a_model_that_is_not_there_is_one_sentence(name, packages):
    with pytest.raises(ConfigError, match="nonsense"):
        load_detector(f"{name}:nonsense")


@pytest.mark.parametrize("name", ["stardist", "cellpose", "instanseg"])
def test_a_missing_package_names_the_extra(name, monkeypatch):
    for module in (name, f"{name}.models"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"needs the package \S+; pip install 'wsistain\[{name}\]'"):
        load_detector(name)


def test_a_package_that_does_not_start_is_no_model_that_is_missing(tmp_path, monkeypatch):
    (tmp_path / "cellpose").mkdir()
    (tmp_path / "cellpose" / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("cellpose", "cellpose.models"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(
        ConfigError, match=r"installed and does not start: RuntimeError: .*nms .*torchvision is of the same build"
    ):
        load_detector("cellpose")


def test_what_a_detector_answers_is_checked(packages, picture, monkeypatch):
    monkeypatch.setattr(CellposeModel, "eval", lambda self, x, channel_axis: (np.zeros((3, 3)), [], []))
    with pytest.raises(ConfigError, match="shape"):
        load_detector("cellpose")(picture)
    monkeypatch.setattr(CellposeModel, "eval", lambda self, x, channel_axis: 1 / 0)
    with pytest.raises(ConfigError, match="ZeroDivisionError"):
        load_detector("cellpose")(picture)


def test_a_file_called_like_a_detector_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_detector("stardist") and is_detector("cellpose:x") and not is_detector("stardist.geojson")
    (tmp_path / "stardist").touch()
    assert not is_detector("stardist")

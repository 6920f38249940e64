"""The arms of the phantom study: every system at a size that a CPU trains in minutes, and the ablations of its parts."""

from dataclasses import dataclass, field
from typing import Any

CROP_PX = 128


@dataclass(frozen=True)
class Arm:
    """One row of the study.

    name    : of its folder; `group`: the table it stands in; `label`: how the table calls it.
    batch   : patches a step. share: part of the patches of the others that it sees, because each costs that much more.
    options : of the system, as in a configuration file; `changes` go over them (the ablation's own).
    sampling: for arms that stain with the weights of another one, `of`, under other sampling options.
    """

    name: str
    group: str
    label: str
    system: str
    options: dict[str, Any] = field(default_factory=dict)
    pairing: str = "weak"
    batch: int = 1
    share: float = 1.0
    of: str | None = None
    sampling: dict[str, Any] = field(default_factory=dict)


def over(base: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """`base` with `changes`, dictionaries merged one level down."""
    return {**base, **{k: {**base.get(k, {}), **v} if isinstance(v, dict) else v for k, v in changes.items()}}


LR = 1e-3  # the papers' 2e-4 belongs to runs a hundred times as long
CUT = {"n_blocks": 6, "ngf": 8, "d_layers": 2, "ndf": 8, "head_width": 64, "n_patches": 64, "lr": LR}
ASP = {**CUT, "spectral": False}  # the same networks for all: narrow ones under spectral norm lose to their critic
DGRANK = {**ASP, "t_max": 100, "attention_layers": "all"}  # as measured, before the first tap was left to chance
# At the paper's 1e4 the embeddings of so short a run collapse; with the authors' plans, as measured before `update: paper`.
USIGAN = over(ASP, update="damped", weights={"tcyc": 100.0})
TURBO = {
    "model": {"base": "tiny", "train_base": True, "rank_unet": 4, "rank_vae": 2},
    "critic": {"clip": "tiny", "hidden": 16, "lpips": "tiny"},
    "optim": {"lr": 5e-4},
}
# The tiny critic and the tiny CLIP hold random values: at the published weights their terms drown the others, and
# the pictures are stripes. OT-StainNet's 1000 belongs to the features of SD's encoder; the tiny one's are random too.
PAIRED_TURBO = over(TURBO, weights={"adversarial": 0.02, "likeness": 0.0})
OT = over(TURBO, weights={"adversarial": 0.02, "semantic": 10.0})
TURBO_SHARE = 0.25  # 200 steps where the others make 800: about the same CPU time
VIT = {"window": 128, "stride": 83, "patch": 8, "width": 96, "depth": 3, "heads": 4, "taps": (1, 2, 3)}
ATST = {
    "encoder": "random",
    "g_ihc": {**VIT, "decoder": (32, 16, 8), "n_residual": 1},
    "g_he": {"base": 8, "n_residual": 1},
    "ndf": 8,
    "d_layers": 2,
    "lr": 5e-4,
    "annotation": {"closing_radius": 15},  # 15 um, as the published 30 px at 0.5 um
}
NO_AUXILIARY = {"location": 0.0, "most_stained": 0.0, "least_stained": 0.0, "intensity": 0.0, "count": 0.0}
MIU = {
    "score": {"base": 16, "multipliers": (1, 2, 2, 4), "n_blocks": 1, "attention": (), "groups": 8},
    "estimator": {"patch": 32, "widths": (16, 32, 32, 32)},
    "sampling": {"n_steps": 15, "window": 128, "window_stride": 96, "tune_from": 40, "tune_patches": 64},
    "ema_decay": 0.99,
    "lr": LR,
    "estimator_lr": LR,
}


def _atst(name: str, label: str, *keep: str) -> Arm:
    """ATST-Net with these of its auxiliary losses."""
    off = {k: v for k, v in NO_AUXILIARY.items() if k not in keep}
    return Arm(name, "atst_net", label, "atst_net", over(ATST, weights=off))


# After the others' budget MIU-Diff is mostly noise and its ablations compare noise; they stand on a longer run, and see a
# whole patch of 256 px at a time: half the passes of windows of 128 px.
MIU_LONG = Arm("miu_long", "long", "MIU-Diff, eight times the steps", "miu_diff",
               over(MIU, ema_decay=0.999, sampling={"window": 256, "window_stride": 192}), share=8.0)  # fmt: skip


def _miu(name: str, label: str, **sampling: Any) -> Arm:
    return Arm(name, MIU_LONG.system, label, MIU_LONG.system, of=MIU_LONG.name, sampling=sampling)


ARMS = (
    Arm("pix2pix", "systems", "Pix2Pix", "pix2pix", {"n_levels": 6, "ngf": 16, "ndf": 12, "n_layers": 2, "lr": LR}),
    Arm("pyramidp2p", "systems", "PyramidP2P", "pyramidp2p",
        {"n_blocks": 6, "ngf": 8, "ndf": 8, "n_layers": 2, "lr": LR}),
    Arm("cyclegan", "systems", "CycleGAN", "cyclegan",
        {"n_blocks": 6, "ngf": 8, "ndf": 8, "n_layers": 2, "lr": LR}, pairing="none"),
    Arm("cut", "systems", "CUT", "cut", CUT, pairing="none"),
    Arm("asp", "systems", "ASP", "asp", ASP),
    Arm("asp_dgrank", "systems", "ASP-DGRank", "asp_dgrank", DGRANK),
    Arm("usigan", "systems", "USIGAN", "usigan", USIGAN, batch=2),
    Arm("pix2pix_turbo", "systems", "Pix2Pix-Turbo", "pix2pix_turbo", PAIRED_TURBO, share=TURBO_SHARE),
    Arm("cyclegan_turbo", "systems", "CycleGAN-Turbo", "cyclegan_turbo", TURBO, pairing="none", share=TURBO_SHARE),
    Arm("ot_stainnet", "systems", "OT-StainNet", "ot_stainnet", OT, share=TURBO_SHARE),
    Arm("atst_net", "systems", "ATST-Net", "atst_net", ATST),
    Arm("miu_diff", "systems", "MIU-Diff", "miu_diff", MIU),
    Arm("usigan_base", "usigan", "none of the three losses", "usigan",
        over(USIGAN, weights={"tcyc": 0.0, "cc": 0.0, "odc": 0.0}), batch=2),
    Arm("usigan_no_tcyc", "usigan", "without the transport cycle", "usigan", over(USIGAN, weights={"tcyc": 0.0}), batch=2),
    Arm("usigan_only_tcyc", "usigan", "without the two correlation losses", "usigan",
        over(USIGAN, weights={"cc": 0.0, "odc": 0.0}), batch=2),
    Arm("usigan_1e4", "usigan", "transport cycle at 1e4, as published", "usigan", over(USIGAN, weights={"tcyc": 1e4}), batch=2),
    Arm("dgrank_base", "asp_dgrank", "neither", "asp_dgrank", over(DGRANK, diffuse=False, sampling="uniform")),
    Arm("dgrank_diffusion", "asp_dgrank", "diffusion only", "asp_dgrank", over(DGRANK, sampling="uniform")),
    Arm("dgrank_attention", "asp_dgrank", "attention only", "asp_dgrank", over(DGRANK, diffuse=False)),
    Arm("ot_no_otsm", "ot_stainnet", "without OTSM", "ot_stainnet", over(OT, semantic={"solver": "none"}), share=TURBO_SHARE),
    Arm("ot_no_scc", "ot_stainnet", "without SCC (L1 on features)", "ot_stainnet",
        over(OT, semantic={"consistency": "l1"}), share=TURBO_SHARE),
    _atst("atst_none", "no auxiliary loss"),
    _atst("atst_1", "+ L1 location", "location"),
    _atst("atst_123", "+ L2, L3 staining", "location", "most_stained", "least_stained"),
    _atst("atst_1234", "+ L4 intensity", "location", "most_stained", "least_stained", "intensity"),
    MIU_LONG,
    _miu("miu_i", "I only", guidance="mi"),
    _miu("miu_u", "U only", guidance="unique"),
    _miu("miu_no_guidance", "no guidance", guidance="none"),
    _miu("miu_no_tuning", "no tuning", tune_from=0),
    _miu("miu_weak", "no tuning, rho 0.02 for 0.1", tune_from=0, rho=0.02),
    _miu("miu_sdedit", "SDEdit (neither)", guidance="none", tune_from=0),
)  # fmt: skip
ABLATIONS = {"usigan": "usigan", "asp_dgrank": "asp_dgrank", "ot_stainnet": "ot_stainnet", "atst_net": "atst_net",
             "miu_diff": MIU_LONG.name}  # fmt: skip


def steps_of(arm: Arm, steps: int) -> int:
    """Steps of an arm where the others make `steps` of one patch each."""
    return round(steps * arm.share / arm.batch)


def configuration(arm: Arm, *, root: str, steps: int, seed: int) -> dict[str, Any]:
    """The training configuration of an arm, as a YAML file holds it."""
    return {
        "system": arm.system,
        "marker": "ER",
        "data": {
            "layout": "mist", "root": root, "pairing": arm.pairing,
            "crop_px": CROP_PX, "mpp": 1.0, "workers": 0,
        },
        "steps": steps_of(arm, steps),
        "epochs": 60,
        "decay_epochs": 40,
        "batch_size": arm.batch,
        "seed": seed,
        "sample_every": steps_of(arm, steps),
        "checkpoint_every": steps_of(arm, steps),
        "log_every": max(1, steps_of(arm, steps) // 20),
        "licence": "Apache-2.0",
        "options": arm.options,
    }  # fmt: skip

"""What a run will do, decided before anything is made: which generators, on which tile grid, over which blocks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from wsistain.config import RunConfig
from wsistain.errors import ConfigError, SlideError
from wsistain.generators.load import find_generator
from wsistain.generators.spec import GeneratorSpec
from wsistain.generators.tiling import exact_tiling, with_tiling
from wsistain.markers import DAB, find_marker
from wsistain.optics.pinkness import Look, look_of
from wsistain.slide.base import Slide, SlideInfo
from wsistain.slide.glass import glass_colour
from wsistain.slide.quality import Quality, examine, some_of
from wsistain.slide.resample import choose_sampling
from wsistain.slide.roi import Roi
from wsistain.slide.tissue import TissueMask, read_thumbnail
from wsistain.tiling.plan import RunPlan, make_tiling, plan_run

NO_TISSUE = "shows no tissue"
"""What the refusal of a blank slide says; a batch tells it from a failure by this."""

TISSUE_MARGIN_UM = 16.0
"""The mask is grown by this much, so that faint edges of tissue are not cut."""

BLOCK_PX, BLOCK_BYTES = 4096, 128 << 20
"""Edge of a block, and the most that the pixels of all stains of its weights may take: two blocks and more are held at once."""


@dataclass(frozen=True)
class Group:
    """Markers whose generators share one tiling, and so one pass over the slide.

    quality  : what spoils the slide's tissue; None where nobody looked, as with `--all-tiles`.
    warnings : sentences about the slide and the areas drawn on it, for whoever stains it.
    """

    specs: tuple[GeneratorSpec, ...]
    plan: RunPlan
    quality: Quality | None = None
    warnings: tuple[str, ...] = ()


def norm_mode(spec: GeneratorSpec, config: RunConfig) -> str:
    """The norm that a generator runs with: what was asked for, or the measured default for its kind."""
    if spec.norm != "instance":
        if config.norm in ("slide", "field"):
            raise ConfigError(
                f"--norm {config.norm} needs a generator with instance norm; {spec.name} has none (use --norm auto)"
            )
        return "tile"
    return "slide" if config.norm == "auto" else config.norm


def make_spec(config: RunConfig, marker: str) -> GeneratorSpec:
    """The generator for `marker` with the tiling of `config` where it names one."""
    spec = find_generator(config.weights, marker, direction=config.direction, sampling=config.sampling)
    spec = replace(spec, seed=config.seed, probability=config.probability)
    if spec.weights != "identity" and (spec.norm == "frozen" or norm_mode(spec, config) == "slide"):
        spec = exact_tiling(spec)
    t = config.tiling
    return with_tiling(spec, stride=t.stride, overlap=t.overlap, halo=t.halo)


def default_block(channels: int, stride: int, shard: int) -> int:
    """Edge of blocks of `channels` bytes a px, of all that the weights stain: halved while they take too much.

    As long as stride and shard go into the half; the stored bytes are the same. Not of the markers that one run is asked
    for: another run that goes on with some of its outputs must come to the same blocks.
    """
    edge = BLOCK_PX
    while edge * edge * channels > BLOCK_BYTES and edge % (2 * stride) == 0 and edge % (2 * shard) == 0:
        edge //= 2
    return edge


def plan_groups(
    slide: Slide, specs: Sequence[GeneratorSpec], config: RunConfig, roi: Roi | None, *, crop: bool
) -> list[Group]:
    """The plans of a run: markers with the same grid are stained in one pass.

    Raises ConfigError or SlideError where slide, weights and tiling do not go together, or no tissue is found.
    """
    # Where there is tissue, and what spoils it.
    info = slide.info
    quality, unscanned, warnings = None, None, _about_areas(roi, info)
    if config.all_tiles:
        tissue = TissueMask.everywhere(info)
        thumbnail, _ = read_thumbnail(slide)
        pixels, glass = some_of(thumbnail.reshape(-1, 3)), glass_colour(thumbnail)
    else:
        shown = examine(slide)
        quality, unscanned, pixels, glass = shown.quality, shown.unscanned, shown.pixels, shown.glass
        warnings += quality.warnings()
        tissue = shown.tissue.dilated(TISSUE_MARGIN_UM / info.mpp)
        if not tissue.mask.any():
            raise SlideError(f"{info.path} {NO_TISSUE}; pass --all-tiles if there is some all the same")
    if not config.any_stain and any(spec.weights != "identity" for spec in specs):
        warnings += _about_stain(look_of(pixels, glass), specs, config, info)

    # One plan a tile grid; a slide without a single tile in it is refused, not written as glass.
    by_grid: dict[tuple[Any, ...], list[GeneratorSpec]] = {}
    for spec in specs:
        block = config.tiling.block or default_block(spec.channels * spec.panel, spec.stride, config.output.shard)
        by_grid.setdefault((spec.mpp, spec.stride, spec.overlap, spec.halo, spec.size_multiple, block), []).append(spec)
    groups = []
    for (mpp, stride, overlap, halo, multiple, block), members in by_grid.items():
        tiling = make_tiling(stride=stride, overlap=overlap, halo=halo, size_multiple=multiple, block=block)
        plan = plan_run(info, choose_sampling(info, mpp), tissue, tiling, roi, crop=crop, unscanned=unscanned)
        if not plan.n_tiles:
            raise SlideError(f"{info.path} {NO_TISSUE} in the region; pass --all-tiles if there is some all the same")
        groups.append(Group(tuple(members), plan, quality, warnings))
    return groups


def _about_stain(
    look: Look | None, specs: Sequence[GeneratorSpec], config: RunConfig, info: SlideInfo
) -> tuple[str, ...]:
    """What speaks against the slide being what the weights stain; SlideError where that is plain."""
    if look is None:
        return ()
    if config.direction == "he-to-ihc":
        why, wanted, doubt = look.not_he(), "H&E", look.doubt()
    else:
        is_dab = all(find_marker(spec.marker).chromogen == DAB for spec in specs)
        why, wanted, doubt = (look.not_dab() if is_dab else None), "IHC", None
    if why is not None:
        raise SlideError(
            f"{info.path} is to be stained from {wanted}, but {why}; name the {wanted} slide, or pass --any-stain to stain this "
            "one all the same"
        )
    return () if doubt is None else (doubt,)


def _about_areas(roi: Roi | None, info: SlideInfo) -> tuple[str, ...]:
    outside = roi.n_outside(info) if roi is not None else 0
    if not outside or roi is None:
        return ()
    return (f"{outside} of {len(roi.polygons)} areas of {roi.source} lie outside the slide and are left out",)

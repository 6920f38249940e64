"""MIU-Diff: its energy, its staining, its two trainings."""

import copy
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.data.made_patches import make_mist
from tests.networks.counting import count_parameters
from tests.pipeline.slides import level0, small_config, tissue_picture, write_slide
from tests.training.made_runs import tiny_run
from wsistain.diffusion.samplers import position_noise, sample_ancestral
from wsistain.errors import ConfigError
from wsistain.generators.load import find_generator
from wsistain.markers import find_marker
from wsistain.networks.mi_estimator import (
    MiEstimator,
    colour_entropy,
    cut_patches,
    gradient_map,
    histogram_entropy,
    without_colour,
)
from wsistain.pipeline.run import run
from wsistain.slide.roi import parse_region
from wsistain.systems.base import Batch, Progress
from wsistain.systems.miu_diff import Config, MiuDiff, generator_network
from wsistain.systems.miu_sampling import Energy, SamplingOptions, _Run, low_pass, to_relative
from wsistain.training.checkpoint import find_checkpoints
from wsistain.training.loop import train
from wsistain.weights.file import Header, load_network, read_header, save_weights

PROGRESS = Progress(step=0, epoch=0, steps=10, epochs=1, decay_epochs=0, steps_per_epoch=10)


@pytest.fixture
def batch():
    torch.manual_seed(3)
    return Batch(torch.rand(2, 3, 32, 32) * 2 - 1, torch.rand(2, 3, 32, 32) * 2 - 1, "ER", ("a", "b"), is_paired=False)


def _system(overrides=None, seed=0):
    torch.manual_seed(seed)
    return MiuDiff(Config.tiny(overrides or {}), find_marker("ER")).train()


def _stainer(**sampling):
    torch.manual_seed(0)
    return MiuDiff(Config.tiny({"sampling": sampling})).generator().eval().requires_grad_(False)


def _update(optimizer, loss):
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def _tiles(n=2, h=32, w=32, seed=5):
    return torch.rand(n, 3, h, w, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("t", [1, 3, 5, 8])
@pytest.mark.parametrize(("name", "entropy_of"), [("gaussian", colour_entropy), ("histogram", histogram_entropy)])
def test_guidance_is_the_gradient_of_the_printed_energy(t, name, entropy_of):
    """Eq. 2: M = -lambda (H - I) - (1 - lambda) I, so -grad M = lambda grad H + (1 - 2 lambda) grad I."""
    torch.manual_seed(0)
    estimator = MiEstimator(patch=8, widths=(8, 8, 8, 8), time_width=16)
    y, edges = _tiles(1), gradient_map(_tiles(1, seed=6))
    share, steps = t / 8, torch.tensor([t])
    y.requires_grad_(True)
    entropy, information = entropy_of(y, 8), estimator(edges, y, steps)
    printed = -share * (entropy - information) - (1 - share) * information
    (wanted,) = torch.autograd.grad(printed.sum(), y, retain_graph=True)
    (of_entropy,) = torch.autograd.grad(entropy.sum(), y, retain_graph=True)
    (of_information,) = torch.autograd.grad(information.sum(), y)
    energy = Energy(estimator, start=8, entropy=name)
    found = energy.gradient(y, edges, t)
    torch.testing.assert_close(energy(y, edges, t), printed)
    torch.testing.assert_close(found, wanted, atol=1e-7, rtol=1e-4)
    torch.testing.assert_close(-found, share * of_entropy + (1 - 2 * share) * of_information, atol=1e-7, rtol=1e-4)


def test_at_half_of_the_run_information_cancels_and_the_ablations_keep_their_term():
    estimator = MiEstimator(patch=8, widths=(8, 8, 8, 8), time_width=0)
    assert Energy(estimator, 8).weights(4) == (0.5, 0.0)
    assert Energy(estimator, 8).weights(6) == (0.75, -0.5)
    assert Energy(estimator, 8, "mi").weights(6) == (0.0, 0.25)
    assert Energy(estimator, 8, "unique").weights(6) == (0.75, -0.75)
    assert Energy(estimator, 8, "none").weights(6) == (0.0, 0.0)


def test_gradient_of_an_image_does_not_depend_on_its_batch():
    torch.manual_seed(0)
    estimator = MiEstimator(patch=8, widths=(8, 8, 8, 8), time_width=16)
    y, edges = _tiles(3), gradient_map(_tiles(3, seed=6))
    energy = Energy(estimator, 8)
    torch.testing.assert_close(energy.gradient(y, edges, 3)[1:2], energy.gradient(y[1:2], edges[1:2], 3))
    k = to_relative(energy.gradient(y, edges, 3))
    torch.testing.assert_close(k.square().mean((1, 2, 3)), torch.ones(3))
    assert not to_relative(torch.zeros(1, 3, 4, 4)).any()


@pytest.mark.parametrize("solver", ["ancestral", "sde2m"])
def test_relative_guidance_shifts_each_step_by_its_share_of_the_noise(solver):
    stainer = _stainer(solver=solver, rho=0.25)
    reverse = _Run(stainer, stainer.score, _tiles(1), [(0, 0)])
    y = _tiles(1, seed=9)
    for t in (2, 5, 8):
        asked = t - 1 if solver == "ancestral" else t  # at the mean, for the step it leads to
        variance = float(stainer.schedule().reverse_variance(torch.tensor(t)))
        shift = variance * reverse.guide(y, asked)
        assert shift.square().mean().sqrt().item() == pytest.approx(0.25 * variance**0.5, rel=1e-4)


def test_raw_guidance_is_the_energys_gradient_as_it_comes():
    stainer = _stainer(solver="ancestral", strength="raw", scale=3.0, guide_at="state")
    reverse, y = _Run(stainer, stainer.score, _tiles(1), [(0, 0)]), _tiles(1, seed=9)
    plain = reverse.energy.gradient(y, gradient_map(reverse._noised(5)), 5)
    assert plain.any()
    torch.testing.assert_close(reverse.guide(y, 5), 3 * plain)


@pytest.mark.parametrize("solver", ["ancestral", "sde2m"])
@pytest.mark.parametrize("n_steps", [4, 8])
def test_guidance_in_score_units_is_its_weight_of_the_score_whatever_the_steps(solver, n_steps):
    stainer = _stainer(solver=solver, n_steps=n_steps, strength="score", weight=0.2)
    reverse = _Run(stainer, stainer.score, _tiles(1), [(0, 0)])
    for t in (2, 6):
        score = 1 / float(stainer.schedule().noise_var[t]) ** 0.5  # root mean square of -noise / sqrt(1 - alpha_bar)
        found = reverse.guide(_tiles(1, seed=9), t)
        assert found.square().mean().sqrt().item() == pytest.approx(0.2 * score, rel=1e-4)


def test_each_gradient_is_brought_to_one_size_before_its_factor_acts():
    torch.manual_seed(0)
    estimator = MiEstimator(patch=8, widths=(8, 8, 8, 8), time_width=16)
    y, edges = _tiles(1), gradient_map(_tiles(1, seed=6))
    size = lambda k: k.square().mean().sqrt().item()  # noqa: E731
    mi, unique, both = (Energy(estimator, 8, g, combine="each") for g in ("mi", "unique", "both"))
    of_information = mi.gradient(y, edges, 6)  # -(1 - 6/8) of a gradient of size 1
    assert size(of_information) == pytest.approx(0.25, rel=1e-4)
    share, others = both.weights(6)
    of_entropy = both.gradient(y, edges, 6) + 4 * others * -of_information
    assert size(of_entropy) == pytest.approx(share, rel=1e-3)
    of_each = unique.gradient(y, edges, 6)  # -0.75 of H's and 0.75 of I's
    torch.testing.assert_close(of_each, both.gradient(y, edges, 6) - of_information, atol=1e-6, rtol=1e-4)


def test_the_grid_of_patches_moves_by_step_and_seed_alone_and_leaves_no_pixel_out():
    stainer = _stainer(grid="moving")
    runs = [_Run(stainer, stainer.score, _tiles(1, seed=s), [(0, 8 * s)]) for s in (1, 2)]
    offsets = [runs[0]._grid_offset(t) for t in range(1, 9)]
    assert offsets == [runs[1]._grid_offset(t) for t in range(1, 9)]  # tiles agree
    assert len(set(offsets)) > 4
    assert all(0 <= n < stainer.estimator.patch for offset in offsets for n in offset)
    stainer.seed = 7
    assert offsets != [_Run(stainer, stainer.score, _tiles(1), [(0, 0)])._grid_offset(t) for t in range(1, 9)]
    patches = cut_patches(torch.arange(32 * 32.0).view(1, 1, 32, 32), 8, 0, (3, 5))
    assert patches.shape == (1, 25, 1, 8, 8)
    assert set(patches.flatten().tolist()) == set(range(32 * 32))
    fixed = _stainer(grid="fixed")
    assert _Run(fixed, fixed.score, _tiles(1), [(0, 0)])._grid_offset(3) == (0, 0)


def test_glass_is_not_guided():
    x = torch.full((1, 3, 48, 48), 0.95)
    x[..., :24] = -0.2  # the left half is tissue
    stainer = _stainer(spare_glass=True)
    reverse = _Run(stainer, stainer.score, x, [(0, 0)])
    k = reverse.guide(torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(3)), 4)
    assert not k[..., 32:].any()
    assert (k[..., :16].abs() > 0).float().mean() > 0.9


def test_a_visited_step_tunes_as_often_as_the_steps_it_stands_for(monkeypatch):
    counts = {}
    for solver, n_steps in (("ancestral", 8), ("sde2m", 4)):
        stainer = _stainer(solver=solver, n_steps=n_steps, tune_from=3, guidance="none")
        tuned = []
        monkeypatch.setattr(_Run, "_tune", lambda self, y, t, tuned=tuned: tuned.append(t))
        stainer(_tiles(1))
        counts[solver] = tuned
    assert counts["ancestral"] == [3, 2, 1]
    assert counts["sde2m"] == [2, 2]  # steps 8, 6, 4, 2, 0


def test_ilvr_keeps_the_low_frequencies_of_the_he():
    x = _tiles(1)
    kept, free = (_stainer(solver="ancestral", guidance=g, ilvr_factor=8, n_steps=8)(x) for g in ("ilvr", "none"))
    gray = without_colour(x)
    near = [(low_pass(made, 8) - low_pass(gray, 8)).square().mean() for made in (kept, free)]
    assert near[0] < 0.5 * near[1]
    flat = torch.full((1, 3, 32, 32), 0.3)
    torch.testing.assert_close(low_pass(flat, 8), flat)
    with pytest.raises(ConfigError, match="ancestral"):
        Config.tiny({"sampling": {"guidance": "ilvr", "solver": "sde2m"}})


@pytest.mark.parametrize("solver", ["ancestral", "sde2m"])
def test_the_energy_guides_only_from_the_step_that_is_asked_for(solver):
    """N, the paper's number of guided steps: the run is the unguided one before, and another after."""
    stainer, x = _stainer(solver=solver, guide_from=4, n_steps=8), _tiles(1)
    asked = []
    original = Energy.gradient
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Energy, "gradient", lambda self, y, edges, t, *o: asked.append(t) or original(self, y, edges, t, *o)
        )
        late = stainer(x)
    assert asked == ([3, 2, 1] if solver == "ancestral" else [4, 3, 2, 1])
    none, full, always = (
        _stainer(solver=solver, n_steps=8, **o)(x) for o in ({"guidance": "none"}, {"guide_from": 8}, {})
    )
    assert torch.equal(full, always)
    assert not torch.equal(late, none)
    assert not torch.equal(late, always)


def test_the_he_keeps_its_noise_or_gets_a_fresh_one_at_every_step():
    fixed, fresh = (
        _Run(s, s.score, _tiles(1), [(3, 5)]) for s in (_stainer(he_noise="fixed"), _stainer(he_noise="fresh"))
    )
    assert torch.equal(fixed._noised(8), fresh._noised(8))  # the run starts alike

    def noise(reverse, t):
        kept, added = (float(v[t]) for v in (reverse.schedule.alpha_bar, reverse.schedule.noise_var))
        return (reverse._noised(t) - kept**0.5 * reverse.gray) / added**0.5

    torch.testing.assert_close(noise(fixed, 4), noise(fixed, 6), atol=1e-3, rtol=0)
    a, b = noise(fresh, 4), noise(fresh, 6)
    assert abs(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) < 0.1
    assert torch.equal(noise(fresh, 4), a)


def test_without_guidance_a_run_is_the_plain_ancestral_sampler_from_the_gray_image():
    stainer = _stainer(solver="ancestral", guidance="none")
    x = _tiles(1)
    steps = torch.tensor([8])
    start = stainer.schedule().q_sample(without_colour(x), steps, position_noise([(4, 6)], 32, 32, seed=0, stream=0))

    def predict(y, t):
        return stainer.score(y, torch.tensor([t - 1]))

    wanted = sample_ancestral(
        stainer.schedule(),
        start,
        8,
        predict=predict,
        noise=lambda t: position_noise([(4, 6)], 32, 32, seed=0, stream=t),
    )
    torch.testing.assert_close(stainer(x, [(4, 6)]), wanted.clamp(-1, 1))


@pytest.mark.parametrize(
    "sampling",
    [
        {},
        {"solver": "ancestral"},
        {"solver": "ancestral", "guide_at": "state", "strength": "raw"},
        {"solver": "ode2m"},
        {"tune_from": 3},
        {"he_noise": "fresh", "entropy": "histogram"},
    ],
)
def test_a_tile_stains_alike_alone_and_in_any_batch(sampling):
    stainer = _stainer(**sampling)
    x, corners = _tiles(3), [(0, 0), (40, 7), (-16, 300)]
    whole = stainer(x, corners)
    order = [2, 0, 1]
    torch.testing.assert_close(stainer(x[order], [corners[i] for i in order]), whole[order], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(stainer(x[1:2], corners[1:2]), whole[1:2], atol=1e-5, rtol=1e-5)
    assert whole.shape == x.shape
    assert whole.abs().max() <= 1
    assert (stainer(x[:1], [(1, 0)]) - whole[:1]).abs().max() > 0.05  # other place, other noise
    stainer.seed = 1
    assert (stainer(x[:1], corners[:1]) - whole[:1]).abs().max() > 0.05


class _LevelOfWindow(torch.nn.Module):
    """A score model whose prediction hangs on the window's mean, as group norms make it."""

    def forward(self, y, t):
        return y - 0.6 * y.mean((1, 2, 3), keepdim=True)


def test_windows_of_a_large_tile_are_denoised_as_one_region():
    """Windows run on their own end at other levels, and a step shows between them; in a region it does not."""
    stainer = _stainer(guidance="none", solver="sde2m", n_steps=8)
    stainer.score = _LevelOfWindow()
    x = torch.linspace(-1, 1, 80).expand(1, 3, 80, 80).contiguous()
    region = stainer(x, [(0, 0)])
    assert region.shape == x.shape
    apart = torch.cat([stainer(x[..., c : c + 32], [(0, c)])[..., :24] for c in (0, 24, 48)], dim=-1)

    def step(image):  # across the borders at 24 and 48, against the average slope
        columns = image.mean((0, 1, 2))
        slopes = torch.stack([columns[c : c + 6].mean() - columns[c - 6 : c].mean() for c in (24, 48)])
        return (slopes - 6 * (columns[66:72].mean() - columns[:6].mean()) / 66).abs().mean()

    assert step(apart) > 3 * step(region)


def test_tiles_that_overlap_agree_in_the_band_they_share():
    stainer = _stainer(guidance="none")
    x = _tiles(1, 80, 128)
    left, right = stainer(x[..., :80], [(0, 0)]), stainer(x[..., 48:], [(0, 48)])
    alone = stainer(x[..., 48:], [(0, 49)])  # the same tile with noise of its own
    band = (left[..., 60:68] - right[..., 12:20]).abs().mean()
    other = (left[..., 60:68] - alone[..., 12:20]).abs().mean()
    assert band < 0.35 * other


@pytest.mark.parametrize("loss", ["contrastive", "l2"])
def test_tuning_changes_the_result_and_leaves_the_network_as_it_was(loss):
    plain = _stainer(solver="ancestral")
    tuned = _stainer(solver="ancestral", tune_from=3, tune_lr=1e-2, tune_loss=loss)
    before = {n: t.clone() for n, t in tuned.state_dict().items()}
    x = _tiles(1, 32, 56)
    assert (plain(x) - tuned(x)).abs().max() > 1e-4
    assert all(torch.equal(t, before[n]) for n, t in tuned.state_dict().items())
    assert all(p.grad is None for p in tuned.parameters())
    assert torch.equal(tuned(x), tuned(x))


def test_contrastive_tuning_draws_the_state_towards_the_he():
    """After one step at a large rate the next state's features match the H&E's better than before."""
    stainer = _stainer(solver="ancestral", tune_from=3, tune_lr=3e-3)
    reverse = _Run(stainer, copy.deepcopy(stainer.score), _tiles(1), [(0, 0)])
    y, losses = reverse._noised(3), []
    original = reverse._likeness

    def record(made, wanted, chance):
        loss = original(made, wanted, chance)
        losses.append(float(loss.detach()))
        return loss

    reverse._likeness = record
    for _ in range(12):
        reverse._tune(y, 3)
    assert losses[-1] < losses[0]


def test_tuning_takes_as_many_updates_and_levels_as_asked(monkeypatch):
    seen = []
    original = _Run._likeness
    monkeypatch.setattr(_Run, "_likeness", lambda self, a, b, c: seen.append(len(a)) or original(self, a, b, c))
    x = _tiles(1)
    _stainer(solver="ancestral", tune_from=3)(x)
    assert seen == [1, 1, 1]  # steps 3, 2, 1; of levels 1 to 3 the tiny network has one
    seen.clear()
    _stainer(solver="ancestral", tune_from=2, tune_updates=3, tune_levels=(0, 1))(x)
    assert seen == [2] * 6
    with pytest.raises(ValueError, match="are not among the 2 levels"):
        _stainer(tune_from=2, tune_levels=(2, 3))


def test_one_step_trains_each_network_on_its_own_loss(batch):
    system = _system()
    touched = {}

    def update(optimizer, loss):
        name = next(n for n, o in system.optimizers.items() if o is optimizer)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        touched[name] = {n for n, p in system.named_parameters() if p.grad is not None and p.grad.any()}
        system.zero_grad(set_to_none=True)

    terms = system.training_step(batch, PROGRESS, update)
    assert set(terms) == {"score", "estimator", "information"}
    assert all(torch.isfinite(t) for t in terms.values())
    assert all(n.startswith("net.score") for n in touched["score"]) and touched["score"]
    assert all(n.startswith("net.estimator") for n in touched["estimator"]) and touched["estimator"]


@pytest.mark.parametrize(
    "options",
    [
        {"clean_estimator": True, "estimator": {"time_width": 0}},  # the paper to the letter
        {"estimator": {"edges": "colour", "overlap": 4}},
    ],
)
def test_other_readings_of_the_estimator_train_and_stain(batch, options):
    system = _system(options)
    seen = {}
    original = system.net.estimator.loss

    def loss(edges, image, t, *, rate):
        seen.update(edges=edges, image=image, t=t)
        return original(edges, image, t, rate=rate)

    system.net.estimator.loss = loss
    before = copy.deepcopy(system.net.estimator.state_dict())
    terms = system.training_step(batch, PROGRESS, _update)
    assert all(torch.isfinite(t) for t in terms.values())
    if "clean_estimator" in options:
        assert not seen["t"].any()
        image = seen["image"]
        assert all(any(torch.equal(i, j) for j in (b, b.flip(1))) for i, b in zip(image, batch.ihc, strict=True))
        torch.testing.assert_close(seen["edges"], gradient_map(image), atol=1e-6, rtol=1e-5)
    else:
        assert seen["edges"].shape == (2, 3, 32, 32)
    after = system.net.estimator.state_dict()
    assert not torch.equal(after["convs.0.weight"], before["convs.0.weight"])
    assert system.generator().eval()(batch.he).isfinite().all()


def test_the_score_loss_falls_on_one_batch(batch):
    system = _system({"lr": 2e-3, "train_parts": "score"})
    flat = Batch(batch.he, torch.full_like(batch.ihc, 0.3), "ER", batch.names)
    losses = []
    for step in range(60):
        torch.manual_seed(step)
        losses.append(float(system.training_step(flat, PROGRESS, _update)["score"]))
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])


def test_only_the_asked_part_trains_and_it_goes_on_from_a_file(batch, tmp_path):
    from safetensors.torch import save_file

    first = _system()
    save_file(first.generator_state(), str(tmp_path / "weights.safetensors"))
    second = _system({"train_parts": "estimator", "start_from": str(tmp_path / "weights.safetensors")}, seed=9)
    assert set(second.optimizers) == {"estimator"}
    assert all(torch.equal(t, first.state_dict()[n]) for n, t in second.state_dict().items())
    assert set(second.training_step(batch, PROGRESS, _update)) == {"estimator", "information"}
    assert all(torch.equal(t, first.net.score.state_dict()[n]) for n, t in second.net.score.state_dict().items())


def test_training_resumes_bit_for_bit_from_its_state_dict(batch):
    def steps(system, first, last):
        out = []
        for step in range(first, last):
            torch.manual_seed(100 + step)
            out.append({n: t.clone() for n, t in system.training_step(batch, PROGRESS, _update).items()})
        return out

    straight, broken, resumed = _system(), _system(), _system(seed=4)
    expected = steps(straight, 0, 5)[3:]
    steps(broken, 0, 3)
    resumed.load_state_dict({n: t.clone() for n, t in broken.state_dict().items()})
    for name, optimizer in broken.optimizers.items():
        resumed.optimizers[name].load_state_dict(optimizer.state_dict())
    for a, b in zip(steps(resumed, 3, 5), expected, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in b)


def test_presets_say_what_they_are():
    paper, letter = Config.preset("paper", {}), Config.preset("official", {})
    assert (paper.chain, paper.sampling.start, paper.lr, paper.ema_decay) == (1000, 300, 1e-4, 0.9999)
    assert (paper.sampling.solver, paper.sampling.strength, paper.sampling.weight) == ("sde2m", "score", 0.1)
    assert (paper.estimator.kernel, paper.sampling.combine, paper.sampling.grid) == (4, "each", "moving")
    assert paper.sampling.spare_glass and not SamplingOptions().spare_glass  # as headers of before are read
    assert (letter.sampling.solver, letter.sampling.n_steps, letter.sampling.tune_from) == ("ancestral", 300, 40)
    assert (letter.sampling.strength, letter.clean_estimator, letter.estimator.time_width) == ("raw", True, 0)
    with pytest.raises(ValueError, match="not below half of start"):
        SamplingOptions(start=60, n_steps=30, tune_from=30)
    with pytest.raises(ValueError, match="guide_from 9 is more than start 8"):
        SamplingOptions(start=8, n_steps=4, guide_from=9)
    with pytest.raises(ConfigError, match="n_step is not a known key; did you mean 'n_steps'"):
        Config.preset("paper", {"sampling": {"n_step": 3}})
    with pytest.raises(ConfigError, match="more than start"):
        Config.preset("paper", {"sampling": {"n_steps": 400}})


def test_the_paper_builds_the_published_size():
    with torch.device("meta"):
        network = generator_network({})
    assert count_parameters(network.score) == 113_673_219
    facts = network.facts
    assert (facts.size_multiple, facts.tile_px, facts.norm, facts.takes_positions) == (32, 1024, "tile", True)


def test_training_through_the_loop_saves_the_mean_of_both_networks(tmp_path):
    root = make_mist(tmp_path / "patches", n_train=3, n_val=1)
    cfg = tiny_run(root, system="miu_diff", steps=2, data={"pairing": "none"})
    weights = train(cfg, tmp_path / "run", tiny=True)
    network, header = load_network(weights)
    assert (header.norm, header.tile_px, header.size_multiple) == ("tile", 128, 2)
    assert read_header(weights).options["sampling"]["n_steps"] == 4
    x = _tiles(1, 32, 32)
    assert network(x).shape == x.shape
    state = load_file(find_checkpoints(tmp_path / "run" / "checkpoint")[-1] / "parameters.safetensors")
    means = {n.removeprefix("ema/"): t for n, t in state.items() if n.startswith("ema/")}
    assert {n.split(".")[0] for n in means} == {"score", "estimator"}
    assert all(torch.equal(network.state_dict()[n], t) for n, t in means.items())
    assert not torch.equal(means["score.conv_in.weight"], state["parameter/net.score.conv_in.weight"])


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory):
    """(weights, slide, config of a run) of a tiny stainer whose tiles hold several windows."""
    folder = tmp_path_factory.mktemp("miu")
    torch.manual_seed(0)
    options = Config.tiny({}).model_dump(mode="json", include={"chain", "score", "estimator", "sampling"})
    header = Header(
        system="miu_diff", options=options, markers=["ER"], mpp=0.5, tile_px=128, size_multiple=2, norm="tile"
    )
    weights = folder / "miu.safetensors"
    save_weights(weights, header, generator_network(options).state_dict())
    return weights, write_slide(folder / "case.tiff", tissue_picture(200, 256))


def _level0(on_disk, out, *, region=None, workers=1, **changes):
    weights, slide = on_disk
    config = small_config(weights=str(weights), device="cpu", **changes)
    run(slide, "ER", out, config=config, region=region, workers=workers)
    return level0(out / "case.ER.ome.zarr")


def test_a_slide_does_not_depend_on_blocks_order_or_region_but_on_the_seed(on_disk, tmp_path, monkeypatch):
    """Noise belongs to the place on the slide, whoever stains it and in which order."""
    whole = _level0(on_disk, tmp_path / "a")
    assert whole.std() > 1
    monkeypatch.setattr("wsistain.pipeline.job.available_cores", lambda: 3)
    assert np.array_equal(_level0(on_disk, tmp_path / "b", tiling={"block": 128}), whole)
    part = _level0(on_disk, tmp_path / "c", region=parse_region("70,70,100,80"))
    place = json.loads((tmp_path / "c" / "case.ER.run.json").read_text())["plan"]["origin_px"]
    y, x = place["y"], place["x"]
    assert (y, x) == (64, 64)
    assert np.array_equal(part, whole[y : y + part.shape[0], x : x + part.shape[1]])
    assert np.array_equal(_level0(on_disk, tmp_path / "d", seed=0), whole)
    other = _level0(on_disk, tmp_path / "e", seed=1).astype(int)
    assert np.abs(other - whole).mean() > 1


def test_sampling_can_be_set_when_a_slide_is_stained(on_disk, tmp_path):
    """Other options, other pixels; the weights stay, the record and the resume key say what was done."""
    weights, _ = on_disk
    area = {"region": parse_region("70,70,100,80")}
    own = _level0(on_disk, tmp_path / "a", **area)
    same = _level0(
        on_disk, tmp_path / "b", sampling={"n_steps": read_header(weights).options["sampling"]["n_steps"]}, **area
    )
    other = _level0(on_disk, tmp_path / "c", sampling={"n_steps": 8, "guidance": "none"}, **area)
    assert np.array_equal(own, same)
    assert not np.array_equal(own, other)
    report = json.loads((tmp_path / "c" / "case.ER.run.json").read_text())
    assert report["provenance"]["config"]["sampling"] == {"n_steps": 8, "guidance": "none"}
    for sampling, words in (({"n_stepz": 3}, "n_steps"), ({"n_steps": 900}, "more than start"), ({"rho": -1}, "rho")):
        with pytest.raises(ConfigError, match=words):
            find_generator(str(weights), "ER", sampling=sampling)
    with pytest.raises(ConfigError, match="only diffusion models"):
        find_generator("demo", "ER", sampling={"n_steps": 3})
    with pytest.raises(ConfigError, match="identity has no sampling"):
        find_generator("identity", "ER", sampling={"n_steps": 3})
    assert not list((tmp_path / "a").glob("*.part"))


@pytest.mark.slow
def test_a_slide_is_the_same_from_two_worker_processes(on_disk, tmp_path):
    whole = _level0(on_disk, tmp_path / "a")
    assert np.array_equal(_level0(on_disk, tmp_path / "b", workers=2, tiling={"block": 128}), whole)


def test_information_alone_does_not_guide_the_first_step():
    estimator = MiEstimator(patch=8, widths=(8, 8, 8, 8), time_width=0)
    y, edges = _tiles(1), gradient_map(_tiles(1, seed=6))
    assert not Energy(estimator, 8, "mi").gradient(y, edges, 8).any()
    assert Energy(estimator, 8, "mi").gradient(y, edges, 7).any()

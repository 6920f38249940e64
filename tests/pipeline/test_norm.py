"""Seam-free normalisation: frozen statistics make tiling exact; per-tile statistics do not."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import wsistain.systems
from tests.pipeline.slides import level0, small_config, tree_hash, write_slide
from tests.pipeline.toy_system import generator_network
from wsistain.generators.load import build_generator, find_generator
from wsistain.generators.network import NetworkGenerator
from wsistain.generators.tiling import exact_tiling
from wsistain.networks.receptive_field import receptive_radius
from wsistain.networks.resnet import ResnetGenerator
from wsistain.networks.slide_norm import NormField, norm_layers, pooled_statistics
from wsistain.pipeline.norm_file import load_norm
from wsistain.pipeline.planning import BLOCK_PX
from wsistain.pipeline.run import run
from wsistain.tiling.plan import make_tiling
from wsistain.weights.file import Header, save_weights

SIZE = 512


def uneven_tissue(size: int = SIZE) -> np.ndarray:
    """Tissue everywhere, dark on one side and pale on the other, so that tiles differ in their statistics."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:size, :size] / size
    coarse = np.kron(rng.random((size // 13 + 1,) * 2), np.ones((13, 13)))[:size, :size]
    shade = 90 + 60 * x + 30 * coarse + rng.normal(0, 8, (size, size))
    return np.clip(np.stack([shade + 40, shade - 30 * y, shade + 10], axis=2), 0, 205).astype(np.uint8)


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    return write_slide(tmp_path_factory.mktemp("norm") / "case.tiff", uneven_tissue())


@pytest.fixture
def weights(tmp_path, monkeypatch):
    monkeypatch.setitem(wsistain.systems.SYSTEMS, "toy", "tests.pipeline.toy_system:none")
    torch.manual_seed(0)
    network = generator_network({})
    for p in network.parameters():
        if p.ndim > 1:
            torch.nn.init.normal_(p, std=0.1)
    path = tmp_path / "toy.safetensors"
    header = Header(
        system="toy", markers=["ER"], mpp=0.5, tile_px=80, size_multiple=4, halo_px=receptive_radius(network, 4)
    )
    save_weights(path, header, network.state_dict())
    return path


def config(weights, **changes):
    tiling = {"stride": 64, "overlap": 16, "halo": None, "block": 256, **changes.pop("tiling", {})}
    return small_config(weights=str(weights), all_tiles=True, norm_tiles=16, tiling=tiling, **changes)


def one_pass(slide_picture, weights, field: NormField | None, radius: int):
    """The whole picture at once, with a white margin like the one that tiles see past the slide's edge."""
    generator = build_generator(find_generator(str(weights), "ER"), device="cpu")
    if field is not None:
        generator.freeze_norm(field)
    margin = -(-radius // 4) * 4
    padded = np.pad(slide_picture, ((margin, margin), (margin, margin), (0, 0)), constant_values=255)
    return generator.stain(padded[None], [(-margin, -margin)])[0][margin : margin + SIZE, margin : margin + SIZE]


def test_slide_statistics_with_a_halo_of_the_receptive_field_equal_one_pass_over_the_whole(
    slide, weights, tmp_path, monkeypatch
):
    kept = {}
    import wsistain.pipeline.norm as norm

    monkeypatch.setattr(
        norm, "save_norm", lambda path, field, real=norm.save_norm: (kept.update(f=field), real(path, field))
    )
    run(slide, "ER", tmp_path, config=config(weights, norm="slide"))
    stained = level0(tmp_path / "case.ER.ome.zarr")
    radius = find_generator(str(weights), "ER").radius
    whole = one_pass(uneven_tissue(), weights, kept["f"], radius)
    assert np.abs(stained.astype(int) - whole.astype(int)).max() == 0


def test_per_tile_statistics_do_not_equal_one_pass(slide, weights, tmp_path):
    run(slide, "ER", tmp_path, config=config(weights, norm="tile"))
    whole = one_pass(uneven_tissue(), weights, None, 0)
    assert np.abs(level0(tmp_path / "case.ER.ome.zarr").astype(int) - whole.astype(int)).max() > 5


def test_seams_of_frozen_statistics_are_not_larger_than_those_of_a_hard_cut(slide, weights, tmp_path):
    scores = {}
    for mode in ("tile", "slide", "field"):
        (report,) = run(slide, "ER", tmp_path / mode, config=config(weights, norm=mode))
        scores[mode] = report.seam_score
    (report,) = run(
        slide, "ER", tmp_path / "cut", config=config(weights, norm="tile", tiling={"overlap": 0, "halo": 0})
    )
    assert scores["slide"] == pytest.approx(1.0, abs=0.08)
    assert scores["field"] < report.seam_score
    assert scores["tile"] < report.seam_score


def test_field_bytes_do_not_depend_on_the_block_size(slide, weights, tmp_path):
    for block in (128, 512):
        run(slide, "ER", tmp_path / str(block), config=config(weights, norm="field", tiling={"block": block}))
    a, b = (tmp_path / str(n) / "case.ER.ome.zarr" for n in (128, 512))
    assert tree_hash(a) == tree_hash(b)


def test_pooled_statistics_of_one_window_are_instance_norm_itself():
    torch.manual_seed(1)
    network = ResnetGenerator(1, 4).eval()
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        expected = network(x)
        statistics = pooled_statistics(network, x)
        assert all(isinstance(m, torch.nn.InstanceNorm2d) for m in norm_layers(network).values())
        spec = find_generator("identity", "ER")
        generator = NetworkGenerator(network, spec, device="cpu")
        generator.freeze_norm(NormField({k: v.numpy()[None, None] for k, v in statistics.items()}, 1.0))
        assert torch.allclose(network(x), expected, atol=1e-5)


def test_a_lattice_of_equal_nodes_is_the_constant_field():
    torch.manual_seed(2)
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    outputs = []
    for shape in ((1, 1), (3, 2)):
        torch.manual_seed(5)
        network = ResnetGenerator(1, 4).eval()
        with torch.no_grad():
            statistics = pooled_statistics(network, x)
        nodes = {k: np.broadcast_to(v.numpy(), (*shape, *v.shape)).copy() for k, v in statistics.items()}
        generator = NetworkGenerator(network, find_generator("identity", "ER"), device="cpu")
        generator.freeze_norm(NormField(nodes, 20.0))
        tiles = ((x.permute(0, 2, 3, 1).numpy() + 1) * 127.5).round().astype(np.uint8)
        outputs.append(generator.stain(tiles, [(0, 0), (17, -5)]).astype(int))
    assert np.abs(outputs[0] - outputs[1]).max() <= 1


def test_a_field_survives_its_file(tmp_path):
    from wsistain.pipeline.norm_file import save_norm

    field = NormField({"model.2": np.random.default_rng(0).random((2, 3, 2, 4)).astype(np.float32)}, 37.5)
    save_norm(tmp_path / "n.safetensors", field)
    loaded = load_norm(str(tmp_path / "n.safetensors"))
    assert loaded.spacing == field.spacing and np.array_equal(loaded.nodes["model.2"], field.nodes["model.2"])


@pytest.mark.parametrize(("n_blocks", "expected"), [(0, None), (6, None)])
def test_receptive_radius_bounds_what_a_far_change_can_do(n_blocks, expected):
    network = ResnetGenerator(n_blocks, 2).double().eval()
    radius = receptive_radius(network, 4)
    assert radius is not None and radius < 200
    for m in list(network.named_modules()):
        if isinstance(m[1], torch.nn.InstanceNorm2d):
            parent, _, leaf = m[0].rpartition(".")
            setattr(network.get_submodule(parent), leaf, torch.nn.Identity())
    edge = -(-(2 * radius + 64) // 4) * 4
    x = torch.rand(1, 3, edge, edge, dtype=torch.float64)
    z = x.clone()
    row = edge // 2
    z[..., : row - radius, :] += 0.5
    with torch.no_grad():
        assert torch.equal(network(x)[..., row, row], network(z)[..., row, row])
        z[..., row - radius // 3 :, :] += 0.5
        assert not torch.equal(network(x)[..., row, row], network(z)[..., row, row])


@pytest.mark.parametrize(("radius", "stride"), [(0, 512), (90, 512), (110, 512), (147, 1024), (300, 1024)])
@pytest.mark.parametrize("multiple", [1, 4, 256])
def test_a_wide_halo_gets_a_longer_stride_that_blocks_are_made_of(radius, stride, multiple):
    spec = exact_tiling(replace(find_generator("identity", "ER"), radius=radius, size_multiple=multiple))
    assert (spec.stride, spec.halo) == (stride, radius)
    make_tiling(
        stride=spec.stride,
        overlap=spec.overlap,
        halo=spec.halo,
        size_multiple=multiple,
        block=BLOCK_PX,
    )

"""CLIP's towers against the hub's implementation, its three file layouts, the critic's heads, the augmentation."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from wsistain.errors import WeightsError
from wsistain.networks.clip_critic import ClipCritic, CriticHeads, augment, change_colour, cutout, translate
from wsistain.networks.clip_tower import (
    END_OF_TEXT,
    ClipImageTower,
    ClipTextTower,
    from_hub_names,
    load_image_tower,
    load_text_tower,
    pad_tokens,
    read_clip,
)

WIDTH, LAYERS, HEADS, PATCH, PX, OUT = 16, 3, 2, 8, 56, 12


def image_tower() -> ClipImageTower:
    return ClipImageTower(WIDTH, LAYERS, HEADS, PATCH, PX, OUT, taps=(1, 2))


def text_tower() -> ClipTextTower:
    return ClipTextTower(WIDTH, LAYERS, HEADS, vocabulary=40, n_tokens=10, out=OUT)


@pytest.fixture(scope="module")
def hub_clip() -> nn.Module:
    transformers = pytest.importorskip("transformers", reason="the extra 'train' is not installed")
    shared = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
    }
    torch.manual_seed(0)
    config = transformers.CLIPConfig(
        text_config=shared | {"vocab_size": 40, "max_position_embeddings": 10, "bos_token_id": 38, "eos_token_id": 39},
        vision_config=shared | {"image_size": PX, "patch_size": PATCH},
        projection_dim=OUT,
    )
    return transformers.CLIPModel(config).eval()


@pytest.fixture(scope="module")
def hub_folder(hub_clip: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    hub_clip.save_pretrained(folder)
    return folder


def test_the_image_tower_equals_the_hubs(hub_clip: nn.Module, hub_folder: Path) -> None:
    tower = load_image_tower(str(hub_folder), image_tower())
    image = torch.rand(2, 3, PX, PX) * 2 - 1
    pixels = (image * 0.5 + 0.5 - tower.mean) / tower.std
    with torch.no_grad():
        found = tower(image)
        seen = hub_clip.vision_model(pixels, output_hidden_states=True)
        whole = hub_clip.visual_projection(seen.pooler_output)
    torch.testing.assert_close(found[-1], whole, atol=1e-5, rtol=1e-4)
    for tap, features in zip(tower.taps, found, strict=False):
        tokens = seen.hidden_states[tap][:, 1:].transpose(1, 2).reshape(2, WIDTH, 7, 7)
        torch.testing.assert_close(features, tokens, atol=1e-5, rtol=1e-4)


def test_the_text_tower_equals_the_hubs(hub_clip: nn.Module, hub_folder: Path) -> None:
    tower = load_text_tower(str(hub_folder), text_tower())
    tokens = torch.tensor([[38, 5, 6, 7, 39, 0, 0, 0, 0, 0], [38, 9, 39, 0, 0, 0, 0, 0, 0, 0]])
    with torch.no_grad():
        pooled = hub_clip.text_model(tokens).pooler_output
        torch.testing.assert_close(tower(tokens), hub_clip.text_projection(pooled), atol=1e-5, rtol=1e-4)


class Archive(nn.Module):
    """What OpenAI's archive looks like from outside: a scripted module in half precision with its parts by name."""

    def __init__(self) -> None:
        super().__init__()
        text = text_tower()
        self.visual = image_tower()
        self.transformer, self.token_embedding, self.ln_final = text.transformer, text.token_embedding, text.ln_final
        self.positional_embedding, self.text_projection = text.positional_embedding, text.text_projection
        self.logit_scale = nn.Parameter(torch.tensor(4.6052))

    def forward(self, image: Tensor) -> Tensor:
        return image.half() * self.logit_scale


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_openais_archive_and_its_conversion_are_read(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    torch.manual_seed(1)
    archive = Archive().half()
    del archive.visual.mean, archive.visual.std  # the published archive holds neither
    torch.jit.save(torch.jit.trace(archive, torch.zeros(1)), str(tmp_path / "ViT-B-32.pt"))
    save_file({n: t.contiguous() for n, t in archive.state_dict().items()}, str(tmp_path / "clip.safetensors"))
    for name in ("ViT-B-32.pt", "clip.safetensors"):
        tower = load_image_tower(str(tmp_path / name), image_tower())
        wanted = archive.visual.state_dict()
        assert all(torch.equal(t, wanted[n].float()) for n, t in tower.state_dict().items()), name
        assert tower.proj.dtype == torch.float32
        text = load_text_tower(str(tmp_path / name), text_tower())
        assert torch.equal(text.text_projection, archive.text_projection.float())


def test_the_published_sizes_are_vit_b_32s() -> None:
    with torch.device("meta"):
        image, text = ClipImageTower(), ClipTextTower()
    assert sum(p.numel() for p in image.parameters()) == 87_849_216
    assert sum(p.numel() for p in text.parameters()) == 151_277_313 - 87_849_216 - 1  # all of CLIP, less logit_scale


def test_files_that_are_not_clip_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    with pytest.raises(WeightsError, match="'hf download owner/clip'"):
        read_clip("owner/clip")
    save_file({"weight": torch.zeros(1)}, str(tmp_path / "a.safetensors"))
    with pytest.raises(WeightsError, match=r"holds no visual\.conv1\.weight"):
        read_clip(str(tmp_path / "a.safetensors"))
    (tmp_path / "b.pt").write_bytes(b"not a zip")
    with pytest.raises(WeightsError, match="cannot be read as weights"):
        read_clip(str(tmp_path / "b.pt"))
    with pytest.raises(WeightsError, match=r"vision_model\.odd is not a tensor of CLIP"):
        from_hub_names({"vision_model.odd": torch.zeros(1)})
    save_file(
        {f"visual.{n}": t.contiguous() for n, t in image_tower().state_dict().items() if n != "proj"},
        str(tmp_path / "c.safetensors"),
    )
    with pytest.raises(WeightsError, match="missing proj"):
        load_image_tower(str(tmp_path / "c.safetensors"), image_tower())


def test_tokens_end_with_the_text() -> None:
    assert pad_tokens([1, 2, END_OF_TEXT, 7, 7], 5).tolist() == [[1, 2, END_OF_TEXT, 0, 0]]
    with pytest.raises(ValueError, match="no end of text"):
        pad_tokens([1, 2])


def test_published_heads_have_the_published_count() -> None:
    assert sum(p.numel() for p in CriticHeads().parameters()) == 3_671_555


def test_each_level_has_its_logits() -> None:
    critic = ClipCritic(ClipImageTower.tiny(), ("ihc", "he"), hidden=4)
    for domain in ("ihc", "he"):
        assert [tuple(level.shape) for level in critic(torch.zeros(2, 3, 80, 64), domain)] == [
            (2, 3, 3),
            (2, 3, 3),
            (2, 1),
        ]


def test_pictures_take_gradients_and_the_tower_none() -> None:
    critic = ClipCritic(ClipImageTower.tiny(), ("ihc", "he"), hidden=4)
    image = (torch.rand(2, 3, 64, 64) * 2 - 1).requires_grad_()
    torch.stack([level.mean() for level in critic(image, "ihc")]).sum().backward()
    assert image.grad is not None and image.grad.abs().sum() > 0
    assert all(p.grad is None for p in critic.tower.parameters())
    assert all(p.grad is not None for p in critic.heads["ihc"].parameters())
    assert all(p.grad is None for p in critic.heads["he"].parameters())


def test_heads_are_of_spectral_norm_one() -> None:
    heads = CriticHeads(width=6, out=5, hidden=4).train()
    for _ in range(200):
        heads([torch.randn(1, 6, 7, 7), torch.randn(1, 6, 7, 7), torch.randn(1, 5)])
    for layer in (heads.maps[0][0], heads.maps[1][3], heads.whole[0], heads.whole[2]):
        assert pytest.approx(1.0, abs=1e-3) == torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item()


def test_augmentation_follows_the_global_seed_and_keeps_the_shape() -> None:
    image = torch.rand(4, 3, 40, 56) * 2 - 1
    torch.manual_seed(0)
    first = augment(image)
    assert first.shape == image.shape
    assert not torch.equal(first, augment(image))
    torch.manual_seed(0)
    assert torch.equal(first, augment(image))


def test_translation_moves_by_whole_pixels_and_brings_in_zeros() -> None:
    image = torch.arange(1.0, 1 + 16 * 24).view(1, 1, 16, 24).expand(8, 3, 16, 24)
    torch.manual_seed(0)
    shifts = set()
    for moved, original in zip(translate(image), image, strict=True):
        fits = [(dy, dx) for dy in range(-2, 3) for dx in range(-3, 4) if torch.equal(moved, shifted(original, dy, dx))]
        assert len(fits) == 1
        shifts.add(fits[0])
    assert len(shifts) > 1


def shifted(image: Tensor, dy: int, dx: int) -> Tensor:
    padded = nn.functional.pad(image, (3, 3, 2, 2))
    return padded[:, 2 + dy : 2 + dy + image.shape[1], 3 + dx : 3 + dx + image.shape[2]]


def test_cutout_zeroes_one_rectangle_of_at_most_half_the_edges() -> None:
    torch.manual_seed(0)
    holes = cutout(torch.ones(64, 3, 20, 30))[:, 0] == 0
    for hole in holes:
        rows, columns = hole.any(dim=1), hole.any(dim=0)
        assert hole.sum() == rows.sum() * columns.sum()  # a full rectangle
        assert rows.sum() <= 10 and columns.sum() <= 15
    assert holes.sum(dim=(1, 2)).max() == 150


def test_colour_changes_keep_gray_pictures_gray() -> None:
    gray = torch.rand(3, 1, 8, 8).expand(3, 3, 8, 8)
    changed = change_colour(gray)
    torch.testing.assert_close(changed[:, 0], changed[:, 1])
    assert not torch.allclose(changed, gray)

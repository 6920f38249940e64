"""ASP's own: its terms and the decay of trust in the pair."""

import torch

from tests.systems.test_contrastive_systems import LATE, batch, build
from wsistain.losses.contrastive import adaptive_weights, patch_nce, patch_nce_layers
from wsistain.losses.gaussian_pyramid import gaussian_pyramid_l1
from wsistain.networks.patch_head import uniform_positions
from wsistain.systems.base import Progress


def record(system, images, progress, seed=5):
    torch.manual_seed(seed)
    return system.training_step(images, progress, lambda optimizer, loss: None)


def embeddings(system, images, seed=5):
    torch.manual_seed(seed)
    at = uniform_positions(system.G.features(images.he, system.cfg.taps), 16)
    fake = system.G(images.he)
    return fake, *(system.head(system.G.features(x, system.cfg.taps), at) for x in (fake, images.he, images.ihc))


def test_terms_equal_those_of_encoding_every_image_for_every_loss():
    system, images = build("asp").eval(), batch()
    logged = record(system, images, LATE)
    with torch.no_grad():
        fake, made, he, ihc = embeddings(system, images)
        supervised = [
            (patch_nce(q, k) * adaptive_weights(q, k, 0.75, 0.5)).mean() for q, k in zip(made, ihc, strict=True)
        ]
        expected = {
            "nce": patch_nce_layers(made, he),
            "asp": torch.stack(supervised).mean(),
            "gp": gaussian_pyramid_l1(fake, images.ihc),
            "gan": (system.D(fake) - 1).square().mean(),
        }
    for name, value in expected.items():
        torch.testing.assert_close(logged[name], value, atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_supervision_is_uniform_until_the_decay_and_trusts_likeness_after_it():
    system, images = build("asp").eval(), batch()

    def asp(epoch):
        return record(system, images, Progress(0, epoch, 40, 30, 10, 1))["asp"]

    with torch.no_grad():
        _, made, _, ihc = embeddings(system, images)
        uniform = patch_nce_layers(made, ihc)
    torch.testing.assert_close(asp(0), uniform, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(asp(30), uniform, atol=1e-5, rtol=1e-4)
    assert (asp(39) - uniform).abs() > 1e-3

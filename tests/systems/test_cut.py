"""CUT's own: equal to the step written plainly, FastCUT."""

import torch

from tests.systems.test_contrastive_systems import LATE, batch, build, plain_update
from wsistain.losses.contrastive import patch_nce_layers


def record(system, images, seed):
    """Terms of a step whose networks do not move."""
    torch.manual_seed(seed)
    return system.training_step(images, LATE, lambda optimizer, loss: None)


def plain_nce(system, source, made, at):
    keys = system.head(system.G.features(source, system.cfg.taps), at)
    return patch_nce_layers(system.head(system.G.features(made, system.cfg.taps), at), keys, system.cfg.nce_tau)


def test_terms_equal_those_of_encoding_every_image_again():
    from wsistain.networks.patch_head import uniform_positions

    system, images = build("cut").eval(), batch()
    logged = record(system, images, 3)
    torch.manual_seed(3)
    at = uniform_positions(system.G.features(images.he, system.cfg.taps), system.cfg.n_patches)
    fake, idt = system.G(images.he), system.G(images.ihc)
    torch.testing.assert_close(logged["nce"], plain_nce(system, images.he, fake, at).detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logged["nce_idt"], plain_nce(system, images.ihc, idt, at).detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logged["gan"], (system.D(fake) - 1).square().mean().detach())
    d = ((system.D(images.ihc) - 1).square().mean() + system.D(fake).square().mean()) / 2
    torch.testing.assert_close(logged["d"], d.detach())


def test_fastcut_leaves_the_identity_out_and_mirrors_half_of_the_time():
    system = build("cut", {"weights": {"nce": 10.0, "nce_idt": 0.0}, "flip_equivariance": True}).eval()
    images = batch()
    mirrored = []
    for seed in range(16):
        torch.manual_seed(seed)
        mirrored.append(bool(torch.rand(()) < 0.5))
        logged = record(system, images, seed)
        assert logged["nce_idt"] == 0
        with torch.no_grad():
            fake = system.G(images.he.flip(3) if mirrored[-1] else images.he)
        torch.testing.assert_close(logged["gan"], (system.D(fake) - 1).square().mean().detach())
    assert 4 <= sum(mirrored) <= 12


def test_a_mirrored_step_compares_the_upright_image_with_the_virtual_one_turned_back():
    from wsistain.networks.patch_head import uniform_positions

    system, images = build("cut", {"flip_equivariance": True}).eval(), batch()
    seed = next(s for s in range(100) if torch.manual_seed(s) and torch.rand(()) < 0.5)
    logged = record(system, images, seed)
    torch.manual_seed(seed)
    assert torch.rand(()) < 0.5
    at = uniform_positions(system.G.features(images.he, system.cfg.taps), system.cfg.n_patches)
    back = system.G(images.he.flip(3)).flip(3)
    torch.testing.assert_close(logged["nce"], plain_nce(system, images.he, back, at).detach(), atol=1e-5, rtol=1e-5)
    idt = plain_nce(system, images.ihc, system.G(images.ihc), at)
    torch.testing.assert_close(logged["nce_idt"], idt.detach(), atol=1e-5, rtol=1e-5)


def test_two_steps_move_the_whole_generator():
    system = build("cut")
    before = [p.detach().clone() for p in system.G.parameters()]
    for _ in range(2):
        system.training_step(batch(), LATE, plain_update)
    assert all(not torch.equal(a, b) for a, b in zip(before, system.G.parameters(), strict=True) if a.dim() > 1)


def test_f_lsesim_is_the_adversarial_loss_and_self_similarity_alone():
    system, images = build("cut", {"weights": {"nce": 0.0, "nce_idt": 0.0, "fsesim": 10.0}}), batch()
    before = [p.clone() for p in system.vgg.parameters()]
    terms = system.training_step(images, LATE, plain_update)
    assert terms["nce"] == terms["nce_idt"] == 0 and 0 < terms["fsesim"] < 2
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(before, system.vgg.parameters(), strict=True))
    assert system.concern() is None and build("cut").vgg is None

import pytest
import torch

from ale_edit.demo.models import build_model, new_unet
from ale_edit.demo.train_lcm import Lora, clean_latent, lora_file

pytestmark = pytest.mark.comfy


def _inputs():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 4, 16, 16, generator=generator)
    context = torch.randn(2, 77, 128, generator=generator)
    return x, torch.tensor([19.0, 999.0]), context


@pytest.fixture
def unet():
    torch.manual_seed(3)
    net = new_unet().eval()
    for parameter in net.parameters():  # its last layers begin at zero
        torch.nn.init.normal_(parameter, std=0.05)
    return net


def _randomised(lora):
    for pair in lora.up.values():
        torch.nn.init.normal_(pair.weight, std=0.02)
    return lora


@torch.no_grad()
def test_a_new_lora_changes_nothing_and_off_is_the_teacher(unet):
    x, t, context = _inputs()
    teacher = unet(x, t, context=context)
    lora = Lora(unet)
    assert torch.equal(unet(x, t, context=context), teacher)
    _randomised(lora)
    changed = unet(x, t, context=context)
    assert (changed - teacher).abs().max() > 1e-3
    with lora.off():
        assert torch.equal(unet(x, t, context=context), teacher)
    assert torch.equal(unet(x, t, context=context), changed)


def test_only_the_lora_learns(unet):
    lora = _randomised(Lora(unet))
    x, t, context = _inputs()
    unet(x, t, context=context).square().mean().backward()
    assert all(p.grad is None for p in unet.parameters())
    assert all(p.grad is not None and p.grad.any() for p in lora.parameters())


@torch.no_grad()
def test_comfyui_s_lora_loader_gives_the_student(unet, tmp_path):
    from comfy.sd import load_lora_for_models
    from safetensors.torch import load_file, save_file

    x, t, context = _inputs()
    weights = {k: v.clone() for k, v in unet.state_dict().items()}
    lora = _randomised(Lora(unet))
    student = unet(x, t, context=context)
    save_file(lora_file(lora.state_dict()), tmp_path / "lcm.safetensors")
    file = load_file(tmp_path / "lcm.safetensors")
    patched, _ = load_lora_for_models(build_model(weights), None, file, 1.0, 0.0)
    assert patched is not None and len(patched.patches) == len(lora.down)
    patched.patch_model()
    loaded = patched.model.diffusion_model(x, t, context=context)
    torch.testing.assert_close(loaded, student, atol=2e-4, rtol=1e-3)


def test_the_clean_latent_undoes_the_noising():
    x, noise = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    alpha_bar = torch.tensor(0.3)
    noisy = alpha_bar.sqrt() * x + (1 - alpha_bar).sqrt() * noise
    torch.testing.assert_close(clean_latent(noisy, noise, alpha_bar), x)

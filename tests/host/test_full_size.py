"""Models of the true size, with random weights, through the loaders that people use.

Left out of the usual run: it writes files of 2 and 2.6 GB and needs about 10 GB of memory.
"""

from __future__ import annotations

import gc
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
import psutil
import pytest
import torch

from ale_edit.host.attention.rgb_cam import apply_rgb_cam
from ale_edit.host.text.conditioning import ORE_KEY
from ale_edit.tests.families import conditioning, plain_conditioning
from ale_edit.tests.full_size import write_sd15, write_sdxl_unet
from ale_edit.tests.host.published_form import published_form
from ale_edit.tests.host.runs import edit, generate, patched, relative_error
from ale_edit.tests.host.test_families import guide
from ale_edit.tests.nodes.graph import edit_by_single_nodes, edits_with_masks, picture
from ale_edit.tests.oracle.ale_diffusers import Network, Settings
from ale_edit.tests.oracle.bridge import diffusers_unet, transformers_text_encoder
from ale_edit.tests.oracle.whole_edit import Scene, Twins, errors, oracles_steps, run_pack
from ale_edit.tests.tiny import source_latent, two_regions

CORE = importlib.import_module("nodes")  # ComfyUI's; type checkers would take it for ours
CLIP_L = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "projection_dim": 768,
}
NEEDED_BYTES = 10e9

pytestmark = [
    pytest.mark.slow,
    pytest.mark.fullsize,
    pytest.mark.skipif(
        psutil.virtual_memory().available < NEEDED_BYTES, reason="needs 10 GB of free memory"
    ),
]


@contextmanager
def file_of(kind: str, folder: Path, write: Any) -> Iterator[str]:
    """The name of a file in ComfyUI's folder of `kind`, which is deleted afterwards."""
    path = folder / "made.safetensors"
    places = ([str(folder)], {".safetensors"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(folder_paths.folder_names_and_paths, kind, places)
        patch.setattr(folder_paths, "filename_list_cache", {})
        write(path)
        try:
            yield path.name
        finally:
            path.unlink()
            comfy.model_management.unload_all_models()
            gc.collect()


@pytest.fixture(scope="module")
def sd15(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """MODEL, CLIP, VAE of the stock CheckpointLoaderSimple."""
    folder = tmp_path_factory.mktemp("checkpoints")
    with file_of("checkpoints", folder, write_sd15) as name, torch.inference_mode():
        yield CORE.CheckpointLoaderSimple().load_checkpoint(name)


def test_a_checkpoint_of_sd15_edits_an_image_through_the_nodes(sd15):
    model, clip, vae = sd15
    assert type(model.model.model_config).__name__ == "SD15"
    assert sum(p.numel() for p in model.model.diffusion_model.parameters()) == 859_520_964
    image = picture(1, 128, 128)
    made = edit_by_single_nodes(model, clip, vae, image, edits_with_masks(128, 128), 5, 2)
    assert made.shape == image.shape and torch.isfinite(made).all()
    assert made.std() > 0.05 and not torch.equal(made, vae.decode(vae.encode(image)))


def test_a_checkpoint_of_sd15_edits_as_the_oracle(sd15):
    """Its UNet and text encoder once more, in diffusers and transformers."""
    model, clip, _ = sd15
    pairs = (("wolf", "brown-colored goat"), ("yellow moon", "soccer ball"))
    scene = Scene(pairs, ((8, 8, 70, 60), (60, 70, 120, 124)), (16, 16), batch=1)
    encoder = transformers_text_encoder(clip, CLIP_L)
    both = Twins(model, clip, Network(diffusers_unet(model)), encoder)
    settings = Settings(steps=2)
    found = errors(run_pack(scene, settings, both), oracles_steps(scene, settings, both), scene)
    print("full-size SD 1.5: " + " ".join(f"{error:.1e}" for error in found))
    assert max(found) <= 3e-4


def test_a_unet_of_sdxl_runs_a_step_through_the_stock_loader(tmp_path):
    """In fp8, as people without much memory load it: UNETLoader's fp8_e4m3fn."""
    with file_of("diffusion_models", tmp_path, write_sdxl_unet) as name:
        (model,) = CORE.UNETLoader().load_unet(name, "fp8_e4m3fn")
        assert type(model.model.model_config).__name__ == "SDXL"
        assert sum(p.numel() for p in model.model.diffusion_model.parameters()) == 2_567_463_684
        regions, latent = two_regions(128, 128), source_latent(1, 16, 16)
        positive, negative = conditioning(30, 2048), plain_conditioning(40, 2048)
        source = conditioning(20, 2048)
        guider = guide(patched(model, regions), (1.0, 2.0), source, positive, negative)
        made = edit(guider, latent, steps=1)
        assert torch.isfinite(made).all() and relative_error(made, latent) > 0.05

        def image(m: Any) -> torch.Tensor:
            return generate(
                m, positive, negative, shape=(1, 4, 16, 16), steps=1, cfg=1.0, sampler="lcm"
            )

        ours = image(apply_rgb_cam(model, regions))
        theirs = image(published_form(model, positive[0][1][ORE_KEY], regions))
        print(f"full-size SDXL, published form: {relative_error(ours, theirs):.1e} of its std")
        assert relative_error(ours, theirs) < 1e-4
        assert relative_error(ours, image(model)) > 1e-3

"""What the nodes' tests share: tiny real models; ComfyUI runs nodes in inference mode."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ale_edit.tests.tiny import empty_models, fill, tiny_clip, tiny_model, tiny_vae


@pytest.fixture(scope="session")
def model() -> Any:
    return tiny_model()


@pytest.fixture(scope="session")
def clip() -> Any:
    return tiny_clip()


@pytest.fixture(scope="session")
def vae() -> Any:
    return tiny_vae()


@pytest.fixture(scope="session")
def kl_vae() -> Any:
    """A VAE with ComfyUI's AutoencoderKL, as a checkpoint brings it, with random weights."""
    import comfy.sd
    from comfy.ldm.models.autoencoder import AutoencoderKL

    ddconfig = {
        "double_z": True,
        "z_channels": 4,
        "resolution": 64,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 32,
        "ch_mult": [1, 1, 1, 1],
        "num_res_blocks": 1,
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    params = {"ddconfig": ddconfig, "embed_dim": 4}
    autoencoder = AutoencoderKL(**params)
    fill(autoencoder, seed=4, std=0.05)
    return comfy.sd.VAE(sd=autoencoder.state_dict(), config={"params": params})


@pytest.fixture(autouse=True)
def inference_mode() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(autouse=True)
def no_source_branch_of_another_test(request: pytest.FixtureRequest) -> Iterator[None]:
    from ale_edit.host.sampling import source_branch

    model = request.getfixturevalue("model") if "model" in request.fixturenames else None
    yield
    source_branch.forget(getattr(model, "model", None))


@pytest.fixture(autouse=True)
def temp_directory(tmp_path: Path) -> Iterator[Path]:
    """Previews are written here."""
    import folder_paths

    before = folder_paths.get_temp_directory()
    folder_paths.set_temp_directory(str(tmp_path))
    yield tmp_path
    folder_paths.set_temp_directory(before)


@pytest.fixture
def models_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of models, which holds no file of a score's."""
    names = ("lpips", "dino", "text_encoders", "clip_vision")
    return empty_models(tmp_path / "models", names, monkeypatch)

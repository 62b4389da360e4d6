"""Both libraries hold the same networks: single forward passes agree."""

import pytest
import torch

from ale_edit.tests.oracle.whole_edit import FAMILIES, twins
from ale_edit.tests.tiny import randn

pytestmark = pytest.mark.comfy


@pytest.mark.parametrize("family", [None, *FAMILIES])
@pytest.mark.parametrize("size", [(16, 24), (10, 14)])
def test_comfyuis_and_diffusers_unet_agree(family, size):
    """The four rows of a step, with the pooled vectors and sizes of SDXL."""
    both = twins(family)
    model, channels = both.model.model, both.network.unet.config["in_channels"]
    z, text = randn(4, channels, *size), randn(4, 77, 32, seed=1)
    beside = {}
    if both.network.pooled is not None:
        rows, (height, width) = both.network.pooled[[0, 0, 1, 2]], (8 * n for n in size)
        beside = {"y": model.encode_adm(pooled_output=rows, height=height, width=width)}
    for t in (999, 499, 79):
        ours = model.diffusion_model(z, torch.full((4,), t), context=text, **beside)
        theirs = both.network(z, t, text)
        assert 0.02 < float(theirs.std()) < 3
        torch.testing.assert_close(ours, theirs, atol=4e-6, rtol=0)


@pytest.mark.parametrize("prompt", ["", "wolf", "brown-colored goat and a soccer ball"])
def test_comfyuis_and_transformers_text_encoder_agree(prompt):
    ours = twins().clip.encode_from_tokens(twins().clip.tokenize(prompt))[0]
    theirs = twins().encoder.encode(prompt)
    assert 0.3 < float(theirs.std()) < 3
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)

"""Both libraries hold the same networks: single forward passes agree."""

import pytest
import torch

from ale_edit.tests.oracle.whole_edit import twins
from ale_edit.tests.tiny import randn

pytestmark = pytest.mark.comfy


@pytest.mark.parametrize("size", [(16, 24), (10, 14)])
def test_comfyuis_and_diffusers_unet_agree(size):
    x, text = randn(2, 4, *size), randn(2, 77, 32, seed=1)
    for t in (999, 499, 79):
        ours = twins().model.model.diffusion_model(x, torch.tensor([t, t]), context=text)
        theirs = twins().unet(x, torch.tensor(t), encoder_hidden_states=text).sample
        assert 0.02 < float(theirs.std()) < 3
        torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=0)


@pytest.mark.parametrize("prompt", ["", "wolf", "brown-colored goat and a soccer ball"])
def test_comfyuis_and_transformers_text_encoder_agree(prompt):
    ours = twins().clip.encode_from_tokens(twins().clip.tokenize(prompt))[0]
    theirs = twins().encoder.encode(prompt)
    assert 0.3 < float(theirs.std()) < 3
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)

import pytest
import torch

from ale_edit.inversion.blending import blend
from ale_edit.tests.tiny import randn

SOURCE, TARGET = randn(2, 4, 6, 5, seed=1), randn(2, 4, 6, 5, seed=2)


def test_a_hard_background_is_the_source_bit_for_bit_and_the_rest_the_target():
    background = randn(6, 5, seed=3) > 0
    out = blend(SOURCE, TARGET, background)
    assert torch.equal(out[..., background], SOURCE[..., background])
    assert torch.equal(out[..., ~background], TARGET[..., ~background])


def test_a_soft_background_mixes_by_its_weight():
    weight = torch.linspace(0, 1, 30).view(6, 5)
    out = blend(SOURCE, TARGET, weight)
    torch.testing.assert_close(out, weight * SOURCE + (1 - weight) * TARGET, rtol=0, atol=1e-6)
    assert torch.equal(out[..., 0, 0], TARGET[..., 0, 0])
    assert torch.equal(out[..., 5, 4], SOURCE[..., 5, 4])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_blending_keeps_the_latents_type(dtype: torch.dtype):
    weight = torch.full((6, 5), 0.5)
    assert blend(SOURCE.to(dtype), TARGET.to(dtype), weight).dtype == dtype

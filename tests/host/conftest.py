"""What the host's tests share: a tiny model, a tiny CLIP, inference mode as in ComfyUI's nodes."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from ale_edit.tests.tiny import tiny_clip, tiny_model

torch.set_printoptions(threshold=8, edgeitems=1)  # a failed comparison prints both latents


@pytest.fixture(scope="session")
def model() -> Any:
    return tiny_model()


@pytest.fixture(scope="session")
def clip() -> Any:
    return tiny_clip()


@pytest.fixture(autouse=True)
def inference_mode() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(autouse=True)
def no_source_branch_of_another_test(request: pytest.FixtureRequest) -> Iterator[None]:
    from ale_edit.host.sampling import source_branch

    yield
    if "model" in request.fixturenames:
        source_branch.forget(getattr(request.getfixturevalue("model"), "model", None))

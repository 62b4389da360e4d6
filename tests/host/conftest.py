"""What the host's tests share: one tiny model and one tiny CLIP; ComfyUI runs nodes in inference mode."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from ale_edit.tests.tiny import tiny_clip, tiny_model


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

"""What the host's tests share: a tiny model, a tiny CLIP, inference mode as in ComfyUI's nodes."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from ale_edit.host.sampling import branch_guider, source_branch
from ale_edit.tests.host.runs import with_option
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
    model = request.getfixturevalue("model") if "model" in request.fixturenames else None
    yield
    source_branch.forget(getattr(model, "model", None))


@pytest.fixture
def calls(model: Any) -> Any:
    """The tiny model, counting its UNet calls: no bad input may cost a step."""
    counted: list[int] = []

    def count(executor: Any, *args: Any, **kwargs: Any) -> Any:
        counted.append(1)
        return executor(*args, **kwargs)

    counting = with_option(model, lambda m: m.add_wrapper_with_key("apply_model", "count", count))
    counting.calls = counted
    return counting


@pytest.fixture
def split_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """The row policy of large latents on the CPU, on the tests' tiny ones."""
    monkeypatch.setattr(branch_guider, "LEAST_SPLIT_POSITIONS", 0)

"""One pair of twin models for the whole folder."""

from dataclasses import dataclass
from typing import Any

import pytest


@dataclass(frozen=True)
class Pair:
    model: Any
    clip: Any
    unet: Any
    encoder: Any


@pytest.fixture(scope="session")
def pair():
    return None

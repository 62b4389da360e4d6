"""Every bad input of a node gives one sentence that says what, the values, the cure, the node and
its input, before any sampling; and the help page of the node explains it."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from ale_edit.demo import models, weights
from ale_edit.tests.nodes.bad_cpam import CPAM_CASES
from ale_edit.tests.nodes.bad_diffedit import DIFFEDIT_CASES
from ale_edit.tests.nodes.bad_dpl import DPL_CASES
from ale_edit.tests.nodes.bad_editors import EDITOR_CASES
from ale_edit.tests.nodes.bad_edits import EDIT_CASES, REGION_CASES
from ale_edit.tests.nodes.bad_flow import FLOW_CASES
from ale_edit.tests.nodes.bad_input import CURE, Case, World
from ale_edit.tests.nodes.bad_inversions import ELSEWHERE, INVERSION_CASES
from ale_edit.tests.nodes.bad_ledits import LEDITS_CASES
from ale_edit.tests.nodes.bad_mag_edit import MAG_EDIT_CASES
from ale_edit.tests.nodes.bad_masactrl import MASACTRL_CASES
from ale_edit.tests.nodes.bad_models import MODEL_CASES, NO_UNET, OTHER_MODEL_CASES
from ale_edit.tests.nodes.bad_patches import OF_NODES_NOT_HERE, PATCH_CASES
from ale_edit.tests.nodes.bad_pix2pix_zero import PIX2PIX_ZERO_CASES
from ale_edit.tests.nodes.bad_sampling import SAMPLING_CASES
from ale_edit.tests.nodes.graph import one, run, schema
from ale_edit.tests.nodes.test_bad_grounding import SAID as GROUNDING_SAID
from ale_edit.tests.nodes.test_bad_scores import LOADERS_SAY
from ale_edit.tests.nodes.test_bad_scores import SAID as SCORES_SAID
from ale_edit.tests.nodes.test_help_pages import page
from ale_edit.tests.nodes.test_schemas import NODE_IDS

DEMO_QUOTES = ("is missing", "bytes, not", "is not the listed one (SHA-256)")
CASES = [
    *INVERSION_CASES,
    *EDIT_CASES,
    *REGION_CASES,
    *MODEL_CASES,
    *FLOW_CASES,
    *OTHER_MODEL_CASES,
    *PATCH_CASES,
    *SAMPLING_CASES,
    *EDITOR_CASES,
    *MASACTRL_CASES,
    *CPAM_CASES,
    *DIFFEDIT_CASES,
    *DPL_CASES,
    *LEDITS_CASES,
    *MAG_EDIT_CASES,
    *PIX2PIX_ZERO_CASES,
]


@pytest.fixture(scope="session")
def world(model: Any, clip: Any, vae: Any) -> World:
    return World(model, clip, vae)


@pytest.fixture(scope="session")
def refuse(world: World) -> Callable[[Case], tuple[str, int]]:
    """What ComfyUI shows for a case, and how often the model was called before; each case runs
    once."""

    @cache
    def refused(case: Case) -> tuple[str, int]:
        before = world.calls
        with pytest.raises(ValueError) as error:
            case.cause(world)
        return str(error.value), world.calls - before

    return refused


every_case = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


@every_case
def test_the_sentence_names_what_is_wrong_with_its_values_node_and_input(
    case: Case, refuse: Callable[[Case], tuple[str, int]]
) -> None:
    sentence, _ = refuse(case)
    assert case.quote in sentence
    assert [words for words in case.says if words not in sentence] == []


@every_case
def test_the_sentence_ends_with_the_cure(
    case: Case, refuse: Callable[[Case], tuple[str, int]]
) -> None:
    sentence, _ = refuse(case)
    assert CURE.search(sentence), sentence
    assert sentence.endswith(".") and "\n" not in sentence


@every_case
def test_nothing_has_been_sampled(case: Case, refuse: Callable[[Case], tuple[str, int]]) -> None:
    _, calls = refuse(case)
    assert calls == case.calls


@every_case
def test_the_help_page_explains_it(case: Case) -> None:
    assert f"`{case.quote}" in page(case.page) or f"{case.quote}`" in page(case.page)


def test_every_node_that_takes_a_model_refuses_one_without_a_unet() -> None:
    takers = {i for i in NODE_IDS if any(e.io_type == "MODEL" for e in schema(i).inputs)}
    assert takers == {
        case.page
        for case in MODEL_CASES + EDITOR_CASES + INVERSION_CASES + DIFFEDIT_CASES
        if case.quote == NO_UNET
    }


def test_a_run_that_is_right_does_sample(world: World) -> None:
    """Also of a clone, as every node of ours makes one."""
    for model in (world.model, one("ALESelfAttentionInjection", model=world.model)):
        before = world.calls
        world.sample(world.guide(model))
        assert world.calls > before


def test_the_next_edit_is_well_after_every_refusal(world: World) -> None:
    before = world.edit()[0]
    for case in SAMPLING_CASES:
        with pytest.raises(ValueError):
            case.cause(world)
    assert torch.equal(world.edit()[0], before)


@pytest.mark.parametrize(
    ("content", "quote"),
    [(None, "is missing"), (b"short", "bytes, not"), (b"0123456789", DEMO_QUOTES[2])],
    ids=["missing", "cut off", "damaged"],
)
def test_a_bad_demo_weight_file_is_named_with_the_cure(
    content: bytes | None, quote: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "unet.safetensors"
    table = {file.name: {"bytes": 10, "sha256": "0"}}
    (tmp_path / weights.TABLE).write_text(json.dumps(table), encoding="utf-8")
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setattr(models, "read_weights", lambda part: weights.read_weights(part, tmp_path))
    with pytest.raises(ValueError) as error:
        run("ALEDemoModelLoader")
    assert str(file) in str(error.value) and quote in str(error.value)
    assert "Install the pack again" in str(error.value)
    assert f"`{quote}" in page("ALEDemoModelLoader")


@pytest.mark.parametrize("node_id", NODE_IDS)
def test_every_sentence_that_a_help_page_quotes_is_one_that_is_said(node_id: str) -> None:
    said = [*DEMO_QUOTES, *GROUNDING_SAID, *SCORES_SAID, *LOADERS_SAY, *OF_NODES_NOT_HERE]
    said += ELSEWHERE
    said += [case.quote for case in CASES]
    mistakes = page(node_id).split("## Typical mistakes")[1].split("## See it in")[0]
    quoted = [line.split("`")[1] for line in mistakes.splitlines() if line.startswith("| `")]
    assert [quote for quote in quoted if not any(quote in s or s in quote for s in said)] == []

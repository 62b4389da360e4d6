"""The pack's workflows filled: masks or words, models, prompts, settings."""

from pathlib import Path
from typing import Any

import pytest

from ale_edit.headless import Workflow
from ale_edit.headless.edits import (
    MASKED,
    SETTINGS,
    Model,
    apply_setting,
    fill_edits,
    mask_workflow,
    settings_of,
    use_prompts,
    words_workflow,
)
from ale_edit.headless.pack import WORKFLOWS
from ale_edit.headless.schema import complaints
from ale_edit.tests.headless.fake_server import object_info

TWO = [("wolf", "goat", "1.png"), ("moon", "ball", "2.png")]
WORDS = [("wolf", "goat"), ("moon", "ball")]
LCM = Model("c.safetensors", lcm=True)
LORA = Model("c.safetensors", "l.safetensors")


def source_of(workflow: Workflow, title: str, input_name: str) -> tuple[str, int]:
    node_id, output = workflow.inputs(title)[input_name]
    return workflow.title(node_id), output


def is_whole(workflow: Workflow) -> bool:
    """Whether every link leads to a node that is there, and the nodes take all inputs (but for the
    names of files, which are a server's own)."""
    links = [v for n in workflow.nodes.values() for v in n["inputs"].values() if type(v) is list]
    assert all(link[0] in workflow.nodes for link in links)
    nodes = object_info()
    return not [c for c in complaints(workflow, nodes) if "Loader" not in c.class_type]


@pytest.mark.parametrize("model", [Model(), Model("c.safetensors"), LCM, LORA])
def test_both_workflows_stay_whole_with_every_model(model):
    assert is_whole(mask_workflow("i.png", TWO, model))
    assert is_whole(words_workflow("i.png", WORDS, model))


def test_words_stand_in_the_list_and_the_demo_model_has_its_guidance():
    workflow = words_workflow("i.png", WORDS)
    assert workflow.inputs("Edit List")["text"] == "wolf -> goat\nmoon -> ball"
    assert workflow.inputs("Source image")["image"] == "i.png"
    assert "ALEDemoModelLoader" in workflow.classes()
    assert not {"LoraLoader", "ModelSamplingDiscrete"} & workflow.classes()
    assert settings_of(workflow)["target_guidance"] == 5.0


def test_without_a_checkpoint_the_demo_detector_finds_the_objects():
    workflow = words_workflow("i.png", WORDS)
    assert source_of(workflow, "Grounded-SAM Masks", "detector") == ("Demo Detector Loader", 0)
    assert source_of(workflow, "Grounded-SAM Masks", "segmenter") == ("Demo Detector Loader", 1)
    assert not {"ALEGroundingDINOLoader", "ALESAMLoader"} & workflow.classes()
    workflow = words_workflow("i.png", WORDS, LCM)
    assert source_of(workflow, "Grounded-SAM Masks", "segmenter") == ("SAM Loader", 0)
    assert "ALEDemoDetectorLoader" not in workflow.classes()


@pytest.mark.parametrize("make", [mask_workflow, words_workflow])
def test_a_lora_lies_between_checkpoint_and_everything_and_samples_as_an_lcm(make: Any):
    workflow = make("i.png", TWO if make is mask_workflow else WORDS, LORA)
    loader = "Model" if make is mask_workflow else "Load Checkpoint"
    assert source_of(workflow, "LCM-LoRA", "model") == (loader, 0)
    assert source_of(workflow, "LCM-LoRA", "clip") == (loader, 1)
    assert source_of(workflow, "ModelSamplingDiscrete", "model") == ("LCM-LoRA", 0)
    taken = {workflow.title(node) for node, _ in workflow.links_to(loader, 0)}
    assert taken == {"LCM-LoRA"}
    assert {workflow.title(node) for node, _ in workflow.links_to(loader, 1)} == {"LCM-LoRA"}
    assert workflow.inputs("ModelSamplingDiscrete")["sampling"] == "lcm"
    assert settings_of(workflow)["target_guidance"] == 2.0


def test_an_lcm_checkpoint_samples_as_one_without_a_lora():
    workflow = mask_workflow("i.png", TWO, LCM)
    assert source_of(workflow, "RGB-CAM", "model") == ("ModelSamplingDiscrete", 0)
    assert source_of(workflow, "Schedule", "model") == ("ModelSamplingDiscrete", 0)
    assert source_of(workflow, "Negative", "clip") == ("Model", 1)


def test_a_lora_without_a_checkpoint_is_refused():
    with pytest.raises(ValueError, match="needs a checkpoint"):
        Model(lora="l.safetensors")


@pytest.mark.parametrize("make", [mask_workflow, words_workflow])
def test_prompts_come_between_the_edits_and_whatever_took_them(make: Any):
    workflow = make("i.png", TWO if make is mask_workflow else WORDS)
    last, taker = ("Edit 2", "Method") if make is mask_workflow else ("Edit List", None)
    use_prompts(workflow, {"source_prompt": "a wolf"})
    use_prompts(workflow, {"target_prompt": "a goat"})
    assert workflow.inputs("Full Prompts")["source_prompt"] == "a wolf"
    assert workflow.inputs("Full Prompts")["target_prompt"] == "a goat"
    assert source_of(workflow, "Full Prompts", "edits") == (last, 0)
    assert [workflow.title(k) for k, _ in workflow.links_to(last, 0)] == ["Full Prompts"]
    assert source_of(workflow, taker or "Grounded-SAM Masks", "edits") == ("Full Prompts", 0)
    assert is_whole(workflow)


def test_a_workflow_of_ones_own_is_filled_by_titles_whatever_takes_its_edits():
    workflow = Workflow.load(WORKFLOWS / "ale_edit_lcm_lora.json")
    fill_edits(workflow, "i.png", [*TWO, ("sea", "lava", "3.png")])
    for taker in ("Object-Restricted Embeddings", "Regions"):
        assert source_of(workflow, taker, "edits") == ("Edit 3", 0)
    assert source_of(workflow, "Edit 3", "previous") == ("Edit 2", 0)
    assert source_of(workflow, "Edit 3", "mask") == ("Mask 3", 0)
    fill_edits(workflow, "i.png", TWO[:1])
    for taker in ("Object-Restricted Embeddings", "Regions"):
        assert source_of(workflow, taker, "edits") == ("Edit 1", 0)
    assert "previous" not in workflow.inputs("Edit 1")
    assert is_whole(workflow)


def test_a_workflow_without_the_titles_is_told_what_it_has(tmp_path: Path):
    workflow = Workflow.load(WORKFLOWS / "ale_edit_words.json")
    with pytest.raises(ValueError, match="no node titled 'Edit 1'.*It has: ALE Edit, Detections"):
        fill_edits(workflow, "i.png", TWO)
    with pytest.raises(ValueError, match="no node titled 'Edit List'"):
        fill_edits(Workflow.load(MASKED), "i.png", WORDS)


@pytest.mark.parametrize("name", sorted(SETTINGS))
@pytest.mark.parametrize("make", [mask_workflow, words_workflow])
def test_every_setting_reaches_an_input(make: Any, name: str):
    workflow = make("i.png", TWO if make is mask_workflow else WORDS)
    value = {"type": "material", "variant": "published code", "seed": 9, "steps": 3}.get(name, 0.25)
    apply_setting(workflow, name, str(value))
    if name == "schedule":
        assert name not in settings_of(workflow)  # the type has its own
        apply_setting(workflow, "type", "custom")
    assert settings_of(workflow)[name] == value
    assert is_whole(workflow)


def test_an_input_is_set_by_title_and_keeps_its_kind():
    workflow = mask_workflow("i.png", TWO)
    for name, text in (("Method.ore", "false"), ("Regions.feather", "1"), ("Negative.text", "7")):
        apply_setting(workflow, name, text)
    assert workflow.inputs("Method")["ore"] is False
    assert workflow.inputs("Regions")["feather"] == 1.0
    assert workflow.inputs("Negative")["text"] == "7"


@pytest.mark.parametrize(
    ("name", "place"),
    [
        *((name, name) for name in sorted({*SETTINGS} - {"type", "variant", "seed", "steps"})),
        ("target_guidance", "Guider.target_guidance"),
        ("dilation", "Regions.dilation"),
        ("", "Sampler.eta"),
        ("", "Regions.feather"),
    ],
)
def test_a_number_that_the_front_end_exported_as_whole_may_become_any(name: str, place: str):
    """JavaScript writes 2.0 as 2."""
    workflow = mask_workflow("i.png", TWO)
    for node in workflow.nodes.values():
        node["inputs"] |= {k: 2 for k, v in node["inputs"].items() if isinstance(v, float)}
    apply_setting(workflow, place, "2.5")
    if name:
        apply_setting(workflow, "type", "custom")
        assert settings_of(workflow)[name] == 2.5
    else:
        title, _, input_name = place.partition(".")
        assert workflow.inputs(title)[input_name] == 2.5


@pytest.mark.parametrize("place", ["steps", "seed", "Schedule.steps", "Noise.noise_seed"])
def test_a_setting_that_is_whole_stays_so_whatever_the_workflow_holds(place: str):
    workflow = mask_workflow("i.png", TWO)
    workflow.fill("Schedule", steps=15.0)
    with pytest.raises(ValueError, match=f"{place} is '2.5'. Write a whole number"):
        apply_setting(workflow, place, "2.5")


def test_a_fraction_for_a_whole_input_of_another_node_is_told_by_its_server():
    workflow = mask_workflow("i.png", TWO)
    workflow.add("Count", "ALEDemoScene", {"seed": 1, "objects": 2})
    apply_setting(workflow, "Count.objects", "2.5")
    (error,) = complaints(workflow, object_info())
    assert (error.title, error.input_name) == ("Count", "objects")
    assert error.message == "2.5 is not a whole number"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("seed", "abc", "seed is 'abc'. Write a number"),
        ("seed", "1.5", "seed is '1.5'. Write a whole number"),
        ("seed", True, "seed is True. Write a number"),
        ("strength", "nan", "Write a number"),
        ("Method.ore", "maybe", "Write true or false"),
        ("Method.orb", "1", "'Method' in ale_edit.json has no input 'orb'. It has: blending"),
        ("Methode.ore", "1", "no node titled 'Methode'"),
        ("colour", "1", "no setting 'colour'. There are: type, schedule"),
        ("Regions.edits", "1", "gets its edits from another node"),
    ],
)
def test_a_setting_that_cannot_be_is_told(name, value, expected):
    with pytest.raises(ValueError, match=expected):
        apply_setting(mask_workflow("i.png", TWO), name, value)


def test_a_large_seed_is_kept_to_the_last_digit():
    workflow = mask_workflow("i.png", TWO)
    apply_setting(workflow, "seed", str(2**64 - 1))
    assert settings_of(workflow)["seed"] == 2**64 - 1

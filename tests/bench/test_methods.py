"""Methods change what their name says, and nothing else; mask errors are what they are called."""

from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image

from ale_edit.bench.main_job import fill_workflow, to_picture
from ale_edit.bench.methods import (
    ALE,
    COMPONENTS,
    DEFAULT,
    DILATIONS,
    END_OF_TEXT,
    SAMPLING,
    Method,
    all_methods,
    erode,
    fill_box,
    find_methods,
    name_of,
    shift,
    spoil_mask,
)
from ale_edit.editors import COMPARED
from ale_edit.headless.editors import editor_files, takes_masks
from ale_edit.headless.edits import editor_workflow
from ale_edit.prompts.edits import END_OF_TEXT as STRATEGIES

GROUND = {
    "masactrl": {"time_steps": "LCM"},
    "fpe": {"time_steps": "LCM"},
    "pnp": {"time_steps": "LCM"},
    "sdedit": {"time_steps": "LCM", "strength": 0.6},
    "diffedit": {"time_steps": "LCM", "strength": 0.8},
    "ledits": {"strength": 0.85},
    "p2p": {"time_steps": "LCM"},
    "mag-edit": {"time_steps": "LCM"},
    "cpam": {"time_steps": "LCM"},
    "dpl": {"time_steps": "LCM"},
    "pix2pix-zero": {"time_steps": "LCM"},
}
"""Beyond steps and guidance, what puts an editor on the ground of ALE-Edit."""


def filled(method: Method) -> dict:
    if method.editor == ALE.editor:
        workflow = fill_workflow("a.png", [("a", "b", "m.png")], seed=0, edit_type="color")
    else:
        masks = ("m.png",) if takes_masks(method.editor) else ()
        workflow = editor_workflow(method.editor, "a.png", [("a", "b", *masks)])
    method.apply(workflow, ["a brown-colored goat", "ball made of gold"])
    return {workflow.title(k): node["inputs"] for k, node in workflow.nodes.items()}


@pytest.fixture
def mask() -> torch.Tensor:
    mask = torch.zeros(40, 60, dtype=torch.bool)
    mask[10:25, 20:50] = True
    mask[10:15, 20:30] = False
    return mask


def test_names_are_unique_and_serve_as_folders():
    methods = all_methods()
    assert all(name == m.name and name == name.strip("/. ") for name, m in methods.items())
    assert len({m.label for m in methods.values()}) == len(methods)


@pytest.mark.parametrize("method", all_methods().values(), ids=lambda m: m.name)
def test_each_method_changes_its_own_inputs_alone(method):
    plain, changed = filled(Method("plain", "plain", editor=method.editor)), filled(method)
    different = {t: {k: v for k, v in changed[t].items() if v != plain[t][k]} for t in plain}
    meant = {t: {k: v for k, v in i.items() if v != plain[t][k]} for t, i in method.inputs.items()}
    if method.nouns_input is not None:
        for inputs in meant.values():
            inputs[method.nouns_input] = "goat and ball"
    assert {t: i for t, i in different.items() if i} == {t: i for t, i in meant.items() if i}
    # the settings of an editor's workflow
    same = (method.editor, "ledits-paper", "pix2pix-zero-paper")
    assert any(different.values()) or method.mask_error or method.name in same


def test_the_ablations_are_those_of_tables_12_and_13():
    switches = {m.name: filled(m)["Method"] for m in COMPONENTS}
    on = {n: [s[k] for k in ("ore", "rgb_cam", "blending")] for n, s in switches.items()}
    assert on == {
        "naive": [False, False, False],
        "ore": [True, False, False],
        "ore-rgb": [True, True, False],
        "ore-bb": [True, False, True],
        "ale": [True, True, True],
    }
    assert {filled(m)["Method"]["end_of_text"] for m in END_OF_TEXT} == set(STRATEGIES)
    assert [filled(m)["Regions"]["dilation"] for m in DILATIONS] == [0, 0.01, 0.02, 0.04, 0.08]


@pytest.mark.parametrize("editor", COMPARED, ids=lambda editor: editor.name)
def test_an_editor_is_a_method_and_with_its_papers_settings_another(editor):
    methods = all_methods()
    name = name_of(editor)
    plain, paper = methods[name], methods[f"{name}-paper"]
    assert (plain.editor, plain.label) == (editor.name, editor.title)
    (ground,) = plain.inputs.values() or [{}]
    assert ground == GROUND.get(editor.name, {})
    settings = editor.paper or editor.settings()
    found = filled(paper)[editor.title]
    assert {name: found[name] for name in asdict(settings)} == asdict(settings)
    assert paper.editor == editor.name and paper.masks([], 0) == []


def test_mag_edit_has_a_method_for_each_constraint():
    found = {
        name: filled(all_methods()[name])["MAG-Edit"]
        for name in ("mag-token", "mag-spatial", "mag-token-paper", "mag-spatial-paper")
    }
    assert {name: own["constraint"] for name, own in found.items()} == {
        name: f"{name.split('-')[1]} ratio" for name in found
    }
    spatial = {"constraint": "spatial ratio", "early_stop": True}
    assert found["mag-spatial-paper"] == {**found["mag-token-paper"], **spatial}


def test_locinv_is_dpl_with_its_own_priors_and_updates():
    own = {"priors": "masks", "updates": 31, "null_updates": 31}
    for name in ("dpl", "dpl-paper"):
        locinv = filled(all_methods()[name.replace("dpl", "locinv")])["DPL"]
        assert locinv == {**filled(all_methods()[name])["DPL"], **own}


def test_cpam_has_a_method_for_removal_and_for_the_background():
    methods = all_methods()
    for strategy in ("remove", "background"):
        for paper in ("", "-paper"):
            found, plain = (
                filled(methods[name + paper])["CPAM"] for name in (f"cpam-{strategy}", "cpam")
            )
            assert plain["strategy"] == "replace"
            assert found == {**plain, "strategy": strategy}


def test_the_papers_settings_are_those_of_the_papers():
    steps = {"infedit": (15, 1.0, 2.0), "masactrl": (50, 7.5, 7.5)}  # methods.md: B, C
    steps |= {"fpe": (50, 7.5, 7.5), "pnp": (50, 1.0, 7.5)}
    assert all_methods()["sdedit-paper"].inputs == {
        "SDEdit": {"steps": 50, "target_guidance": 7.5, "strength": 0.6, "time_steps": "DDIM"}
    }
    steps |= {"p2p": (50, 7.5, 7.5), "mag-token": (50, 7.5, 7.5), "dpl": (50, 7.5, 7.5)}
    for name, expected in steps.items():
        (inputs,) = all_methods()[f"{name}-paper"].inputs.values()
        found = tuple(inputs[k] for k in ("steps", "source_guidance", "target_guidance"))
        assert found == expected


def test_the_inversions_and_end_tokens_of_prompt_to_prompt_are_methods_on_its_ground():
    inversions = {"nti-p2p": "null-text", "npi-p2p": "negative-prompt", "direct-p2p": "direct"}
    for name, inversion in {**inversions, "p2p-ets": "DDIM"}.items():
        found = filled(all_methods()[name])["Prompt-to-Prompt"]
        assert (found["inversion_method"], found["time_steps"]) == (inversion, "LCM")
        assert found["ets_prompt"] == ("goat and ball" if name == "p2p-ets" else "")


def test_an_unknown_method_is_named_with_those_that_there_are():
    assert find_methods([]) == DEFAULT
    assert find_methods(["ale", "naive", "ale"]) == (ALE, COMPONENTS[0])
    with pytest.raises(ValueError, match="no method 'best'. There are: naive, ore"):
        find_methods(["ale", "best"])


def test_an_eroded_mask_lost_its_outline_and_never_all(mask):
    smaller = erode(mask, 2)
    y, x = np.nonzero(~np.pad(mask.numpy(), 0))
    for row, column in np.argwhere(mask.numpy()):
        near = (abs(y - row) <= 2) & (abs(x - column) <= 2)
        assert bool(smaller[row, column]) == (not near.any())
    assert erode(mask, 100).any() and torch.equal(erode(mask, 0), mask)


def test_a_shifted_mask_is_the_same_elsewhere_and_stays_inside(mask):
    for seed in range(10):
        moved = shift(mask, 8, seed)
        assert moved.sum() == mask.sum()
        rows, columns = (m.nonzero()[:, 0].min() for m in (moved.any(1), moved.any(0)))
        far = float(((rows - 10) ** 2 + (columns - 20) ** 2) ** 0.5)
        assert 7 <= far <= 9
    assert len({tuple(shift(mask, 8, s).nonzero()[0].tolist()) for s in range(10)}) > 3
    assert shift(mask, 100, 0).sum() == mask.sum()


def test_a_boxed_mask_is_its_bounding_box(mask):
    expected = torch.zeros_like(mask)
    expected[10:25, 20:50] = True
    assert torch.equal(fill_box(mask), expected)


def test_a_spoiled_mask_is_a_black_and_white_picture_of_its_size(mask):
    picture = spoil_mask(to_picture(mask.float()), "eroded", 0.05, 0)
    assert picture.size == (60, 40)
    assert set(np.unique(np.array(picture))) == {0, 255}
    assert torch.equal(torch.from_numpy(np.array(picture)[..., 0] > 0), erode(mask, 2))


def test_masks_are_spoiled_for_methods_with_a_mask_error_only(mask):
    masks = [to_picture(mask.float())] * 2
    assert ALE.masks(masks, 0) == masks
    one, other = all_methods()["shifted-0.12"].masks(masks, 0)
    assert isinstance(one, Image.Image) and one.tobytes() != other.tobytes()


@pytest.mark.parametrize("editor", COMPARED, ids=lambda editor: editor.name)
def test_an_editors_workflow_has_its_defaults_but_for_the_sampling_of_the_demo_model(editor):
    settings = editor_files()[editor.name].settings
    defaults = asdict(editor.settings())
    assert {k: settings[k] for k in defaults if k not in SAMPLING} == {
        k: v for k, v in defaults.items() if k not in SAMPLING
    }

"""A refusal names the node that the person has in the graph: one node that runs the functions of
others says its own name, and the pure maths names none."""

from __future__ import annotations

import ast
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from comfy_extras.nodes_hooks import SetClipHooks

from ale_edit.editors import EDITORS
from ale_edit.prompts.edits import Edits
from ale_edit.tests.families import family_model
from ale_edit.tests.host.other_nodes import in_tiles, row_by_row
from ale_edit.tests.nodes.bad_editors import EVERY_EDITOR_CASES
from ale_edit.tests.nodes.bad_edits import sentences
from ale_edit.tests.nodes.bad_input import (
    CURE,
    Case,
    World,
    boxes,
    listed,
    only_wolf,
    regions,
    regions_of_two,
)
from ale_edit.tests.nodes.bad_models import continuous, doubling_clip, flow_matching, sd3_clip
from ale_edit.tests.nodes.bad_patches import MAHIRO, WINDOWS, couple, merge_queries
from ale_edit.tests.nodes.graph import nodes, one, picture, run
from ale_edit.tests.regions.test_objects import KnownDetector
from ale_edit.tests.tiny import two_boxes

ROOT = Path(__file__).resolve().parents[2]
EDITOR = "ALE Edit"


class Swap:
    """A VAE that encodes as another does and gives other pictures or latents."""

    def __init__(self, vae: Any, encode: Callable[..., Any] = lambda made: made, scale: int = 1):
        self._vae, self._change, self._scale = vae, encode, scale

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        return self._change(self._vae.encode(image))

    def decode(self, samples: torch.Tensor) -> torch.Tensor:
        return self._vae.decode(samples).repeat_interleave(self._scale, dim=1)


def hooks_on_a_schedule(clip: Any) -> Any:
    import comfy.hooks

    group = comfy.hooks.create_hook_lora({}, 1.0, 0.5)
    keyframes = comfy.hooks.HookKeyframeGroup()
    for strength, start in ((1.0, 0.0), (0.3, 0.5)):
        keyframes.add(comfy.hooks.HookKeyframe(strength, start_percent=start))
    group.set_keyframes_on_hooks(keyframes)
    return SetClipHooks().apply_hooks(clip, True, True, group)[0]


def empty(index: int) -> Any:
    """Edits whose masks are the boxes, one of them empty."""
    masks = [mask.clone() for mask in two_boxes()]
    masks[index].zero_()
    edits = one("ALEEditObject", mask=masks[0])
    return one("ALEEditObject", source="moon", target="ball", previous=edits, mask=masks[1])


def patched(node_id: str, world: World) -> Any:
    inputs = {} if node_id == "ALESelfAttentionInjection" else {"regions": regions()}
    return one(node_id, model=world.model, **inputs)


# what, how, and the other nodes that the graph of the case holds
REFUSALS: list[tuple[str, Callable[[World], Any], set[str]]] = [
    ("variant", lambda w: w.edit(variant="other"), set()),
    ("edit type", lambda w: w.edit(edit_type="other"), set()),
    ("tiny image", lambda w: w.edit(image=picture(height=4, width=4), edits=only_wolf()), set()),
    ("no edit", lambda w: w.edit(edits=Edits(())), set()),
    ("no edit beside regions", lambda w: w.edit(edits=Edits(()), regions=regions()), {"Regions"}),
    ("no mask", lambda w: w.edit(edits=listed()), set()),
    (
        "two masks for an image",
        lambda w: w.edit(edits=one("ALEEditObject", mask=boxes())),
        {"Edit Object"},
    ),
    (
        "regions of two images",
        lambda w: w.edit(image=picture(3), regions=regions_of_two()),
        {"Regions"},
    ),
    ("empty mask", lambda w: w.edit(edits=empty(1)), set()),
    (
        "masks that coincide",
        lambda w: w.edit(edits=only_wolf().add(only_wolf().items[0])),
        set(),
    ),
    ("mask of another shape", lambda w: w.edit(image=picture(width=96)), set()),
    (
        "regions of another shape",
        lambda w: w.edit(image=picture(width=96), regions=regions()),
        {"Regions"},
    ),
    (
        "regions of other edits",
        lambda w: w.edit(edits=only_wolf(), regions=regions()),
        {"Regions"},
    ),
    ("Flux", lambda w: w.edit(model=w.flux), set()),
    ("video model", lambda w: w.edit(model=family_model("SVD")), set()),
    ("upscaler", lambda w: w.edit(model=family_model("x4 upscaler")), set()),
    ("flow matching", lambda w: w.edit(model=flow_matching(w.model)), set()),
    ("continuous sigmas", lambda w: w.edit(model=continuous(w.model)), set()),
    ("steps", lambda w: w.edit(steps=0), set()),
    ("strength of none", lambda w: w.edit(strength=0.0), set()),
    ("strength too small", lambda w: w.edit(steps=4, strength=0.1), set()),
    *(
        (node_id, lambda w, node_id=node_id: w.edit(model=patched(node_id, w)), {name})
        for node_id, name in (
            ("ALERegionCrossAttention", "Region Cross-Attention"),
            ("ALESelfAttentionInjection", "Self-Attention Injection"),
            ("ALEBackgroundBlending", "Background Blending"),
        )
    ),
    ("no clip", lambda w: w.edit(clip=None), set()),
    ("clip of SD 3", lambda w: w.edit(clip=sd3_clip()), set()),
    ("clip of another model", lambda w: w.edit(clip=w.other_clip), set()),
    ("clip of other rows", lambda w: w.edit(clip=doubling_clip(w.clip)), set()),
    ("hooks on a schedule", lambda w: w.edit(clip=hooks_on_a_schedule(w.clip)), set()),
    (
        "no tokens",
        lambda w: w.edit(edits=listed("() -> goat"), regions=one_region()),
        {"Regions"},
    ),
    (
        "long phrase",
        lambda w: w.edit(edits=listed("wolf -> " + "red " * 80), regions=one_region()),
        {"Regions"},
    ),
    *(
        (
            name,
            lambda w, prompt=prompt: w.edit(
                edits=sentences(source_prompt=prompt), regions=regions()
            ),
            {"Regions", "Full Prompts"},
        )
        for name, prompt in (
            ("not in the prompt", "a dog"),
            ("in a longer word", "a werewolf-wolfhound under a yellow moon"),
            ("behind the end", "a wolf <|endoftext|> under a yellow moon"),
            ("cut by a chunk", "word " * 73 + "wolf yellow moon"),
        )
    ),
    ("NaN", lambda w: w.edit(vae=Swap(w.vae, lambda made: made * torch.nan)), set()),
    ("16 channels", lambda w: w.edit(vae=Swap(w.vae, lambda m: m.repeat(1, 4, 1, 1))), set()),
    ("a larger picture", lambda w: w.edit(vae=Swap(w.vae, scale=2)), set()),
    ("smaller latent", lambda w: w.edit(vae=Swap(w.vae, lambda m: m[..., :4])), set()),
    ("Mahiro", lambda w: w.edit(model=MAHIRO(w.model)), set()),
    ("Context Windows", lambda w: w.edit(model=WINDOWS(w.model)), set()),
    ("attention couple", lambda w: w.edit(model=couple(w.model)), set()),
    ("merged queries", lambda w: w.edit(model=merge_queries(w.model)), set()),
    ("tiles", lambda w: w.edit(model=in_tiles(w.model)), set()),
    ("rows one by one", lambda w: w.edit(model=row_by_row(w.model)), set()),
]


def one_region() -> Any:
    return one("ALERegions", edits=listed("wolf -> goat"), masks=boxes()[:1])


def others(present: set[str]) -> list[str]:
    """The display names, long and short, of all nodes that a graph does not hold."""
    names = {node.GET_SCHEMA().display_name for node in nodes().values()}
    names |= {re.sub(r" \(.*\)", "", name) for name in names}
    return sorted(names - {EDITOR, *present, *(f"{p} (RGB-CAM)" for p in present)})


def blamed(sentence: str, present: set[str]) -> list[str]:
    """The absent nodes that a sentence names before its cure."""
    problem = CURE.split(sentence)[0]
    return [name for name in others(present) if re.search(rf"\b{re.escape(name)}\b", problem)]


@pytest.fixture(scope="module")
def world(model: Any, clip: Any, vae: Any) -> World:
    return World(model, clip, vae)


@pytest.mark.parametrize(
    ("cause", "present"), [case[1:] for case in REFUSALS], ids=[case[0] for case in REFUSALS]
)
def test_ale_edit_blames_itself_and_no_node_that_the_graph_lacks(
    world: World, cause: Callable[[World], Any], present: set[str]
) -> None:
    with pytest.raises(ValueError) as error:
        cause(world)
    sentence = str(error.value)
    assert sentence.startswith(f"{EDITOR}: ")
    assert blamed(sentence, present) == []
    assert sentence.endswith(".") and "\n" not in sentence


@pytest.mark.parametrize("case", EVERY_EDITOR_CASES, ids=lambda case: case.name)
def test_every_editor_blames_itself_and_no_node_that_the_graph_lacks(
    world: World, case: Case
) -> None:
    title = nodes()[case.page].GET_SCHEMA().display_name
    with pytest.raises(ValueError) as error:
        case.cause(world)
    sentence = str(error.value)
    assert sentence.startswith(f"{title}: ")
    assert blamed(sentence, {title}) == []


def test_every_editor_is_asked() -> None:
    assert {case.page for case in EVERY_EDITOR_CASES} == {e.node_id for e in EDITORS}


def test_a_sentence_that_blames_another_node_is_found() -> None:
    assert blamed("LCM Schedule: steps is 0. Set them.", set()) == ["LCM Schedule"]
    assert blamed("ALE Edit: no region. Connect Regions.", set()) == []
    assert blamed("ALE Edit: went through a Region Cross-Attention node.", set())


def test_ale_edit_warns_in_its_own_name(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Resized masks, and masks that overlap."""
    edits = one("ALEEditObject", mask=two_boxes(32, 32)[0])
    mask = torch.maximum(*two_boxes())
    edits = one("ALEEditObject", source="moon", target="ball", previous=edits, mask=mask)
    settings = one("ALEMethodSettings", edits=edits, overlap="last object", rgb_cam=False)
    with caplog.at_level(logging.WARNING):
        world.edit(edits=settings)
    said = [record.getMessage() for record in caplog.records if "ale_edit" in record.name]
    assert len(said) >= 2 and all(text.startswith(f"{EDITOR}: ") for text in said), said


def test_the_nodes_speak_for_themselves_again_after_a_refusal(world: World) -> None:
    with pytest.raises(ValueError, match="^ALE Edit: "):
        world.edit(steps=0)
    with pytest.raises(ValueError, match="^LCM Schedule: "):
        one("ALELCMSchedule", model=world.model, steps=0)


@pytest.mark.parametrize(
    ("node_id", "name"),
    [
        ("ALETwoBranchGuider", "evaluation"),
        ("ALEMethodSettings", "overlap"),
        ("ALESelfAttentionInjection", "edit_type"),
        ("ALEBackgroundBlending", "edge"),
        ("ALEPreservationScore", "structure_input"),
        ("ALEGroundedSAMMasks", "missing"),
    ],
)
def test_a_choice_that_a_node_does_not_have_is_refused_in_its_name(
    world: World, node_id: str, name: str
) -> None:
    schema = nodes()[node_id].GET_SCHEMA()
    title, text = schema.display_name, world.plain("wolf")
    good: dict[str, Any] = dict.fromkeys(("source", "target", "negative"), text)
    good |= {"model": world.model, "edits": Edits(()), "detector": KnownDetector({})}
    good |= {"regions": regions(), "image": picture()}
    if node_id == "ALEPreservationScore":
        good["source"] = picture()
    inputs = {e.id: good[e.id] for e in schema.inputs if e.id in good}
    with pytest.raises(ValueError, match=f'^{title}: the {name} input is "other". Choose one of'):
        run(node_id, **inputs, **{name: "other"})


def test_grounded_sam_masks_blames_itself_for_its_regions() -> None:
    edits = one("ALEEditObject", mask=torch.ones(64, 96))
    detector = KnownDetector({})
    with pytest.raises(ValueError, match="^Grounded-SAM Masks: the masks are 64x96"):
        run("ALEGroundedSAMMasks", image=picture(), edits=edits, detector=detector, segmenter=None)


PURE = sorted(
    path for folder in ("regions", "prompts", "inversion", "attention", "editors")
    for path in (ROOT / folder).glob("*.py")
)  # fmt: skip


@pytest.mark.parametrize("path", PURE, ids=[f"{p.parent.name}/{p.stem}" for p in PURE])
def test_the_pure_maths_names_no_node_in_what_it_raises(path: Path) -> None:
    raised = [n for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, ast.Raise)]
    texts = [
        part.value
        for statement in raised
        for part in ast.walk(statement)
        if isinstance(part, ast.Constant) and isinstance(part.value, str)
    ]
    found = [(name, text) for text in texts for name in others(set()) if name in text]
    assert found == []

"""Bad edits, prompts, masks and regions.

Imported by tests as `ale_edit.tests.nodes.bad_edits`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from ale_edit.tests.nodes.bad_input import Case, boxes, listed, only_wolf, regions, regions_of_two
from ale_edit.tests.nodes.graph import one, picture


def sentences(**prompts: str) -> Any:
    empty = {"source_prompt": "", "target_prompt": ""}
    return one("ALEFullPrompts", edits=listed(), **{**empty, **prompts})


EDIT_CASES = [
    Case(
        "no edits",
        lambda w: listed("# none"),
        "ALEEditList",
        "Write at least one line such as",
        ("Edit List", "text"),
    ),
    Case(
        "no arrow",
        lambda w: listed("a -> b\nwolf goat"),
        "ALEEditList",
        'has no "->"',
        ("Edit List", "line 2 of the text", '"wolf goat"'),
    ),
    Case(
        "two arrows",
        lambda w: listed("a -> b -> c"),
        "ALEEditList",
        "has 2 arrows instead of one",
        ("Edit List", "line 1 of the text", '"a -> b -> c"'),
    ),
    Case(
        "two empty sides of a line",
        lambda w: listed("a -> b\n -> "),
        "ALEEditList",
        "is empty on both sides",
        ("Edit List", "line 2 of the text", '" -> "'),
    ),
    Case(
        "two empty sides of a node",
        lambda w: one("ALEEditObject", source="", target=" "),
        "ALEEditObject",
        "is empty on both sides",
        ("Edit Object", '" -> "'),
    ),
    Case(
        "an object to remove in Object-Restricted Embeddings",
        lambda w: w.ore(listed("wolf -> goat\nmoon ->")),
        "ALEObjectRestrictedEmbeddings",
        "which is not possible here",
        ("Object-Restricted Embeddings: ", '"moon -> "', "target phrase", "remove", "Use CPAM"),
    ),
    Case(
        "an object to add in Object-Restricted Embeddings",
        lambda w: w.ore(listed("-> moon")),
        "ALEObjectRestrictedEmbeddings",
        "which is not possible here",
        ("Object-Restricted Embeddings: ", '" -> moon"', "source phrase", "add", "Use CPAM"),
    ),
    Case(
        "two masks for one object",
        lambda w: w.edit(edits=one("ALEEditObject", mask=boxes())),
        "ALEEditObject",
        "holds 2 masks, one object takes one",
        ("ALE Edit", 'the mask of "wolf"', "Edit Object"),
    ),
    Case(
        "three masks for two images",
        lambda w: w.edit(edits=one("ALEEditObject", mask=boxes()[[0, 0, 1]]), image=picture(2)),
        "ALEEdit",
        "one object takes one",
        ("ALE Edit", 'the mask of "wolf" holds 3 masks', "2 images"),
    ),
    Case(
        "regions of another number of images",
        lambda w: w.edit(image=picture(3), regions=regions_of_two()),
        "ALEEdit",
        "the regions were made from",
        ("ALE Edit", "2 images", "3"),
    ),
    Case(
        "regions of another number of images in RGB-CAM",
        lambda w: w.generate(
            one("ALERegionCrossAttention", model=w.model, regions=regions_of_two()), w.ore()[1]
        ),
        "ALERegionCrossAttention",
        "the regions were made from",
        ("Region Cross-Attention", "2 images", "1"),
    ),
    Case(
        "regions of another number of images in blending",
        lambda w: w.sample(
            w.guide(one("ALEBackgroundBlending", model=w.model, regions=regions_of_two()))
        ),
        "ALEBackgroundBlending",
        "the regions were made from",
        ("Background Blending", "2 images", "1"),
    ),
    Case(
        "regions of another number of images in Paste Background",
        lambda w: one(
            "ALEPasteBackground",
            edited=picture(3),
            source=picture(3),
            regions=regions_of_two(),
        ),
        "ALEPasteBackground",
        "the regions were made from",
        ("Paste Background", "2 images", "3"),
    ),
    Case(
        "no tokens",
        lambda w: w.ore(listed("() -> goat")),
        "ALEObjectRestrictedEmbeddings",
        "yields no tokens",
        ("Object-Restricted Embeddings", "edits", 'source phrase "()"'),
    ),
    Case(
        "long phrase",
        lambda w: w.ore(listed("wolf -> " + "red " * 80)),
        "ALEObjectRestrictedEmbeddings",
        "more than the 75 of one chunk",
        ("Object-Restricted Embeddings", "edits", "80 tokens"),
    ),
    Case(
        "not in the full prompt",
        lambda w: w.ore(one("ALEFullPrompts", edits=listed(), source_prompt="a dog")),
        "ALEFullPrompts",
        "does not occur in the",
        ("Full Prompts", "source_prompt", '"wolf"', '"a dog"'),
    ),
    Case(
        "only in a longer word",
        lambda w: w.ore(sentences(source_prompt="a werewolf-wolfhound under a yellow moon")),
        "ALEFullPrompts",
        "only occurs as part of other words",
        ("Object-Restricted Embeddings", "source_prompt", '"wolf"', "werewolf-wolfhound"),
    ),
    Case(
        "text behind its end",
        lambda w: w.ore(sentences(source_prompt="a wolf <|endoftext|> under a yellow moon")),
        "ALEObjectRestrictedEmbeddings",
        "continues after an end-of-text token",
        ("Object-Restricted Embeddings", "<|endoftext|> under a yellow moon"),
    ),
    Case(
        "cut by a chunk",
        lambda w: w.ore(
            one(
                "ALEFullPrompts",
                edits=listed("red wolf -> goat"),
                source_prompt="word " * 74 + "red wolf",
            )
        ),
        "ALEFullPrompts",
        "is split across two chunks of 75 tokens",
        ("Full Prompts", "source_prompt", '"red wolf"'),
    ),
]
REGION_CASES = [
    Case(
        "more masks than edits",
        lambda w: regions(masks=torch.cat([boxes(), boxes()])),
        "ALERegions",
        "edits need one",
        ("Regions", "masks input", "4 masks"),
    ),
    Case(
        "a mask less than edits",
        lambda w: regions(masks=boxes()[:1]),
        "ALERegions",
        "has no region",
        ("Regions", "masks input", '"yellow moon -> soccer ball"', "2 masks", "1 given"),
    ),
    Case(
        "no mask at all",
        lambda w: w.edit(edits=listed()),
        "ALEEdit",
        "has no region",
        ("ALE Edit", "masks input of Regions", '"wolf -> brown-colored goat"'),
    ),
    Case(
        "empty mask",
        lambda w: regions(masks=boxes() * torch.tensor([1.0, 0.0])[:, None, None]),
        "ALERegions",
        "is empty: no pixel is 0.5 or more",
        ("Regions", "masks input", '"yellow moon"'),
    ),
    Case(
        "two masks that coincide",
        lambda w: w.generate(
            one(
                "ALERegionCrossAttention",
                model=w.model,
                regions=regions(masks=boxes()[:1].expand(2, -1, -1)),
            ),
            w.ore()[1],
        ),
        "ALERegionCrossAttention",
        "has no place of its own",
        ("Region Cross-Attention", '"wolf"', '"yellow moon"', "overlap goes to the background"),
    ),
    Case(
        "two masks that coincide, in regions of ALE Edit",
        lambda w: w.edit(regions=regions(masks=boxes()[:1].expand(2, -1, -1))),
        "ALEEdit",
        "has no place of its own",
        ("ALE Edit", '"wolf"', '"yellow moon"', "overlap goes to the background"),
    ),
    Case(
        "a mask within another in ALE Edit",
        lambda w: w.edit(edits=only_wolf().add(replace(only_wolf().items[0], source="cub"))),
        "ALEEdit",
        "has no place of its own",
        ("ALE Edit", '"wolf"', '"cub"'),
    ),
    Case(
        "mask of another shape",
        lambda w: regions(image=picture(width=96)),
        "ALERegions",
        "their shapes differ",
        ("Regions", "64x64", "64x96"),
    ),
    Case(
        "image of another shape than the regions",
        lambda w: w.edit(image=picture(width=96), regions=regions()),
        "ALEEdit",
        "their shapes differ",
        ("64x64", "64x96"),
    ),
    Case(
        "edited and source of other sizes",
        lambda w: one(
            "ALEPasteBackground", edited=picture(height=32), source=picture(), regions=regions()
        ),
        "ALEPasteBackground",
        "Connect the image that was encoded for this edit",
        ("Paste Background", "edited", "source", "32x64", "64x64"),
    ),
    Case(
        "two edited images, three sources",
        lambda w: one(
            "ALEPasteBackground", edited=picture(2), source=picture(3), regions=regions()
        ),
        "ALEPasteBackground",
        "or as many as edited ones",
        ("Paste Background", "2 edited images", "3 sources"),
    ),
]

import numpy as np
import pytest
import torch

from ale_edit.demo.caption_sampler import BOS, EOS, CaptionSampler
from ale_edit.demo.captions import (
    demo_edits,
    list_known_words,
    object_phrase,
    scene_caption,
    unknown_words,
)
from ale_edit.demo.models import tokenize
from ale_edit.demo.scenes import BACKGROUNDS, COLORS, MATERIALS, SHAPES, make_scene


def test_phrases_follow_the_templates():
    assert object_phrase("ball") == "ball"
    assert object_phrase("ball", "red") == "red-colored ball"
    assert object_phrase("ball", None, "wood") == "ball made of wood"
    assert object_phrase("ball", "red", "wood") == "red-colored ball made of wood"


def test_a_scene_caption_names_every_object():
    scene = make_scene(4, 3)
    caption = scene_caption(scene, materials=True, background=True)
    assert caption.count(" and ") == 2
    assert all(word in caption for o in scene.objects for word in (o.shape, o.color, o.material))
    assert caption.endswith(f"in the {scene.background.kind}")


@pytest.mark.parametrize("objects", [1, 2, 3, 4])
def test_colour_edits_keep_shapes_and_use_colours_new_to_the_scene(objects):
    for seed in range(20):
        scene = make_scene(seed, objects)
        edits = demo_edits(seed, objects=objects)
        assert edits == demo_edits(seed, objects=objects)
        asked = [asked["color"] for *_, asked in edits]
        assert len(set(asked)) == objects
        assert not set(asked) & {o.color for o in scene.objects}
        for o, (source, target, found) in zip(scene.objects, edits, strict=True):
            assert o.shape in source and found["shape"] == o.shape
            assert target == f"{found['color']}-colored {o.shape}"


def test_source_phrases_can_name_the_present_colour():
    scene = make_scene(2)
    source, _, _ = demo_edits(2, name_colors=True)[0]
    assert source == f"{scene.objects[0].color}-colored {scene.objects[0].shape}"


def test_unknown_words_are_named_once_in_order():
    assert unknown_words("a red-colored ball and a Wolf made of jade, wolf") == [
        "a",
        "wolf",
        "jade",
    ]
    assert unknown_words("red-colored ball made of wood and star in the fog") == []
    assert {*SHAPES, *COLORS, *MATERIALS} <= list_known_words()


@pytest.mark.comfy
def test_nouns_and_attributes_are_one_or_two_tokens():
    assert all(len(tokenize(noun)) == 1 for noun in SHAPES)
    assert all(len(tokenize(word)) <= 2 for word in (*COLORS, *MATERIALS))


@pytest.mark.comfy
def test_training_captions_are_what_the_tokenizer_makes_of_their_text():
    sampler = CaptionSampler(tokenize)
    labels = np.full((6, 4, 3), -1)
    labels[:, 0], labels[:, 1] = (0, 0, 1), (2, 4, 4)
    captions = sampler.draw(labels, np.zeros(6, int), np.random.default_rng(0))
    token_ids = torch.tensor(sampler.token_ids)
    for row, is_end in zip(token_ids[captions.ids], captions.is_end, strict=True):
        assert row[0] == BOS and (row[is_end] == EOS).all() and (row[~is_end] != EOS).all()
        assert tokenize(_text(row[~is_end][1:].tolist())) == row[~is_end][1:].tolist()


@pytest.mark.comfy
def test_a_scene_without_objects_is_called_by_its_background():
    sampler = CaptionSampler(tokenize)
    nothing = np.full((len(BACKGROUNDS), 4, 3), -1)
    kinds = np.arange(len(BACKGROUNDS))
    captions = sampler.draw(nothing, kinds, np.random.default_rng(0))
    for row, kind in enumerate(BACKGROUNDS):
        words = [sampler.token_ids[i] for i in captions.ids[row][~captions.is_end[row]]]
        assert words == [BOS, *tokenize(kind)]
    assert captions.background.tolist() == kinds.tolist()
    assert (captions.owner == -1).all()


@pytest.mark.comfy
def test_some_captions_leave_objects_out_but_never_all():
    """As people's do: else a text with one object would mean an image with one object."""
    sampler = CaptionSampler(tokenize)
    labels = np.full((1000, 4, 3), -1)
    labels[:, 0], labels[:, 1], labels[:, 2] = (0, 0, 1), (2, 5, 4), (3, 1, 2)
    captions = sampler.draw(labels, np.full(1000, -1), np.random.default_rng(0))
    named = captions.contents[:, :, 0].sum(1)
    assert set(named.tolist()) == {1, 2, 3}
    assert 0.55 < (named == 3).float().mean() < 0.65
    assert (captions.contents[:, [0, 2, 3], 0].sum(0) > 700).all()  # none is favoured


def test_tokens_of_a_caption_belong_to_the_object_they_describe():
    sampler = CaptionSampler(tokenize)
    labels = np.full((1, 4, 3), -1)
    labels[0, 0], labels[0, 1] = (0, 0, 1), (2, 5, 4)
    for seed in range(20):
        captions = sampler.draw(labels, np.zeros(1, int), np.random.default_rng(seed))
        nouns = {tokenize("ball")[0]: 0, tokenize("star")[0]: 1}
        for compact, owner in zip(
            captions.ids[0].tolist(), captions.owner[0].tolist(), strict=True
        ):
            token = sampler.token_ids[compact]
            assert token not in nouns or nouns[token] == owner


def _text(tokens: list[int]) -> str:
    words = {tuple(tokenize(w)): w for w in list_known_words()}
    longest = max(map(len, words))
    out, i = [], 0
    while i < len(tokens):
        size = next(n for n in range(longest, 0, -1) if tuple(tokens[i : i + n]) in words)
        out.append(words[tuple(tokens[i : i + size])])
        i += size
    return " ".join(out).replace(" - ", "-")

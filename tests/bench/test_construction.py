"""ALE-Bench's construction: its counts, its templates, and beginnings that are fair samples."""

from collections import Counter

import pytest

from ale_edit.bench.construction import TEMPLATES, AttributeWords, construct
from ale_edit.bench.dataset import ImageObject, SourceImage

NAMES = ("wolf", "moon", "mountain", "tree")
VOCABULARY = AttributeWords(
    ("navy", "cream", "crimson", "green", "gold"),
    ("gold", "rubber", "ivory", "glass"),
    {name: ("cat", "UFO", "hill", "goat", "soccer ball") for name in NAMES},
)


def images(count: int, objects: int = 3) -> dict[str, SourceImage]:
    own = tuple(
        ImageObject(f"{n}.png", n, {"object": n, "color": "green", "material": "glass"})
        for n in NAMES[:objects]
    )
    return {f"photo{k}": SourceImage(f"{k}.png", own) for k in range(count)}


def test_twenty_images_give_three_thousand_edits_with_different_names():
    edits = construct(images(20), VOCABULARY, seed=0)
    assert len({e.name for e in edits}) == len(edits) == 3000
    cells = Counter((e.image, e.edit_type, len(e.objects)) for e in edits)
    assert len(cells) == 300 and set(cells.values()) == {10}


def test_every_beginning_is_as_balanced_as_it_can_be():
    edits = construct(images(20), VOCABULARY, seed=0)
    cells = {(e.edit_type, len(e.objects)) for e in edits[:15]}
    assert len(cells) == 15 and len({e.image for e in edits[:15]}) == 15
    subset = Counter((e.image, e.edit_type, len(e.objects)) for e in edits[:300])
    assert len(subset) == 300
    for length in (40, 77, 150, 299):
        by_cell = Counter((e.edit_type, len(e.objects)) for e in edits[:length])
        by_image = Counter(e.image for e in edits[:length])
        assert len(by_image) == 20
        assert max(by_cell.values()) - min(by_cell.values()) <= 1
        assert max(by_image.values()) - min(by_image.values()) <= 3


def test_a_seed_defines_the_edits_and_another_gives_others():
    first = construct(images(3), VOCABULARY, seed=0)
    assert construct(images(3), VOCABULARY, seed=0) == first
    other = construct(images(3), VOCABULARY, seed=1)
    assert [e.name for e in other] == [e.name for e in first] and other != first


def test_an_edit_does_not_depend_on_how_many_others_there_are():
    many = {e.name: e for e in construct(images(4), VOCABULARY, seed=0)}
    few = construct(images(2), VOCABULARY, seed=0, instances=2, counts=(2,))
    assert all(many[e.name] == e for e in few)


@pytest.mark.parametrize("kind", TEMPLATES)
def test_targets_follow_the_templates_of_the_paper(kind):
    for edit in construct(images(4), VOCABULARY, seed=0):
        if edit.edit_type != kind:
            continue
        for o in edit.objects:
            was = NAMES[o.number]
            new = o.asked["object"]
            assert (new != was) == ("object" in kind)
            assert set(o.asked) == {"object", *kind.split(" and ")}
            assert o.source == was
            expected = {
                "color": f"{o.asked.get('color')}-colored {was}",
                "object": new,
                "material": f"{was} made of {o.asked.get('material')}",
                "color and object": f"{o.asked.get('color')}-colored {new}",
                "object and material": f"{new} made of {o.asked.get('material')}",
            }[kind]
            assert o.target == expected


def test_new_attributes_are_new_to_the_image_and_differ_where_words_suffice():
    for edit in construct(images(5), VOCABULARY, seed=2):
        for attribute in edit.edit_type.split(" and "):
            words = [o.asked[attribute] for o in edit.objects]
            assert len(set(words)) == len(words)
            assert not {"green", "glass"} & set(words)


def test_where_words_are_few_an_object_still_never_becomes_what_it_is():
    few = AttributeWords(("green", "gold"), ("glass", "gold"), dict.fromkeys(NAMES, NAMES))
    for edit in construct(images(3), few, seed=0):
        for o in edit.objects:
            if "color" in edit.edit_type:
                assert o.asked["color"] == "gold"


def test_a_word_list_with_nothing_new_is_an_error():
    none = AttributeWords(("green",), ("gold",), dict.fromkeys(NAMES, NAMES))
    with pytest.raises(ValueError, match="nothing but 'green'"):
        construct(images(1), none, seed=0)


def test_an_image_with_too_few_objects_is_named():
    with pytest.raises(ValueError, match="'photo0' has 2 objects, and edits of 3"):
        construct(images(1, 2), VOCABULARY, seed=0)

from typing import Any

import pytest

from ale_edit.prompts.edits import (
    Edits,
    MethodSettings,
    base_prompt,
    edit_alone,
    make_edit,
    parse_edits,
    set_variant,
)


def test_lines_become_edits_in_their_order_with_stripped_phrases():
    edits = parse_edits("  wolf -> brown-colored goat \nmoon->soccer ball")
    assert [(edit.source, edit.target) for edit in edits] == [
        ("wolf", "brown-colored goat"),
        ("moon", "soccer ball"),
    ]


def test_empty_lines_and_comments_are_skipped():
    edits = parse_edits("\n# a remark -> nothing\n\n wolf -> goat\n   \n")
    assert [(edit.source, edit.target) for edit in edits] == [("wolf", "goat")]


def test_the_unicode_arrow_is_an_arrow():
    (edit,) = parse_edits("wolf → goat")
    assert (edit.source, edit.target) == ("wolf", "goat")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("wolf -> goat\nmoon", ["line 2 of the text", '"moon"', 'no "->"']),
        ("a -> b -> c", ["line 1 of the text", '"a -> b -> c"', "2 arrows"]),
        ("wolf -> goat\n\n -> ", ["line 3 of the text", "empty on both sides"]),
        ("", ["no edit", "wolf -> brown-colored goat"]),
        ("# only a remark\n\n", ["no edit"]),
    ],
)
def test_a_bad_list_is_refused_with_its_line_its_text_and_the_cure(text: str, words: list[str]):
    with pytest.raises(ValueError) as error:
        parse_edits(text)
    assert [word for word in words if word not in str(error.value)] == []


@pytest.mark.parametrize(
    ("line", "source", "target"), [(" -> goat", "", "goat"), ("wolf ->", "wolf", "")]
)
def test_one_side_may_be_empty_and_the_other_names_the_object(line: str, source: str, target: str):
    for edit in (make_edit(source or " ", target or "\n"), *parse_edits(line)):
        assert (edit.source, edit.target, edit.name) == (source, target, source or target)


def test_two_empty_sides_are_refused_with_the_cure():
    with pytest.raises(ValueError, match="^the edit .* is empty on both sides. Write what"):
        make_edit(" ", "\n")


def test_nothing_is_a_word():
    (edit,) = parse_edits("wolf -> nothing")
    assert (edit.source, edit.target) == ("wolf", "nothing")


def test_an_added_object_is_in_the_target_prompt_alone_and_a_removed_one_in_the_sources():
    edits = Edits(parse_edits("wolf -> goat\nhat ->\n-> tree"))
    assert edits.prompt("source") == "wolf and hat" and edits.prompt("target") == "goat and tree"
    assert edits.names == ("wolf", "hat", "tree")
    assert Edits(parse_edits("wolf ->")).prompt("target") == ""
    whole = Edits(parse_edits("wolf ->"), "a wolf in fog", "fog")
    assert (whole.prompt("source"), whole.prompt("target")) == ("a wolf in fog", "fog")


def test_edits_are_added_without_changing_the_earlier_ones():
    first = Edits((make_edit("a", "b"),))
    second = first.add(make_edit("c", "d"))
    assert (first.sources, second.sources, second.targets) == (("a",), ("a", "c"), ("b", "d"))


def test_the_base_prompt_joins_the_phrases_with_and():
    assert base_prompt(("wolf", "moon", "tree")) == "wolf and moon and tree"


def test_another_variant_leaves_every_other_setting_as_it_is():
    edits = Edits((make_edit("a", "b"),), "an a", settings=MethodSettings(end_of_text="bos"))
    changed = set_variant(edits, "published code")
    assert changed.settings == MethodSettings(variant="published code", end_of_text="bos")
    assert (changed.items, changed.source_prompt) == (edits.items, "an a")


@pytest.mark.parametrize("name", ["variant", "end_of_text", "overlap", "pooled"])
def test_an_unknown_choice_is_refused_with_the_choices(name: str):
    choices = {
        "variant": "paper, published code",
        "end_of_text": "ours, naive, zeros, bos, empty string",
        "overlap": "background, last object",
        "pooled": "target, source, empty",
    }
    wrong: dict[str, Any] = {name: "other"}
    with pytest.raises(ValueError) as error:
        MethodSettings(**wrong)
    assert str(error.value) == (f'the {name} input is "other". Choose one of {choices[name]}.')


def test_a_line_ends_at_a_line_feed_or_a_return_alone():
    """Text that was pasted may hold other separators, such as U+2028 and U+0085."""
    (edit,) = parse_edits("grey\u2028wolf -> red\u0085fox")
    assert edit.source == "grey\u2028wolf" and edit.target == "red\u0085fox"
    assert len(parse_edits("a -> b\r\nc -> d\re -> f\n")) == 3


def test_one_edit_alone_leaves_the_other_objects_as_they_are():
    edits = Edits(parse_edits("wolf -> goat\nmoon -> ball"))
    first, second = (edit_alone(edits, k) for k in range(2))
    assert (first.prompt("source"), first.prompt("target")) == ("wolf and moon", "goat and moon")
    assert (second.prompt("source"), second.prompt("target")) == ("wolf and moon", "wolf and ball")


def test_one_edit_alone_changes_its_phrase_of_the_full_source_prompt():
    full = Edits(parse_edits("wolf -> goat\nmoon -> ball"), "a wolf under a moon", "a goat, a ball")
    assert edit_alone(full, 1).prompt("source") == "a wolf under a moon"
    assert edit_alone(full, 1).prompt("target") == "a wolf under a ball"
    with pytest.raises(ValueError, match='"moon" of the edits does not occur in the source_prompt'):
        edit_alone(Edits(full.items, "a wolf under a lamp"), 1)


@pytest.mark.parametrize(
    ("lines", "source_prompt", "place", "target_prompt"),
    [
        (
            "cat -> dog\nlamp -> moon",
            "a catalog, a cat and a lamp",
            0,
            "a catalog, a dog and a lamp",
        ),
        ("ball -> box\nball -> star", "a ball and a ball", 1, "a ball and a star"),
        ("ball -> box\nred ball -> star", "a red ball and a ball", 0, "a red ball and a box"),
        ("box -> star\nmoon -> sun", "Box and moon", 0, "star and moon"),
    ],
)
def test_one_edit_alone_changes_its_own_words(lines, source_prompt, place, target_prompt):
    """Whole words, equal phrases in order, the longest phrase first, in any case."""
    alone = edit_alone(Edits(parse_edits(lines), source_prompt), place)
    assert alone.prompt("target") == target_prompt


def test_a_single_edit_keeps_its_full_prompts():
    single = Edits(parse_edits("wolf -> goat"), "a wolf", "a goat at night")
    assert edit_alone(single, 0) is single


def test_a_removed_object_alone_leaves_its_phrase_out_of_the_source_prompt():
    edits = Edits(parse_edits("wolf ->\nmoon -> ball"))
    assert edit_alone(edits, 0).prompt("target") == "moon"
    assert edit_alone(edits, 1).prompt("target") == "wolf and ball"
    full = Edits(edits.items, "a wolf under a moon")
    assert edit_alone(full, 0).prompt("target").split() == ["a", "under", "a", "moon"]

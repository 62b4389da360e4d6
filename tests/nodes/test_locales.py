"""The translations in locales/: complete, in line with the nodes, and readable by the front end."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable

import pytest

from ale_edit.devtools.locales import (
    LANGUAGES,
    LOCALES,
    NAMES,
    SAME,
    SCHEMAS,
    Key,
    collect_english,
    find_untranslated,
    read,
)
from ale_edit.tests.nodes.graph import nodes
from ale_edit.tests.nodes.test_schemas import snapshot

HOW = "Run `python3 dev.py locales`, then translate what it lists"
NUMBER = re.compile(r"\d+(?:\.\d+)*")
SYNTAX = re.compile(r"[{}@|]")
"""What vue-i18n, with which the front end reads these texts, takes for its own."""

every_language = pytest.mark.parametrize("language", LANGUAGES)


@pytest.fixture(scope="module")
def english() -> dict[Key, str]:
    """The texts of the nodes as they are, not as recorded."""
    return collect_english({node_id: snapshot(node_id) for node_id in sorted(nodes())})


def join_keys(keys: Iterable[Key]) -> str:
    return "\n".join(".".join(key) for key in keys)


def test_the_folders_are_those_of_the_languages() -> None:
    assert {folder.name for folder in LOCALES.iterdir()} == {"en", *LANGUAGES}
    for folder in LOCALES.iterdir():
        assert {file.name for file in folder.iterdir()} == {"main.json", "nodeDefs.json"}


@every_language
def test_no_text_is_missing_and_none_is_superfluous(language: str, english: dict[Key, str]) -> None:
    texts = read(language)
    missing, superfluous = english.keys() - texts.keys(), texts.keys() - english.keys()
    assert not missing, f"locales/{language} lacks\n{join_keys(sorted(missing))}\n{HOW}."
    assert not superfluous, (
        f"no node has these texts of locales/{language}:\n{join_keys(sorted(superfluous))}\n{HOW}."
    )


def test_the_translations_are_of_the_present_english(english: dict[Key, str]) -> None:
    before = read("en")
    changed = [key for key, text in english.items() if before.get(key) != text]
    assert not changed, (
        f"the English has changed since it was translated:\n{join_keys(changed)}\n{HOW}."
    )


@every_language
def test_every_text_is_translated(language: str, english: dict[Key, str]) -> None:
    left = find_untranslated(language, read(language), english)
    assert not left, f"still English in locales/{language}:\n{join_keys(left)}\n{HOW}."


def test_the_words_that_may_stay_english_occur(english: dict[Key, str]) -> None:
    texts = set(english.values())
    assert texts >= NAMES
    for language, words in SAME.items():
        same = {text for key, text in read(language).items() if english[key] == text}
        assert same >= words


@every_language
def test_numbers_survive(language: str, english: dict[Key, str]) -> None:
    """More numbers are no fault: Japanese writes "one mask" with a digit."""
    texts = read(language)
    lost = {
        ".".join(key): dict(numbers)
        for key, text in english.items()
        if (numbers := Counter(NUMBER.findall(text)) - Counter(NUMBER.findall(texts[key])))
    }
    assert not lost


@every_language
def test_names_of_files_and_papers_survive(language: str, english: dict[Key, str]) -> None:
    name = re.compile(r"[\w./-]*(?:\w/\w|\.(?:json|safetensors|pth|md)\b|\d\.\d{4,})[\w./-]*")
    texts = read(language)
    lost = {
        ".".join(key): names
        for key, text in english.items()
        if (names := [n.strip(".") for n in name.findall(text) if n.strip(".") not in texts[key]])
    }
    assert not lost


@pytest.mark.parametrize("language", ["en", *LANGUAGES])
def test_no_text_has_a_sign_that_the_front_end_reads_as_its_own(language: str) -> None:
    wrong = {".".join(key): text for key, text in read(language).items() if SYNTAX.search(text)}
    assert not wrong


@every_language
def test_equal_english_texts_have_equal_translations(
    language: str, english: dict[Key, str]
) -> None:
    texts = read(language)
    found: dict[str, set[str]] = {}
    for key, text in english.items():
        found.setdefault(text, set()).add(texts[key])
    assert not {text: several for text, several in found.items() if len(several) > 1}


def test_the_recorded_schemas_give_the_same_texts(english: dict[Key, str]) -> None:
    """What `dev.py locales` reads."""
    assert collect_english(json.loads(SCHEMAS.read_text(encoding="utf-8"))) == english

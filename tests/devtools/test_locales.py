"""`dev.py locales`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ale_edit.devtools import commands, locales
from ale_edit.devtools.locales import (
    LANGUAGES,
    LOCALES,
    NODES,
    SCHEMAS,
    collect_english,
    flatten,
    nest,
    read,
    renew,
)


def test_texts_are_nested_as_the_front_end_reads_them() -> None:
    tree = nest(read("zh"))
    regions = tree[NODES]["ALERegions"]
    assert regions["inputs"]["dilation"].keys() == {"name", "tooltip"}
    assert list(regions["outputs"]) == ["0", "1", "2", "3"]
    assert flatten(tree) == read("zh")


def test_renewing_keeps_drops_reuses_and_orders() -> None:
    before = {("a",): "mask", ("b",): "old", ("gone",): "x", ("same",): "CLIP"}
    translated = {("gone",): "X", ("b",): "ALT", ("a",): "Maske", ("same",): "CLIP"}
    english = {("b",): "new", ("a",): "mask", ("c",): "mask", ("d",): "edge", ("same",): "CLIP"}
    expected = {("b",): "new", ("a",): "Maske", ("c",): "Maske", ("d",): "edge", ("same",): "CLIP"}
    renewed = renew(translated, before, english)
    assert list(renewed.items()) == list(expected.items())
    assert renew(renewed, english, english) == expected


def test_the_command_adds_removes_and_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A text of one node has changed, one node is gone, and another is new."""
    schemas = json.loads(SCHEMAS.read_text(encoding="utf-8"))
    schemas["ALECompare"]["description"] = "Now different."
    schemas["ALESAMNew"] = schemas.pop("ALESAMLoader") | {"display_name": "A new node"}
    monkeypatch.setattr(locales, "LOCALES", shutil.copytree(LOCALES, tmp_path / "locales"))
    monkeypatch.setattr(locales, "SCHEMAS", tmp_path / "schemas.json")
    (tmp_path / "schemas.json").write_text(json.dumps(schemas), encoding="utf-8")
    assert commands.main(["locales"]) == 0
    printed = capsys.readouterr().out
    assert "ja: 8 removed, 2 to translate" in printed
    assert "locales/ja: nodeDefs.ALECompare.description: Now different.\n" in printed
    assert "locales/ja: nodeDefs.ALESAMNew.display_name: A new node\n" in printed
    for language in LANGUAGES:
        new, english = read(language), read("en")
        assert list(new) == list(english) == list(collect_english(schemas))
        assert (NODES, "ALESAMLoader", "display_name") not in new
        tooltip = ("inputs", "sam_name", "tooltip")
        assert new[(NODES, "ALESAMNew", *tooltip)] != english[(NODES, "ALESAMNew", *tooltip)]


def test_the_command_takes_no_options() -> None:
    with pytest.raises(SystemExit, match="locales takes no options, and got zh"):
        commands.main(["locales", "zh"])

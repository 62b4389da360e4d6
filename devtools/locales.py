"""`dev.py locales`: brings the translations of locales/ in line with the nodes' English texts.

The English of the nodes is read from tests/nodes/schemas.json, so that no ComfyUI is needed.
locales/en has the English that the translations were made from. Every key gets the translation of
its English text, wherever that text was before; a new or changed text stays English, for a
translator to replace.
"""

from __future__ import annotations

import json
from typing import Any

from .folders import ROOT
from .messages import DevError, say

Key = tuple[str, ...]
Texts = dict[Key, str]

LOCALES = ROOT / "locales"
SCHEMAS = ROOT / "tests" / "nodes" / "schemas.json"
LANGUAGES = ("zh", "zh-TW", "ja", "ko", "de", "fr", "es")
NODES, CATEGORIES = "nodeDefs", "nodeCategories"
OF_COMFYUI = ("model", "sampling")
"""Categories that the front end translates itself."""

NAMES = frozenset(
    ("ALE Edit", "CPAM", "DPL", "DiffEdit", "InfEdit", "LEDITS++", "MAG-Edit", "MasaCtrl")
    + ("pix2pix-zero",)
    + ("clip", "vae", "eta", "kappa", "zeta", "n_avg", "json", "sigmas")
    + ("Free-Prompt-Editing", "Plug-and-Play", "Prompt-to-Prompt", "SDEdit")
    + ("TE", "TI", "PSNR", "MSE", "SSIM", "LPIPS")
)
"""Texts that may stay as they are in every language."""

SAME = {
    "es": frozenset(("detector", "prompt", "prompts", "script")),
    "fr": frozenset(
        ("convention", "description", "image", "images", "instances", "inversion", "latent")
        + ("prompt", "prompts", "scores", "script", "source")
    ),
}
"""English words that a language shares."""


def collect_english(schemas: dict[str, Any]) -> Texts:
    """Every text of the nodes by its keys in nodeDefs.json, or in main.json for a category."""
    texts: Texts = {}
    for node_id, schema in sorted(schemas.items()):
        key = (NODES, node_id)
        texts[(*key, "display_name")] = schema["display_name"]
        texts[(*key, "description")] = schema["description"]
        sockets = [(*key, "inputs", entry["id"]) for entry in schema["inputs"]]
        sockets += [(*key, "outputs", str(place)) for place in range(len(schema["outputs"]))]
        named = [*schema["inputs"], *schema["outputs"]]
        for socket, entry in zip(sockets, named, strict=True):
            texts[(*socket, "name")] = entry.get("id") or entry["name"]
            texts[(*socket, "tooltip")] = entry["tooltip"]
    categories = sorted({schema["category"].split("/")[1] for schema in schemas.values()})
    return texts | {(CATEGORIES, name): name for name in categories if name not in OF_COMFYUI}


def flatten(tree: dict[str, Any], key: Key = ()) -> Texts:
    texts: Texts = {}
    for name, value in tree.items():
        texts |= flatten(value, (*key, name)) if isinstance(value, dict) else {(*key, name): value}
    return texts


def nest(texts: Texts) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, text in texts.items():
        branch = tree
        for name in key[:-1]:
            branch = branch.setdefault(name, {})
        branch[key[-1]] = text
    return tree


def read(language: str) -> Texts:
    """The texts of a language as ComfyUI puts its two files together."""
    tree: dict[str, Any] = {}
    for name in (NODES, "main"):
        file = LOCALES / language / f"{name}.json"
        content = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        tree |= {NODES: content} if name == NODES else content
    return flatten(tree)


def write(language: str, texts: Texts) -> None:
    tree = nest(texts)
    (LOCALES / language).mkdir(parents=True, exist_ok=True)
    for name, content in ((NODES, tree.pop(NODES)), ("main", tree)):
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        (LOCALES / language / f"{name}.json").write_text(text, encoding="utf-8", newline="\n")


def renew(translated: Texts, before: Texts, english: Texts) -> Texts:
    """The translations for the keys of english, in its order. Equal English texts have equal ones:
    where they differ, that of the first key. before: the English of translated."""
    known = {
        before[key]: text
        for key, text in reversed(translated.items())
        if before.get(key, text) != text
    }
    return {key: known.get(text, text) for key, text in english.items()}


def find_untranslated(language: str, texts: Texts, english: Texts) -> list[Key]:
    allowed = NAMES | SAME.get(language, frozenset[str]())
    return [key for key, text in english.items() if texts[key] == text and text not in allowed]


def command_locales(_args: object, rest: list[str]) -> int:
    if rest:
        raise DevError(f"locales takes no options, and got {' '.join(rest)}.")
    english = collect_english(json.loads(SCHEMAS.read_text(encoding="utf-8")))
    before = read("en")
    for language in LANGUAGES:
        old = read(language)
        new = renew(old, before, english)
        missing = find_untranslated(language, new, english)
        write(language, new)
        say(f"{language}: {len(old.keys() - new.keys())} removed, {len(missing)} to translate")
        for key in missing:
            say(f"  locales/{language}: {'.'.join(key)}: {english[key]}")
    write("en", english)
    return 0

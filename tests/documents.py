"""README and docs as tests read them: their prose, and the commands that they give."""

import ast
import io
import json
import re
import shlex
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WIDTH = 100
PAGES = tuple(
    ROOT / name
    for name in (
        *("README.md", "CONTRIBUTING.md", "demo/MODEL_CARD.md"),
        *sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/*.md")),
    )
)
HELP_PAGES = tuple(sorted(ROOT.glob("web/docs/*.md")))
CODE = tuple(
    path
    for path in sorted(ROOT.rglob("*.py"))
    if path.relative_to(ROOT).parts[0] not in ("tests", "output") and ".venv" not in path.parts
)
WORKFLOWS = tuple(
    sorted(ROOT.glob("workflows/*.json")) + sorted(ROOT.glob("workflows/nodes/*.json"))
)
# Turns that nobody says, each with a sentence that has it.
TURNS: dict[str, str] = {
    r"(?:is|are|was|were) told(?! to)": "What failed is told.",
    r"anew": "Delete it to make it anew.",
    r"of yours": "a workflow of yours",
    r"parted by": "cells parted by commas",
    r"goes on (?:when|where|after|behind)": "A run that was stopped goes on where it was.",
    r"stands there": "the key stands there twice",
    r"passed over": "the line is passed over",
    r"(?:alike|equal) but for": "alike but for what the edit changes",
    r"set (?:them|both) alike": "Set them alike.",
    r"(?<!there )is no (?:word|share|folder|mask|image|picture|name|number|JSON|UNet)\b": (
        "which is no word with a factor"
    ),
    r"(?:needs?|with|of|have|has) as many (?:words|tokens|vectors)(?! as)": (
        "both prompts need as many words"
    ),
    r"and their like": "Flux, SD 3 and their like",
    r"which only \S+ draws": "the noise, which only `virtual` draws",
    r"on [\w' ]*\w's ground": "the edit stands on ALE Edit's ground",
    r"(?:edits?|objects) by (?:their )?words": "finds the objects by their words",
    r"behind (?:Load Image|Invert Mask|(?:the|its|their) (?:words?|prompts?|tooltip))": (
        "put the node behind Load Image"
    ),
    r"as wanted": "with Full Prompts as wanted",
    r"runs, from the last\b": "Share of the steps that runs, from the last.",
    r"are of different": "they are of different checkpoints",
    r"(?:be had|is nobody's)": "it is not to be had any more",
}
TURN = re.compile("|".join(rf"\b(?:{turn})" for turn in TURNS), re.IGNORECASE)
PROGRAMS = ("python3", "python", "PYTHON", "git", "cd", "dask")
SETTINGS = re.compile(r"^(?:[A-Z_]+=\S+ )+")  # of the environment, in front of a command
INLINE = re.compile(r"`((?:[A-Z_]+=\S+ )?(?:python3? )?(?:\S+/)?(?:dev|edit)\.py [^`]+)`")

# Each command of a page matches exactly one entry of the two lists below.
# These are only parsed: their options must be ones that the command has.
PARSED_ONLY: dict[str, tuple[str, ...]] = {
    "they clone": ("git clone .+", "cd .+"),
    "they serve": (r"dev\.py serve.*", r"dev\.py bench run .+ --dask .+", "dask .+"),
    "they train, or print the figures of a training": (r"dev\.py train-demo.*",),
    "they need weights": (r"(dev|edit)\.py .+ --checkpoint .+",),
    "they start the tests": (r"dev\.py (test|check).*",),
    "they write into the clone": (r"dev\.py locales",),
    "they take hours; one with fewer edits runs": (
        r"dev\.py bench demo --full",
        r"dev\.py bench tables .*--edits (15|30|45|75|150)\b.*",
        r"dev\.py bench demo .*--edits (30|45|75|150)\b.*",
    ),
}
# These run (tests/server/test_documented_commands.py), with options that shorten them.
AT = "--server http://127.0.0.1:8188"
RUN: dict[str, str] = {
    "dev.py demo --help": "",
    "dev.py demo": AT,
    f"dev.py demo {AT}": "",
    "dev.py bench scenes": f"--count 1 {AT}",
    "dev.py bench demo": f"--edits 15 --methods naive ale --edits 1 {AT}",
    "dev.py bench demo --edits 15 --methods naive ale": f"--edits 1 {AT}",
    "dev.py bench demo --first-seed 10000 --methods naive ale --set Guider.target_guidance=4": (
        f"--edits 1 --out output/tuning {AT}"
    ),
    "dev.py bench tables --write docs/results.md": f"--edits 1 --only variants {AT}",
    "dev.py bench dataset ale photos --out bench/photos": "",
    "dev.py bench dataset pie PIE-Bench_v1/mapping_file.json --out bench/pie": "",
    "dev.py bench inversions --scenes 3": "--scenes 1 --steps 2",
    "dev.py bench learned-words": "--scenes 1 --steps 2",
    "dev.py bench reliability --out output/reliability.json": "--quick --only interrupts",
    "dev.py bench speed": "--out speed.json --quick --only operations",
    "dev.py bench speed --out speed.json": "--quick --only operations",
    "edit.py --server ADDRESS --image output/demo/source.png "
    "--edit 'red-colored star -> yellow-colored star' --set type=color": "",
}


@dataclass(frozen=True)
class Command:
    """A command of a page: without its Python, its folder, and settings of the environment."""

    page: str
    argv: tuple[str, ...]

    @property
    def text(self) -> str:
        return shlex.join(self.argv)


def code_blocks(text: str) -> Iterator[str]:
    """Fenced blocks that name no language, and indented ones."""
    for block in re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield block
    indented = r"(?:(?<=\n\n)|\A)((?:(?: {4}.*|[ ]*)\n)+)"
    for block in re.findall(indented, re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)):
        yield re.sub(r"^ {4}", "", block, flags=re.MULTILINE)


def commands(page: Path) -> list[Command]:
    text = page.read_text(encoding="utf-8")
    lines = [line for block in code_blocks(text) for line in block.replace("\\\n", " ").split("\n")]
    lines = [line for line in lines if SETTINGS.sub("", line).split(" ")[0] in PROGRAMS]
    lines += [match.replace("\n", " ") for match in INLINE.findall(text)]
    found = []
    for line in lines:
        for part in line.split(" && "):
            part = re.sub(r"<([\w ]+)>", r"'<\1>'", SETTINGS.sub("", part))  # shlex splits <a b>
            argv = shlex.split(part, comments=True)
            found.append(Command(page.name, _plain(argv)))
    return found


def _plain(argv: list[str]) -> tuple[str, ...]:
    if argv[0] in ("python3", "python", "PYTHON"):
        argv = argv[1:]
    name = Path(argv[0]).name
    return (name if name in ("dev.py", "edit.py") else argv[0], *argv[1:])


def all_commands() -> list[Command]:
    return [command for page in PAGES for command in commands(page)]


def why_parsed(command: Command) -> list[str]:
    return [
        reason
        for reason, patterns in PARSED_ONLY.items()
        if any(re.fullmatch(pattern, command.text) for pattern in patterns)
    ]


def prose_lines(text: str) -> list[str]:
    """The lines of a page outside of code blocks, tables, headings, pictures and comments."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    for block in re.findall(r"(?<=\n\n)((?: {4}.*\n)+)", text):
        text = text.replace(block, "")
    apart = ("|", "#", "<", "![")
    return [line for line in text.splitlines() if line and not line.lstrip().startswith(apart)]


def turns_in(text: str) -> list[str]:
    """The turns of a text that nobody says, wherever its lines end."""
    return [match.group() for match in TURN.finditer(" ".join(text.split()))]


def texts_of_code(source: str) -> Iterator[str]:
    """The strings of Python code, docstrings among them, and its comments, each run as one."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                str(getattr(part, "value", ""))
                for part in node.values
                if isinstance(part, ast.Constant)
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    yield " ".join(token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT)


def notes_of(workflow: Path) -> list[str]:
    """What the notes of a workflow say."""
    nodes = json.loads(workflow.read_text(encoding="utf-8"))["nodes"]
    return [node["widgets_values"][0] for node in nodes if node["type"].endswith("Note")]

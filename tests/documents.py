"""README and docs as tests read them: their prose, and the commands that they give."""

import re
import shlex
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
        r"dev\.py bench tables .*--edits (30|45|75|150)\b.*",
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

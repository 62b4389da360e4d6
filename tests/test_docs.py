"""README and docs: their length, width and figures, and the commands that they give."""

import json
import re
import textwrap

import pytest

from ale_edit.bench import parsers
from ale_edit.bench.report import INTERVALS, JUDGED_LEGEND, LEGEND
from ale_edit.bench.statistics import DRAWS, SEED
from ale_edit.bench.tables import TEXT_WIDTH
from ale_edit.devtools.commands import own_options, parser
from ale_edit.headless.command import arguments
from ale_edit.tests.documents import (
    CODE,
    HELP_PAGES,
    PAGES,
    PARSED_ONLY,
    ROOT,
    RUN,
    TURNS,
    WIDTH,
    WORKFLOWS,
    Command,
    all_commands,
    commands,
    notes_of,
    prose_lines,
    texts_of_code,
    turns_in,
    why_parsed,
)

README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
JOBS = {
    "demo": parsers.demo_parser,
    "bench scenes": parsers.scenes_parser,
    "bench dataset": parsers.dataset_parser,
    "bench run": parsers.run_parser,
    "bench demo": parsers.bench_demo_parser,
    "bench tables": parsers.tables_parser,
}


def test_the_readme_has_at_most_700_words():
    assert len(README.split()) <= 700


def test_the_readme_names_every_node():
    schemas = json.loads((ROOT / "tests" / "nodes" / "schemas.json").read_text(encoding="utf-8"))
    part = README.split("## Nodes")[1].split("\n[What each one does]")[0]
    items = re.sub(r"(^|\s)- \*\*.*?\*\* ", ", ", " ".join(part.split()))
    listed = {name.strip() for name in items.split(",")}
    assert {entry["display_name"] for entry in schemas.values()} <= listed


def test_the_reliability_figures_are_those_of_all_nodes():
    """Hostile inputs are drawn for each node that has an input."""
    schemas = json.loads((ROOT / "tests" / "nodes" / "schemas.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    (counts,) = re.findall(r"\| all, of (\d+) of (\d+) nodes \|", page)
    with_inputs = [name for name, schema in schemas.items() if schema["inputs"]]
    assert tuple(map(int, counts)) == (len(with_inputs), len(schemas))


def table_rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_readme_s_figures_are_those_of_the_results():
    """The first numbers of the component tables, rounded; found by the method's name."""
    part = RESULTS.split("<!-- table components -->")[1].split("<!-- end components -->")[0]
    found: dict[str, dict[str, str]] = {}
    heads: list[str] = []
    for row in table_rows(part.split("in PIE-Bench's way")[0]):
        if row[0] == "method":
            heads = row
        elif "---" not in row[0]:
            found.setdefault(row[0], {}).update(zip(heads, row, strict=True))
    names = {
        "new prompt alone": "naive edit",
        "ALE-Edit": "ALE-Edit (all)",
        "unedited source": "source, unedited",
    }
    columns = ("TE ↓", "TI ↓", "all asked ↑", "wrong attribute, edited ↓", "PSNR (dB) ↑")
    rows = {row[0]: row[1:] for row in table_rows(README.split("## Results")[1]) if row[0] in names}
    assert set(rows) == set(names)
    for name, cells in rows.items():
        for column, cell in zip(columns, cells, strict=True):
            if cell:
                digits = 2 if "attribute" in column or "asked" in column else 1
                value = float(found[names[name]][column].split()[0])
                assert cell.removesuffix(" dB") == f"{value:.{digits}f}", (name, column)


@pytest.mark.parametrize(
    "page", [*PAGES, *HELP_PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: page.name
)
def test_prose_is_wrapped_at_one_width(page):
    """But a line may hold one word that is longer, such as an address."""
    lines = prose_lines(page.read_text(encoding="utf-8"))
    assert lines and not [line for line in lines if len(line) > WIDTH and " " in line.strip()]


@pytest.mark.parametrize(
    "page", [*PAGES, *HELP_PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: page.name
)
def test_pages_have_no_turns_that_nobody_says(page):
    assert turns_in(page.read_text(encoding="utf-8")) == []


def test_strings_and_comments_have_no_turns_that_nobody_says():
    texts = {path: texts_of_code(path.read_text(encoding="utf-8")) for path in CODE}
    found = {path.relative_to(ROOT): [*map(turns_in, texts[path])] for path in CODE}
    assert {str(path): turns for path, turns in found.items() if any(turns)} == {}


def test_notes_of_workflows_have_no_turns_that_nobody_says():
    found = {path.name: turns_in(" ".join(notes_of(path))) for path in WORKFLOWS}
    assert {name: turns for name, turns in found.items() if turns} == {}


@pytest.mark.parametrize(("turn", "example"), TURNS.items())
def test_each_turn_is_found_wherever_a_line_ends(turn, example):
    assert re.search(turn, example, re.IGNORECASE)
    assert turns_in(example) and turns_in(example.replace(" ", "\n    "))


def test_turns_are_found_in_docstrings_comments_and_joined_strings():
    texts = [
        *texts_of_code(
            '"""It is made\nanew."""\nx = f"the key {1} stands " "there twice"\n# a line is\n'
            "# passed over\n"
        )
    ]
    found = {turn for text in texts for turn in turns_in(text)}
    assert found == {"anew", "stands there", "passed over"}


def test_a_line_that_is_too_long_is_found_in_prose_alone():
    long = "word " * 30
    text = f"# {long}\n\n{long}\n\n    {long}\n\n| {long} |\n\n```\n{long}\n```\n"
    assert prose_lines(text) == [long]


@pytest.mark.parametrize("name", ["results.md", "results_keep_words.md"])
def test_the_results_have_one_legend_which_the_bench_writes(name):
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    wrapper = textwrap.TextWrapper(TEXT_WIDTH, break_long_words=False, break_on_hyphens=False)
    for part in (INTERVALS.format(draws=DRAWS, seed=SEED) + LEGEND, JUDGED_LEGEND):
        assert text.count(wrapper.fill(part)) == 1
    legend = text.split("<!-- table legend -->")[1].split("<!-- end legend -->")[0]
    assert "TE and TI are 100 x" in legend
    for section in re.split(r"^## ", text.split("<!-- table legend -->")[0], flags=re.M)[1:-1]:
        assert section.split("\n\n")[1].startswith(("<!-- table", "`python3"))  # tables first


def test_commands_are_read_out_of_blocks_and_sentences(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "Give `dev.py demo\n--seed 1`, not `dev.py`.\n\n    X=1 python3 a/edit.py t.csv \\\n"
        '        --edit "a -> b"  # why\n    image,edits\n\n- item\n\n```\ngit clone <an address> x'
        " && cd x\n```\n\n```json\npython3 dev.py no\n```\n"
    )
    assert {command.argv for command in commands(page)} == {
        ("dev.py", "demo", "--seed", "1"),
        ("edit.py", "t.csv", "--edit", "a -> b"),
        ("git", "clone", "<an address>", "x"),
        ("cd", "x"),
    }


def test_each_command_runs_in_a_test_or_stands_in_the_list_of_those_that_are_parsed():
    for command in all_commands():
        places = [*why_parsed(command), *(["it runs"] if command.text in RUN else [])]
        assert len(places) == 1, f"{command.page}: {command.text}: {places}"


def test_neither_list_holds_what_no_page_gives():
    given = all_commands()
    texts = {command.text for command in given}
    assert set(RUN) <= texts
    for patterns in PARSED_ONLY.values():
        for pattern in patterns:
            assert any(re.fullmatch(pattern, text) for text in texts), pattern


def parsed(command: Command, pytestconfig: pytest.Config) -> object:
    """What the command's own parser makes of it; SystemExit where it does not know an option."""
    program, *argv = ["1" if word == "N" else word for word in command.argv]
    if program == "edit.py":
        return arguments(argv)
    if program != "dev.py":
        return None  # git, cd, dask: nothing of this project reads them
    found, rest = parser().parse_known_args(argv)
    job = f"bench {found.name}" if found.command == "bench" else found.command
    if job in ("test", "check"):
        _, unknown = pytestconfig._parser.parse_known_and_unknown_args(rest)
        assert not unknown
    elif job == "train-demo":
        from ale_edit.demo.train import _parser

        return _parser().parse_args(rest)
    elif job in ("serve", "locales"):
        assert not rest
    else:
        return JOBS[job]([own_options(job)]).parse_args(rest)
    return found


@pytest.mark.comfy
def test_a_command_that_is_only_parsed_has_options_that_there_are(pytestconfig):
    given = [command for command in all_commands() if why_parsed(command)]
    assert {command.argv[0] for command in given} == {"dev.py", "edit.py", "git", "cd", "dask"}
    for command in given:
        try:
            parsed(command, pytestconfig)
        except SystemExit:
            pytest.fail(f"{command.page}: {command.text}")


@pytest.mark.comfy
@pytest.mark.parametrize(
    "argv",
    [
        "dev.py bench demo --fully",
        "edit.py t.csv --speed 3",
        "dev.py train-demo --deep",
        "dev.py x",
    ],
)
def test_an_option_that_there_is_not_is_found(argv, pytestconfig, capsys):
    with pytest.raises(SystemExit):
        parsed(Command("page", tuple(argv.split())), pytestconfig)

"""Reports: what a cell says, TE and TI never alone, one page without a network."""

import json
import re
from html.parser import HTMLParser

import pytest

from ale_edit.bench.demo_scenes import demo_dataset
from ale_edit.bench.methods import ALE, NAIVE
from ale_edit.bench.page import leak_of, page, ranked, spread_evenly
from ale_edit.bench.report import JUDGED, Column, Results, Table, markdown, shown
from ale_edit.bench.statistics import Figure


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("bench") / "demo" / "dataset"
    dataset = demo_dataset(folder, scenes=3, instances=1)

    def values(share: float) -> dict[str, list[float]]:
        return {"all": [share, 1.0], "psnr": [20 + share], "wrong, edited": [], "TE": [15 + share]}

    scored = {
        "naive": {e.id: values(0.0) for e in dataset.edits},
        "ale": {e.id: values(1.0) for e in dataset.edits[:-1]},
    }
    missing = {"lpips": "n/a: no LPIPS weights"}
    return Results(dataset, dataset.edits, (NAIVE, ALE), scored, missing, folder.parent)


def row(table: Table, method: str) -> dict[str, str]:
    (cells,) = [r for r in table.rows if r[0] == method]
    return dict(zip(table.columns, cells, strict=True))


def test_a_cell_is_a_mean_with_its_interval_or_not_available():
    column = Column("mse", "MSE x1000", 2, 1000)
    assert shown(Figure(0.0123, 0.01, 0.02, 5), column) == "12.30 [10.00, 20.00]"
    assert shown(Figure(float("nan"), float("nan"), float("nan"), 0), column) == "n/a"


def test_a_row_holds_the_methods_own_means(results):
    judged, background = results.tables()
    assert row(judged, "naive edit")["all asked ↑"].startswith("0.500 [0.500, 0.500]")
    assert row(judged, "ALE-Edit (all)")["all asked ↑"].startswith("1.000")
    assert row(background, "ALE-Edit (all)")["PSNR (dB) ↑"].startswith("21.00")
    assert row(judged, "naive edit")["edits"] == "45"
    assert row(judged, "ALE-Edit (all)")["edits"] == "44"
    assert row(judged, "naive edit")["wrong attribute, edited ↓"] == "n/a"
    assert row(background, "naive edit")["LPIPS ↓"] == "n/a"


def test_te_and_ti_never_stand_without_the_judges_figures(results):
    assert {"TE", "TI", "all", "object", "color", "material", "wrong, edited"} <= {
        c.figure for c in JUDGED
    }
    for table in (*results.tables(), *results.split_tables()):
        if any(c.startswith(("TE", "TI")) for c in table.columns):
            assert "all asked ↑" in table.columns


def test_what_is_missing_says_why(results):
    text = markdown(results, {"command": "dev.py bench demo"})
    assert "lpips: n/a: no LPIPS weights." in text
    assert "- command: dev.py bench demo" in text and "2000 draws, seed 0" in text


def test_tables_are_markdown_with_as_many_cells_as_columns(results):
    for table in (*results.tables(), *results.split_tables()):
        lines = table.markdown().splitlines()[2:]
        assert len({line.count("|") for line in lines}) == 1 and len(lines) == 4


def test_the_summary_is_json_with_types_objects_and_paired_differences(results):
    summary = json.loads(json.dumps(results.summary(), allow_nan=False))
    naive = summary["naive"]
    assert naive["figures"]["all"]["value"] == 0.5
    assert set(naive["by objects"]) == {"1", "2", "3"} and len(naive["by type"]) == 5
    assert naive["minus ale"]["all"]["value"] == -0.5
    assert naive["minus ale"]["all"]["high"] == -0.5
    assert "wrong, edited" not in naive["figures"]


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [v for k, v in attrs if k in ("src", "href") and v]


def test_the_page_needs_no_network_and_shows_the_first_edits(results):
    text = page("A <bench>", results, {"command": "dev.py & more"})
    links = Links()
    links.feed(text)
    assert links.links and all(link.startswith("data:image/jpeg;base64,") for link in links.links)
    assert "A &lt;bench&gt;" in text and "dev.py &amp; more" in text
    assert not re.search(r"https?://|<script", text)
    assert links.tags.count("h3") == 15 and links.tags.count("img") == 15  # sources alone
    assert "width=device-width" in text

"""Reports: what a cell says, TE and TI never alone, one page without a network."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from math import dist, nan
from xml.etree import ElementTree

import pytest

from ale_edit.bench.demo_scenes import demo_dataset
from ale_edit.bench.figure_table import JUDGED, Column, FigureTable, show_figure
from ale_edit.bench.methods import ALE, NAIVE
from ale_edit.bench.page import caption, leak_of, page, rank_edits, spread_evenly
from ale_edit.bench.plots import Point, places, scatter, ticks
from ale_edit.bench.report import Results, describe_setup, markdown
from ale_edit.bench.statistics import Figure
from ale_edit.headless.tasks import Outcome


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("bench") / "demo" / "dataset"
    dataset = demo_dataset(folder, scenes=3, instances=1)

    def values(share: float) -> dict[str, list[float]]:
        return {"all": [share, 1.0], "psnr": [20 + share], "wrong, edited": [], "TE": [15 + share]}

    scored = {
        "naive": {e.name: values(0.0) for e in dataset.edits},
        "ale": {e.name: values(1.0) for e in dataset.edits[:-1]},
    }
    missing = {"lpips": "n/a: no LPIPS weights", "structure": "n/a: no DINO weights"}
    return Results(dataset, dataset.edits, (NAIVE, ALE), scored, missing, folder.parent)


def row(table: FigureTable, method: str) -> dict[str, str]:
    (cells,) = [r for r in table.rows if r[0] == method]
    return dict(zip(table.columns, cells, strict=True))


def test_a_cell_is_a_mean_with_its_interval_or_not_available():
    column = Column("mse", "MSE x1000", 2, 1000)
    assert show_figure(Figure(0.0123, 0.01, 0.02, 5), column) == "12.30 [10.00, 20.00]"
    assert show_figure(Figure(nan, nan, nan, 0), column) == "n/a"
    assert show_figure(Figure(0.0123, nan, nan, 5), column) == "12.30"


def test_a_row_holds_the_methods_own_means(results):
    judged, background, pie_bench = results.tables()
    assert row(judged, "naive edit")["all asked ↑"].startswith("0.500 [0.500, 0.500]")
    assert row(judged, "ALE-Edit (all)")["all asked ↑"].startswith("1.000")
    assert row(background, "ALE-Edit (all)")["PSNR (dB) ↑"].startswith("21.00")
    assert row(judged, "naive edit")["edits"] == "45"
    assert row(judged, "ALE-Edit (all)")["edits"] == "44"
    assert row(judged, "naive edit")["wrong attribute, edited ↓"] == "n/a"
    assert row(background, "naive edit")["LPIPS ↓"] == "n/a"
    assert row(pie_bench, "naive edit")["structure distance x1000 ↓"] == "n/a"
    assert background.columns[-1] == pie_bench.columns[-1] == "structure distance x1000 ↓"
    assert "PSNR (dB) ↑" in background.columns and "PSNR (dB) ↑" not in pie_bench.columns


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


def drawn(results: Results, **changes: object) -> str:
    return page("A bench", replace(results, **changes), {}, 3)


def test_columns_without_any_figure_are_left_out_and_the_reason_stays(results):
    table = FigureTable("T", ("method", "edits", "A", "B", "C"), (("x", "1", "n/a", "2", "n/a"),))
    assert table.drop_empty_columns().columns == ("method", "edits", "B")
    assert table.markdown().splitlines()[-1] == "| x | 1 | 2 |"
    with_source = replace(table, rows=(*table.rows, ("source, unedited", "1", "3", "4", "-")))
    assert with_source.drop_empty_columns().columns == ("method", "edits", "A", "B")
    assert with_source.drop_empty_columns().rows[0] == ("x", "1", "n/a", "2")
    for text in (markdown(results, {}), drawn(results)):
        assert "structure distance x1000" not in text and "LPIPS ↓" not in text
        assert "lpips: n/a: no LPIPS weights." in text and "ALE-Edit (all)" in text


def test_split_tables_say_how_many_edits_and_what_the_source_has(results):
    own = {"TE of the source": [8.0]}
    scored = {m: {e: {**v, **own} for e, v in s.items()} for m, s in results.scored.items()}
    tables = {t.title: t for t in replace(results, scored=scored).split_tables()}
    te, psnr = tables["TE ↓, by type of edit"], tables["PSNR (dB) ↑, by type of edit"]
    kinds = ("color", "object", "material", "color and object", "object and material")
    assert te.columns == ("method", *(f"{kind} (n = 9)" for kind in kinds))
    assert set(row(te, "source, unedited").values()) == {
        "source, unedited", "8.00 [8.00, 8.00]"
    }  # fmt: skip
    assert [r[0] for r in psnr.rows] == ["naive edit", "ALE-Edit (all)"]


def test_n_is_of_the_edits_that_have_the_figure(results):
    scored = {"naive": {}, "ale": {e.name: {"TI": [9.0]} for e in results.edits[:2]}}
    table = replace(results, scored=scored).split_tables()[0]
    assert sum(int(c.split("n = ")[1].rstrip(")")) for c in table.columns[1:]) == 2


@pytest.fixture
def of_one_image(results) -> Results:
    first = results.edits[0].image
    return replace(results, edits=tuple(e for e in results.edits if e.image == first))


def test_one_image_has_no_interval_anywhere(of_one_image):
    judged, background, _ = of_one_image.tables()
    assert row(judged, "naive edit")["all asked ↑"] == "0.500"
    assert row(background, "naive edit")["PSNR (dB) ↑"] == "20.00"
    assert "one image: no interval" in of_one_image.notes()[0]
    text = page("A bench", of_one_image, {}, 0)
    assert "one image: no interval" in text and "nan" not in text and "<small>" not in text
    assert not re.search(r"\[\d", markdown(of_one_image, {}))
    figure = json.loads(json.dumps(of_one_image.summary(), allow_nan=False))["naive"]["figures"]
    assert figure["psnr"]["value"] == 20 and figure["psnr"]["low"] is figure["psnr"]["high"] is None


def test_with_single_objects_alone_it_is_said_why_ti_is_missing(results):
    single = tuple(e for e in results.edits if len(e.objects) == 1)
    why = "TI is n/a: every edit has one object."
    alone = replace(results, edits=single)
    assert why in alone.notes() and why in drawn(alone).split("Leakage against fidelity")[1]
    assert "Wrong attribute, edited is n/a: every edit has one object." in alone.notes()
    assert why not in results.notes() and why not in drawn(results)  # it has other edits
    unscored = {m: {e: {"psnr": v["psnr"]} for e, v in s.items()} for m, s in alone.scored.items()}
    assert why not in replace(alone, scored=unscored).notes()


def test_settings_are_told_in_words():
    setup = {
        "command": "dev.py bench run",
        "made": {"construction": "ALE-Bench", "objects an edit": [1, 2, 3], "seed": 0},
        "methods": {
            "naive": {"Method": {"ore": False, "rgb_cam": False}, "masks": "box 0.0"},
            "ale": "as the workflow has them",
        },
        "settings": {"Guider": {"target_guidance": 4}},
        "nothing": {},
    }
    assert describe_setup(setup) == [
        ("command", ["dev.py bench run"]),
        ("how it was made", ["construction: ALE-Bench", "objects an edit: 1, 2, 3", "seed: 0"]),
        (
            "methods",
            [
                "naive: Method.ore=false, Method.rgb_cam=false, masks=box 0.0",
                "ale: as the workflow has them",
            ],
        ),
        ("settings", ["Guider: target_guidance=4"]),
        ("nothing", []),
    ]


def test_the_judge_s_bias_stands_where_its_figures_do(results):
    bias = "always names the nearest shape, color and material"
    assert bias in markdown(results, {}) and bias in drawn(results)
    plain = {m: {e: {"psnr": v["psnr"]} for e, v in s.items()} for m, s in results.scored.items()}
    assert bias not in markdown(replace(results, scored=plain), {})


def test_captions_are_explained_and_stand_beside_the_source(results):
    captions = {"TE": [35.56], "TE of the source": [8.84], "wrong, untouched": [0, 0]}
    assert caption({**captions, "psnr": [30.0]}) == (
        "leaked\xa00/2, TE\xa035.6\xa0(source\xa08.8), 30.0\xa0dB"
    )
    assert "leaked 0/2: of two objects" in drawn(results)
    plain = {m: {e: {"psnr": v["psnr"]} for e, v in s.items()} for m, s in results.scored.items()}
    assert "leaked 0/2" not in drawn(results, scored=plain)


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [v for k, v in attrs if k in ("src", "href") and v]


def test_the_page_needs_no_network_and_shows_some_edits(results):
    text = page("A <bench>", results, {"command": "dev.py & more"}, 15)
    links = Links()
    links.feed(text)
    assert links.links and all(link.startswith("data:image/jpeg;base64,") for link in links.links)
    assert "A &lt;bench&gt;" in text and "dev.py &amp; more" in text
    assert not re.search(r"https?://|<script", text)
    assert links.tags.count("section") == 15
    assert links.tags.count("img") == 30  # sources and regions alone
    assert "width=device-width" in text and "15 of 44 edits, spread evenly" in text


def test_what_was_not_measured_has_no_column_and_no_table(results):
    plain = {m: {e: {"psnr": v["psnr"]} for e, v in s.items()} for m, s in results.scored.items()}
    judged, background, _ = replace(results, scored=plain).tables()
    assert judged.columns == ("method", "edits") and not judged.has_figures
    assert "PSNR (dB) ↑" in background.columns and "LPIPS ↓" in background.columns  # it is missing
    assert "SSIM ↑" not in background.columns
    titles = [t.title for t in replace(results, scored=plain).split_tables()]
    assert titles == ["PSNR (dB) ↑, by type of edit", "PSNR (dB) ↑, by number of objects"]
    for text in (markdown(replace(results, scored=plain), {}), drawn(results, scored=plain)):
        assert "Edited objects" not in text and "PSNR" in text


def test_te_and_ti_stand_beside_those_of_the_source(results):
    own = {"TE of the source": [18.0], "TI of the source": []}
    own |= {"CLIP, whole": [22.0], "CLIP, whole of the source": [20.0]}
    scored = {m: {e: {**v, **own} for e, v in s.items()} for m, s in results.scored.items()}
    judged, background, _ = replace(results, scored=scored).tables()
    source = row(judged, "source, unedited")
    assert row(judged, "naive edit")["CLIP, whole image ↑"].startswith("22.00")
    assert source["CLIP, whole image ↑"].startswith("20.00")
    assert source["TE ↓"].startswith("18.00") and source["all asked ↑"] == "-"
    assert len(background.rows) == 2


def test_failed_images_are_said(results):
    outcome = Outcome(failed={"ale/scene0-color-1-0": "'Regions': it is empty"})
    notes = replace(results, outcome=outcome).notes()
    assert "1 images failed and are not scored." in notes
    assert "ale/scene0-color-1-0 failed: 'Regions': it is empty" in notes


def test_edits_are_ranked_by_what_leaked_with_the_reference(results):
    leaks = {e.name: (k * 7) % 45 for k, e in enumerate(results.edits)}
    scored = {
        "naive": results.scored["naive"],
        "ale": {
            i: {"wrong, edited": [leak > 20], "TE": [leak], "TI": [0]} for i, leak in leaks.items()
        },
    }
    order = [leaks[e.name] for e in rank_edits(replace(results, scored=scored))]
    assert order == sorted(leaks.values(), reverse=True)
    assert leak_of({"wrong, edited": [0, 1], "TE": [30.0]}) > leak_of({"TE": [99.0], "TI": [99.0]})
    assert leak_of({}) == (0, 0)
    high_before = {"TE": [30.0], "TE of the source": [29.0]}
    risen = {"TE": [20.0], "TE of the source": [10.0], "TI": [12.0], "TI of the source": [6.0]}
    assert leak_of(high_before) == (0, 1) and leak_of(risen) == (0, 8)


def test_some_places_are_spread_from_the_first_to_the_last():
    assert spread_evenly(3, 300) == [0, 150, 299]
    assert spread_evenly(30, 15) == list(range(15)) and spread_evenly(0, 9) == []


def numbers(svg: str, attribute: str) -> list[float]:
    """Of the discs with the methods' numbers."""
    return [float(v) for v in re.findall(rf"<circle class=disc[^>]*\b{attribute}=([\d.]+)", svg)]


def is_xml(svg: str) -> bool:
    return ElementTree.fromstring(re.sub(r"=(?!')([^\s'>]+)", r"='\1'", svg)).tag == "svg"


def test_a_plot_has_a_point_for_each_method_where_its_figures_are():
    figures = [Figure(20, 18, 22, 9), Figure(30, 29, 31, 9), Figure(25, 25, 25, 9)]
    leaks = [Figure(0.6, 0.4, 0.8, 9), Figure(0.0, 0.0, 0.1, 9), Figure(0.3, 0.3, 0.3, 9)]
    points = [Point(k, f"<{k}>", x, y) for k, (x, y) in enumerate(zip(figures, leaks, strict=True))]
    svg = scatter(points, "PSNR", "leaks")
    across, down = numbers(svg, "cx"), numbers(svg, "cy")
    assert across[2] == pytest.approx((across[0] + across[1]) / 2, abs=0.1)
    assert down[2] == pytest.approx((down[0] + down[1]) / 2, abs=0.1)
    assert across[0] < across[1] and down[0] < down[1]  # less leakage is lower
    assert is_xml(svg)
    assert "&lt;1&gt;" in svg


BOX = (0.0, 0.0, 400.0, 300.0)


@pytest.mark.parametrize(
    "centres",
    [
        [(200.0, 150.0)] * 9,
        [(391.0, 291.0)] * 5,
        [(200.0 + 3 * k, 150.0) for k in range(9)],
        [(200.0, 150.0), (201.0, 150.0), (224.0, 150.0)],
    ],
)
def test_no_mark_covers_another(centres):
    found = places(centres, BOX)
    assert found[0] == centres[0] and len(found) == len(centres)
    for k, one in enumerate(found):
        assert 9 <= one[0] <= 391 and 9 <= one[1] <= 291
        assert all(dist(one, other) > 18 for other in found[:k])


def test_marks_stand_on_their_points_where_these_are_apart():
    apart = [(20.0, 20.0), (60.0, 20.0), (0.0, 300.0)]
    assert places(apart, BOX) == apart
    beside = [(200.0, 150.0), (200.0, 150.0), (222.0, 150.0)]
    assert places(beside, BOX)[2] == beside[2]  # which the second one does not cover


def test_equal_points_keep_their_bars_and_point_from_their_marks():
    same = Point(1, "one", Figure(20, 18, 22, 9), Figure(5, 4, 6, 9))
    svg = scatter([same, replace(same, number=2)], "PSNR", "TI")
    first, second = zip(numbers(svg, "cx"), numbers(svg, "cy"), strict=True)
    assert dist(first, second) > 18 and is_xml(svg)
    (point,) = re.findall(r"<circle class=point cx=([\d.]+) cy=([\d.]+)", svg)
    assert tuple(map(float, point)) == first
    assert abs(second[0] - first[0]) > 9 and abs(second[1] - first[1]) > 9  # beside both bars


def test_the_source_s_own_is_a_line_with_its_figure():
    point = Point(1, "one", Figure(20, 18, 22, 9), Figure(15, 14, 16, 9))
    svg = scatter([point], "PSNR", "TE", Figure(8.84, 8, 9, 9))
    assert ">source 8.8<" in svg and is_xml(svg)
    (line,) = re.findall(r"<line [^>]*y1=([\d.]+)[^>]*class=source", svg)
    assert float(line) > numbers(svg, "cy")[0]  # below the point, and within the plot:
    assert float(line) <= max(float(y) for y in re.findall(r"y1=([\d.]+)[^>]*class=grid", svg))
    for none in (None, Figure(nan, nan, nan, 0)):
        assert "source" not in scatter([point], "PSNR", "TE", none)


def test_points_without_an_interval_are_drawn_without_bars():
    alone = Figure(20, nan, nan, 1)
    svg = scatter([Point(1, "one", alone, replace(alone, value=5))], "PSNR", "TE")
    assert "nan" not in svg and is_xml(svg) and len(numbers(svg, "cx")) == 1


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.41, 0.79], [0.4, 0.5, 0.6, 0.7, 0.8]),
        ([18, 29.5], [15, 20, 25, 30]),
        ([5, 5], [4.5, 4.75, 5, 5.25, 5.5]),
        ([0, 0.0019], [0, 0.0005, 0.001, 0.0015, 0.002]),
    ],
)
def test_ticks_are_round_and_hold_all_values(values, expected):
    assert ticks(values) == pytest.approx(expected)

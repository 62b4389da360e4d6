"""`bench reliability`: a little of each part on a real server, and that it finds planted faults."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ale_edit.bench.reliability import command, hostile
from ale_edit.bench.reliability.hostile import (
    CLEAR,
    EDITED,
    REFUSED,
    SENTENCE,
    fault_of_sentence,
    judge,
)
from ale_edit.bench.reliability.inputs import (
    HostileInput,
    choose,
    find_left_out,
    nodes_without_inputs,
)
from ale_edit.bench.reliability.kills import compare, find_damaged, find_leftovers
from ale_edit.bench.reliability.serving import percent_growth
from ale_edit.headless import NodeError, NodeFailed, Workflow, WorkflowRejected

ROOT = Path(__file__).resolve().parents[2]
NAMES = ["Regions", "ALE Edit"]
INPUT = HostileInput("ALERegions", "dilation", "NaN", "numbers", "1", Workflow({}))
GOOD = "Regions: the dilation input is nan, which is not a number. Set it between 0 and 0.25."


def quick(out: Path, *parts: str) -> tuple[int, dict[str, Any]]:
    """The exit code and the report of a little of these parts."""
    code = command.main(["--quick", "--seed", "5", "--out", str(out), "--only", *parts])
    return code, json.loads(out.read_text(encoding="utf-8"))


@pytest.mark.ci
@pytest.mark.slow
def test_a_little_of_every_part_finds_no_fault(tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "reliability.json"
    code, report = quick(out, "queue", "interrupts", "edit-kills", "hostile")
    shown = capsys.readouterr().out
    assert code == 0, shown
    found = report["hostile"]
    assert found["inputs"] == len(found["rows"]) == 20 and found["server alive"]
    assert {row["verdict"] for row in found["rows"]} <= set(CLEAR)
    assert {row["verdict"] for row in found["rows"]} >= {REFUSED, SENTENCE}
    schemas = json.loads((ROOT / "tests" / "nodes" / "schemas.json").read_text(encoding="utf-8"))
    assert found["nodes of the pack"] == len(schemas)
    assert found["nodes without inputs"] == ["Demo Detector Loader"]
    assert "Nodes without inputs: Demo Detector Loader." in shown
    assert found["good workflows"] > 0 and not found["failed afterwards"]
    assert report["interrupts"]["interrupted"] == report["interrupts"]["different pictures"] == 2
    assert report["edit-kills"]["kills"] == 1
    assert report["queue"]["edits"] == report["queue"]["different pictures"] == 3
    assert (tmp_path / "reliability.md").read_text(encoding="utf-8").strip() in shown


@pytest.mark.ci
@pytest.mark.slow
def test_a_bench_killed_once_finds_no_fault(tmp_path: Path, capsys: Any) -> None:
    code, report = quick(tmp_path / "reliability.json", "bench-kills")
    assert code == 0, capsys.readouterr().out
    assert report["bench-kills"]["kills"] == 1 and report["bench-kills"]["made twice"] == 0


def failed(message: str, kind: str = "ValueError", node: str = "ALERegions") -> NodeFailed:
    return NodeFailed(NodeError(node, node, message), kind, ())


def refused(node: str, name: str | None, message: str = "Value smaller than min") -> Any:
    return WorkflowRejected("", (NodeError(node, node, message, name),))


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (None, EDITED),
        (failed(GOOD), SENTENCE),
        (failed(GOOD, node="SamplerCustomAdvanced"), SENTENCE),
        (refused("ALERegions", "dilation"), REFUSED),
    ],
)
def test_a_clear_answer_is_counted_as_what_it_is(error: Any, verdict: str) -> None:
    assert judge(INPUT, error, NAMES) == verdict


@pytest.mark.parametrize(
    "error",
    [
        failed(GOOD, "RuntimeError"),
        failed("The size of tensor a (2) must match the size of tensor b (3)."),
        failed("'str' object has no attribute 'shape'"),
        failed("Regions: the masks input is wrong."),
        failed("The masks input is wrong. Connect another."),
        failed("Regions: wrong.\nConnect another."),
        failed(GOOD.replace("nan", "9" * 5000)),
        failed(f"{hostile.MARK}[1, 8, 8, 3] with NaN or infinite values", node=hostile.LOOK),
        refused("ALERegions", None),
        refused("ALERegions", "feather"),
        refused("ALEEdit", "dilation"),
        refused("ALERegions", "dilation", "Exception when validating node: x"),
        TimeoutError(),
    ],
    ids=lambda error: str(error)[:40],
)
def test_a_planted_fault_is_none_of_the_clear_answers(error: Any) -> None:
    assert judge(INPUT, error, NAMES) not in CLEAR


def test_a_sentence_of_the_pack_is_in_our_own_form() -> None:
    assert fault_of_sentence(GOOD, NAMES) == ""


def test_every_node_and_input_comes_in_turn_and_a_seed_draws_the_same() -> None:
    found = [
        HostileInput(node, name, str(k), "", "1", Workflow({}))
        for node, names in {"A": "xy", "B": "z"}.items()
        for name in names
        for k in range(50)
    ]
    chosen = choose(found, 8, seed=1)
    counts = [sum(h.node + h.input_name == place for h in chosen) for place in ("Ax", "Ay", "Bz")]
    assert counts == [2, 2, 4]
    assert [str(h) for h in choose(found, 8, seed=1)] == [str(h) for h in chosen]
    assert [str(h) for h in choose(found, 8, seed=2)] != [str(h) for h in chosen]
    assert len(choose(found, 1000, seed=1)) == 150


def test_an_input_that_nothing_hostile_is_generated_for_is_found() -> None:
    inputs = {"required": {"a": ["INT", {}]}, "optional": {"b": ["MASK"]}}
    info = {
        "ALEOne": {"input": inputs, "display_name": "One"},
        "ALENone": {"input": {}, "display_name": "None"},
        "Other": {"input": inputs},
        hostile.LOOK: {"input": inputs},
    }
    found = [HostileInput("ALEOne", "a", "NaN", "", "1", Workflow({}))]
    assert find_left_out(found, info) == ["ALEOne.b"]
    assert nodes_without_inputs(info) == ["None"]


def test_growth_is_measured_between_medians() -> None:
    steady = [100.0 + (k % 3) for k in range(200)]
    assert abs(percent_growth(steady, 20, 10)) < 1.1
    assert percent_growth([*steady[:100], *(v + 5 for v in steady[100:])], 20, 10) > 4


def write_pictures(folder: Path, **greys: int) -> Path:
    folder.mkdir()
    for name, grey in greys.items():
        Image.new("RGB", (64, 64), (grey, grey, grey)).save(folder / f"{name}.png")
    return folder


def test_pictures_that_are_lost_or_others_are_found_and_rounding_is_counted(tmp_path: Path) -> None:
    right = write_pictures(tmp_path / "right", a=100, b=100, c=100)
    assert compare(write_pictures(tmp_path / "same", a=100, b=100, c=100), right) == (0, [])
    assert compare(write_pictures(tmp_path / "near", a=101, b=99, c=100), right) == (2, [])
    rounded, faults = compare(write_pictures(tmp_path / "far", a=102, b=100), right)
    assert rounded == 0
    assert faults == ["c.png is there once only", "a.png is another picture, by 2 of 255"]
    Image.new("RGB", (32, 64)).save(right / "a.png")
    assert compare(tmp_path / "same", right)[1] == ["a.png is another picture, by 255 of 255"]


def test_half_written_pictures_and_files_left_behind_are_found(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "out", a=1, b=2)
    assert find_damaged(tmp_path) == find_leftovers(tmp_path) == []
    data = (folder / "b.png").read_bytes()
    (folder / "b.png").write_bytes(data[: len(data) // 2])
    (folder / "c.png.part").write_bytes(data)
    (folder / ".lock").touch()
    assert find_damaged(tmp_path) == ["b.png"]
    assert find_leftovers(tmp_path) == [".lock", "c.png.part"]

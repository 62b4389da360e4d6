"""The paper's tables: what each compares, and where it is written."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ale_edit.bench import demo_bench, tables
from ale_edit.bench.demo_bench import demo_settings
from ale_edit.bench.demo_scenes import demo_dataset
from ale_edit.bench.editing import Plan, write_result
from ale_edit.bench.methods import ALE, BESIDE_ALE
from ale_edit.bench.options import bench_demo_arguments, tables_arguments
from ale_edit.bench.report import Results
from ale_edit.bench.runner import run_bench
from ale_edit.bench.tables import TABLES, command_of, find_tables, main, renew_table
from ale_edit.headless.lock import FolderInUse, alone_in
from ale_edit.headless.pictures import as_png
from ale_edit.headless.tasks import Outcome

MARKED = "Before.\n<!-- table variants -->\nold\n<!-- end variants -->\nAfter.\n"


def test_each_table_has_a_place_in_the_results(dev):
    text = (dev.ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    for table in TABLES:
        assert "x" in renew_table(text, table.name, "x")


def test_a_table_is_renewed_between_its_marks_alone():
    text = renew_table(MARKED, "variants", r"new \1")
    assert text.startswith("Before.") and text.endswith("After.\n") and "old" not in text
    assert r"new \1" in text
    assert renew_table(renew_table(text, "variants", "x"), "variants", r"new \1") == text


def test_a_text_without_the_marks_is_refused_before_any_work(tmp_path, capsys):
    (tmp_path / "text.md").write_text(MARKED)
    argv = ["--only", "components", "--write", str(tmp_path / "text.md"), "--out", str(tmp_path)]
    assert main([*argv, "--server", "http://127.0.0.1:1"]) == 1
    assert "must have <!-- table components -->" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["text.md"]


def test_a_text_without_the_marks_of_the_legend_is_refused_too(tmp_path, capsys):
    (tmp_path / "text.md").write_text(MARKED)
    argv = ["--only", "variants", "--write", str(tmp_path / "text.md"), "--out", str(tmp_path)]
    assert main([*argv, "--server", "http://127.0.0.1:1"]) == 1
    assert "must have <!-- table legend -->" in capsys.readouterr().err
    assert (tmp_path / "text.md").read_text() == MARKED


def test_an_unknown_table_is_named_with_those_that_there_are():
    assert find_tables([]) == TABLES
    with pytest.raises(ValueError, match="no table 'best'. There are: components, end-of-text"):
        find_tables(["best"])


def test_a_table_names_the_command_that_makes_it():
    args = tables_arguments(["--edits", "30"])
    command = command_of(TABLES[0], args).split()
    assert command[:3] == ["dev.py", "bench", "tables"]
    again = tables_arguments(command[3:])
    assert (again.only, again.edits) == (["components"], 30)


def test_the_paper_s_tables_are_there():
    assert {t.name for t in TABLES} == {
        "components", "end-of-text", "objects", "schedule", "dilation", "mask-errors", "variants",
        "editors", "editors-paper", "related", "gradients", "learned", "removal",
        "mixed", "background", "lcm",
    }  # fmt: skip
    (objects,) = [t for t in TABLES if t.counts]
    assert objects.counts == (1, 2, 3, 4, 6, 8)


def test_each_editor_is_in_one_table():
    shared = [t for t in TABLES if not t.task]
    found = Counter(m.name for t in shared for m in t.methods if m in BESIDE_ALE)
    assert found == Counter(m.name for m in BESIDE_ALE)


def test_settings_are_chosen_on_their_own_scenes_only():
    def settings(*argv: str):
        words = [word for text in argv for word in ("--set", text)]
        return demo_settings(bench_demo_arguments(["--first-seed", "10000", *words]))

    assert settings() == {} == demo_settings(bench_demo_arguments([]))
    found = settings("Guider.target_guidance=4", "Blending.edge=soft")
    assert found == {"Guider": {"target_guidance": 4}, "Blending": {"edge": "soft"}}
    with pytest.raises(ValueError, match="published tables keep theirs: give --first-seed 10000"):
        demo_settings(bench_demo_arguments(["--set", "Guider.target_guidance=4"]))
    with pytest.raises(ValueError, match="'Guider=4' is not of the form NODE.INPUT=VALUE"):
        settings("Guider=4")


def test_full_and_a_number_of_edits_contradict_each_other():
    assert bench_demo_arguments(["--full"]).full
    with pytest.raises(ValueError, match="--full means all edits, --edits 20 some"):
        bench_demo_arguments(["--full", "--edits", "20"])


def test_a_file_of_weights_that_is_not_there_is_named(tmp_path):
    for option in ("--lpips", "--dino"):
        with pytest.raises(ValueError, match=rf"There is no file .*none.pth \({option}\)"):
            bench_demo_arguments([option, str(tmp_path / "none.pth")])
        with pytest.raises(ValueError, match="is a folder. Give the file of its weights"):
            bench_demo_arguments([option, str(tmp_path)])


def test_images_of_other_settings_are_told_where_they_are_only_scored(tmp_path, capsys):
    args = bench_demo_arguments(["--score-only", "--edits", "2", "--out", str(tmp_path)])
    dataset = demo_dataset(tmp_path / "demo" / "dataset", scenes=2, instances=1)
    plan = Plan(dataset, dataset.edits[:2], (ALE,), tmp_path / "demo", context="other weights")
    for task in plan.tasks:
        write_result(task, as_png(dataset.picture(task.edit.image)), {})
    results = run_bench(args, dataset, (ALE,), tmp_path / "demo")
    assert "demo: 2 of 2 images made from something else (other prompts," in capsys.readouterr().out
    assert len(results.scored["ale"]) == 2


def demo_bench_main(out: Path) -> int:
    return demo_bench.main(["--score-only", "--out", str(out)])


def test_nobody_else_writes_to_the_folders_of_tables_before_the_last_one_is_written(
    tmp_path, monkeypatch, capsys
):
    """Not between two tables, not while one is written, nor into the folder of another table."""
    tried = []
    found = Results(
        demo_dataset(tmp_path / "demo" / "dataset", scenes=2, instances=1),
        *((), (ALE,), {"ale": {}}, {}, tmp_path / "demo", Outcome(), {}),
    )

    def trying(*_: Any) -> Any:
        for folder in ("demo", "objects4", "objects6", "objects8"):
            with pytest.raises(FolderInUse), alone_in(tmp_path / folder):
                pass
        assert demo_bench_main(tmp_path) == 1
        assert "Another process is writing to" in capsys.readouterr().err
        tried.append(None)
        return [found], []

    monkeypatch.setattr(tables, "make_table", trying)
    monkeypatch.setattr(tables, "write_table", trying)
    assert main(["--only", "variants", "objects", "--score-only", "--out", str(tmp_path)]) == 0
    assert len(tried) == 4
    for folder in ("demo", "objects4"):
        with alone_in(tmp_path / folder):
            pass


def test_without_any_image_there_is_nothing_to_score(tmp_path):
    args = bench_demo_arguments(["--score-only", "--edits", "2", "--out", str(tmp_path)])
    dataset = demo_dataset(tmp_path / "demo" / "dataset", scenes=2, instances=1)
    with pytest.raises(ValueError, match="There is no image below .* Run without --score-only"):
        run_bench(args, dataset, (ALE,), tmp_path / "demo")

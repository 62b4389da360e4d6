"""`dev.py bench run` without a server: what it refuses, and what it scores of what is there."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ale_edit.bench.dataset import Dataset, write_dataset
from ale_edit.bench.demo_scenes import demo_dataset
from ale_edit.bench.editing import Plan, image_path, write_result
from ale_edit.bench.judging import weights_key
from ale_edit.bench.methods import ALE, NAIVE
from ale_edit.bench.options import SERVER_FAILED
from ale_edit.bench.runner import command_of, main, write_report
from ale_edit.headless.lock import FolderInUse, alone_in
from ale_edit.headless.pack import pack_version
from ale_edit.headless.pictures import as_png

VERSIONS = {"comfyui": "0.3.75"}


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Two scenes as somebody's own images: nothing says that they are the demo world's."""
    own = demo_dataset(tmp_path / "set", "mine", scenes=2, instances=1)
    own = replace(own, about={"made": "by hand"}, edits=own.edits[:4])
    write_dataset(own, {})
    return own


def unedited(dataset: Dataset, out: Path) -> None:
    """Each method gives the source back."""
    context = weights_key() + pack_version()
    for job in Plan(dataset, dataset.edits, (NAIVE, ALE), out / "mine", context=context).tasks:
        write_result(job, as_png(dataset.picture(job.edit.image)), VERSIONS)


def argv(dataset: Dataset, tmp_path: Path, *options: str) -> list[str]:
    methods = ["--methods", "naive", "ale"]
    return [str(dataset.folder), *methods, "--out", str(tmp_path / "out"), *options]


def test_images_that_are_there_are_scored_and_reported(dataset, tmp_path, capsys):
    unedited(dataset, tmp_path / "out")
    assert main(argv(dataset, tmp_path, "--score-only", "--edits", "3")) == 0
    report = json.loads((tmp_path / "out" / "mine.json").read_text())
    assert report["methods"]["ale"]["edits"] == 3
    assert report["methods"]["ale"]["figures"]["mse"]["value"] == 0
    assert "all" not in report["methods"]["ale"]["figures"]  # the judge is the demo world's
    assert "no CLIP model was given" in report["missing"]["leakage"]
    setup = report["setup"]
    assert setup["made on"] == "comfyui 0.3.75 (6 images)"
    assert setup["methods"]["naive"]["Method"] == NAIVE.inputs["Method"]
    assert setup["made"] == {"made": "by hand"} and setup["checkpoint"] == "the demo model"
    assert report["workflow"] and "ALE-Edit on mine" in (tmp_path / "out" / "mine.html").read_text()


def test_where_all_images_are_there_no_server_is_asked(dataset, tmp_path, capsys):
    unedited(dataset, tmp_path / "out")
    assert main(argv(dataset, tmp_path, "--server", "http://127.0.0.1:1")) == 0
    assert "mine: 8 images, 8 are there." in capsys.readouterr().out


def test_images_that_are_not_there_are_an_exit_code_beside_the_report(dataset, tmp_path, capsys):
    unedited(dataset, tmp_path / "out")
    image_path(tmp_path / "out" / "mine", "ale", dataset.edits[1].name).unlink()
    image_path(tmp_path / "out" / "mine", "naive", dataset.edits[2].name).write_bytes(b"damaged")
    assert main(argv(dataset, tmp_path, "--score-only")) == 1
    assert "2 of 8 images failed or are not there; the report is of the" in capsys.readouterr().err
    report = json.loads((tmp_path / "out" / "mine.json").read_text())
    assert [report["methods"][name]["edits"] for name in ("naive", "ale")] == [3, 3]


def test_nobody_else_writes_to_the_folder_before_the_report_is_written(
    dataset, tmp_path, monkeypatch, capsys
):
    unedited(dataset, tmp_path / "out")
    tried = []

    def trying(*given: Any) -> None:
        with pytest.raises(FolderInUse), alone_in(tmp_path / "out" / "mine"):
            pass
        tried.append(write_report(*given))

    monkeypatch.setattr("ale_edit.bench.runner.write_report", trying)
    assert main(argv(dataset, tmp_path, "--score-only")) == 0 and tried
    with alone_in(tmp_path / "out" / "mine"):
        assert main(argv(dataset, tmp_path, "--score-only")) == 1
    assert "Another process is writing to" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "code", "expected"),
    [
        ([], 0, ""),
        (["--methods", "magic"], 1, "There is no method 'magic'"),
        (["--set", "Guide.scale=4"], 1, "'Guide'"),
        (["--lpips", "{broken}"], 1, "broken.pth"),
    ],
)
def test_a_check_needs_no_server_and_makes_nothing(
    dataset, tmp_path, capsys, options, code, expected
):
    (tmp_path / "broken.pth").write_text("no weights")
    given = [word.format(broken=tmp_path / "broken.pth") for word in options]
    assert main(argv(dataset, tmp_path, *given, "--check-only")) == code
    shown = capsys.readouterr()
    assert expected in shown.err and not shown.out
    assert not (tmp_path / "out").exists()


def test_a_data_set_that_cannot_be_read_is_found_by_the_check(dataset, tmp_path, capsys):
    Image.new("L", (128, 128)).save(dataset.folder / "masks" / "scene0_0.png")
    assert main(argv(dataset, tmp_path, "--check-only")) == 1
    assert "scene0_0.png is black all over. Paint the object white." in capsys.readouterr().err


def test_with_dask_the_servers_are_not_asked_from_here(dataset, tmp_path, capsys, monkeypatch):
    def asked(address: str, _servers: list[str]) -> None:
        raise ValueError(f"asked {address}")

    monkeypatch.setattr("ale_edit.bench.runner.dask_workers", asked)
    monkeypatch.setattr("ale_edit.bench.runner.check_servers", pytest.fail)
    at = ["--dask", "tcp://127.0.0.1:1", "--server", "http://127.0.0.1:1"]
    assert main(argv(dataset, tmp_path, *at)) == 1
    assert "asked tcp://127.0.0.1:1" in capsys.readouterr().err


def test_without_any_server_that_answers_it_ends_with_the_reasons(dataset, tmp_path, capsys):
    two = ["--server", "http://127.0.0.1:1", "--server", "http://127.0.0.1:2"]
    assert main(argv(dataset, tmp_path, *two)) == SERVER_FAILED
    shown = capsys.readouterr().err
    assert "No ComfyUI answers at http://127.0.0.1:1" in shown and "http://127.0.0.1:2" in shown


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--methods", "magic"], "There is no method 'magic'. There are: naive, "),
        (["--set", "Guider.guidance=4"], "has no input 'guidance'"),
        (["--score-only"], "There is no image below"),
    ],
)
def test_what_cannot_be_run_is_one_sentence(dataset, tmp_path, capsys, options, expected):
    assert main(argv(dataset, tmp_path, *options)) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("bench run: ") and expected in shown and shown.count("\n") == 1


def test_a_data_set_that_is_not_there_is_named(tmp_path, capsys):
    assert main([str(tmp_path / "none")]) == 1
    assert "There is no data set" in capsys.readouterr().err


def test_words_that_the_demo_model_does_not_know_are_told(dataset, tmp_path, capsys):
    edit = dataset.edits[0]
    objects = (replace(edit.objects[0], target="zebra"), *edit.objects[1:])
    write_dataset(replace(dataset, edits=(replace(edit, objects=objects),)), {})
    main(argv(dataset, tmp_path, "--score-only"))
    assert "The demo model does not know zebra. Give --checkpoint" in capsys.readouterr().out
    main(argv(dataset, tmp_path, "--score-only", "--checkpoint", "sd15.safetensors"))
    assert "does not know" not in capsys.readouterr().out


def test_a_report_names_the_command_without_what_is_of_one_machine():
    argv = ["set one", "--server", "http://h:1", "--edits", "3", "--server=http://h:2"]
    argv += ["--dask", "tcp://h:3", "--started-at", "1.5", "--score-only"]
    assert command_of("bench run", argv) == "dev.py bench run 'set one' --edits 3 --score-only"

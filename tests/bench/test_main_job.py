"""The parts of the main job that need no server."""

import io
import json
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from subprocess import PIPE, Popen

import pytest
from PIL import Image

from ale_edit.bench import main_job
from ale_edit.bench.demo_scenes import demo_input
from ale_edit.bench.main_job import (
    MaskedEdit,
    exit_code,
    fill_workflow,
    guard,
    main,
    scores_of,
    show_progress,
    table,
)
from ale_edit.bench.options import FAILED, OUTPUT_CLOSED, SERVER_FAILED, STOPPED
from ale_edit.bench.pictures import side_by_side
from ale_edit.demo.judge import Judge
from ale_edit.headless import (
    ComfyError,
    Interrupted,
    NodeError,
    NodeFailed,
    PackMissing,
    Progress,
    ServerGone,
    WorkflowRejected,
)
from ale_edit.headless.spreading import RepeatedFailure
from ale_edit.progress import ProgressBar


def chain(count: int) -> list[tuple[str, str, str]]:
    return [(f"source {k}", f"target {k}", f"mask {k}.png") for k in range(1, count + 1)]


@pytest.mark.parametrize("count", [1, 2, 3, 16])
def test_the_edit_chain_has_one_link_per_object_in_order(count):
    workflow = fill_workflow("image.png", chain(count))
    node_id = workflow.inputs("Method")["edits"][0]
    for k in range(count, 0, -1):
        node = workflow.nodes[node_id]
        assert workflow.title(node_id) == f"Edit {k}"
        assert (node["inputs"]["source"], node["inputs"]["target"]) == (
            f"source {k}",
            f"target {k}",
        )
        assert workflow.nodes[node["inputs"]["mask"][0]]["inputs"]["image"] == f"mask {k}.png"
        node_id = node["inputs"].get("previous", [None])[0]
    assert node_id is None
    assert sum(node["class_type"] == "LoadImageMask" for node in workflow.nodes.values()) == count


def test_a_checkpoint_takes_the_demo_models_place():
    workflow = fill_workflow("image.png", chain(2), checkpoint="sd15.safetensors")
    node_id = workflow.find("Model")
    assert workflow.nodes[node_id]["class_type"] == "CheckpointLoaderSimple"
    assert workflow.nodes[node_id]["inputs"] == {"ckpt_name": "sd15.safetensors"}
    assert [node_id, 0] in [
        link for node in workflow.nodes.values() for link in node["inputs"].values()
    ]


def test_the_seed_of_the_noise_can_be_chosen():
    assert fill_workflow("i.png", chain(2), seed=9).inputs("Noise") == {"noise_seed": 9}


def test_the_background_error_is_measured_outside_the_masks_alone():
    source = Image.new("RGB", (32, 32), (100, 100, 100))
    mask = Image.new("L", (32, 32))
    mask.paste(255, (0, 0, 16, 32))
    edits = [MaskedEdit("a", "b", mask, None)]
    edited = source.copy()
    edited.paste((255, 0, 0), (0, 0, 16, 32))
    inside = scores_of(source, edited, edits, None)["background_psnr"]
    edited.paste((110, 110, 110), (16, 0, 32, 32))
    outside = scores_of(source, edited, edits, None)["background_psnr"]
    assert inside > 60
    assert outside == pytest.approx(28.13, abs=0.01)  # 20 log10(255 / 10)


def test_without_any_background_there_is_no_background_error():
    image = Image.new("RGB", (8, 8))
    everything = [MaskedEdit("a", "b", Image.new("L", (8, 8), 255), None)]
    assert scores_of(image, image, everything, None)["background_psnr"] is None


def test_an_image_that_the_vae_cropped_is_compared_with_the_sources_centre():
    source = Image.new("RGB", (37, 35), "black")
    source.paste((50, 60, 70), (2, 1, 34, 33))
    edited = Image.new("RGB", (32, 32), (50, 60, 70))
    mask = Image.new("L", (37, 35))
    assert (
        scores_of(source, edited, [MaskedEdit("a", "b", mask, None)], None)["background_psnr"] > 60
    )


def test_the_judge_reads_what_was_asked_for():
    image, edits = demo_input(0)
    scores = scores_of(image, image, edits, Judge.load())
    for entry, edit in zip(scores["objects"], edits, strict=True):
        assert edit.asked and entry["found"]["shape"] == edit.asked["shape"]
        assert entry["correct"] is False  # nothing was recoloured
    assert json.loads(json.dumps(scores)) == scores


def test_the_table_shows_both_edits_side_by_side():
    entry = {"source": "box", "target": "red-colored box"}
    right = {**entry, "found": {"shape": "box", "color": "red"}, "correct": True}
    wrong = {**entry, "found": {"shape": "box", "color": "blue"}, "correct": False}
    naive = {"objects": [wrong], "background_psnr": None, "edit_seconds": 2.0}
    scores = {"objects": [right], "background_psnr": 31.26, "edit_seconds": 1.0, "naive": naive}
    lines = table(scores).splitlines()
    assert "box -> red-colored box" in lines[1]
    assert "red box (right)" in lines[1] and "blue box (wrong)" in lines[1]
    assert "31.3 dB" in lines[2]


def test_what_nodes_say_is_printed_and_steps_are_not_where_the_output_is_a_file(capsys):
    with ProgressBar("ALE edit", every_s=None) as bar:
        show_progress(bar, "ALE edit", Progress("Sample", 3, 15))
        show_progress(bar, "ALE edit", Progress("Regions", notice="the masks of a and b overlap."))
    assert capsys.readouterr().out == "ALE edit: Regions: the masks of a and b overlap.\n"


def test_panels_are_enlarged_to_a_readable_size():
    small = Image.new("RGB", (128, 128), "red")
    sheet = side_by_side([("source", small), ("edit", small), ("again", small)])
    assert sheet.width > 3 * 384 and sheet.height > 384


def test_an_error_is_one_line_and_an_exit_code(capsys):
    assert main(["--image", "none.png", "--edit", "a -> b", "--mask", "m.png"]) == 1
    assert capsys.readouterr().err.startswith("demo: There is no file none.png")


@pytest.mark.comfy  # the judge of the demo scene
def test_a_server_that_is_not_there_is_one_line_and_the_exit_code_of_a_servers_failure(capsys):
    assert main(["--server", "http://127.0.0.1:1"]) == SERVER_FAILED
    assert "No ComfyUI answers at http://127.0.0.1:1" in capsys.readouterr().err


NODE = NodeError("Edit 1", "ALEEditObject", "no words")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("no such checkpoint"), 1),
        (FileNotFoundError("gone"), 1),
        (WorkflowRejected("", (NODE,)), 1),
        (Interrupted("by somebody"), 1),
        (NodeFailed(NODE, "ValueError", ()), 1),
        (NodeFailed(NODE, "torch.OutOfMemoryError", ()), SERVER_FAILED),
        (RepeatedFailure("the first 5", NodeFailed(NODE, "ValueError", ())), FAILED),
        (
            RepeatedFailure("the first 5", NodeFailed(NODE, "torch.OutOfMemoryError", ())),
            SERVER_FAILED,
        ),
        (ServerGone("no answer"), SERVER_FAILED),
        (PackMissing("no node"), SERVER_FAILED),
        (ComfyError("nothing came"), SERVER_FAILED),
    ],
)
def test_the_servers_log_is_asked_for_only_where_it_says_more(error, code):
    assert exit_code(error) == code


def test_an_error_of_a_disk_says_that_what_was_made_is_kept(capsys):
    def full() -> None:
        raise OSError(28, "x.png was not written: No space left on device")

    assert guard("bench run", full) == 1
    assert "No space left on device. What was made is kept: mend" in capsys.readouterr().err


def test_words_that_the_output_cannot_show_stop_no_job(monkeypatch):
    told = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(told, encoding="cp1252"))
    assert guard("bench run", lambda: print("жук", flush=True)) == 0
    assert told.getvalue().strip() == b"\\u0436\\u0443\\u043a"


def test_a_jobs_own_exit_code_is_kept():
    assert guard("bench run", lambda: 7) == 7
    assert guard("bench run", lambda: None) == 0


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_job_that_is_stopped_says_so_and_leaves_the_signals_as_they_were(name, capsys):
    number = getattr(signal, name, signal.SIGINT)
    outer = signal.signal(number, signal.SIG_DFL)  # ignored where the tests run under nohup
    own = signal.signal(signal.SIGINT, signal.default_int_handler)
    before = signal.getsignal(number)
    try:
        code = guard("bench run", lambda: signal.raise_signal(number), main_job.GOES_ON)
        after = signal.getsignal(number)
    finally:
        signal.signal(signal.SIGINT, own)
        signal.signal(number, outer)
    assert code == STOPPED and after == before
    shown = capsys.readouterr().err
    assert shown == (
        "bench run: Stopped, and taken out of the queue. Give the same command again to resume.\n"
    )


GUARDED = """
import runpy, signal, sys, time
runpy.run_path({dev!r})["import_pack"](None)
from ale_edit.bench.main_job import guard
from ale_edit.progress import ProgressBar
def job():
    print("ready", flush=True)
    while True:
        time.sleep(0.05)
        print("more", flush=True)
sys.exit(guard("bench run", job))
"""


def start_guarded(dev_py: str, before: Callable[[], object] | None = None) -> Popen[str]:
    """A process with a job that is at work."""
    command = [sys.executable, "-c", GUARDED.format(dev=dev_py)]
    process = Popen(command, stdout=PIPE, stderr=PIPE, text=True, preexec_fn=before)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def test_a_job_whose_output_nobody_reads_any_more_ends_without_a_word(dev):
    process = start_guarded(str(dev.ROOT / "dev.py"))
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()  # as `| head -1` does
    assert process.wait(timeout=60) == OUTPUT_CLOSED
    assert process.stderr.read() == ""


@pytest.mark.skipif(os.name == "nt", reason="Windows ends processes without a signal")
def test_a_job_in_the_background_of_a_script_can_be_ended(dev):
    ignoring = partial(signal.signal, signal.SIGINT, signal.SIG_IGN)
    process = start_guarded(str(dev.ROOT / "dev.py"), ignoring)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert (process.returncode, told) == (STOPPED, "bench run: Stopped.\n")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signal")
def test_a_job_under_nohup_outlives_its_terminal(dev):
    ignoring = partial(signal.signal, signal.SIGHUP, signal.SIG_IGN)
    process = start_guarded(str(dev.ROOT / "dev.py"), ignoring)
    assert process.stdout is not None
    process.send_signal(signal.SIGHUP)
    assert [process.stdout.readline() for _ in range(20)] == ["more\n"] * 20
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert (process.returncode, told) == (STOPPED, "bench run: Stopped.\n")

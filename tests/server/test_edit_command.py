"""edit.py and the client against a real server: killed, stopped, failing, by words, by polling."""

import asyncio
import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ale_edit.bench.demo_scenes import demo_input
from ale_edit.bench.main_job import fill_workflow, scores_of, upload
from ale_edit.demo.judge import Judge
from ale_edit.editors import COMPARED, EDITORS
from ale_edit.headless import ComfyClient, NodeFailed, Progress, Workflow
from ale_edit.headless.editors import takes_masks
from ale_edit.headless.edits import BY_WORDS, MASKED, Model, use_model
from ale_edit.headless.pack import pack_version
from ale_edit.headless.tasks import tag_of
from ale_edit.tests.headless.inputs import write_csv

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


def write_table(folder: Path, rows: int, **columns: str) -> Path:
    """Demo scenes with their edits and masks."""
    folder.mkdir()
    table = []
    for seed in range(rows):
        image, edits = demo_input(seed)
        image.save(folder / f"scene{seed}.png")
        masks = [f"scene{seed}_{number}.png" for number in range(len(edits))]
        for name, edit in zip(masks, edits, strict=True):
            edit.mask.save(folder / name)
        words = "; ".join(f"{edit.source} -> {edit.target}" for edit in edits)
        row = {"image": f"scene{seed}.png", "edits": words, "masks": "; ".join(masks)}
        table.append({**row, "type": "color", **columns})
    return write_csv(folder / "edits.csv", table)


def hear_interrupts() -> None:
    """Also where the tests were started in the background, where shells ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(server: Any, cwd: Path, *argv: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "edit.py"), *argv, "--server", server.url]
    return subprocess.Popen(
        command,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_interrupts,
    )


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def asked(server: Any, path: str) -> Any:
    with urllib.request.urlopen(server.url + path) as reply:
        return json.load(reply)


def lines(out: Path) -> list[dict[str, Any]]:
    file = out / "manifest.jsonl"
    return [json.loads(text) for text in file.read_text().splitlines()] if file.is_file() else []


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_killed_run_goes_on_and_nothing_is_done_twice(server, tmp_path):
    write_table(tmp_path / "in", 4, steps="20")
    out = tmp_path / "out"
    first = start(server, tmp_path, "in/edits.csv", "--out", "out")
    wait_for(lambda: lines(out))
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    assert len(lines(out)) < 4
    code, told, err = finished(start(server, tmp_path, "in/edits.csv", "--out", "out"))
    assert (code, err) == (0, ""), told
    assert sorted(line["name"] for line in lines(out)) == [f"scene{k}" for k in range(4)]
    tags = Counter(
        entry["prompt"][3].get("ale_edit") for entry in asked(server, "/history").values()
    )
    for line in lines(out):
        assert tags[tag_of(line["fingerprint"], out)] == 1
        with Image.open(out / line["output"]) as picture:
            picture.load()
            assert picture.size == (128, 128)
        assert line["versions"]["ale_edit"] == pack_version()
        assert line["settings"]["steps"] == 20
    code, told, _ = finished(start(server, tmp_path, "in/edits.csv", "--out", "out"))
    assert code == 0 and "0 made, 4 already there" in told


def test_ctrl_c_takes_its_own_runs_out_of_the_queue(server, tmp_path):
    write_table(tmp_path / "in", 3, steps="50")
    process = start(server, tmp_path, "in/edits.csv")

    def ours() -> list[str]:
        queue = asked(server, "/queue")
        return [item[1] for item in [*queue["queue_running"], *queue["queue_pending"]]]

    wait_for(lambda: asked(server, "/queue")["queue_running"])
    process.send_signal(signal.SIGINT)
    code, _, err = finished(process)
    assert code == 130 and "Stopped, and taken out of the queue" in err and "Traceback" not in err
    wait_for(lambda: not ours())


def test_a_failing_row_is_in_the_manifest_with_node_and_message(server, tmp_path):
    write_table(tmp_path / "in", 1, steps="2", source_prompt="a photograph of nothing")
    code, told, _ = finished(start(server, tmp_path, "in/edits.csv", "--out", "out"))
    (line,) = lines(tmp_path / "out")
    assert code == 1 and "1 failed" in told
    assert line["status"] == "failed" and line["error"]["node"] == "Embeddings"
    assert line["error"]["class"] == "ALEObjectRestrictedEmbeddings"
    assert "pink-colored box" in line["error"]["message"]
    assert line["error"]["exception"] == "ValueError"


def test_a_nodes_own_sentence_names_the_input(run):
    workflow = Workflow({})
    empty = {"width": 16, "height": 16, "batch_size": 2, "color": 0}
    workflow.add("Two images", "EmptyImage", empty)
    workflow.add("Two masks", "ImageToMask", {"channel": "red"})
    workflow.connect("Two masks", "image", "Two images")
    workflow.add("Edit", "ALEEditObject", {"source": "box", "target": "ring"})
    workflow.add("Regions", "ALERegions", {"dilation": 0.0, "feather": 0.0})
    workflow.connect("Regions", "edits", "Edit")
    workflow.connect("Regions", "masks", "Two masks")
    workflow.add("See", "PreviewImage")
    workflow.connect("See", "images", "Regions", 3)
    with pytest.raises(NodeFailed, match="the masks input holds 2 masks") as caught:
        run(workflow)
    error = caught.value.error
    assert (error.title, error.class_type, error.input_name) == ("Regions", "ALERegions", "masks")
    assert error.node_id == workflow.find("Regions") and caught.value.inputs["feather"] == [0.0]


def test_one_client_runs_several_edits_at_once_and_gets_those_of_single_runs(server):
    source, edits = demo_input(0)

    async def job() -> None:
        async with ComfyClient(server.url) as client:
            masks = [await upload(client, edit.mask) for edit in edits]
            triples = [(e.source, e.target, mask) for e, mask in zip(edits, masks, strict=True)]
            image, workflows = await upload(client, source), []
            for seed in range(3):
                workflows.append(fill_workflow(image, triples, seed=seed))
                workflows[-1].fill("Schedule", steps=3)
            seen: list[list[Progress]] = [[], [], []]
            runs = [client.run(w, s.append) for w, s in zip(workflows, seen, strict=True)]
            together = await asyncio.gather(*runs)
            assert all(Progress("Sample", 3, 3) in steps for steps in seen)
            for workflow, images in zip(workflows, together, strict=True):
                alone = await client.run(workflow)
                (first,) = [image for image in images if image.title == "Save edited"]
                (again,) = [image for image in alone if image.title == "Save edited"]
                assert await client.fetch(first) == await client.fetch(again)

    asyncio.run(job())


def test_without_a_websocket_the_same_image_comes_by_polling(server, monkeypatch):
    source, edits = demo_input(0)

    async def job() -> tuple[bytes, list[Progress]]:
        seen: list[Progress] = []
        async with ComfyClient(server.url) as client:
            masks = [await upload(client, edit.mask) for edit in edits]
            triples = [(e.source, e.target, mask) for e, mask in zip(edits, masks, strict=True)]
            workflow = fill_workflow(await upload(client, source), triples)
            workflow.fill("Schedule", steps=3)
            images = await client.run(workflow, seen.append)
            (edited,) = [image for image in images if image.title == "Save edited"]
            return await client.fetch(edited), seen

    def pixels(data: bytes) -> bytes:
        return Image.open(io.BytesIO(data)).tobytes()

    followed, seen = asyncio.run(job())
    assert Progress("Sample", 3, 3) in seen

    async def no_websocket(_client: ComfyClient) -> None:
        pass

    monkeypatch.setattr(ComfyClient, "_listen", no_websocket)
    polled, seen = asyncio.run(job())
    assert not seen and pixels(polled) == pixels(followed)


def test_the_example_of_the_docs_runs(server, tmp_path):
    page = (ROOT / "docs" / "headless.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.+?)```", page, re.DOTALL)
    example = example.replace("http://127.0.0.1:8188", server.url)
    source, edits = demo_input(0)
    source.save(tmp_path / "photo.png")
    edits[0].mask.save(tmp_path / "box.png")
    (tmp_path / "ComfyUI" / "custom_nodes").mkdir(parents=True)
    (tmp_path / "ComfyUI" / "custom_nodes" / "ale-edit").symlink_to(ROOT)
    (tmp_path / "example.py").write_text(example)
    done = subprocess.run(
        [sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "Progress(title='Sample', value=8, maximum=8, ahead=0, notice='')" in done.stdout
    for name in ("Save edited", "Save reconstruction", "Save regions"):
        assert Image.open(tmp_path / f"{name}.png").size == (128, 128)


def test_without_checkpoint_and_masks_the_demo_world_is_edited(server, tmp_path):
    """The source alone is there: the demo detector finds the object, and the judge reads the edit
    under its true mask. The other object, which is not named, stays as it is."""
    source, (box, star) = demo_input(0)
    source.save(tmp_path / "source.png")
    edit = f"{star.source} -> {star.target}"
    argv = ["--image", "source.png", "--edit", edit, "--set", "type=color", "--out", "out"]
    code, told, err = finished(start(server, tmp_path, *argv))
    assert (code, err) == (0, ""), told
    (line,) = lines(tmp_path / "out")
    assert line["masks"] == [] and line["model"]["checkpoint"] is None
    edited = Image.open(tmp_path / "out" / "source.png")
    scores = scores_of(source, edited, [star, box], Judge.load())
    assert scores["objects"][0]["found"] == star.asked and scores["objects"][0]["correct"]
    assert box.source == "pink-colored box" and box.asked is not None
    assert scores["objects"][1]["found"] == {**box.asked, "color": "pink"}
    assert scores["background_psnr"] > 25
    assert Image.open(tmp_path / "out" / "regions" / "source.png").size == (128, 128)


def test_masks_are_read_in_any_channel_by_any_loader_and_the_sources_alpha_is_kept(
    server, tmp_path
):
    """The same edit three times: masks drawn in grey; in the alpha channel; and those loaded by a
    workflow of one's own with Load Image, and with Load Image (as Mask) by its channel alpha."""
    folder = tmp_path / "in"
    write_table(folder, 1, steps="2")
    for name in ("scene0_0", "scene0_1"):
        white = Image.new("RGB", (128, 128), "white")
        white.putalpha(Image.open(folder / f"{name}.png"))
        white.save(folder / f"{name}_alpha.png")
    source = Image.open(folder / "scene0.png").convert("RGBA")
    source.putalpha(Image.linear_gradient("L").resize(source.size))
    source.save(folder / "clear.png")
    table = (folder / "edits.csv").read_text().replace("scene0.png", "clear.png")
    table = table.replace("_0.png", "_0_alpha.png").replace("_1.png", "_1_alpha.png")
    (folder / "alpha.csv").write_text(table)
    own = Workflow.load(MASKED)
    own.replace("Mask 1", "LoadImage", {"image": "x.png"})
    own.fill("Mask 2", channel="alpha")
    (folder / "own.json").write_text(json.dumps(own.nodes))
    found = []
    for table, *options in (
        ("edits.csv",),
        ("alpha.csv",),
        ("alpha.csv", "--workflow", "in/own.json"),
    ):
        out = f"out{len(found)}"
        code, told, err = finished(start(server, tmp_path, f"in/{table}", "--out", out, *options))
        assert (code, err) == (0, ""), told
        assert told.count("drawn in its alpha channel") == (0 if table == "edits.csv" else 2)
        found.append(Image.open(next((tmp_path / out).glob("*.png"))))
    plain, *others = (np.asarray(picture.convert("RGB"), int) for picture in found)
    unedited = np.asarray(source.convert("RGB"), int)
    assert np.abs(plain - unedited).max() > 50
    for other, picture in zip(others, found[1:], strict=True):
        assert np.abs(other - plain).max() <= 1
        assert picture.getchannel("A").tobytes() == source.getchannel("A").tobytes()


def test_rows_without_masks_are_edited_by_words(server, models, tmp_path):
    """With a small detector and segmenter of random numbers: what they find means nothing."""
    from ale_edit.tests.server.test_detector_workflows import write_models

    write_models(models)
    write_table(tmp_path / "in", 1, steps="2", masks="")
    workflow = Workflow.load(BY_WORDS)
    workflow.bypass("ModelSamplingDiscrete", {0: "model"})
    workflow.bypass("LCM-LoRA", {0: "model", 1: "clip"})
    use_model(workflow, "Load Checkpoint", Model())
    (tmp_path / "words.json").write_text(json.dumps(workflow.nodes), encoding="utf-8")
    settings = {"box_threshold": 0, "text_threshold": 0, "instances": "best"}
    settings["missing"] = "whole image"
    argv = [f"--set=Grounded-SAM Masks.{name}={value}" for name, value in settings.items()]
    argv += ["--workflow", "words.json", "--out", "out"]
    code, told, err = finished(start(server, tmp_path, "in/edits.csv", *argv))
    assert code == 0, told + err
    (line,) = lines(tmp_path / "out")
    assert line["workflow"] == "words.json" and line["masks"] == []
    assert Image.open(tmp_path / "out" / "scene0.png").size == (128, 128)
    assert Image.open(tmp_path / "out" / "regions" / "scene0.png").size == (128, 128)


def test_an_editor_without_masks_keeps_an_object_that_both_prompts_name(server, tmp_path):
    """docs/headless.md says so: without prompts the box, which no phrase names, is lost."""
    source, (box, star) = demo_input(0)
    (tmp_path / "in").mkdir()
    source.save(tmp_path / "in" / "source.png")
    row = {"image": "source.png", "edits": f"{star.source} -> {star.target}", "editor": "infedit"}
    prompts = {
        "source_prompt": f"{box.source} and {star.source}",
        "target_prompt": f"{box.source} and {star.target}",
    }
    nothing = dict.fromkeys(prompts, "")
    rows = [{**row, "name": "alone", **nothing}, {**row, "name": "whole", **prompts}]
    write_csv(tmp_path / "in" / "edits.csv", rows)
    code, told, err = finished(start(server, tmp_path, "in/edits.csv", "--out", "out"))
    assert (code, err) == (0, ""), told
    judge, found = Judge.load(), {}
    for name in ("alone", "whole"):
        edited = Image.open(tmp_path / "out" / f"{name}.png")
        found[name] = [o["found"] for o in scores_of(source, edited, [star, box], judge)["objects"]]
    assert box.asked is not None
    kept = {**box.asked, "color": "pink"}
    assert found["whole"][1] == kept and found["alone"][1] != kept
    assert found["whole"][0]["color"] == found["alone"][0]["color"] == "yellow"


def test_a_table_may_name_several_editors(server, tmp_path):
    names = tuple(editor.name for editor in EDITORS)
    table = write_table(tmp_path / "in", 1, steps="4")
    (row,) = csv.DictReader(table.open(encoding="utf-8"))
    del row["type"]
    write_csv(table, [{**row, "name": name, "editor": name} for name in names])
    code, told, err = finished(start(server, tmp_path, "in/edits.csv", "--out", "out"))
    assert (code, err) == (0, ""), told
    for editor in COMPARED:
        notice = f"{editor.title} takes no masks: those given are not used."
        assert (notice in told) != takes_masks(editor.name)
    found = {line["name"]: line for line in lines(tmp_path / "out")}
    assert {name: line["editor"] for name, line in found.items()} == {n: n for n in names}
    assert all(line["settings"]["steps"] == 4 for line in found.values())
    pictures = {(tmp_path / "out" / f"{name}.png").read_bytes() for name in names}
    assert len(pictures) == len(names)

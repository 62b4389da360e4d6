"""The main job, end to end: what `dev.py demo` does, against a real server."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from ale_edit.bench.demo_scenes import demo_input
from ale_edit.bench.ledger import LEDGER
from ale_edit.bench.main_job import fill_workflow, main, to_picture, upload
from ale_edit.bench.options import SERVER_FAILED
from ale_edit.demo.world import demo_edits, make_scene, render
from ale_edit.devtools.messages import DevError
from ale_edit.headless import ComfyClient, ServerGone

ROOT = Path(__file__).resolve().parents[2]
FILES = {"source.png", "edited.png", "reconstruction.png", "regions.png", "comparison.png"}
MASKS = {"mask_1.png", "mask_2.png"}
pytestmark = pytest.mark.slow


def check_scores(scores: dict, count: int, judged: bool) -> None:
    assert len(scores["objects"]) == len(scores["naive"]["objects"]) == count
    for entry in scores["objects"]:
        assert set(entry) == {"source", "target", "asked", "found", "correct"}
        if judged:
            assert set(entry["asked"]) == set(entry["found"])
            assert entry["correct"] is (entry["asked"] == entry["found"])
        else:
            assert entry["found"] is None and entry["correct"] is None
    assert 5 < scores["background_psnr"] < 60
    assert 0 < scores["edit_seconds"] <= scores["total_seconds"]
    assert {"ale_edit", "comfyui", "python", "pytorch"} <= set(scores["versions"])


def test_the_demo_command_starts_comfyui_and_writes_every_file(tmp_path):
    command = [sys.executable, str(ROOT / "dev.py"), "demo", "--out", "out"]
    done = subprocess.run(
        [*command, "--comfyui", os.environ["COMFYUI_PATH"]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {*FILES, *MASKS, "scores.json", LEDGER}
    check_scores(json.loads((out / "scores.json").read_text()), 2, judged=True)
    sizes = {Image.open(out / name).size for name in ("source.png", "edited.png", "regions.png")}
    assert len(sizes) == 1
    for edit in demo_input(0)[1]:
        assert f"{edit.source} -> {edit.target}" in done.stdout
    assert "background kept" in done.stdout and "Traceback" not in done.stderr


@pytest.mark.parametrize("count", [1, 3])
def test_a_persons_own_image_and_masks_are_edited(server, tmp_path, count):
    image, masks = render(make_scene(5, 3))
    picture = to_picture(image).resize((140, 136))
    picture.save(tmp_path / "image.png")
    argv = ["--server", server.url, "--out", str(tmp_path / "out")]
    argv += ["--image", str(tmp_path / "image.png")]
    for number, (source, target, _) in list(enumerate(demo_edits(5, objects=3)))[:count]:
        to_picture(masks[number]).save(tmp_path / f"{number}.png")
        argv += ["--edit", f"{source} -> {target}", "--mask", str(tmp_path / f"{number}.png")]
    assert main(argv) == 0
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} > FILES
    check_scores(json.loads((out / "scores.json").read_text()), count, judged=False)


@pytest.mark.ci
def test_an_unknown_checkpoint_is_one_sentence_and_leaves_nothing_behind(tmp_path):
    command = [sys.executable, str(ROOT / "dev.py"), "demo", "--checkpoint", "nope.safetensors"]
    done = subprocess.run(
        [*command, "--comfyui", os.environ["COMFYUI_PATH"]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path), "TEMP": str(tmp_path)},
    )
    assert done.returncode == 1
    (sentence,) = done.stderr.splitlines()
    assert "input 'ckpt_name': 'nope.safetensors' is not" in sentence
    models = (Path(os.environ["COMFYUI_PATH"]) / "models").resolve()
    assert f"put the file into {models}, ComfyUI's models folder" in sentence
    assert "log" not in done.stdout
    assert not list(tmp_path.glob("ale-edit-*"))


def test_an_error_of_a_node_is_the_persons_and_that_of_its_server_is_not(server, tmp_path, capsys):
    for name, color in (("image", 128), ("mask", 255)):
        Image.new("L", (128, 128), color).save(tmp_path / f"{name}.png")
    argv = ["--image", str(tmp_path / "image.png"), "--mask", str(tmp_path / "mask.png")]
    argv += ["--edit", f"red-colored ball -> {'blue ' * 80}ball", "--out", str(tmp_path)]
    assert main([*argv, "--server", server.url]) == 1
    assert "'Embeddings' (ALEObjectRestrictedEmbeddings)" in capsys.readouterr().err
    assert main([*argv, "--server", "http://127.0.0.1:1"]) == SERVER_FAILED


@pytest.mark.ci
def test_a_server_that_dies_during_the_job_is_an_error(tmp_path):
    from ale_edit.tests.server.conftest import new_server

    source, edits = demo_input(0)

    async def job(server) -> None:
        async with ComfyClient(server.url) as client:
            masks = [await upload(client, edit.mask) for edit in edits]
            triples = [(e.source, e.target, mask) for e, mask in zip(edits, masks, strict=True)]
            workflow = fill_workflow(await upload(client, source), triples)
            await client.run(workflow, lambda _progress: server.process.kill())

    with new_server(tmp_path / "base") as server:
        with pytest.raises(ServerGone, match="No ComfyUI answers"):
            asyncio.run(asyncio.wait_for(job(server), 120))
        server.process.wait(timeout=10)
        with pytest.raises(DevError, match="ended during the job.*The end of its log"):
            server.check_alive("during the job")

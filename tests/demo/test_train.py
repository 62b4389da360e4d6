import json
import shutil

import pytest
import torch

from ale_edit.demo.stage import Stage, StagePlan, save_atomically
from ale_edit.demo.train import main
from ale_edit.demo.weights import FOLDER, PARTS, TABLE


def _line_stage(out, steps):
    net = torch.nn.Linear(1, 1)
    for start in net.parameters():
        torch.nn.init.zeros_(start)
    return Stage(StagePlan("line", steps, 1, 0.1), net, out)


def _loss(stage):
    return lambda step, position: (stage.net(torch.ones(1, 1)) - 3).square().sum()


def test_a_stage_continues_from_its_checkpoint(tmp_path):
    first = _line_stage(tmp_path, 40)
    first.train(_loss(first))
    second = _line_stage(tmp_path, 80)
    assert second.step == 40 and second.position == 0.5
    assert torch.equal(second.net.get_parameter("weight"), first.net.get_parameter("weight"))
    weights = second.train(_loss(second))
    assert second.step == 80
    assert (weights["weight"] + weights["bias"]).item() == pytest.approx(3, abs=0.5)


def test_an_interrupted_write_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "a.pt"
    save_atomically({"step": 1}, path)

    def fails(content, part):
        part.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", fails)
    with pytest.raises(OSError, match=r"a\.pt could not be written \(no space left.*--out"):
        save_atomically({"step": 2}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_the_averaged_weights_lag_behind_the_trained_ones(tmp_path):
    stage = _line_stage(tmp_path, 200)
    stage.train(_loss(stage))
    trained = {k: v.clone() for k, v in stage.net.state_dict().items()}
    keep = min(stage.plan.ema, (1 + stage.step) / (10 + stage.step))
    before = {k: v.clone() for k, v in stage.ema.items()}
    stage._average(1 - keep)
    for key, value in trained.items():
        torch.testing.assert_close(stage.ema[key], keep * before[key] + (1 - keep) * value)


def test_progress_goes_to_the_output_and_the_curve(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("ale_edit.demo.stage.REPORT_EVERY_S", 0.0)
    stage = _line_stage(tmp_path, 4)
    stage.train(_loss(stage))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and lines[1].startswith("line:  50%|")
    assert "2/4 [00:00<" in lines[1] and ", loss " in lines[1]
    rows = stage.curve_path.read_text(encoding="utf-8").splitlines()
    assert rows[0] == "samples,seconds,loss" and len(rows) == 5
    assert [float(row.split(",")[0]) for row in rows[1:]] == [1, 2, 3, 4]


@pytest.mark.comfy
def test_one_command_runs_every_stage_and_a_second_run_resumes(tmp_path):
    command = ["--smoke", "--out", str(tmp_path / "run"), "--weights", str(tmp_path / "weights")]
    assert main([*command, "--device", "cpu"]) == 0
    listed = json.loads((tmp_path / "weights" / TABLE).read_text(encoding="utf-8"))
    assert set(listed) == {f"{part}.safetensors" for part in PARTS}
    assert (tmp_path / "run" / "curves.svg").is_file()
    (tmp_path / "run" / "judge.pt").unlink()
    assert main([*command, "--device", "cpu"]) == 0
    again = json.loads((tmp_path / "weights" / TABLE).read_text(encoding="utf-8"))
    assert again == listed


@pytest.mark.comfy
def test_a_part_is_trained_alone_beside_the_others_files(tmp_path):
    shutil.copytree(FOLDER, tmp_path / "weights")
    command = ["--smoke", "--out", str(tmp_path / "run"), "--weights", str(tmp_path / "weights")]
    assert main([*command, "--device", "cpu", "--only", "unet", "--keep-words"]) == 0
    before, after = (
        json.loads((folder / TABLE).read_text(encoding="utf-8"))
        for folder in (FOLDER, tmp_path / "weights")
    )
    assert {name for name in before if before[name] != after[name]} == {"unet.safetensors"}
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {"latents.npy", "unet.pt"}
    assert not (tmp_path / "run" / "text.pt").exists()

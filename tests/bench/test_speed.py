"""The speed benchmark's report, and the quantities in it that are counted, not timed."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = [pytest.mark.comfy, pytest.mark.ci]
STEPS, POSITIONS = 15, 32 * 32
ROWS = {"ale": 4 * STEPS, "infedit": 6 * STEPS, "masactrl": 4 * STEPS}
ROWS |= {"p2p": 5 * STEPS, "fpe": 5 * STEPS, "pnp": 4 * STEPS, "sdedit": 18, "diffedit": 36}
ROWS |= {"mag-edit": (5 + 12) * STEPS + 7 * 16}  # with null-text inversion
ROWS |= {"pix2pix-zero": (1 + 3 + 3) * STEPS}
ROWS |= {"cpam": 5 * STEPS, "ledits": (1 + 1 + 2) * STEPS}  # of two objects
ROWS |= {"dpl": 14 + 8 * 6 + 14 * 10 + 6 * STEPS}  # at most, with the cheap schedule
"""Of a whole edit, its inversion included."""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    from ale_edit.bench.speed import main
    from ale_edit.bench.speed.command import PARTS

    file: Path = tmp_path_factory.mktemp("speed") / "made" / "speed.json"
    assert main(["--quick", "--only", *PARTS, "--out", str(file)]) == 0
    return json.loads(file.read_text(encoding="utf-8"))


def test_the_report_holds_every_ratio_and_the_worst_of_each(report: dict[str, Any]):
    ratios = report["ratios"]
    for name in ("k1_over_plain", "k3_over_plain", "k10_over_plain"):
        found = [shape[name] for shape in ratios["shapes"]]
        assert ratios[name] == max(found) and min(found) > 0
    assert report["import_seconds"] > 0
    assert report["machine"]["threads"] == torch.get_num_threads()
    assert report["versions"]["torch"] == torch.__version__


def test_the_report_holds_the_ratios_of_every_family(report: dict[str, Any]):
    families = report["families"]
    assert [found["shape"].split(",")[0] for found in families] == ["SD 2", "SDXL", "SSD-1B"]
    for found in families:
        assert min(found[f"k{k}_over_plain"] for k in (1, 3, 10)) > 0 < found["plain_seconds"]


@pytest.mark.parametrize("family", ["SD 1.5", "SD 2", "SDXL", "SSD-1B"])
def test_the_families_that_are_timed_have_the_layouts_that_comfyui_detects(family: str):
    """All but their width, and the number of channels a head."""
    import comfy.supported_models

    from ale_edit.bench.speed.models import LAYOUTS

    name, layout = LAYOUTS[family]
    expected = getattr(comfy.supported_models, name).unet_config
    for key in ("context_dim", "transformer_depth", "adm_in_channels", "use_linear_in_transformer"):
        if expected.get(key):
            assert layout[key] == expected[key]
    assert len(layout["transformer_depth"]) == sum(layout["num_res_blocks"])
    per_level = [n + 1 for n in layout["num_res_blocks"]]
    assert len(layout["transformer_depth_output"]) == sum(per_level)


def test_an_edit_takes_four_rows_a_step_as_published_and_here_where_it_must(report: dict[str, Any]):
    rows = report["rows"]
    assert rows["published"] == 4 * STEPS
    if report["machine"]["gpu"]:
        assert rows["no injection"] == rows["object"] == rows["color"] == 4 * STEPS
    else:
        assert rows["no injection"] == 3 * STEPS
        assert rows["object"] == 4 * 8 + 3 * 7  # steps 0 to 7 of 15 are the first half
        assert rows["color"] == 4 * STEPS


def test_the_same_image_again_is_measured_for_every_kind_of_edit(report: dict[str, Any]):
    assert report["re_edits"]["shapes"] and not report["re_edits"]["left_out"]
    for found in report["re_edits"]["shapes"]:
        for name in ("object", "color"):
            assert found[f"{name}_first_seconds"] > 0 < found[f"{name}_again_over_first"]


def test_the_grouped_form_attends_once_for_each_position_whatever_k_is(report: dict[str, Any]):
    operations = report["operations"]
    plain = operations["plain"]
    assert plain["attention_rows"] == POSITIONS
    for k in (1, 3, 10):
        grouped = operations[f"k{k}"]["grouped"]
        assert grouped["attention_rows"] == POSITIONS
        assert 0 < grouped["operations"] <= plain["operations"]


def test_the_published_form_grows_with_k(report: dict[str, Any]):
    """One map and K+1 products with values, where plain attention has one."""
    plain = report["operations"]["plain"]["operations"]
    for k in (1, 3, 10):
        published = report["operations"][f"k{k}"]["published"]["operations"]
        assert published == plain / 2 * (k + 2)


def test_the_published_form_that_is_counted_is_rgb_cam():
    """Otherwise the comparison would count something else."""
    from comfy.ldm.modules.attention import optimized_attention

    from ale_edit.attention.rgb_cam import layer_text, region_cross_attention, region_text
    from ale_edit.bench.speed.counts import attend_as_published
    from ale_edit.bench.speed.models import boxes, embeddings
    from ale_edit.regions.grid import cell_groups, coverage

    torch.manual_seed(0)
    q, ore = torch.randn(1, 64, 16), embeddings(3, 16)
    covered = coverage(boxes(3, 8).dilated, 8, 8, "paper")
    texts = [
        region_text(ore.keys, ore.values, ore.owner, g.cells, g.value, g.visible)
        for g in cell_groups(covered, last_object_wins=False)
    ]
    text = layer_text(texts)
    ours = region_cross_attention(q, text, lambda q, k, v: optimized_attention(q, k, v, 2))
    published = attend_as_published(q, ore, covered.flatten(1), 2)
    torch.testing.assert_close(ours, published, rtol=0, atol=1e-5)


def test_runs_that_are_open_at_once_give_what_each_gives_alone():
    """Otherwise the times of one would be those of another."""
    from ale_edit.bench.speed.models import ale_model, guide
    from ale_edit.bench.speed.times import open_runs
    from ale_edit.tests.tiny import tiny_model

    model = tiny_model()
    guiders = [guide(model), guide(ale_model(model, 3, 8), 3), guide(ale_model(model, 10, 8), 10)]

    def outputs(chosen: list[Any]) -> list[torch.Tensor]:
        found: list[torch.Tensor] = []
        with torch.inference_mode():
            open_runs(chosen, 8, lambda opened: found.extend(run() for run in opened))
        return found

    alone = [outputs([guider])[0] for guider in guiders]
    for together, expected in zip(outputs(guiders), alone, strict=True):
        assert torch.equal(together, expected)
    assert not any(torch.equal(alone[i], alone[i - 1]) for i in range(3))


def test_the_peak_of_memory_is_what_is_allocated_at_once():
    """Not what is freed again before, nor what was there."""
    from ale_edit.bench.speed.memory import find_peak

    there = torch.zeros(1 << 20)

    def run() -> None:
        first = there.clone()
        del first
        second, third = there.clone(), there.clone()
        assert second.data_ptr() != third.data_ptr()

    assert find_peak(run) == 2 * there.nbytes


def test_the_peak_of_an_edit_is_printed_beside_that_of_plain_sampling(report: dict[str, Any]):
    for found in report["memory"]["shapes"]:
        assert found["plain_bytes"] > 0
        assert all(0.5 < found[f"k{k}_over_plain"] < 10 for k in (1, 3, 10))
    found = report["editors"]["memory"]
    left_out = {"dpl", "mag-edit", "pix2pix-zero"}
    assert {name.partition(",")[0] for name in found} == ROWS.keys() - left_out
    gradients = found.pop("p2p, null-text inversion")
    assert gradients["target"] is None and gradients["over_plain"] > 1
    assert all(0.5 < editor["over_plain"] < 10 and editor["target"] for editor in found.values())


def test_the_editors_take_no_more_rows_than_published(report: dict[str, Any]):
    """An inversion's first pair of levels is one level, so that it takes a row less."""
    found = report["editors"]["rows"]
    assert found.keys() == ROWS.keys()
    assert all(0.9 * published <= found[name] <= published for name, published in ROWS.items())


def test_a_part_may_be_measured_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from ale_edit.bench.speed import main

    assert main(["--quick", "--only", "operations", "--out", str(tmp_path / "s.json")]) == 0
    found = json.loads((tmp_path / "s.json").read_text(encoding="utf-8"))
    assert found.keys() == {"operations", "machine", "versions"}
    assert "million operations" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--only", "operation"])
    assert "families" in capsys.readouterr().err


def test_where_time_is_up_the_larger_shapes_are_left_out_and_named(monkeypatch: pytest.MonkeyPatch):
    from ale_edit.bench.speed.command import MeasurementPlan, omission_lines
    from ale_edit.bench.speed.models import UNetShape

    three = [UNetShape("demo", size, torch.float32) for size in (8, 16)]
    three.append(UNetShape("SD 1.5", 8, torch.float32))
    monkeypatch.setattr("ale_edit.bench.speed.command.shapes", lambda _is_quick: three)
    measured = MeasurementPlan(True, 1).measure_all(lambda shape: {"shape": str(shape)})
    names = ["demo, 8x8, float32", "SD 1.5, 8x8, float32", "demo, 16x16, float32"]
    assert [found["shape"] for found in measured["shapes"]] == names
    assert measured["left_out"] == [] == omission_lines("memory", measured)
    late = MeasurementPlan(True, 1, ends_at=0.0).measure_all(lambda shape: {"shape": str(shape)})
    assert [found["shape"] for found in late["shapes"]] == names[:1]
    assert omission_lines("memory", late)[1] == (
        "Left out, as time was up: SD 1.5, 8x8, float32; demo, 16x16, float32 (--only memory)."
    )

"""Rows become jobs, and everything that is wrong with their files and settings is told at once."""

from pathlib import Path

import pytest
from PIL import Image

from ale_edit.headless import Workflow
from ale_edit.headless.edits import MASKED, Model, settings_of
from ale_edit.headless.jobs import Job, JobDefaults, build_jobs, changes
from ale_edit.headless.pack import WORKFLOWS
from ale_edit.headless.table import Problems, name_rows, read_table
from ale_edit.tests.headless.inputs import SIZE, write_csv, write_inputs, write_mask

PLAIN = JobDefaults()


def jobs_of(folder: Path, how: JobDefaults = PLAIN, **columns: str) -> list[Job]:
    rows = [{**row, **columns} for row in write_inputs(folder, 1)]
    return build_jobs(name_rows(read_table(write_csv(folder / "edits.csv", rows))), how)


def problem(folder: Path, how: JobDefaults = PLAIN, **columns: str) -> str:
    with pytest.raises(Problems) as caught:
        jobs_of(folder, how, **columns)
    return str(caught.value)


def test_a_row_with_masks_takes_the_main_workflow_and_one_without_finds_words(tmp_path):
    (masked,) = jobs_of(tmp_path)
    (words,) = jobs_of(tmp_path, masks="")
    assert masked.workflow.name == "ale_edit.json" and masked.result == "Save edited"
    assert words.workflow.name == "ale_edit_words.json" and words.result == "Edited image"
    for job in (masked, words):
        assert "SaveImage" not in job.workflow.classes()  # nothing stays on the server


def test_pictures_are_named_by_content_and_what_the_workflow_loads(tmp_path):
    (job,) = jobs_of(tmp_path)
    (image, picture), (mask, drawn) = job.pictures()
    assert job.workflow.inputs("Source image")["image"] == image
    assert job.workflow.inputs("Mask 1")["image"] == mask
    assert picture == Image.open(tmp_path / "p0.png").convert("RGB")
    assert drawn == Image.open(tmp_path / "m0.png").convert("RGB")


def test_a_rows_setting_goes_before_the_one_for_all(tmp_path):
    how = JobDefaults(settings={"seed": "3", "steps": "5"})
    (job,) = jobs_of(tmp_path, how, seed="8")
    assert settings_of(job.workflow)["seed"] == 8 and settings_of(job.workflow)["steps"] == 5
    assert job.asked["settings"]["seed"] == 8


def test_the_type_of_edit_is_object_unless_told_with_masks_and_without(tmp_path):
    for job in (*jobs_of(tmp_path), *jobs_of(tmp_path, masks="")):
        assert settings_of(job.workflow)["type"] == job.asked["settings"]["type"] == "object"
        assert "schedule" not in job.asked["settings"]  # one that is not used
    (job,) = jobs_of(tmp_path, JobDefaults(settings={"type": "material"}))
    assert settings_of(job.workflow)["type"] == "material"


def test_a_schedule_of_ones_own_is_used_or_refused(tmp_path):
    (job,) = jobs_of(tmp_path, JobDefaults(settings={"schedule": "0.25"}))
    used = job.workflow.inputs("Self-attention")
    assert (used["edit_type"], used["schedule"]) == ("custom", 0.25)
    assert job.asked["settings"]["schedule"] == 0.25
    told = "schedule counts with type=custom alone, and type is 'color'. Set type=custom, or leave"
    with pytest.raises(Problems, match=told):
        jobs_of(tmp_path, JobDefaults(settings={"schedule": "0.25"}), type="color")


def test_a_setting_for_all_may_be_one_that_only_some_rows_take(tmp_path):
    rows = write_inputs(tmp_path, 2)
    rows[1]["masks"] = ""
    table = write_csv(tmp_path / "edits.csv", rows)
    how = JobDefaults(settings={"Grounded-SAM Masks.box_threshold": "0.2"})
    masked, words = build_jobs(name_rows(read_table(table)), how)
    assert words.workflow.inputs("Grounded-SAM Masks")["box_threshold"] == 0.2
    assert "Grounded-SAM Masks" not in masked.workflow.titles()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"Guide.x": "1"}, "--set Guide.x: ale_edit.json has no node titled 'Guide'"),
        ({"colour": "red"}, "--set colour: There is no setting 'colour'"),
        ({"seed": "x"}, "line 2: seed is 'x'. Write a number"),
    ],
)
def test_a_setting_for_all_that_no_row_takes_is_told(tmp_path, settings, expected):
    assert expected in problem(tmp_path, JobDefaults(settings=settings))


@pytest.mark.parametrize(
    ("columns", "change"),
    [
        ({"edits": "box -> cone"}, "edits"),
        ({"seed": "5"}, "seed"),
        ({"source_prompt": "a box"}, "prompt"),
        ({"image": "p1.png"}, "image"),
        ({"masks": "m1.png"}, "mask"),
        ({"Negative.text": "blurred"}, "input by title"),
    ],
)
def test_whatever_changes_the_image_changes_the_fingerprint(tmp_path, columns, change):
    write_inputs(tmp_path, 2)
    assert jobs_of(tmp_path, **columns)[0].fingerprint != jobs_of(tmp_path)[0].fingerprint
    assert jobs_of(tmp_path)[0].fingerprint == jobs_of(tmp_path / "elsewhere")[0].fingerprint
    model = JobDefaults(Model("c.safetensors"))
    assert jobs_of(tmp_path, model)[0].fingerprint != jobs_of(tmp_path)[0].fingerprint


def test_a_file_that_is_missing_broken_or_no_mask_is_told_with_its_row(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nonsense")
    write_mask(tmp_path / "black.png", (0, 0, 0, 0))
    write_mask(tmp_path / "wide.png", (1, 1, 9, 9), (48, 16))
    Image.new("RGB", SIZE, (120, 110, 100)).save(tmp_path / "photo.png")
    Image.new("F", SIZE).save(tmp_path / "deep.tif")
    for columns, expected in (
        ({"image": "none.png"}, "none.png"),
        ({"image": "broken.png"}, "broken.png is not a readable image"),
        ({"image": "deep.tif"}, "deep.tif has more than 16 bits per channel (F)"),
        ({"masks": "none.png"}, "none.png. Correct the path."),
        ({"masks": "black.png"}, "black.png is black all over. Paint the object white"),
        ({"masks": "wide.png"}, "wide.png is 48x16, the image 24x16: their shapes differ"),
        ({"masks": "photo.png"}, "photo.png is not a mask: 100% of it is grey"),
    ):
        told = problem(tmp_path, PLAIN, **columns)
        assert "edits.csv, line 2: " in told and expected in told


def test_all_problems_of_all_rows_are_told_at_once(tmp_path):
    rows = write_inputs(tmp_path, 3)
    (tmp_path / "p0.png").unlink()
    (tmp_path / "m2.png").unlink()
    table = write_csv(tmp_path / "edits.csv", rows)
    with pytest.raises(Problems) as caught:
        build_jobs(name_rows(read_table(table)), JobDefaults())
    first, second = caught.value.sentences
    assert "line 2" in first and "p0.png" in first and "line 4" in second and "m2.png" in second


def test_a_mask_of_the_same_shape_is_resized_and_that_is_told_once(tmp_path):
    rows = write_inputs(tmp_path, 1)
    write_mask(tmp_path / "m0.png", (2, 2, 30, 20), (48, 32))
    told: list[str] = []
    table = write_csv(tmp_path / "edits.csv", rows)
    (job,) = build_jobs(name_rows(read_table(table)), JobDefaults(), told.append)
    assert len(told) == 1 and "resized to 24x16" in told[0]
    assert job.pictures()[1][1].size == SIZE and len(told) == 1


def test_what_is_to_be_known_of_pictures_is_told_with_the_row_and_kept_with_the_job(tmp_path):
    rows = write_inputs(tmp_path, 2)
    rows[0] |= {"edits": "box -> ring; lid -> cap", "masks": "all.png; white.png"}
    Image.new("I;16", SIZE, 30000).save(tmp_path / "p0.png")
    Image.new("L", SIZE, 255).save(tmp_path / "all.png")
    white = Image.new("RGB", SIZE, "white")
    white.putalpha(Image.open(tmp_path / "m0.png"))
    white.save(tmp_path / "white.png")
    told: list[str] = []
    table = write_csv(tmp_path / "edits.csv", rows)
    first, second = build_jobs(name_rows(read_table(table)), JobDefaults(), told.append)
    expected = (
        "p0.png has 16 bits",
        "white.png has one colour, and is drawn",
        "all.png covers the",
    )
    for notice, part in zip(first.notices, expected, strict=True):
        assert part in notice
    assert told == [f"{table}, line 2: {notice}" for notice in first.notices]
    assert second.notices == ()
    (_, image), (_, whole), (_, drawn) = first.pictures()
    assert image.mode == "RGB" and image.getpixel((0, 0)) == (117, 117, 117)  # 30000 / 257
    assert whole.getextrema() == ((255, 255),) * 3
    assert drawn.getchannel("R").tobytes() == Image.open(tmp_path / "m0.png").tobytes()
    assert len(told) == 3  # not again


def test_one_mask_may_cover_everything_and_that_is_a_notice(tmp_path):
    write_inputs(tmp_path, 1)
    Image.new("L", SIZE, 255).save(tmp_path / "all.png")
    (job,) = jobs_of(tmp_path, masks="all.png")
    (notice,) = job.notices
    assert notice.startswith(f"{tmp_path / 'all.png'} covers the whole picture. Is it the right")


def test_an_alpha_channel_counts_for_the_image_and_an_opaque_one_does_not(tmp_path):
    (opaque,) = jobs_of(tmp_path)
    clear = Image.open(tmp_path / "p0.png").convert("RGBA")
    clear.save(tmp_path / "p0.png")
    rows, table = [{"image": "p0.png", "edits": "box -> ring", "masks": "m0.png"}], "edits.csv"

    def job() -> Job:
        return build_jobs(name_rows(read_table(write_csv(tmp_path / table, rows))), JobDefaults())[
            0
        ]

    assert job().fingerprint == opaque.fingerprint and job().alpha() is None
    assert "alpha" not in job().asked
    clear.putpixel((3, 3), (0, 60, 90, 40))
    clear.save(tmp_path / "p0.png")
    first = job()
    assert first.fingerprint != opaque.fingerprint and first.names == opaque.names
    alpha = first.alpha()
    assert alpha is not None and alpha.getpixel((3, 3)) == 40
    clear.putpixel((3, 3), (0, 60, 90, 41))
    clear.save(tmp_path / "p0.png")
    assert job().fingerprint != first.fingerprint and "alpha" in changes(job(), first.asked)


@pytest.mark.parametrize(
    ("kind", "inputs", "output"),
    [("LoadImage", {}, 1), ("LoadImageMask", {"channel": "alpha"}, 0)],
)
def test_masks_for_a_workflow_of_ones_own_are_what_its_nodes_read(tmp_path, kind, inputs, output):
    own = Workflow.load(MASKED)
    own.replace("Mask 1", kind, {"image": "x.png", **inputs})
    edits = {"edits": "box -> ring; lid -> cap; bar -> rod", "masks": "m0.png; m0.png; m0.png"}
    (job,) = jobs_of(tmp_path, JobDefaults(workflow=own), **edits)
    modes = [picture.mode for _, picture in job.pictures()]
    assert modes == ["RGB", "RGBA", "RGB", "RGBA"]  # the third one's node is a clone of the first
    for number, slot in ((1, output), (2, 0), (3, output)):
        mask = job.workflow.find(f"Mask {number}")
        assert job.workflow.inputs(f"Edit {number}")["mask"] == [mask, slot]
        assert job.workflow.nodes[mask]["inputs"]["image"] == job.names[number]
    clear = job.pictures()[1][1].getchannel("A")
    drawn = Image.open(tmp_path / "m0.png")
    assert [255 - v for v in clear.tobytes()] == list(drawn.tobytes())


def test_two_edits_may_have_the_same_mask(tmp_path):
    (job,) = jobs_of(tmp_path, edits="box -> ring; lid -> cap", masks="m0.png; m0.png")
    names = [job.workflow.inputs(f"Mask {k}")["image"] for k in (1, 2)]
    assert names[0] == names[1]


def test_a_workflow_of_ones_own_is_used_as_it_is(tmp_path):
    own = Workflow.load(WORKFLOWS / "ale_edit_lcm_lora.json")
    (job,) = jobs_of(tmp_path, JobDefaults(workflow=own))
    assert job.result == "Edited image" and "SaveImage" in job.workflow.classes()
    assert job.workflow.inputs("Edit 1")["source"] == "box"
    assert own.inputs("Edit 1")["source"] == "wolf"  # the file's workflow is left alone
    own.nodes[own.find("Edited image")]["_meta"]["title"] = "My result"
    assert "Give --result TITLE" in problem(tmp_path, JobDefaults(workflow=own))
    assert jobs_of(tmp_path, JobDefaults(workflow=own, result="My result"))[0].result == "My result"
    assert "no node titled 'Mine'" in problem(tmp_path, JobDefaults(workflow=own, result="Mine"))
    assert "no node titled 'Edit List'" in problem(tmp_path, JobDefaults(workflow=own), masks="")

"""What is there, what is made again and why, and what a kill at any moment leaves."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from ale_edit.headless.jobs import Job, JobDefaults, build_jobs
from ale_edit.headless.manifest import FILE, Manifest
from ale_edit.headless.pictures import as_png
from ale_edit.headless.table import Problems, name_rows, read_table
from ale_edit.tests.headless.inputs import write_csv, write_inputs


@pytest.fixture
def job(tmp_path) -> Job:
    return made_from(tmp_path)


def made_from(folder: Path, **columns: str) -> Job:
    rows = [{**row, **columns} for row in write_inputs(folder / "in", 1)]
    table = write_csv(folder / "in" / "edits.csv", rows)
    return build_jobs(name_rows(read_table(table)), JobDefaults())[0]


def picture(colour: int = 0) -> bytes:
    return as_png(Image.effect_noise((32, 32), 90 + colour).convert("RGB"))


class Told(list[str]):
    def manifest(self, out: Path) -> Manifest:
        return Manifest(out, self.append)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def out(tmp_path, job) -> Path:
    """A folder with the job's image."""
    Manifest(tmp_path / "out", print).add_done(job, picture(), {"seconds": 1})
    return tmp_path / "out"


def test_what_was_made_is_done_and_its_line_says_from_what(out, job, told):
    assert told.manifest(out).pending([job]) == [] and told == []
    entry = json.loads((out / FILE).read_text())
    assert entry["name"] == "p0" and entry["output"] == "p0.png" and entry["seconds"] == 1
    assert entry["edits"] == [["box", "ring"]] and entry["settings"]["seed"] == 0
    assert entry["masks"][0]["file"].endswith("m0.png")
    assert {path.name for path in out.iterdir()} == {"p0.png", FILE}


def test_nothing_is_there_at_first(tmp_path, job, told):
    assert told.manifest(tmp_path / "none").pending([job]) == [job] and told == []


@pytest.mark.parametrize("part", [0.2, 0.5, 0.8, 0.97])
def test_a_changed_byte_anywhere_is_damage(out, job, told, part):
    data = bytearray((out / "p0.png").read_bytes())
    data[int(len(data) * part)] ^= 0x10
    (out / "p0.png").write_bytes(data)
    assert told.manifest(out).pending([job]) == [job]
    assert told == [f"{out / 'p0.png'} is damaged: its row will run again."]


@pytest.mark.parametrize("length", [0, 30, 400])
def test_a_cut_off_image_is_damage(out, job, told, length):
    (out / "p0.png").write_bytes((out / "p0.png").read_bytes()[:length])
    assert told.manifest(out).pending([job]) == [job] and "damaged" in told[0]


def test_an_image_that_is_gone_is_made_again(out, job, told):
    (out / "p0.png").unlink()
    assert told.manifest(out).pending([job]) == [job] and "is gone" in told[0]


@pytest.mark.parametrize(
    ("columns", "named_change"),
    [
        ({"edits": "box -> cone"}, "edits"),
        ({"seed": "4"}, "settings"),
        ({"target_prompt": "a ring"}, "prompts"),
    ],
)
def test_a_changed_row_is_made_again_and_the_change_is_named(out, told, columns, named_change):
    job = made_from(out.parent, **columns)
    assert told.manifest(out).pending([job]) == [job]
    assert told == [
        f"{out / 'p0.png'} was made from something else ({named_change}): its row will run again, "
        "and the image that is there will be kept under another name."
    ]


@pytest.mark.parametrize("columns", [{"edits": "box -> cone"}, {"seed": "4"}])
def test_an_image_of_another_edit_is_kept_under_another_name(out, told, columns):
    pictures, manifest = [picture_of(out)], told.manifest(out)
    for number, again in enumerate((made_from(out.parent, **columns), made_from(out.parent)), 1):
        pictures.append(picture(number))
        manifest.add_done(again, pictures[-1], {})
        assert picture_of(out) == pictures[-1]
        assert f"The image that was {out / 'p0.png'} is p0.kept-{number}.png now." == told[-1]
        assert (out / f"p0.kept-{number}.png").read_bytes() == pictures[-2]
    before = {*out.iterdir()}
    manifest.add_done(made_from(out.parent), newest := picture(3), {})  # --redo: of the same edit
    assert {*out.iterdir()} == before and picture_of(out) == newest


def test_another_image_under_the_same_name_is_a_change_and_another_path_is_none(out, job, told):
    moved = made_from(out.parent / "moved")
    assert told.manifest(out).pending([moved]) == []
    Image.new("RGB", (24, 16), "red").save(out.parent / "in" / "p0.png")
    other = build_jobs([job.row], JobDefaults())[0]
    assert told.manifest(out).pending([other]) == [other] and "(image)" in told[0]


def test_an_image_that_somebody_changed_is_never_lost(out, job, told):
    (out / "p0.png").write_bytes(retouched := picture(40))
    assert told.manifest(out).pending([job]) == []
    assert "was changed by somebody: left as it is" in told[0]
    changed = made_from(out.parent, seed="4")
    manifest = told.manifest(out)
    assert manifest.pending([changed]) == [changed]
    assert (out / "p0.png").read_bytes() == retouched  # until there is another
    manifest.add_done(changed, new := picture(5), {})
    assert (out / "p0.kept-1.png").read_bytes() == retouched
    assert picture_of(out) == new
    assert "The image that was" in told[-1] and "is p0.kept-1.png now" in told[-1]


def test_redo_sets_an_image_that_somebody_changed_aside(out, job, told):
    (out / "p0.png").write_bytes(retouched := picture(40))
    manifest = told.manifest(out)
    assert manifest.pending([job], redo=True) == [job]
    manifest.add_done(job, picture(), {})
    assert (out / "p0.kept-1.png").read_bytes() == retouched
    manifest.add_done(job, picture(7), {})
    assert {path.name for path in out.iterdir()} == {"p0.png", "p0.kept-1.png", FILE}


def test_a_picture_where_the_regions_go_is_set_aside_and_an_input_there_is_refused(
    tmp_path, job, told
):
    manifest = told.manifest(tmp_path / "out")
    preview = manifest.regions(job)
    preview.parent.mkdir(parents=True)
    preview.write_bytes(mine := picture(9))
    manifest.add_done(job, picture(), {}, picture(1))
    assert preview.with_name("p0.kept-1.png").read_bytes() == mine
    manifest.add_done(job, picture(), {}, new := picture(2))
    assert preview.read_bytes() == new and len(list(preview.parent.iterdir())) == 2
    taken = replace(job, row=replace(job.row, masks=(preview,)))
    with pytest.raises(Problems, match=r"regions.p0.png is an input of .*line 2"):
        manifest.check_places([taken])


@pytest.mark.parametrize("lacking", ["sha256", "fingerprint", "name"])
def test_a_line_without_what_is_needed_is_passed_over(out, job, told, lacking):
    entry = json.loads((out / FILE).read_text())
    (out / FILE).write_text(json.dumps({k: v for k, v in entry.items() if k != lacking}) + "\n")
    assert told.manifest(out).pending([job]) == [job]
    assert told == [f"{out / FILE}, line 1 is damaged: skipped."]


def test_a_file_in_the_place_of_the_folder_is_told(tmp_path, job, told):
    (tmp_path / "out").write_bytes(b"mine")
    with pytest.raises(ValueError, match="out is a file. Give a folder to --out."):
        told.manifest(tmp_path / "out").check_places([job])


def test_redo_makes_everything_again(out, job, told):
    assert told.manifest(out).pending([job], redo=True) == [job]


def test_a_kill_between_line_and_image_leaves_a_whole_image(out, job, told):
    (out / "p0.png").rename(out / "p0.png.made")
    assert told.manifest(out).pending([job]) == []
    assert (out / "p0.png").read_bytes() == picture_of(out) and told == []


def picture_of(out: Path) -> bytes:
    return (out / "p0.png").read_bytes()


def test_a_kill_before_the_line_leaves_nothing_that_counts(tmp_path, job, told):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "p0.png.made").write_bytes(picture())
    manifest = told.manifest(tmp_path / "out")
    manifest.check_places([job])
    assert manifest.pending([job]) == [job] and told == []


@pytest.mark.parametrize("length", [1, 40, 300])
def test_a_line_that_a_kill_cut_off_is_told_and_the_next_one_is_whole(out, job, told, length):
    line = (out / FILE).read_bytes()
    (out / FILE).write_bytes(line[:length])
    manifest = told.manifest(out)
    assert told == [f"{out / FILE}, line 1 is damaged: skipped."]
    manifest.add_done(job, picture(), {})
    assert [json.loads(text)["name"] for text in (out / FILE).read_text().splitlines()[1:]] == [
        "p0"
    ]
    assert Manifest(out, print).pending([job]) == []


def test_a_failed_row_is_not_done(tmp_path, job, told):
    told.manifest(tmp_path).add_failed(job, {"error": {"message": "no"}})
    assert told.manifest(tmp_path).pending([job]) == [job] and told == []


def test_no_file_of_somebody_else_is_overwritten(tmp_path, job, told):
    (tmp_path / "p0.png").write_bytes(b"mine")
    with pytest.raises(Problems, match="manifest.jsonl does not know it. Give another --out"):
        told.manifest(tmp_path).check_places([job])
    with pytest.raises(Problems, match=r"p0.png is an input of .*line 2. Give another --out"):
        told.manifest(tmp_path / "in").check_places([job])


def test_a_full_disk_leaves_neither_half_an_image_nor_a_line(tmp_path, job, told, monkeypatch):
    def full(_number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        told.manifest(tmp_path / "out").add_done(job, picture(), {})
    assert list((tmp_path / "out").iterdir()) == []


def test_jobs_of_one_manifest_do_not_disturb_each_other(out, job, told):
    other = replace(job, row=replace(job.row, name="other"))
    manifest = told.manifest(out)
    assert manifest.pending([job, other]) == [other]
    manifest.add_done(other, picture(3), {})
    assert Manifest(out, print).pending([job, other]) == []

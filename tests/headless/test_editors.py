"""Rows of any editor: which there are, their workflows, settings, masks and errors."""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pytest

from ale_edit.editors import COMPARED, EDITORS
from ale_edit.headless import Workflow
from ale_edit.headless.command import main
from ale_edit.headless.editors import (
    ABILITIES,
    ALE,
    EditorFile,
    editor_files,
    editor_names,
    require_editor,
    setting_names,
    takes_masks,
)
from ale_edit.headless.edits import Model, apply_setting, editor_workflow, settings_of
from ale_edit.headless.jobs import Job, JobDefaults, build_jobs, changes
from ale_edit.headless.schema import complaints
from ale_edit.headless.table import Problems, name_rows, read_table
from ale_edit.tests.headless.fake_server import FakeServer, object_info, serving
from ale_edit.tests.headless.inputs import write_csv, write_inputs

WORDS = [("wolf", "goat"), ("moon", "ball")]
THERE_ARE = f"There are: {', '.join(sorted(editor.name for editor in EDITORS))}."
PLAIN = JobDefaults()
OTHERS = tuple(editor_files().values())
every_editor = pytest.mark.parametrize("editor", OTHERS, ids=lambda editor: editor.name)
MASKED = tuple(editor for editor in OTHERS if editor.takes_masks)
every_maskless_editor = pytest.mark.parametrize(
    "editor", [e for e in OTHERS if not e.takes_masks], ids=lambda editor: editor.name
)
MODELS = (Model(), Model("c.ckpt"), Model("c.ckpt", lcm=True), Model("c.ckpt", "l.safetensors"))


def jobs_of(folder: Path, how: JobDefaults = PLAIN, **columns: str) -> list[Job]:
    rows = [{**row, **columns} for row in write_inputs(folder, 1)]
    return build_jobs(name_rows(read_table(write_csv(folder / "edits.csv", rows))), how)


def test_the_editors_of_a_table_are_those_of_the_pack():
    assert editor_names() == tuple(sorted(editor.name for editor in EDITORS))
    for editor in EDITORS:
        assert takes_masks(editor.name) == (editor.grow_regions is not None)
        assert ABILITIES.get(editor.name, frozenset()) == editor.abilities
    for editor in COMPARED:
        found = editor_files()[editor.name]
        assert (found.title, found.class_type) == (editor.title, editor.node_id)


@every_editor
def test_a_setting_of_a_table_is_an_input_of_the_editors_node(editor: EditorFile):
    """Of one that was added to a published node, or may be left out, as well."""
    inputs = object_info()[editor.class_type]["input"]
    linked = {"model", "clip", "vae", "image", "edits", "negative", "inversion"}
    linked |= {"regions", *(name for given in EDITORS for name, _ in given.masks)}
    assert set(editor.settings) == {*inputs["required"], *inputs.get("optional", {})} - linked
    assert set(editor.settings) <= set(setting_names())


def test_an_unknown_editor_is_told_with_those_that_there_are(tmp_path):
    expected = f"There is no editor 'other'. {THERE_ARE}"
    with pytest.raises(ValueError, match=expected):
        require_editor("other")
    with pytest.raises(ValueError, match=expected):
        JobDefaults(editor="other")
    with pytest.raises(Problems, match=f"line 2: {expected}"):
        jobs_of(tmp_path, editor="other")


@every_maskless_editor
@pytest.mark.parametrize("model", MODELS, ids=str)
def test_a_workflow_edits_an_image_by_a_model_without_the_demo_world(editor, model):
    workflow = editor_workflow(editor.name, "i.png", WORDS, model)
    titles = workflow.titles()
    assert workflow.inputs("Source image") == {"image": "i.png"}
    assert workflow.inputs("Edit List") == {"text": "wolf -> goat\nmoon -> ball"}
    own = workflow.inputs(editor.title)
    assert own["image"] == [titles["Source image"], 0] and own["edits"] == [titles["Edit List"], 0]
    assert workflow.inputs("Edited image")["images"] == [titles[editor.title], 0]
    links = [v for n in workflow.nodes.values() for v in n["inputs"].values() if type(v) is list]
    assert all(link[0] in workflow.nodes for link in links)
    assert not {"ALEDemoScene", "PreviewAny"} & workflow.classes()
    assert ("ALEDemoModelLoader" in workflow.classes()) == (model.checkpoint is None)
    expected = (3.0, 5.0) if model.checkpoint is None else (1.0, 2.0)
    guidance = dict(zip(("source_guidance", "target_guidance"), expected, strict=True))
    assert all(own[name] == guidance[name] for name in guidance.keys() & editor.settings.keys())
    assert not [c for c in complaints(workflow, object_info()) if "Loader" not in c.class_type]


@pytest.mark.parametrize("editor", MASKED, ids=lambda editor: editor.name)
@pytest.mark.parametrize("model", MODELS, ids=str)
def test_an_editor_that_takes_masks_gets_one_for_each_edit(editor, model):
    edits = [(*pair, f"m{number}.png") for number, pair in enumerate(WORDS)]
    workflow = editor_workflow(editor.name, "i.png", edits, model)
    titles, own = workflow.titles(), workflow.inputs(editor.title)
    assert own["image"] == [titles["Source image"], 0] and own["edits"] == [titles["Edit 2"], 0]
    assert workflow.inputs("Regions")["edits"] == [titles["Edit 2"], 0]
    assert own["regions"] == [titles["Regions"], 0] and "masks" not in workflow.inputs("Regions")
    for number, (source, target, mask) in enumerate(edits, 1):
        given = workflow.inputs(f"Edit {number}")
        assert (given["source"], given["target"]) == (source, target)
        assert given["mask"] == [titles[f"Mask {number}"], 0]
        assert workflow.inputs(f"Mask {number}")["image"] == mask
    assert not {"ALEDemoScene", "ALEEditList"} & workflow.classes()
    assert not [c for c in complaints(workflow, object_info()) if "Load" not in c.class_type]
    if not editor.needs_masks:
        workflow = editor_workflow(editor.name, "i.png", WORDS, model)
        assert "regions" not in workflow.inputs(editor.title)
        assert "ALERegions" not in workflow.classes()
        return
    with pytest.raises(ValueError, match="edits inside masks. Give a mask for each edit"):
        editor_workflow(editor.name, "i.png", WORDS, model)


@every_maskless_editor
def test_a_column_chooses_the_editor_of_a_row_and_an_option_that_of_the_others(editor, tmp_path):
    rows = write_inputs(tmp_path, 2)
    rows = [{**rows[0], "masks": "", "editor": editor.name}, rows[1]]
    table = write_csv(tmp_path / "edits.csv", rows)
    first, second = build_jobs(name_rows(read_table(table)), JobDefaults())
    assert editor.class_type in first.workflow.classes()
    assert (first.asked["editor"], second.asked["editor"]) == (editor.name, ALE)
    assert "ALERegionCrossAttention" in second.workflow.classes()
    first, second = build_jobs(name_rows(read_table(table)), JobDefaults(editor=editor.name))
    assert first.asked["editor"] == second.asked["editor"] == editor.name
    assert first.result == second.result == "Edited image"
    assert "SaveImage" not in first.workflow.classes()  # nothing stays on the server


def test_an_editor_has_its_own_settings_and_those_that_all_have(tmp_path):
    how = JobDefaults(settings={"steps": "5", "cross_share": "0.25"}, editor="infedit")
    (job,) = jobs_of(tmp_path, how, masks="", seed="8", script="pie bench")
    found = settings_of(job.workflow)
    assert (found["steps"], found["seed"], found["cross_share"]) == (5, 8, 0.25)
    assert job.asked["settings"] == found and found["script"] == "pie bench"
    assert job.workflow.inputs("InfEdit")["cross_share"] == 0.25
    assert "type" not in found  # ALE-Edit's alone, also the default one


@pytest.mark.parametrize(
    ("settings", "columns", "expected"),
    [
        (
            {},
            {"dilation": "0.1"},
            "line 2: MasaCtrl has no setting 'dilation'. It has: seed, steps",
        ),
        ({}, {"type": "color"}, "line 2: MasaCtrl has no setting 'type'. It has: .*start_layer"),
        ({}, {"cross_share": "1"}, "line 2: MasaCtrl has no setting 'cross_share'. It has: seed"),
        ({"self_share": "1"}, {}, "--set self_share: MasaCtrl has no setting 'self_share'. It has"),
        ({}, {"steps": "2.5"}, "line 2: steps is '2.5'. Write a whole number"),
        ({}, {"MasaCtrl.steps": "a"}, "MasaCtrl.steps is 'a'. Write a number"),
        ({}, {"start": "1"}, "no column 'start'. There are: image, .*editor, .*start_layer_share"),
    ],
)
def test_a_setting_that_the_editor_does_not_have_is_told(tmp_path, settings, columns, expected):
    with pytest.raises(Problems, match=expected):
        jobs_of(tmp_path, JobDefaults(settings=settings, editor="masactrl"), masks="", **columns)


def test_a_setting_of_another_editor_is_not_one_of_ale_edits(tmp_path):
    with pytest.raises(Problems, match="ale_edit.json has no editor with a setting 'self_share'"):
        jobs_of(tmp_path, self_share="0.5")


def test_a_setting_for_all_may_be_one_that_only_rows_of_one_editor_take(tmp_path):
    rows = [{**row, "masks": ""} for row in write_inputs(tmp_path, 2)]
    table = write_csv(tmp_path / "edits.csv", [{**rows[0], "editor": "infedit"}, rows[1]])
    how = JobDefaults(settings={"self_share": "0.75", "dilation": "0.125", "steps": "4"})
    first, second = build_jobs(name_rows(read_table(table)), how)
    assert first.asked["settings"]["self_share"] == 0.75
    assert second.asked["settings"]["dilation"] == 0.125
    assert first.asked["settings"]["steps"] == second.asked["settings"]["steps"] == 4


@every_maskless_editor
def test_masks_for_an_editor_that_takes_none_are_told_once_and_change_nothing(editor, tmp_path):
    told: list[str] = []
    rows = name_rows(read_table(write_csv(tmp_path / "edits.csv", write_inputs(tmp_path, 3))))
    jobs = build_jobs(rows, JobDefaults(editor=editor.name), told.append)
    sentence = f"{editor.title} takes no masks: those given are not used."
    assert told == [f"{rows[0].place} and 2 more: {sentence}"]
    assert all(job.notices == (sentence,) and len(job.names) == 1 for job in jobs)
    (bare,) = jobs_of(tmp_path, JobDefaults(editor=editor.name), masks="")
    assert jobs[0].fingerprint == bare.fingerprint and bare.notices == ()
    assert jobs[0].asked["masks"] == []


def test_an_object_is_removed_and_another_added_where_the_editor_can(tmp_path):
    for edits in ("box ->", "-> ring"):
        (job,) = jobs_of(tmp_path, JobDefaults(editor="cpam"), edits=edits)
        source, target = (part.strip() for part in edits.split("->"))
        assert job.asked["edits"] == [[source, target]]
        found = job.workflow.inputs("Edit 1")
        assert (found["source"], found["target"]) == (source, target)


@pytest.mark.parametrize("masks", ["m0.png", ""])
@pytest.mark.parametrize("editor", sorted(set(editor_names()) - set(ABILITIES)))
@pytest.mark.parametrize(
    ("edits", "why"),
    [("box ->", "no target, so it is to remove"), ("-> ring", "no source, so it is to add")],
)
def test_an_editor_that_cannot_add_or_remove_is_told_before_anything_is_queued(
    tmp_path, editor, edits, why, masks
):
    cannot = f"{why} an object, which the editor {editor} cannot do. Use the editor cpam, or write"
    with pytest.raises(Problems, match=f"line 2: the edit .* has {cannot}"):
        jobs_of(tmp_path, JobDefaults(editor=editor), edits=edits, masks=masks)


def test_whole_prompts_reach_every_editor(tmp_path):
    for editor in editor_files().values():
        how = JobDefaults(editor=editor.name)
        masks = {} if editor.takes_masks else {"masks": ""}
        (job,) = jobs_of(tmp_path, how, source_prompt="a box on grass", **masks)
        edits = job.workflow.inputs(editor.title)["edits"]
        assert job.workflow.title(edits[0]) == "Full Prompts"
        assert job.workflow.inputs("Full Prompts")["source_prompt"] == "a box on grass"


def test_an_editor_beside_a_workflow_of_ones_own_is_refused_and_its_settings_are_known(tmp_path):
    own = editor_workflow("infedit", "i.png", WORDS)
    with pytest.raises(ValueError, match="--editor is 'infedit', and --workflow brings an editor"):
        JobDefaults(workflow=own, editor="infedit")
    with pytest.raises(Problems, match="editor is 'masactrl', and --workflow brings an editor"):
        jobs_of(tmp_path, JobDefaults(workflow=own), masks="", editor="masactrl")
    (job,) = jobs_of(tmp_path, JobDefaults(workflow=own), masks="", self_share="0.5")
    assert job.workflow.inputs("InfEdit")["self_share"] == 0.5 and "editor" not in job.asked


def test_another_editor_makes_the_image_again_and_a_line_without_one_is_ale_edits(tmp_path):
    (ale,), (other,) = (
        jobs_of(tmp_path, JobDefaults(editor=name), masks="") for name in (ALE, "infedit")
    )
    assert ale.fingerprint != other.fingerprint and "editor" in changes(other, ale.asked)
    old = {key: value for key, value in ale.asked.items() if key != "editor"}
    assert changes(ale, old) == ["workflow"] and "editor" in changes(other, old)


def test_only_what_a_node_needs_is_kept():
    nodes = {
        "1": {"class_type": "A", "inputs": {}},
        "2": {"class_type": "B", "inputs": {"a": ["1", 0], "n": 3}},
        "3": {"class_type": "C", "inputs": {"b": ["2", 0], "a": ["1", 1]}},
        "4": {"class_type": "D", "inputs": {"c": ["3", 0]}},
        "5": {"class_type": "E", "inputs": {}},
    }
    workflow = Workflow(nodes)
    workflow.keep_only("C")
    assert sorted(workflow.nodes) == ["1", "2", "3"]


def test_a_fraction_may_be_given_where_a_share_was_whole():
    workflow = editor_workflow("masactrl", "i.png", WORDS)
    workflow.fill("MasaCtrl", start_step_share=0)
    apply_setting(workflow, "start_step_share", "0.5")
    assert workflow.inputs("MasaCtrl")["start_step_share"] == 0.5


def run_edit(argv: Sequence[str], server: FakeServer) -> int:
    async def whole() -> int:
        async with serving(server) as urls:
            return await asyncio.to_thread(main, [*argv, "--server", urls[0]])

    return asyncio.run(whole())


@every_maskless_editor
def test_the_command_edits_by_any_editor(editor, tmp_path, capsys):
    write_inputs(tmp_path / "in", 1)
    argv = ["--image", str(tmp_path / "in" / "p0.png"), "--edit", "box -> ring"]
    argv += ["--editor", editor.name, "--out", str(tmp_path / "out"), "--set", "steps=3"]
    server = FakeServer()
    assert run_edit(argv, server) == 0
    (ran,) = server.ran
    (node,) = (n for n in ran.values() if n["class_type"] == editor.class_type)
    assert node["inputs"]["steps"] == 3 and (tmp_path / "out" / "p0.png").is_file()
    assert f'"editor": "{editor.name}"' in (tmp_path / "out" / "manifest.jsonl").read_text()
    assert run_edit(argv, server) == 0 and len(server.ran) == 1
    assert "0 made, 1 already there." in capsys.readouterr().out


def test_a_wrong_editor_on_the_command_line_is_one_sentence(tmp_path, capsys):
    write_inputs(tmp_path, 1)
    argv = ["--image", str(tmp_path / "p0.png"), "--edit", "a -> b", "--editor", "InfEdit"]
    assert main(argv) == 2
    assert f"There is no editor 'InfEdit'. {THERE_ARE}" in capsys.readouterr().err


@pytest.mark.parametrize("editor", COMPARED, ids=lambda editor: editor.name)
def test_a_setting_that_is_not_given_is_the_editors_default(editor):
    """All but the guidance, which goes by the model."""
    mask = ("m.png",) if takes_masks(editor.name) else ()
    found = settings_of(editor_workflow(editor.name, "i.png", [(*pair, *mask) for pair in WORDS]))
    default = asdict(editor.settings())
    guidance = {name for name in default if name.endswith("_guidance")}
    assert {n: v for n, v in found.items() if n in default and n not in guidance} == {
        n: v for n, v in default.items() if n not in guidance
    }

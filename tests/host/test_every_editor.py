"""What holds for every editor: in whichever way its branches run, and with the source branch of the
edit before, the edit is the same."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from torch import Tensor

from ale_edit.attention.control import Control, running_order
from ale_edit.editors import (
    EDITORS,
    ale,
    cpam,
    diffedit,
    dpl,
    fpe,
    infedit,
    ledits,
    mag_edit,
    masactrl,
    p2p,
    pix2pix_zero,
    pnp,
    sdedit,
)
from ale_edit.editors.editor import Editor
from ale_edit.host.attention.adapter import running_controls
from ale_edit.host.attention.self_injection import apply_self_injection
from ale_edit.host.editing import open_edit
from ale_edit.host.inverting.sampler import noise_sampler
from ale_edit.host.sampling import branch_guider
from ale_edit.host.sampling.branch_guider import Branch, BranchGuider
from ale_edit.host.sampling.source_branch import KEPT
from ale_edit.regions.regions import Regions
from ale_edit.tests.host.runs import STEPS, edit, plain, relative_error
from ale_edit.tests.tiny import edits_of, source_latent, two_regions

pytestmark = pytest.mark.comfy

TARGETS = (("wolf", "red fox"), ("yellow moon", "yellow balloon"))

SETTINGS = {
    "ale": ale.ALESettings(steps=STEPS),
    "infedit": infedit.InfEditSettings(steps=STEPS, cross_share=0.75, self_share=0.5),
    "masactrl": masactrl.MasaCtrlSettings(steps=STEPS, start_step_share=0.25),
    "fpe": fpe.FPESettings(steps=STEPS),
    "pnp": pnp.PnPSettings(steps=STEPS),
    "sdedit": sdedit.SDEditSettings(steps=STEPS, strength=1.0),
    "mag-edit": mag_edit.MagEditSettings(steps=STEPS, iterations=1),
    "diffedit": diffedit.DiffEditSettings(steps=STEPS, strength=1.0),
    "ledits": ledits.LEDITSSettings(steps=STEPS),
    "p2p": p2p.P2PSettings(
        steps=STEPS, cross_share=0.75, self_share=0.5, reweight="and: 2", blend_words="wolf"
    ),
    "dpl": dpl.DPLSettings(
        steps=STEPS, cross_share=0.75, self_share=0.5, updates=1, null_updates=1
    ),
    "pix2pix-zero": pix2pix_zero.Pix2PixZeroSettings(steps=STEPS),
    "cpam": cpam.CPAMSettings(steps=STEPS, strategy="pose / view", start_step_share=0.25),
}
OPTIMISED_ROWS = {"mag-edit": 2 * (1 + 1), "pix2pix-zero": STEPS * (2 + 2)}
"""In STEPS steps: of the source and of each update; of MAG-Edit in the first half, of pix2pix-zero
under two texts."""
ROWS = {
    "ale": 60, "infedit": 90, "masactrl": 60, "p2p": 60, "fpe": 60, "pnp": 45, "sdedit": 30,
    "diffedit": 30, "ledits": 45, "cpam": 60, "mag-edit": 60 + 7 * (1 + 1), "dpl": 60,
    "pix2pix-zero": 15 * (2 + 2 + 3),
}  # fmt: skip
"""In 15 steps of the edit alone."""
PUBLISHED_ROWS = {
    "ale": 60, "infedit": 90, "masactrl": 300, "p2p": 250, "fpe": 300, "pnp": 200, "sdedit": 60,
    "diffedit": 200 - 40, "ledits": 30 + 30 * (1 + 2), "cpam": 300, "mag-edit": 700 + 750 + 200,
    "dpl": 6500,
    "pix2pix-zero": 350,
}  # fmt: skip
"""Of a whole edit with the paper's settings, its inversion included (methods.md F); without the 949
further steps of Plug-and-Play's published inversion, and the 40 of DiffEdit's mask."""

every_editor = pytest.mark.parametrize("editor", EDITORS, ids=lambda editor: editor.name)


def has_source(editor: Editor) -> bool:
    return editor.branches(SETTINGS[editor.name])[0].name == "source"


every_editor_with_source = pytest.mark.parametrize(
    "editor", [*filter(has_source, EDITORS)], ids=lambda editor: editor.name
)


def guide_by(
    editor: Editor,
    model: Any,
    clip: Any,
    settings: Any = None,
    pairs: Any = TARGETS,
    guidance: tuple[float, float] = (1.0, 2.0),
    **options: Any,
) -> BranchGuider:
    """As the editor's node, without its VAE."""
    settings = settings or SETTINGS[editor.name]
    scales = {"source_guidance": guidance[0], "target_guidance": guidance[1]}
    known = {name: scale for name, scale in scales.items() if hasattr(settings, name)}
    options = {"regions": regions_for(editor), "negative": plain(clip, "blurry"), **options}
    settings = replace(settings, **known)
    return open_edit(editor, settings, model, clip, edits_of(pairs), **options).guider


def regions_for(editor: Editor) -> Regions | None:
    """Those of an editor that cannot do without."""
    needs_regions = editor.grow_regions is not None or editor.find_mask is not None
    return two_regions() if needs_regions else None


def controls_of(guider: Any) -> list[Control]:
    """The controls under which an edit runs."""
    found: list[Control] = []

    def look(apply_model: Any, args: dict[str, Any]) -> Tensor:
        found[:] = running_controls(args["c"]["transformer_options"])
        return apply_model(args["input"], args["timestep"], **args["c"])

    guider.model_patcher.set_model_unet_function_wrapper(look)
    edit(guider)
    return found


def rows_of(monkeypatch: pytest.MonkeyPatch, model: Any) -> list[int]:
    """UNet rows of every call from now on."""
    rows: list[int] = []
    apply_model = model.model.apply_model

    def count(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        rows.append(x.shape[0])
        return apply_model(x, *args, **kwargs)

    monkeypatch.setattr(model.model, "apply_model", count)
    return rows


@every_editor_with_source
def test_a_control_orders_its_branches_or_says_that_they_read_each_other(model, clip, editor):
    """A branch that is read by no one may come last; the source reads nobody."""
    names = tuple(plan.name for plan in editor.branches(SETTINGS[editor.name]))
    controls = controls_of(guide_by(editor, model, clip, reuses_source=False))
    assert names[0] == "source" and controls
    for control in controls:
        assert not control.reads.get("source")
        order = running_order(names, control.reads)
        assert order is None or order[0] == "source"


@every_editor_with_source
@pytest.mark.parametrize("guidance", [(1.0, 2.0), (1.0, 1.0), (1.5, 3.0)])
def test_branches_that_run_in_turn_give_the_edit_of_those_that_run_together(
    model, clip, editor, guidance
):
    def run(evaluation: Any) -> Tensor:
        guider = guide_by(
            editor, model, clip, guidance=guidance, evaluation=evaluation, reuses_source=False
        )
        return edit(guider, source_latent(2))

    together, in_turn = run("together"), run("in turn")
    print(f"{editor.name} {guidance}: in turn {relative_error(in_turn, together):.1e}")
    assert relative_error(in_turn, together) < 1e-4


def test_the_union_of_keys_is_the_same_in_turn(model, clip):
    settings = replace(SETTINGS["masactrl"], keys="union")

    def run(evaluation: Any, settings: Any = settings) -> Tensor:
        guider = guide_by(
            masactrl.EDITOR, model, clip, settings, evaluation=evaluation, reuses_source=False
        )
        return edit(guider, source_latent(2))

    together = run("together")
    assert relative_error(run("in turn"), together) < 1e-4
    assert relative_error(run("together", SETTINGS["masactrl"]), together) > 0.01


def test_branches_that_read_each_other_cannot_run_in_turn(model, clip):
    """run_pie_bench.py: the target takes the layout branch's map in steps in which the layout
    branch takes the target's queries."""
    settings = infedit.InfEditSettings(
        steps=STEPS, cross_share=1.0, self_share=0.0, script="pie bench"
    )
    guider = guide_by(
        infedit.EDITOR, model, clip, settings, evaluation="in turn", reuses_source=False
    )
    with pytest.raises(ValueError, match=r"read each other.*Set evaluation to together\."):
        edit(guider)


@every_editor_with_source
@pytest.mark.parametrize("guidance", [(1.0, 2.0), (1.0, 1.0), (1.5, 3.0)])
@pytest.mark.parametrize("evaluation", ["together", "in turn"])
def test_a_second_edit_takes_the_source_of_the_first(
    model, clip, monkeypatch, editor, guidance, evaluation
):
    def run(pairs: Any, reuses_source: bool) -> Tensor:
        return edit(
            guide_by(
                editor, model, clip, None, pairs, guidance,
                evaluation=evaluation, reuses_source=reuses_source,
            )
        )  # fmt: skip

    second = (("wolf", "brown goat"), ("yellow moon", "soccer ball"))
    expected = run(second, False)
    first = run(TARGETS, True)
    rows = rows_of(monkeypatch, model)
    again = run(second, True)
    others = len(editor.branches(SETTINGS[editor.name])) - 1
    print(f"{editor.name} {guidance}: re-edit {relative_error(again, expected):.1e}, {sum(rows)}")
    assert relative_error(again, expected) < 1e-4
    sampled = sum(rows) - OPTIMISED_ROWS.get(editor.name, 0)
    assert sampled <= STEPS * others * 2 and sampled < STEPS * (others + 1) * 2
    assert relative_error(again, first) > 0.01


@every_editor_with_source
@pytest.mark.parametrize(
    "patch",
    [lambda model: model, lambda model: apply_self_injection(model, 0.5)],
    ids=["no control", "self-injection"],
)
def test_an_edit_takes_no_source_that_lacks_what_its_editor_reads(model, clip, editor, patch):
    """One of the same image, prompt and guidance, kept by an edit with other controls."""

    def guider(reuses_source: bool) -> BranchGuider:
        return guide_by(editor, model, clip, guidance=(1.5, 3.0), reuses_source=reuses_source)

    expected = edit(guider(False))
    same = guider(True)
    source, target = (
        [[cond["cross_attn"], {"pooled_output": cond["pooled_output"]}]]
        for cond in (same._branches["source"], same._branches["target"])
    )
    other = (Branch("source", source, 1.5), Branch("target", target, 3.0))
    edit(BranchGuider(patch(model), other, plain(clip, "blurry")))
    assert hasattr(model.model, KEPT)
    assert relative_error(edit(same), expected) < 1e-4


@every_editor
def test_item_j_of_a_batch_is_the_single_edit_at_seed_plus_j(model, clip, editor):
    latent = source_latent(2)
    made = sample(editor, guide_by(editor, model, clip, reuses_source=False), latent, seed=5)
    alone = sample(editor, guide_by(editor, model, clip, reuses_source=False), latent[1:], seed=6)
    assert relative_error(made[1:], alone) < 1e-4


@every_editor_with_source
def test_each_editor_changes_the_edit(model, clip, editor):
    """Its control is not the plain edit of the same branches."""
    controlled = guide_by(editor, model, clip, reuses_source=False)
    branches = [
        Branch(name, [[cond["cross_attn"], {}]], controlled._guidance[name])
        for name, cond in controlled._branches.items()
    ]
    bare = BranchGuider(model, branches, plain(clip, "blurry"), reuses_source=False)
    assert relative_error(edit(controlled), edit(bare)) > 0.01


def sample(
    editor: Editor, guider: BranchGuider, latent: Tensor | None = None, **run: Any
) -> Tensor:
    """By virtual inversion, or from noise for an editor without a source branch."""
    return edit(guider, latent, sampler=None if has_source(editor) else noise_sampler(), **run)


@every_editor
def test_rows_at_the_papers_steps(model, clip, monkeypatch, editor):
    """methods.md F: InfEdit 90 rows in 15 steps, the two branches of MasaCtrl 60, and Plug-and-Play
    45, since it reads one row of the source."""
    monkeypatch.setattr(branch_guider, "LEAST_SPLIT_POSITIONS", math.inf)
    rows = rows_of(monkeypatch, model)
    settings = replace(SETTINGS[editor.name], steps=15)
    sample(editor, guide_by(editor, model, clip, settings, reuses_source=False), steps=15)
    print(f"{editor.name}: {sum(rows)} rows in 15 steps")
    assert sum(rows) == ROWS[editor.name]


@pytest.mark.parametrize(("least_split", "rows"), [(math.inf, 60), (0, 45)])
def test_fpe_leaves_out_the_sources_unconditional_row_while_nobody_guides_or_reads_it(
    model, clip, monkeypatch, least_split, rows
):
    """Its control acts in the conditional half. The split calls of a step are 2 rows and 1."""
    monkeypatch.setattr(branch_guider, "LEAST_SPLIT_POSITIONS", least_split)
    found = rows_of(monkeypatch, model)
    settings = replace(SETTINGS["fpe"], steps=15)
    edit(guide_by(fpe.EDITOR, model, clip, settings, reuses_source=False), steps=15)
    assert sum(found) == rows


@pytest.mark.ci
@every_editor
def test_rows_of_a_whole_edit_with_the_papers_settings(model, clip, monkeypatch, editor):
    rows = rows_of(monkeypatch, model)
    settings = editor.paper or editor.settings()
    given = {"regions": regions_for(editor), "reuses_source": False}
    whole = open_edit(editor, settings, model, clip, edits_of(TARGETS), **given)
    whole.sample(source_latent(), 5, lambda *_: None)
    print(f"{editor.name}: {sum(rows)} rows")
    assert sum(rows) <= PUBLISHED_ROWS[editor.name]

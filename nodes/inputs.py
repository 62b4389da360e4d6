"""Inputs that several nodes have, and inputs made from an editor's settings."""

from __future__ import annotations

import dataclasses
from typing import Any

from comfy_api.latest import io

from ..editors.ale import SCHEDULES, ALESettings
from ..prompts.edits import require_choice
from . import sockets

CUSTOM = "custom"
PRESET_TOOLTIP = (
    "The kind of edit sets the share of the steps that keep the source's structure: 1.0 for color, "
    "0.6 for material, 0.5 for the others (ALE-Edit, appendix D). If several kinds are mixed, "
    "choose the lowest. custom: use schedule below."
)


def task_inputs(image: str, suits_lcm: bool = True) -> list[io.Input]:
    """What every editor is given: model, image, edits and seed. image: the input's tooltip.
    suits_lcm: whether it samples as latent consistency models do."""
    lcm = ", ideally an LCM or with an LCM LoRA" if suits_lcm else ""
    return [
        io.Model.Input("model", tooltip=f"An SD 1.5, SD 2 or SDXL model{lcm}."),
        io.Clip.Input("clip", tooltip="The text encoder of the same checkpoint."),
        io.Vae.Input("vae", tooltip="The VAE of the same checkpoint."),
        io.Image.Input("image", tooltip=image),
        sockets.Edits.Input("edits", tooltip="The edits, from Edit Object or Edit List."),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=0xFFFFFFFFFFFFFFFF,
            control_after_generate=True,
            tooltip="The seed of the noise.",
        ),
    ]


def negative_input(default: str | None = "", inverts: bool = False) -> io.Input:
    """A negative prompt of the person's own. default: the editor's, None for the source prompt.
    inverts: whether the editor has inversions that replace it."""
    replaced = " negative-prompt and null-text inversion replace it." if inverts else ""
    without = f'"{default}"' if default else "the empty prompt"
    if default is None:
        without = "the source prompt"
    return io.Conditioning.Input(
        "negative",
        optional=True,
        tooltip=(
            f"A negative prompt for all branches. Without it, {without} is used, as in the paper."
            + replaced
        ),
    )


def reuse_input() -> io.Input:
    """Whether an edit may take the source branch of the one before."""
    return io.Boolean.Input(
        "reuse_source",
        default=True,
        optional=True,
        tooltip=(
            "Editing the same image again, with the same source prompt, seed and schedule, takes "
            "about half the time: the source branch of the last edit is kept in RAM (at most 2 "
            "GB). No effect if other nodes patch the model. Off: identical edits are identical bit "
            "for bit."
        ),
    )


def inversion_input() -> io.Input:
    """An inversion that was made before."""
    return sockets.Inversion.Input(
        "inversion",
        optional=True,
        tooltip=(
            "An inversion of this image, from Invert Image or Load Inversion. The edit starts "
            "from it and uses its method, so the image is not inverted again."
        ),
    )


def regions_input() -> io.Input:
    """Where an editor acts."""
    return sockets.Regions.Input(
        "regions",
        optional=True,
        tooltip=sockets.REGIONS_TOOLTIP + " Without it, the masks of the edits are used.",
    )


def mask_input(name: str, tooltip: str) -> io.Input:
    """An optional mask of an editor."""
    return io.Mask.Input(name, optional=True, tooltip=tooltip)


def setting_input(setting: dataclasses.Field[Any], note: str = "") -> io.Input:
    """The widget of one field of an editor's settings. note: is appended to its tooltip."""
    shown = dict(setting.metadata)
    common = {"default": setting.default, "tooltip": shown.pop("tooltip") + note}
    if shown.pop("later", False):  # a saved workflow does not have it
        common["optional"] = True
    if "choices" in shown:
        return io.Combo.Input(setting.name, options=list(shown["choices"]), **common)
    if isinstance(setting.default, str):
        return io.String.Input(setting.name, **common, **shown)
    if isinstance(setting.default, bool):
        return io.Boolean.Input(setting.name, **common)
    if isinstance(setting.default, int):
        return io.Int.Input(setting.name, **common, **shown)
    return io.Float.Input(setting.name, **common, **shown, round=shown["step"] / 10)


def ale_inputs(*names: str, note: str = "") -> list[io.Input]:
    """The widgets of some of ALE-Edit's settings."""
    settings = {setting.name: setting for setting in dataclasses.fields(ALESettings)}
    return [setting_input(settings[name], note) for name in names]


def schedule_inputs() -> list[io.Input]:
    """The two widgets that choose a self-attention schedule."""
    options = [*SCHEDULES, CUSTOM]
    return [
        io.Combo.Input("edit_type", options=options, default="object", tooltip=PRESET_TOOLTIP),
        *ale_inputs("schedule"),
    ]


def choose_schedule(preset: str, schedule: float) -> float:
    """The share of steps that a preset stands for, or the given one for "custom"."""
    require_choice("edit_type", preset, (*SCHEDULES, CUSTOM))
    return schedule if preset == CUSTOM else SCHEDULES[preset]

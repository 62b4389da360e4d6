"""What the branches are given: checked, and put into one conditioning entry.

The branches of an image are rows of one entry, which ComfyUI samples with one area, mask, control
and so on. What the inputs say of these must be the same, and must fit the rows, B of each branch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING
from uuid import uuid4

import comfy.model_base
import comfy.samplers
import torch
from torch import Tensor

from ..attention.unet import cross_attention_layers
from ..comfy_types import Cond, Conditioning, Conds
from ..compare import is_same
from ..flow_families import find_family
from ..text.conditioning import BRANCHES_KEY, ORE_KEY, TARGET, EntryBranches

if TYPE_CHECKING:
    from comfy.controlnet import ControlBase
    from comfy.model_patcher import ModelPatcher

NEGATIVE = "negative"
"""The end of the keys of a run's negative entries."""
OWN_KEYS = {"pooled_output", ORE_KEY, "attention_mask", "guidance"}
"""Entries of a conditioning that each branch has its own of. UNets do not read the last two."""
CORE_TEXTS = {"prompt_type"}
"""Entries in words that ComfyUI's models read."""
DEFAULTS = {
    **{"start_percent": 0.0, "end_percent": 1.0},
    **{"clip_start_percent": 0.0, "clip_end_percent": 1.0},
    **{"strength": 1.0, "mask_strength": 1.0, "set_area_to_bounds": False},
    "control_apply_to_uncond": False,
}
"""What ComfyUI's samplers take for an entry of a conditioning that is missing."""
READ_BESIDE = {
    "control_apply_to_uncond": "control",
    "mask_strength": "mask",
    "set_area_to_bounds": "mask",
    "clip_end_percent": "clip_start_percent",
    "unclip_noise_augment_merge": "unclip_conditioning",
}
"""Entries that ComfyUI reads only where there is another one."""
LIMITS = ("area", "mask")
UNCROPPED = {"crop_w": 0, "crop_h": 0}
CURES = {
    "control": (
        "Connect source and target to the positive and negative inputs of one Apply ControlNet."
    ),
    "hooks": "Connect source and target to the two inputs of one Cond Pair Set Props.",
}
CURE = "Apply the same node with the same values to both conditionings."


@dataclass(frozen=True, eq=False)
class Branch:
    """A branch of a run: its name, its CONDITIONING of one entry and one text, and its
    classifier-free guidance scale (1 is off)."""

    name: str
    conditioning: Conditioning
    guidance: float = 1.0


def require_alike(branches: Mapping[str, Conditioning], model: ModelPatcher, node: str) -> None:
    """Raises ValueError when the CONDITIONING of a branch has several entries or texts, or the
    branches differ, for this MODEL, in anything but their texts.

    branches: by the name of the input that each comes from.
    """
    for name, cond in branches.items():
        if len(cond) != 1:
            raise ValueError(
                f"{node}: the {name} input has {len(cond)} conditioning entries, it needs "
                "exactly one. Do not combine conditionings before this node; use edits and "
                "regions for several objects."
            )
        if cond[0][0].shape[0] != 1:
            raise ValueError(
                f"{node}: the {name} input holds {cond[0][0].shape[0]} texts, one is needed. "
                "Do not batch conditionings before this node."
            )
    (first_name, given), *others = ((name, cond[0][1]) for name, cond in branches.items())
    first = _add_defaults(given, model)
    for name, options in others:
        second = _add_defaults(options, model)
        for key in sorted((given.keys() | options.keys()) - OWN_KEYS):
            values = first.get(key), second.get(key)
            if key not in CORE_TEXTS and all(isinstance(value, str) for value in values):
                continue  # such as the prompt, which another node keeps beside its encoding
            if not is_same(*values):
                raise ValueError(
                    f"{node}: the {first_name} and {name} inputs differ in {key}. "
                    f"{CURES.get(key, CURE)}"
                )


def _add_defaults(options: Cond, model: ModelPatcher) -> Cond:
    """The entries of a conditioning that ComfyUI reads, and what its samplers and this MODEL take
    for those that are missing; without width and height, for which they take the latent's."""
    meant: Cond = dict(DEFAULTS)
    given = {key: value for key, value in options.items() if value is not None}
    given = {k: v for k, v in given.items() if k not in READ_BESIDE or READ_BESIDE[k] in given}
    given.pop("default", None)
    if "default" in options and any(limit in given for limit in LIMITS):
        given["default"] = True  # whatever its value; without a limit ComfyUI's result is the same
    if isinstance(model.model, comfy.model_base.SDXL):
        meant |= UNCROPPED
        meant |= {f"target_{side}": given[side] for side in ("width", "height") if side in given}
    elif isinstance(model.model, comfy.model_base.SDXLRefiner):
        is_negative = given.get("prompt_type") == "negative"
        meant |= UNCROPPED
        meant |= {"prompt_type": "positive", "aesthetic_score": 2.5 if is_negative else 6}
    elif isinstance(model.model, comfy.model_base.SD21UNCLIP):
        meant["unclip_noise_augment_merge"] = 0.05
    return {**meant, **given}


def require_pooled(
    branches: Mapping[str, Cond], negative: Sequence[Cond], model: ModelPatcher, node: str
) -> None:
    """Raises ValueError when a model that reads pooled outputs is given them for some branches
    alone, or, where it is a flow transformer (SD 3, Flux.1), not for all texts."""
    config = model.model.model_config.unet_config
    if config.get("adm_in_channels") is None and config.get("vec_in_dim") is None:
        return
    missing = [name for name, cond in branches.items() if cond.get("pooled_output") is None]
    family = find_family(model)
    if family is not None:
        missing += ["negative" for cond in negative if cond.get("pooled_output") is None]
        if missing:
            raise ValueError(
                f"{node}: the {missing[0]} input has no pooled output, which {family.title} needs. "
                f"Encode it with the text encoders of {family.title}, CLIP-L among them."
            )
    if 0 < len(missing) < len(branches):
        raise ValueError(
            f"{node}: the {missing[0]} input has no pooled output, the other one has. Connect "
            "both outputs of the same Object-Restricted Embeddings or of the same kind of node."
        )


def require_same_hidden_part(
    target: Cond, negative: Sequence[Cond], model: ModelPatcher, node: str
) -> None:
    """Raises ValueError when the channels beside the latent, which inpainting models read, are
    others for the negative than for source and target: guidance would follow the difference."""
    config = model.model.model_config.unet_config
    if config["in_channels"] == model.get_model_object("latent_format").latent_channels:
        return
    for cond in negative:
        for key in ("concat_latent_image", "concat_mask"):
            if not is_same(target.get(key), cond.get(key)):
                raise ValueError(
                    f"{node}: the negative input differs from source and target in {key}. Put all "
                    "three through Inpaint Model Conditioning (or the like) with the same image "
                    "and mask."
                )


def require_active(
    name: str, conds: Sequence[Cond], sigmas: Tensor, model: ModelPatcher, node: str
) -> None:
    """Raises ValueError when no entry of input `name` is active at some step: ComfyUI would put
    zeros in the place of its prediction."""
    timed = [dict(cond) for cond in conds]
    sampling = SimpleNamespace(model_sampling=model.get_model_object("model_sampling"))
    comfy.samplers.calculate_start_end_timesteps(sampling, timed)
    for step, sigma in enumerate(sigmas[:-1].tolist()):
        if not any(
            cond.get("timestep_end", 0) <= sigma <= cond.get("timestep_start", math.inf)
            for cond in timed
        ):
            raise ValueError(
                f"{node}: the {name} input is not active at step {step + 1} of {len(sigmas) - 1} "
                "(sigma {sigma:.4g}). Remove Conditioning Set Timestep Range from it, or let its "
                "entries cover all steps together.".format(sigma=sigma)
            )


def require_control(name: str, cond: Cond, batch: int, model: ModelPatcher, node: str) -> None:
    """Raises ValueError when a ControlNet of input `name` is another model family's, or holds
    images that do not fit `batch` latents."""
    width = cond["cross_attn"].shape[-1]
    for control in _controls(cond):
        images = getattr(control, "cond_hint_original", None)
        if isinstance(images, Tensor) and batch % images.shape[0]:
            raise ValueError(
                f"{node}: the control image of the {name} input holds {images.shape[0]} images, "
                f"the latent {batch}. Connect one control image, or one for each latent."
            )
        expected = _text_width(control)
        if expected not in (None, width) or _is_adapter_of_another(control, model):
            raise ValueError(
                f"{node}: the ControlNet of the {name} input was made for another family of "
                f"models than this checkpoint ({type(model.model).__name__}, {width} channels a "
                f"token). Select a ControlNet of the checkpoint's family."
            )


def _controls(cond: Cond) -> Iterator[ControlBase]:
    control = cond.get("control")
    while control is not None:
        yield control
        control = getattr(control, "previous_controlnet", None)


def _text_width(control: ControlBase) -> int | None:
    """Channels of the text that a ControlNet reads, where it reads any."""
    net = getattr(control, "control_model", None)
    layers = cross_attention_layers(net) if isinstance(net, torch.nn.Module) else {}
    return next((layer.to_k.in_features for layer in layers.values()), None)


def _is_adapter_of_another(control: ControlBase, model: ModelPatcher) -> bool:
    """Whether a T2I-Adapter is SDXL's and the model is not, or the other way round."""
    is_for_sdxl = getattr(getattr(control, "t2i_model", None), "xl", None)
    return is_for_sdxl is not None and is_for_sdxl != isinstance(model.model, comfy.model_base.SDXL)


def make_branches_entry(branches: Mapping[str, Cond], batch: int) -> Cond:
    """One conditioning entry of the named branches: the last one's options, and each one's text,
    `batch` rows of it."""
    conds = list(branches.values())
    tokens = math.lcm(*(cond["cross_attn"].shape[1] for cond in conds))
    entry = repeat_mask({**conds[-1], "uuid": uuid4()}, batch, len(conds))
    entry["cross_attn"] = torch.cat(
        [
            cond["cross_attn"].repeat(
                batch, tokens // cond["cross_attn"].shape[1], 1
            )  # repeats do not change attention
            for cond in conds
        ]
    )
    pooled = [p for cond in conds if (p := cond.get("pooled_output")) is not None]
    if len(pooled) == len(conds):
        entry["pooled_output"] = torch.cat([p.repeat(batch, 1) for p in pooled])
    entry.pop(ORE_KEY, None)
    if ORE_KEY in branches.get(TARGET, {}):
        entry[ORE_KEY] = branches[TARGET][ORE_KEY]
    counts = {name: cond["cross_attn"].shape[1] for name, cond in branches.items()}
    entry[BRANCHES_KEY] = EntryBranches(tuple(branches), tokens=counts)
    return entry


def make_negative_entry(cond: Cond, branches: Sequence[str], batch: int) -> Cond:
    """A negative entry for rows of the named branches.

    SDXL's refiner asks for the kind of prompt, by default the name of the entries.
    """
    own = EntryBranches(tuple(branches), tokens={b: cond["cross_attn"].shape[1] for b in branches})
    entry = repeat_mask(cond, batch, len(branches))
    return {"prompt_type": "negative", **entry, BRANCHES_KEY: own, "uuid": uuid4()}


def shares_rows(branches: Mapping[str, Cond]) -> bool:
    """Whether the texts of branches can be rows of one call where attention does not mask text: of
    one length, with the same mask, and with an embedded guidance all or none."""
    first, *others = branches.values()
    return all(
        cond["cross_attn"].shape[1] == first["cross_attn"].shape[1]
        and is_same(cond.get("attention_mask"), first.get("attention_mask"))
        and _has_guidance(cond) == _has_guidance(first)
        for cond in others
    )


def _has_guidance(cond: Cond) -> bool:
    """Flux Disable Guidance sets None."""
    return cond.get("guidance", 0.0) is not None


def spread_guidance(conds: Conds, branches: Mapping[str, Cond], default: float) -> None:
    """Put each branch's embedded guidance into its rows of the encoded entries of a run."""
    for key, entries in conds.items():
        for cond in entries if not key.endswith(NEGATIVE) else ():
            given = cond["model_conds"].get("guidance")
            names = cond[BRANCHES_KEY].branches
            if given is None or len(names) == 1:
                continue
            batch = cond["cross_attn"].shape[0] // len(names)
            values = [float(branches[name].get("guidance", default)) for name in names]
            rows = torch.tensor(values).repeat_interleave(batch)
            cond["model_conds"]["guidance"] = type(given)(rows.to(given.cond))


def replace_negative(conds: Conds, text: Tensor) -> None:
    """Put another text (1 or B, L, D) in all negative entries of a run, for each of the branches
    there."""
    for key, entries in conds.items():
        for entry in entries if key.endswith(NEGATIVE) else ():
            count = len(entry[BRANCHES_KEY].branches)
            _put_text(entry, text.to(_text_of(entry)).repeat(count, 1, 1))


def replace_rows(conds: Conds, branch: str, text: Tensor) -> None:
    """Put another text (1 or B, L, D) in the rows of a branch, in all conditional entries of a run
    that have any."""
    for key, entries in conds.items():
        for entry in entries if not key.endswith(NEGATIVE) else ():
            names = entry[BRANCHES_KEY].branches
            if branch in names:
                rows = _text_of(entry).clone()
                own = rows.chunk(len(names))[names.index(branch)]
                own.copy_(text.repeat(1, rows.shape[1] // text.shape[1], 1))
                _put_text(entry, rows)


def _text_of(entry: Cond) -> Tensor:
    return entry["model_conds"]["c_crossattn"].cond


def _put_text(entry: Cond, text: Tensor) -> None:
    own = entry["model_conds"]
    own["c_crossattn"] = type(own["c_crossattn"])(text)


def repeat_mask(cond: Cond, batch: int, branches: int) -> Cond:
    """A conditioning entry whose masks, one for each image, are repeated for every branch."""
    mask = cond.get("mask")
    if mask is None or mask.ndim < 3 or mask.shape[0] == 1:
        return dict(cond)
    each = torch.arange(batch) % mask.shape[0]
    return {**cond, "mask": mask[each].repeat(branches, *[1] * (mask.ndim - 1))}

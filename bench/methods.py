"""Methods: named settings of an editor's workflow, and what happens to the masks before it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from math import cos, pi, sin
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..editors import COMPARED, cpam, dpl, mag_edit, p2p
from ..editors.editor import SOURCE, Editor
from ..headless import Workflow
from ..headless.editors import ALE as ALE_EDITOR
from ..prompts.edits import JOINER
from ..regions.phrases import clean_phrase, head_noun

MaskError = Literal["eroded", "shifted", "box"]
SAMPLING = ("steps", "strength", "source_guidance", "target_guidance")
"""Settings that an editor has as `ale` has them, where it has them and its method does not say
otherwise."""


@dataclass(frozen=True)
class Method:
    """Inputs to change, by node title, in the workflow of an editor: workflows/api/ale_edit.json,
    or workflows/nodes/api/EDITOR.json.

    mask_error with its amount, a fraction of the image's height, spoils the masks that the method
    is given; scores use the true ones. nouns_input: the input of these nodes that gets the target
    phrases without their attributes.
    """

    name: str
    label: str
    inputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    mask_error: MaskError | None = None
    amount: float = 0.0
    parts: tuple[str, ...] = ()  # of the demo model, beyond what every method uses
    editor: str = ALE_EDITOR
    nouns_input: str | None = None

    def apply(self, workflow: Workflow, targets: Sequence[str] = ()) -> None:
        """Change a workflow for an edit with these target phrases."""
        for title, inputs in self.inputs.items():
            workflow.fill(title, **inputs)
            if self.nouns_input is not None:
                nouns = [head_noun(clean_phrase(target)) for target in targets]
                workflow.fill(title, **{self.nouns_input: JOINER.join(nouns)})

    def masks(self, masks: Sequence[Image.Image], seed: int) -> list[Image.Image]:
        """The masks that this method is given."""
        if self.mask_error is None:
            return list(masks)
        return [
            spoil_mask(mask, self.mask_error, self.amount, seed + k) for k, mask in enumerate(masks)
        ]


def _switch(name: str, label: str, **switches: Any) -> Method:
    return Method(name, label, {"Method": switches})


NAIVE = _switch("naive", "naive edit", ore=False, rgb_cam=False, blending=False)
ALE = Method("ale", "ALE-Edit (all)")
CODE = _switch("code", "ALE-Edit, published code", variant="published code")
COMPONENTS = (
    NAIVE,
    _switch("ore", "ORE", rgb_cam=False, blending=False),
    _switch("ore-rgb", "ORE + RGB-CAM", blending=False),
    _switch("ore-bb", "ORE + BB", rgb_cam=False),
    ALE,
)
END_OF_TEXT = (
    *(
        _switch(f"eot-{name.replace(' ', '-')}", f"end of text: {name}", end_of_text=name)
        for name in ("naive", "zeros", "bos", "empty string")
    ),
    ALE,
)
SCHEDULES = tuple(
    Method(
        f"schedule-{share:.1f}",
        f"schedule {share:.1f}",
        {"Self-attention": {"edit_type": "custom", "schedule": share}},
    )
    for share in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
)
DILATIONS = tuple(
    ALE if d == 0.01 else Method(f"dilation-{d}", f"dilation {d}", {"Regions": {"dilation": d}})
    for d in (0.0, 0.01, 0.02, 0.04, 0.08)
)
MASK_ERRORS = (
    ALE,
    Method("eroded-0.01", "eroded by 0.01", mask_error="eroded", amount=0.01),
    Method("eroded-0.03", "eroded by 0.03", mask_error="eroded", amount=0.03),
    Method("shifted-0.03", "shifted by 0.03", mask_error="shifted", amount=0.03),
    Method("shifted-0.06", "shifted by 0.06", mask_error="shifted", amount=0.06),
    Method("shifted-0.12", "shifted by 0.12", mask_error="shifted", amount=0.12),
    Method("box", "bounding boxes", mask_error="box"),
    _switch("no-masks", "missing (ORE alone)", rgb_cam=False, blending=False),
)


def _make_lcm(name: str, label: str, steps: int, **switches: Any) -> Method:
    """With the demo model's LCM LoRA, at the published code's guidance."""
    inputs: dict[str, dict[str, Any]] = {
        "Model": {"lcm_lora": True},
        "Guider": {"source_guidance": 1.0, "target_guidance": 2.0},
        "Schedule": {"steps": steps},
    }
    if switches:
        inputs["Method"] = switches
    return Method(name, label, inputs, parts=("lcm",))


LCM = (
    _make_lcm("lcm-naive", "naive edit, LCM LoRA", 15, ore=False, rgb_cam=False, blending=False),
    _make_lcm("lcm-15", "ALE-Edit, LCM LoRA, 15 steps", 15),
    _make_lcm("lcm-8", "ALE-Edit, LCM LoRA, 8 steps", 8),
    _make_lcm("lcm-4", "ALE-Edit, LCM LoRA, 4 steps", 4),
)
DEFAULT = (*COMPONENTS, CODE)


NAMES = {mag_edit.EDITOR.name: "mag-token"}
"""Methods of editors that have others beside them by which they are named."""


def name_of(editor: Editor) -> str:
    """The name of an editor's method with its defaults."""
    return NAMES.get(editor.name, editor.name)


def _by_editor(editor: Editor) -> tuple[Method, Method]:
    """An editor on the ground of `ale`, with its model, and steps and guidance by editing.Plan; and
    with all settings of its paper, by the same model."""
    paper = editor.paper if editor.paper is not None else editor.settings()
    ground = _settings_beside_ale(editor)
    name = name_of(editor)
    return (
        Method(
            name,
            editor.title,
            {editor.title: ground} if ground else {},
            editor=editor.name,
        ),
        Method(
            f"{name}-paper",
            f"{editor.title}, its paper's settings",
            {editor.title: asdict(paper)},
            editor=editor.name,
        ),
    )


def _settings_beside_ale(editor: Editor) -> dict[str, Any]:
    """What puts an editor on the ground of `ale`, beyond SAMPLING: its time steps. An editor
    without a source branch keeps its own strength; at ale's, little or nothing of the image would
    be left."""
    settings = editor.settings()
    found = {}
    if "time_steps" in {setting.name for setting in fields(settings)}:
        found["time_steps"] = "LCM"
    if all(branch.name != SOURCE.name for branch in editor.branches(settings)):
        found["strength"] = settings.strength
    return found


MASACTRL_DDIM = Method(
    "masactrl-ddim",
    "MasaCtrl, DDIM inversion",
    {"MasaCtrl": {"inversion_method": "DDIM"}},
    editor="masactrl",
)
P2P = _by_editor(p2p.EDITOR)[0]
CPAM = _by_editor(cpam.EDITOR)[0]


def _change(
    method: Method, name: str, label: str, nouns_input: str | None = None, **inputs: Any
) -> Method:
    """An editor on the ground of `ale` with other inputs."""
    ((title, ground),) = method.inputs.items()
    return replace(
        method,
        name=name,
        label=label,
        inputs={title: {**ground, **inputs}},
        nouns_input=nouns_input,
    )


P2P_METHODS = (
    _change(P2P, "p2p-ets", f"{P2P.label} + ETS", "ets_prompt"),
    _change(P2P, "nti-p2p", f"Null-text inversion + {P2P.label}", inversion_method="null-text"),
    _change(
        P2P,
        "npi-p2p",
        f"Negative-prompt inversion + {P2P.label}",
        inversion_method="negative-prompt",
    ),
    _change(P2P, "direct-p2p", f"Direct inversion + {P2P.label}", inversion_method="direct"),
)
CPAM_OBJECTS = _change(
    CPAM, "cpam-objects", f"{CPAM.label}, each object its own text", object_texts="each its own"
)


def _choose_spatial_ratio(token: Method) -> Method:
    """With early stop, which the published code of this constraint always has."""
    ((title, inputs),) = token.inputs.items()
    return replace(
        token,
        name=token.name.replace("token", "spatial"),
        label=token.label.replace(title, f"{title}, spatial ratio"),
        inputs={title: {**inputs, "constraint": "spatial ratio", "early_stop": True}},
    )


MAG_SPATIAL, MAG_SPATIAL_PAPER = map(_choose_spatial_ratio, _by_editor(mag_edit.EDITOR))


def _as_locinv(method: Method) -> Method:
    ((title, inputs),) = method.inputs.items()
    own = {"priors": "masks", "updates": 31, "null_updates": 31}
    return replace(
        method,
        name=method.name.replace("dpl", "locinv"),
        label=method.label.replace(title, "LocInv"),
        inputs={title: {**inputs, **own}},
    )


LOCINV, LOCINV_PAPER = map(_as_locinv, _by_editor(dpl.EDITOR))


def _choose_strategy(method: Method, strategy: str) -> Method:
    """CPAM by another strategy than `replace`."""
    ((title, inputs),) = method.inputs.items()
    return replace(
        method,
        name=method.name.replace("cpam", f"cpam-{strategy}"),
        label=method.label.replace(title, f"{title}, {strategy}"),
        inputs={title: {**inputs, "strategy": strategy}},
    )


CPAM = _by_editor(cpam.EDITOR)
CPAM_REMOVE, CPAM_BACKGROUND = (
    tuple(_choose_strategy(method, strategy) for method in CPAM)
    for strategy in ("remove", "background")
)
BESIDE_ALE = (
    *(_by_editor(editor)[0] for editor in COMPARED),
    MASACTRL_DDIM,
    *P2P_METHODS,
    MAG_SPATIAL,
    LOCINV,
)
BY_PAPERS = (*(_by_editor(editor)[1] for editor in COMPARED), MAG_SPATIAL_PAPER, LOCINV_PAPER)


def all_methods() -> dict[str, Method]:
    """Every named method."""
    groups = (
        *(DEFAULT, BESIDE_ALE, BY_PAPERS, (CPAM_OBJECTS,), CPAM_REMOVE, CPAM_BACKGROUND),
        *(END_OF_TEXT, SCHEDULES, DILATIONS, MASK_ERRORS, LCM),
    )
    return {method.name: method for group in groups for method in group}


def find_methods(names: Sequence[str]) -> tuple[Method, ...]:
    """The methods of these names; none: the default ones."""
    known = all_methods()
    if unknown := [name for name in names if name not in known]:
        raise ValueError(
            f"There is no method {', '.join(map(repr, unknown))}. There are: {', '.join(known)}."
        )
    return tuple(known[name] for name in dict.fromkeys(names)) or DEFAULT


def spoil_mask(mask: Image.Image, error: MaskError, amount: float, seed: int) -> Image.Image:
    """A mask with an error; `amount` is a fraction of the height, `seed` chooses a direction."""
    inside = torch.from_numpy(np.array(mask.convert("L"), dtype=np.float32) / 255) > 0.5
    pixels = round(amount * mask.height)
    changed = {
        "eroded": lambda: erode(inside, pixels),
        "shifted": lambda: shift(inside, pixels, seed),
        "box": lambda: fill_box(inside),
    }[error]()
    return Image.fromarray((changed * 255).to(torch.uint8).numpy()).convert("RGB")


def erode(mask: Tensor, pixels: int) -> Tensor:
    """A mask (H, W) that lost up to `pixels` at its outline, but never all of itself."""
    for _ in range(pixels):
        smaller = -F.max_pool2d(-mask.float()[None, None], 3, 1, 1)[0, 0] > 0.5
        if not smaller.any():
            return mask
        mask = smaller
    return mask


def shift(mask: Tensor, pixels: int, seed: int) -> Tensor:
    """A mask (H, W) moved by `pixels` in a direction of the seed, as far as it stays inside."""
    angle = float(np.random.default_rng(seed).uniform(0, 2 * pi))
    rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
    if not len(rows):
        return mask
    down, right = (
        max(-int(where.min()), min(round(pixels * part), length - 1 - int(where.max())))
        for where, part, length in (
            (rows, sin(angle), mask.shape[0]),
            (columns, cos(angle), mask.shape[1]),
        )
    )
    return torch.roll(mask, (down, right), (0, 1))


def fill_box(mask: Tensor) -> Tensor:
    """The bounding box of a mask (H, W)."""
    return mask.any(1)[:, None] & mask.any(0)[None, :]

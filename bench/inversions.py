"""`dev.py bench inversions`: how well each inversion gives demo scenes back.

An edit by the prompt of the inversion itself should give the image back. Errors are of the latent,
in its standard deviations. PSNR is between the decoded latents, so that the VAE's own loss does not
count. Direct inversion is left out: it replays the source branch, and the edited branch is that of
DDIM inversion.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from ..demo.captions import scene_caption
from ..demo.models import load_demo_model
from ..demo.render import render
from ..demo.scenes import make_scene
from ..host.inverting.methods import invert_by
from ..host.inverting.sampler import inversion_sampler
from ..host.sampling.branch_guider import Branch, BranchGuider
from ..host.sampling.schedule import sigmas_of
from ..host.text.embedding import encode_text
from ..inversion.ddim import CONVENTIONS, Convention
from ..inversion.stored import INVERSION_METHODS, InversionMethod, Schedule

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP, VAE

GUIDANCE = 7.5
STEP_COUNTS = (5, 10, 20, 50, 100)
EDITED = "target"


@dataclass(frozen=True)
class Case:
    """An inversion and the guidance of what is sampled from it."""

    method: InversionMethod
    steps: int
    guidance: float
    convention: Convention = "published code"


@dataclass(frozen=True)
class Found:
    """Means over scenes. error: of the latent, in its standard deviations. psnr: in dB."""

    error: float
    psnr: float


def list_cases(steps: int) -> Iterator[Case]:
    """DDIM inversion without guidance by its number of steps, then every inversion with it."""
    for convention in CONVENTIONS:
        for count in STEP_COUNTS:
            yield Case("DDIM", count, 1.0, cast("Convention", convention))
    for method in INVERSION_METHODS:
        if method != "direct":
            yield Case(cast("InversionMethod", method), steps, GUIDANCE)


def reconstruct(
    case: Case, model: ModelPatcher, clip: CLIP, latent: Tensor, prompt: str, seed: int
) -> Tensor:
    """The latent (1, C, h, w) that comes back from its own inversion."""
    schedule = Schedule(case.steps)
    text, empty = encode_text(clip, prompt), encode_text(clip, "")
    inversion = invert_by(
        case.method, model, text, latent, schedule, prompt,
        negative=empty, guidance=case.guidance, convention=case.convention,
        callback=lambda *_: None,
    )  # fmt: skip
    negative = text if case.method == "negative-prompt" else empty
    guider = BranchGuider(model, (Branch(EDITED, text, case.guidance),), negative)
    return guider.sample(
        torch.zeros_like(latent), latent, inversion_sampler(inversion),
        sigmas_of(model, schedule), disable_pbar=True, seed=seed,
    )  # fmt: skip


def compare(vae: VAE, made: Tensor, latent: Tensor) -> Found:
    error = float((made - latent).square().mean().sqrt() / latent.std())
    images = [cast("Tensor", vae.decode(x)).clamp(0, 1) for x in (made, latent)]
    mse = float((images[0] - images[1]).square().mean())
    return Found(error, -10 * math.log10(max(mse, 1e-10)))


def measure(case: Case, scenes: int, demo: tuple[ModelPatcher, CLIP, VAE]) -> Found:
    """The mean over demo scenes 0 to `scenes` - 1. demo: its model, CLIP and VAE."""
    model, clip, vae = demo
    found = []
    for seed in range(scenes):
        scene = make_scene(seed)
        image, _ = render(scene)
        latent = cast("Tensor", vae.encode(image[None]))
        made = reconstruct(case, model, clip, latent, scene_caption(scene), seed)
        found.append(compare(vae, made, latent))
    return Found(sum(f.error for f in found) / len(found), sum(f.psnr for f in found) / len(found))


def write_table(rows: Sequence[dict[str, Any]]) -> str:
    """The report in Markdown, as docs/results.md holds it."""
    return "\n".join(
        [
            "| inversion | convention | steps | guidance | error of the latent ↓ | PSNR (dB) ↑ |",
            "|---|---|---|---|---|---|",
            *(
                f"| {row['method']} | {row['convention']} | {row['steps']} | {row['guidance']:g} | "
                f"{row['error']:.3g} | {row['psnr']:.1f} |"
                for row in rows
            ),
        ]
    )


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="dev.py bench inversions", description=__doc__)
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the report as JSON")
    parser.add_argument(
        "--scenes", type=int, default=10, metavar="N", help="demo scenes 0 to N - 1 (default 10)"
    )
    parser.add_argument(
        "--steps", type=int, default=50, metavar="N",
        help=f"of the inversions at guidance {GUIDANCE:g} (default 50)",
    )  # fmt: skip
    options = parser.parse_args(argv)
    rows = []
    with torch.inference_mode():
        demo = load_demo_model()
        for case in list_cases(options.steps):
            rows.append({**asdict(case), **asdict(measure(case, options.scenes, demo))})
    print(write_table(rows))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(
            json.dumps({"scenes": options.scenes, "rows": rows}, indent=2) + "\n", encoding="utf-8"
        )
    return 0

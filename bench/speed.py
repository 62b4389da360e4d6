"""What ALE-Edit costs beside plain sampling: time, operations, UNet rows, import.

Times are ratios. The sampling runs of the plain and of the patched models are open at once, each
round evaluates every one of them, and the median over the rounds of the ratio counts. Weights are
random, which changes no time. K objects, L positions, C channels, N tokens.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import comfy.model_base
import comfy.model_management as management
import comfy.supported_models
import torch
from comfy.ldm.modules.attention import attention_pytorch, optimized_attention
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from ..attention.rgb_cam import Attention, layer_text, region_cross_attention, region_text
from ..demo.models import UNET_CONFIG, build_model, load_demo_model, new_unet
from ..demo.world import demo_edits, make_scene, render
from ..editors.ale import SCHEDULES, ALESettings
from ..host.ale_edit import edit_image
from ..host.attention.rgb_cam import apply_rgb_cam
from ..host.attention.self_injection import apply_self_injection
from ..host.sampling.blending import apply_background_blending
from ..host.sampling.branch_guider import Branch, BranchGuider
from ..host.sampling.schedule import lcm_sigmas
from ..host.sampling.source_branch import forget
from ..host.sampling.virtual_inversion import BranchSampler, virtual_inversion_sampler
from ..host.text.conditioning import make_conditioning
from ..prompts.edits import Edits, MethodSettings, make_edit
from ..prompts.ore import BACKGROUND, ObjectRestrictedEmbeddings
from ..regions.grid import cell_groups, coverage
from ..regions.regions import Regions, make_regions

ROOT = Path(__file__).resolve().parent.parent
COUNTS = (1, 3, 10)
RATIOS = {f"k{k}_over_plain": k for k in COUNTS}
TARGETS = {"k3_over_plain": 1.05, "k10_over_plain": 1.08}
IMPORT_TARGET_S = 0.1
FEWEST_ROUNDS, ENOUGH_S = 3, 30.0
TOKENS, POOLED = 77, 1280
WORDS = (2, 3, 4, 5)  # of the objects' phrases, in turn; ten of them fit one chunk of text
STEPS = ALESettings.steps
ROWS_SIZE = 32
GUIDANCE = (ALESettings.source_guidance, ALESettings.target_guidance)
RE_EDITED = ("object", "color")
RE_EDIT_TARGET, RE_EDIT_ROUNDS = 0.6, 3
BOTH_GUIDED = (1.5, 2.0)  # every call holds all four rows of an image


@dataclass(frozen=True)
class Shape:
    """One UNet at one latent size."""

    unet: str
    size: int
    dtype: torch.dtype

    def __str__(self) -> str:
        return f"{self.unet}, {self.size}x{self.size}, {str(self.dtype).removeprefix('torch.')}"


_SD = {
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1] * 9 + [0] * 3,
}
_SDXL = {
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "transformer_depth_middle": 10,
    "use_linear_in_transformer": True,
    "context_dim": 2048,
    "num_classes": "sequential",
    "adm_in_channels": POOLED + 6 * 256,
}
LAYOUTS: dict[str, tuple[str, dict[str, Any]]] = {  # class of comfy.supported_models
    "SD 1.5": ("SD15", {**_SD, "context_dim": 768}),
    "SD 2": ("SD20", {**_SD, "context_dim": 1024, "use_linear_in_transformer": True}),
    "SDXL": ("SDXL", _SDXL),
    "SSD-1B": (
        "SSD1B",
        {
            **_SDXL,
            "transformer_depth": [0, 0, 2, 2, 4, 4],
            "transformer_depth_output": [0, 0, 0, 1, 1, 2, 10, 4, 4],
            "transformer_depth_middle": -1,
        },
    ),
}
UNETS: dict[str, Callable[[torch.dtype], Any]] = {
    "demo": lambda _dtype: build_model(new_unet().state_dict()),
    "SD 1.5, 64 channels": lambda dtype: unet_model("SD 1.5", 64, dtype),
    "SD 1.5": lambda dtype: unet_model("SD 1.5", 320, dtype),
}
FAMILY_SIZES = {"SD 2": (32, 96), "SDXL": (64, 128), "SSD-1B": (64, 128)}
"""Latent size of each other family: with 64 channels on a CPU, with its own 320 on a GPU."""


def shapes(is_quick: bool) -> list[Shape]:
    """Those of the targets."""
    if is_quick:
        return [Shape("demo", 8, torch.float32)]
    if torch.cuda.is_available():
        return [Shape(unet, size, torch.float16) for unet in UNETS for size in (64, 96)]
    return [Shape(unet, size, torch.float32) for unet in list(UNETS)[:2] for size in (32, 64)]


# -- models, text, regions -------------------------------------------------------------------------


def unet_model(family: str, channels: int, dtype: torch.dtype) -> Any:
    """A MODEL of a family's layout with `channels` where it has 320."""
    name, layout = LAYOUTS[family]
    settings = {**UNET_CONFIG, **layout, "model_channels": channels}
    config = getattr(comfy.supported_models, name)(settings)
    config.set_inference_dtype(dtype, None)
    model = config.get_model({}, "")
    model.diffusion_model.eval().requires_grad_(False)
    for parameter in model.diffusion_model.parameters():
        parameter.data.normal_(std=0.02)
    return ModelPatcher(
        model,
        load_device=management.get_torch_device(),
        offload_device=management.unet_offload_device(),
    )


def embeddings(count: int, width: int) -> ObjectRestrictedEmbeddings:
    """Object-Restricted Embeddings of `count` objects, in random numbers."""
    owner, start = torch.full((TOKENS,), BACKGROUND), 1
    for i in range(count):
        end = start + WORDS[i % len(WORDS)]
        owner[start:end] = i
        start = end + 1  # "and"
    names = tuple(f"object {i}" for i in range(count))
    keys, values = torch.randn(TOKENS, width), torch.randn(count + 1, TOKENS, width)
    return ObjectRestrictedEmbeddings(keys, values, owner, names, MethodSettings())


def boxes(count: int, size: int) -> Regions:
    """`count` separate objects on a latent of size x size, over half of it together."""
    image, columns = 8 * size, math.ceil(math.sqrt(count))
    side = image // columns
    masks = torch.zeros(count, image, image)
    for i in range(count):
        top, left = side * (i // columns) + side // 8, side * (i % columns) + side // 8
        masks[i, top : top + 3 * side // 4, left : left + 3 * side // 4] = 1
    return make_regions(list(masks), [f"object {i}" for i in range(count)], ALESettings.dilation)


def ale_model(model: Any, count: int, size: int, schedule: float = 1.0) -> Any:
    """A MODEL after the three model nodes of the main job."""
    regions = boxes(count, size)
    model = apply_self_injection(apply_rgb_cam(model, regions), schedule)
    return apply_background_blending(model, regions)


class SavingGuider(BranchGuider):
    """Leaves out the source's unconditional row on every device, at every size."""

    def _is_one_call(self, *_: Any) -> bool:
        return False


def guide(
    model: Any,
    count: int = 1,
    guidance: tuple[float, float] = BOTH_GUIDED,
    guider_class: type[BranchGuider] = BranchGuider,
) -> BranchGuider:
    width = model.model.model_config.unet_config["context_dim"]
    source, negative = (
        [[torch.randn(1, TOKENS, width), {"pooled_output": torch.randn(1, POOLED)}]]
        for _ in range(2)
    )
    target = make_conditioning(embeddings(count, width), torch.randn(1, POOLED))
    branches = (Branch("source", source, guidance[0]), Branch("target", target, guidance[1]))
    return guider_class(model, branches, negative)


def sample(guider: BranchGuider, size: int, sampler: Any) -> Tensor:
    latent = torch.randn(1, 4, size, size, generator=torch.Generator().manual_seed(0))
    sigmas = lcm_sigmas(guider.model_patcher, STEPS, 1.0)
    zeros = torch.zeros_like(latent)
    return guider.sample(zeros, latent, sampler, sigmas, disable_pbar=True, seed=0)


# -- timed -----------------------------------------------------------------------------------------

Evaluation = Callable[[], Any]
"""One evaluation of a guided model in an open sampling run, at the run's first sigma."""


def with_evaluations(
    guiders: Sequence[BranchGuider], size: int, use: Callable[[list[Evaluation]], None]
) -> None:
    """Open a sampling run of every guider, each inside the one before, and use their models."""
    opened: list[Evaluation] = []

    def open_next() -> None:
        if len(opened) < len(guiders):
            sample(guiders[len(opened)], size, BranchSampler(enter))
        else:
            use(opened)

    def enter(model: Any, x: Tensor, sigmas: Tensor, extra_args: Any, **_: Any) -> Tensor:
        args = {name: extra_args[name] for name in ("model_options", "seed")}
        branches, sigma = torch.cat([x, x]), sigmas[0] * x.new_ones(2)
        opened.append(lambda: model(branches, sigma, denoise_mask=None, **args))
        open_next()
        return x

    open_next()


def seconds(evaluate: Evaluation) -> float:
    finish_queue()
    start = clock()
    evaluate()
    finish_queue()
    return clock() - start


def clock() -> float:
    """Seconds; those that the process has worked where it has one thread of a CPU, which other
    programs on the machine hardly change."""
    is_single = torch.get_num_threads() == 1 and not torch.cuda.is_available()
    return time.process_time() if is_single else time.perf_counter()


def finish_queue() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def interleaved(evaluations: Sequence[Evaluation], rounds: int) -> list[list[float]]:
    """Seconds of each evaluation in each round; the order turns by one from round to round. Slow
    ones get fewer rounds, but FEWEST_ROUNDS, of which a median can leave out the worst."""
    count = len(evaluations)
    times: list[list[float]] = [[] for _ in evaluations]
    for evaluate in evaluations:
        evaluate()
    start = time.perf_counter()
    for r in range(rounds):
        if r >= FEWEST_ROUNDS and time.perf_counter() - start > ENOUGH_S:
            break
        for i in ((r + j) % count for j in range(count)):
            times[i].append(seconds(evaluations[i]))
    return times


def over(times: Sequence[float], base: Sequence[float]) -> float:
    """The median ratio of two series of times of the same rounds."""
    return round(statistics.median(t / b for t, b in zip(times, base, strict=True)), 4)


def measure_ratios(model: Any, shape: Shape, rounds: int) -> dict[str, Any]:
    """One ALE evaluation over a plain one of the same four rows, by number of objects."""
    guiders = [guide(model), *(guide(ale_model(model, k, shape.size), k) for k in COUNTS)]
    found: dict[str, Any] = {"shape": str(shape)}

    def use(evaluations: list[Evaluation]) -> None:
        plain, *ours = interleaved(evaluations, rounds)
        found["plain_seconds"] = round(statistics.median(plain), 5)
        for name, times in zip(RATIOS, ours, strict=True):
            found[name] = over(times, plain)

    with_evaluations(guiders, shape.size, use)
    return found


def measure_families(is_quick: bool, rounds: int) -> list[dict[str, Any]]:
    """The same ratios on the other families, one size each."""
    is_full = torch.cuda.is_available() and not is_quick
    channels, dtype = (320, torch.float16) if is_full else (64, torch.float32)
    found = []
    for family, sizes in FAMILY_SIZES.items():
        size = 8 if is_quick else sizes[is_full]
        name = family if is_full else f"{family}, {channels} channels"
        model = unet_model(family, channels, dtype)
        found.append(measure_ratios(model, Shape(name, size, dtype), rounds))
    return found


def measure_row_policies(model: Any, shape: Shape, rounds: int) -> dict[str, Any]:
    """A step without injection: the source's unconditional row left out (three rows in two calls)
    over kept (four rows in one)."""
    patched = ale_model(model, 3, shape.size, schedule=0.0)
    guiders = [guide(patched, 3), guide(patched, 3, GUIDANCE, SavingGuider)]
    found: dict[str, Any] = {"shape": str(shape)}

    def use(evaluations: list[Evaluation]) -> None:
        kept, left_out = interleaved(evaluations, rounds)
        found["four_rows_seconds"] = round(statistics.median(kept), 5)
        found["three_over_four_rows"] = over(left_out, kept)

    with_evaluations(guiders, shape.size, use)
    return found


def measure_re_edit(model: Any, shape: Shape, rounds: int) -> dict[str, Any]:
    """A whole sampling run of the same image again, its source branch kept, over the first run, by
    type of edit."""
    found: dict[str, Any] = {"shape": str(shape)}
    for name in RE_EDITED:
        patched = ale_model(model, 3, shape.size, SCHEDULES[name])
        guider = guide(patched, 3, GUIDANCE)

        def run(guider: BranchGuider = guider) -> Tensor:
            return sample(guider, shape.size, virtual_inversion_sampler())

        first, again = [], []
        start = time.perf_counter()
        for _ in range(rounds):
            if first and time.perf_counter() - start > ENOUGH_S:
                break
            forget(model.model)
            first.append(seconds(run))
            again.append(seconds(run))
        found[f"{name}_first_seconds"] = round(statistics.median(first), 3)
        found[f"{name}_again_over_first"] = over(again, first)
    forget(model.model)
    return found


# -- counted ---------------------------------------------------------------------------------------


def count_rows(model: Any, size: int) -> dict[str, int]:
    """UNet rows of a whole edit of one image: as published, and here by type of edit, at a latent
    size where rows are left out."""

    def rows_of(schedule: float, keeps_all: bool) -> int:
        rows = []

        def count(executor: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            rows.append(x.shape[0])
            return executor(x, *args, **kwargs)

        patched = ale_model(model, 2, size, schedule)
        patched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "ale_edit.bench", count)
        patched.model_options["disable_cfg1_optimization"] = keeps_all
        sample(guide(patched, 2, GUIDANCE), size, virtual_inversion_sampler())
        return sum(rows)

    schedules = {"no injection": 0.0, **{name: SCHEDULES[name] for name in ("object", "color")}}
    ours = {name: rows_of(schedule, False) for name, schedule in schedules.items()}
    return {"published": rows_of(SCHEDULES["object"], True), **ours}


CPU_ATTENTION = {  # torch's counter knows that of GPUs only
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: (
        lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v)
    )
}


class KernelCount(TorchDispatchMode):
    """Counts the operations that compute or copy something."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def count_operations(side: int = 32, channels: int = 64, heads: int = 8) -> dict[str, Any]:
    """One target row in one cross-attention layer, its text already projected: floating-point
    operations, kernels, and rows that the attention function is given. Counted with ComfyUI's
    attention_pytorch, which most GPUs use."""
    q, prompt = torch.randn(1, side * side, channels), torch.randn(1, TOKENS, channels)
    found: dict[str, Any] = {
        "layer": f"{side}x{side} positions, {channels} channels",
        "plain": counted(lambda attention: attention(q, prompt, prompt), heads),
    }
    for k in COUNTS:
        ore = embeddings(k, channels)
        covered = coverage(boxes(k, side).dilated, side, side, "paper")
        text = layer_text(
            [
                region_text(ore.keys, ore.values, ore.owner, g.cells, g.value, g.visible)
                for g in cell_groups(covered, last_object_wins=False)
            ]
        )
        inside = covered.flatten(1)
        found[f"k{k}"] = {
            "grouped": counted(lambda a, t=text: region_cross_attention(q, t, a), heads),
            "published": counted(lambda _, o=ore, i=inside: published_form(q, o, i, heads), heads),
        }
    return found


def counted(run: Callable[[Attention], Tensor], heads: int) -> dict[str, int]:
    """What run(attention function) computes."""
    rows = []

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        rows.append(q.shape[0] * q.shape[1])
        return attention_pytorch(q, k, v, heads)

    operations = FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION)
    with KernelCount() as kernels, operations:
        run(attention)
    total = operations.get_total_flops()
    return {"operations": total, "kernels": kernels.count, "attention_rows": sum(rows)}


def published_form(
    q: Tensor, ore: ObjectRestrictedEmbeddings, inside: Tensor, heads: int
) -> Tensor:
    """Algorithm 2 as published: one masked map, and each of the K+1 values on every position."""
    queries, keys, values = (
        x.unflatten(-1, (heads, -1)).transpose(-3, -2) for x in (q[0], ore.keys, ore.values)
    )
    hidden = (ore.owner >= 0) & ~inside[ore.owner.clamp(min=0)].T  # (L, N)
    scores = queries @ keys.transpose(-1, -2) * queries.shape[-1] ** -0.5 - 100 * hidden
    weights = scores.softmax(dim=-1)  # (h, L, N)
    out = weights @ values[-1]
    for i, value in enumerate(values[:-1]):
        out = torch.where(inside[i][:, None], weights @ value, out)
    return out.transpose(0, 1).flatten(1)[None]


# -- the pack as a whole ---------------------------------------------------------------------------

IMPORT_PROGRAM = """
import asyncio, json, sys, time
from comfy.cli_args import args
args.cpu = sys.argv[2] == "cpu"
import nodes
import comfy_config.config_parser  # ComfyUI's own, which the first pack of an install waits for
start = time.perf_counter()
is_loaded = asyncio.run(nodes.load_custom_node(sys.argv[1]))
print(json.dumps([is_loaded, time.perf_counter() - start]))
"""


def import_seconds(repeats: int) -> float:
    """What the pack adds to ComfyUI's start; the least of fresh processes that load it as ComfyUI
    does."""
    device = "gpu" if torch.cuda.is_available() else "cpu"
    command = [sys.executable, "-c", IMPORT_PROGRAM, str(ROOT), device]
    comfyui = Path(management.__file__).parent.parent
    found = []
    for _ in range(repeats):
        answer = subprocess.run(command, cwd=comfyui, capture_output=True, text=True, check=True)
        is_loaded, taken = json.loads(answer.stdout.splitlines()[-1])
        if not is_loaded:
            raise RuntimeError(f"ComfyUI could not load the pack:\n{answer.stderr}")
        found.append(taken)
    return round(min(found), 4)


def demo_edit_seconds() -> float:
    """A whole edit of the demo scene, the model loaded: encoding, sampling, decoding."""
    model, clip, vae = load_demo_model()
    image, masks = render(make_scene(0))
    pairs = [(source, target) for source, target, _ in demo_edits(0)]
    edits = Edits(tuple(make_edit(*pair, mask) for pair, mask in zip(pairs, masks, strict=True)))
    settings = ALESettings()
    regions = make_regions(list(masks), edits.sources, settings.dilation)

    def edit() -> Tensor:
        return edit_image(model, clip, vae, image[None], edits, regions, settings, 0, False)

    edit()
    return round(seconds(edit), 3)


# -- the report ------------------------------------------------------------------------------------


def measure(is_quick: bool, rounds: int) -> dict[str, Any]:
    ratios, policies, re_edits, rows = [], [], [], {}
    for unet, make in UNETS.items():
        chosen = [shape for shape in shapes(is_quick) if shape.unet == unet]
        if not chosen:
            continue
        model = make(chosen[0].dtype)
        ratios += [measure_ratios(model, shape, rounds) for shape in chosen]
        smaller = replace(chosen[0], size=chosen[0].size // 2)
        policies += [measure_row_policies(model, shape, rounds) for shape in (smaller, *chosen)]
        again = min(rounds, RE_EDIT_ROUNDS)
        re_edits += [measure_re_edit(model, shape, again) for shape in (smaller, *chosen[:1])]
        rows = rows or count_rows(model, ROWS_SIZE)
    return {
        "ratios": {
            **{name: max(found[name] for found in ratios) for name in RATIOS},
            "shapes": ratios,
        },
        "families": measure_families(is_quick, rounds),
        "rows": {**rows, "policies": policies},
        "re_edits": re_edits,
        "operations": count_operations(),
        "import_seconds": import_seconds(1 if is_quick else 5),
        "demo_edit_seconds": None if is_quick else demo_edit_seconds(),
        "machine": machine(),
        "versions": versions(),
    }


def machine() -> dict[str, Any]:
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text(encoding="utf-8").splitlines() if listing.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "attention": optimized_attention.__name__,
    }


def versions() -> dict[str, str]:
    comfyui = importlib.import_module("comfyui_version").__version__
    return {"python": platform.python_version(), "torch": torch.__version__, "comfyui": comfyui}


def tables(report: dict[str, Any]) -> str:
    """The report in Markdown, as docs/performance.md holds it."""
    ratios, rows, operations = (report[name] for name in ("ratios", "rows", "operations"))
    edit_s = report["demo_edit_seconds"]
    layers = {"plain": operations["plain"]}
    for k in COUNTS:
        layers |= {f"K={k}, {form}": found for form, found in operations[f"k{k}"].items()}
    return "\n".join(
        [
            "| ALE evaluation over plain, same rows | plain | K=1 | K=3 | K=10 |",
            "|---|---|---|---|---|",
            *ratio_rows(ratios["shapes"]),
            "| worst | | " + " | ".join(f"{ratios[name]:.3f}" for name in RATIOS) + " |",
            "| target | | " + " | ".join(str(TARGETS.get(name, "")) for name in RATIOS) + " |",
            "",
            "| the same by family | plain | K=1 | K=3 | K=10 |",
            "|---|---|---|---|---|",
            *ratio_rows(report["families"]),
            "",
            f"| one target row, {operations['layer']} | million operations | kernels |",
            "|---|---|---|",
            *(
                f"| {name} | {found['operations'] / 1e6:.1f} | {found['kernels']} |"
                for name, found in layers.items()
            ),
            "",
            f"| UNet rows of an edit of {STEPS} steps | published | here |",
            "|---|---|---|",
            *(
                f"| {name} | {rows['published']} | {rows[name]} |"
                for name in ("no injection", "object", "color")
            ),
            "",
            "| a step without injection | four rows in one call | three in two, of that |",
            "|---|---|---|",
            *(
                f"| {found['shape']} | {1000 * found['four_rows_seconds']:.0f} ms | "
                f"{found['three_over_four_rows']:.3f} |"
                for found in rows["policies"]
            ),
            "",
            f"| the same image again (target {RE_EDIT_TARGET}) | "
            + " | ".join(f"{name}: first | again, of that" for name in RE_EDITED)
            + " |",
            "|---|" + "---|---|" * len(RE_EDITED),
            *(
                f"| {found['shape']} | "
                + " | ".join(
                    f"{found[f'{name}_first_seconds']:.2f} s | "
                    f"{found[f'{name}_again_over_first']:.3f}"
                    for name in RE_EDITED
                )
                + " |"
                for found in report["re_edits"]
            ),
            "",
            f"Import of the pack: {report['import_seconds']:.3f} s (target {IMPORT_TARGET_S}). "
            f"Edit of the demo scene: {'not run' if edit_s is None else f'{edit_s} s'}.",
            f"{report['machine']} {report['versions']}",
        ]
    )


def ratio_rows(shapes: Sequence[dict[str, Any]]) -> list[str]:
    """A table's rows of measure_ratios."""
    return [
        f"| {found['shape']} | {1000 * found['plain_seconds']:.0f} ms | "
        + " | ".join(f"{found[name]:.3f}" for name in RATIOS)
        + " |"
        for found in shapes
    ]


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="dev.py bench speed", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the report as JSON")
    parser.add_argument("--quick", action="store_true", help="tiny latents: counts, no true times")
    parser.add_argument(
        "--rounds", type=int, metavar="N", help="at most N evaluations of each (default 25)"
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help="of a CPU; with 1, processor time is measured"
    )
    options = parser.parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    with torch.inference_mode():
        report = measure(options.quick, options.rounds or (1 if options.quick else 25))
    print(tables(report))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0

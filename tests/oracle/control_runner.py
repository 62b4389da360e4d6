"""A whole edit by a Control of the pack on diffusers' UNet, without ComfyUI's sampling: what
host/attention/ does to a Control, in its plainest form.

It shows that an editor's control and its blend are right whatever the host does, for any number of
images, with the branches together or in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ale_edit.attention.control import Call, Control, Layer, running_order
from ale_edit.attention.control import Step as RunStep
from ale_edit.inversion.ddcm import ItemNoise, predicted_edit, start

from .ale_diffusers import Network, Step, attended_by, heads, scheduler, timesteps

Projected = dict[str, tuple[Tensor, Tensor, Tensor]]
Blend = Callable[[Mapping[str, Tensor], RunStep], Mapping[str, Tensor]]


def layers_of(unet: Any, size: tuple[int, int]) -> dict[Any, Layer]:
    """Each attention module of a UNet, with its layer on a latent of `size` cells."""
    found: dict[Any, Layer] = {}
    for kind, name in (("self", "attn1"), ("cross", "attn2")):
        parts = [("input", b) for b in unet.down_blocks]
        parts += [("middle", unet.mid_block)]
        parts += [("output", b) for b in unet.up_blocks]
        modules: list[tuple[str, int, Any]] = []
        for depth, (part, block) in enumerate(parts):
            level = min(depth, len(parts) - 1 - depth, len(unet.down_blocks) - 1)
            modules += [(part, level, m) for n, m in block.named_modules() if n.endswith(name)]
        for ordinal, (part, level, module) in enumerate(modules):
            grid = size
            for _ in range(level):
                grid = (-(-grid[0] // 2), -(-grid[1] // 2))
            key = (part, ordinal, 0)
            found[module] = Layer(kind, key, ordinal, len(modules), grid, size)  # type: ignore[arg-type]
    return found


@dataclass
class ControlAttention:
    """diffusers' attention processor for the rows [cond, uncond] x [running branches] x [images].

    kept: by attention module and half the queries, keys and values of the branches of this step,
    those that ran before too.
    """

    control: Control
    layers: Mapping[Any, Layer]
    step: RunStep
    running: tuple[str, ...] = ()
    kept: dict[tuple[Any, bool], Projected] = field(default_factory=dict)

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **_: Any
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        qkv = [to(x) for to, x in ((attn.to_q, hidden_states), (attn.to_k, context))]
        qkv.append(attn.to_v(context))
        halves = zip(*(t.chunk(2) for t in qkv), strict=True)
        outs = [self.half(attn, part, half == 0) for half, part in enumerate(halves)]
        return attn.to_out[0](torch.cat(outs))

    def half(self, attn: Any, qkv: tuple[Tensor, ...], is_cond: bool) -> Tensor:
        layer, names = self.layers[attn], self.running
        kept = self.kept.setdefault((attn, is_cond), {})
        for name, *part in zip(names, *(t.chunk(len(names)) for t in qkv), strict=True):
            kept[name] = tuple(part)  # type: ignore[assignment]
        reads = {r for n in names for r in self.control.reads.get(n, ())} | set(names)
        q, k, v = ({n: kept[n][i] for n in reads} for i in range(3))

        def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
            parts = (heads(t, attn).transpose(1, 2) for t in (q, k, v))
            out = torch.nn.functional.scaled_dot_product_attention(*parts, attn_mask=bias)
            return out.transpose(1, 2).flatten(2)

        if layer.kind == "self":
            routes = self.control.routes(layer, self.step, is_cond)
            whose = {n: (r.q, r.k, r.v) for n, r in routes.items()}
            outs = {}
            for n in names:
                of_q, of_k, of_v = whose.get(n, (n, n, n))
                outs[n] = attend(q[of_q], k[of_k], v[of_v])
            return torch.cat([outs[n] for n in names])
        call = Call(
            layer=layer,
            step=self.step,
            is_cond=is_cond,
            running=frozenset(names),
            heads=attn.heads,
            q=q,
            k=k,
            v=v,
            texts={},
            attend=attend,
            attend_parts=attend,
            plain=lambda n: attend(q[n], k[n], v[n]),
            project=lambda keys, values: (attn.to_k(keys), attn.to_v(values)),
        )
        acts = layer.kind in self.control.kinds and self.control.acts(layer, self.step, is_cond)
        changed = self.control.outputs(call) if acts else {}
        assert changed.keys() <= set(names)
        return torch.cat([changed.get(n, call.plain(n)) for n in names])


def run_control(
    network: Network,
    control: Control,
    texts: Mapping[str, Tensor],
    negative: Tensor,
    guidance: Mapping[str, float],
    x0: Tensor,
    seed: int,
    steps: int,
    strength: float = 1.0,
    blend: Blend | None = None,
    is_in_turn: bool = False,
) -> list[Step]:
    """The target's steps of an edit of x0 (B, C, h, w) on virtual inversion, eta 1. texts: of each
    branch, (N, D)."""
    branches = tuple(texts)
    order = running_order(branches, control.reads) if is_in_turn else None
    groups = [(b,) for b in order] if order else [branches]
    layers = layers_of(network.unet, (x0.shape[-2], x0.shape[-1]))
    schedule = timesteps(steps)[steps - int(steps * strength) :]
    abars = scheduler().alphas_cumprod[schedule]
    sigmas = [*((1 - abars) / abars).sqrt().tolist(), 0.0]
    noise = ItemNoise(seed, x0.shape)
    x = dict.fromkeys(branches, start(x0, noise.draw(x0), sigmas[0], strength == 1).source)
    record = []
    for i, t in enumerate(schedule):
        sigma = sigmas[i]
        step = RunStep(i, len(schedule), sigma)
        attention = ControlAttention(control, layers, step)
        denoised: dict[str, Tensor] = {}
        for group in groups:
            attention.running = group
            with attended_by(network.unet, attention):
                denoised |= _denoised(network, group, x, sigma, t, texts, negative, guidance)
        if blend is not None:
            denoised = dict(blend(denoised, step))
        p = {b: predicted_edit(x0, denoised["source"], denoised[b]) for b in branches}
        record.append(Step(x["target"] / (1 + sigma**2) ** 0.5, p["target"]))
        n = noise.draw(x0)
        x = {b: p[b] + sigmas[i + 1] * n for b in branches}
    return record


def _denoised(
    network: Network,
    group: Sequence[str],
    x: Mapping[str, Tensor],
    sigma: float,
    t: int,
    texts: Mapping[str, Tensor],
    negative: Tensor,
    guidance: Mapping[str, float],
) -> dict[str, Tensor]:
    latents = torch.cat([x[b] for b in group])
    batch = len(latents) // len(group)
    most = max(len(texts[b]) for b in (*group, *texts))
    rows = [texts[b].repeat(most // len(texts[b]), 1) for b in group]
    empty = negative.repeat(most // len(negative), 1)
    text = torch.stack([r for r in [*rows, *[empty] * len(group)] for _ in range(batch)])
    scaled = torch.cat([latents, latents]) / (1 + sigma**2) ** 0.5
    cond, uncond = network(scaled, t, text).chunk(2)
    scales = torch.tensor([guidance[b] for b in group]).repeat_interleave(batch)
    e = uncond + scales[:, None, None, None] * (cond - uncond)
    return dict(zip(group, (latents - sigma * e).chunk(len(group)), strict=True))

"""Edits without attention control on flow transformers, written from the papers on diffusers'
networks: InfEdit's virtual inversion (DDCM, eta 1) where a latent is (1 - t) x + t n, FlowEdit and
FlowAlign. Nothing here is the pack's.

A Velocity is v(x, t, text) for latents (B, C, ..., h, w) and one text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import comfy.utils
import numpy as np
import torch
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from diffusers.models.transformers.transformer_flux2 import Flux2Transformer2DModel
from diffusers.models.transformers.transformer_qwenimage import QwenImageTransformer2DModel
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from diffusers.models.transformers.transformer_z_image import ZImageTransformer2DModel
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from einops import rearrange
from torch import Tensor, nn

from ale_edit.tests.host import flow_models as tiny


@dataclass(frozen=True, eq=False)
class Text:
    """tokens: (T, C). pooled: (P,). guidance: embedded."""

    tokens: Tensor
    pooled: Tensor | None = None
    guidance: float = 3.5

    def rows(self, count: int) -> Tensor:
        return self.tokens.expand(count, -1, -1)

    def pooled_rows(self, count: int) -> Tensor:
        assert self.pooled is not None
        return self.pooled.expand(count, -1)


Velocity = Callable[[Tensor, float, Text], Tensor]


# -- networks --------------------------------------------------------------------------------------


def load(network: nn.Module, weights: Mapping[str, Tensor], key_map: Mapping[str, Any]) -> Any:
    """A network of diffusers with ComfyUI's weights by one of ComfyUI's key maps: the name of a
    weight, with (dim, start, length) of a part of it, or with a change of it."""
    own: dict[str, Tensor] = {}
    for name in network.state_dict():
        key, part, change = key_map[name], None, None
        if not isinstance(key, str):
            key, part, *changes = key
            change = changes[0] if changes else None
        weight = weights[key if key in weights else key.replace(".scale", ".weight")]
        own[name] = weight.narrow(*part) if part else change(weight) if change else weight
    network.load_state_dict(own)
    return network.eval().requires_grad_(False)


def times(x: Tensor, t: float) -> Tensor:
    return torch.full((len(x),), t)


def grid_ids(height: int, width: int, axes: int) -> Tensor:
    """(h * w, axes): rows on the second axis, columns on the third."""
    ids = torch.zeros(height, width, axes)
    ids[..., 1] += torch.arange(height)[:, None]
    ids[..., 2] += torch.arange(width)
    return ids.flatten(0, 1)


PATCHES = "b c (h p) (w q) -> b (h w) (c p q)"
LATENTS = "b (h w) (c p q) -> b c (h p) (w q)"


def flux(model: Any) -> Velocity:
    config = model.model_config.unet_config
    network = FluxTransformer2DModel(
        patch_size=1, in_channels=64, num_layers=2, num_single_layers=2, attention_head_dim=32,
        num_attention_heads=4, joint_attention_dim=tiny.TEXT, pooled_projection_dim=tiny.POOLED,
        guidance_embeds=config["guidance_embed"], axes_dims_rope=(4, 14, 14),
    )  # fmt: skip
    key_map = comfy.utils.flux_to_diffusers(config)
    network = load(network, model.diffusion_model.state_dict(), key_map)

    def velocity(x: Tensor, t: float, text: Text) -> Tensor:
        height, width = (n // 2 for n in x.shape[-2:])
        v = network(
            hidden_states=rearrange(x, PATCHES, p=2, q=2),
            encoder_hidden_states=text.rows(len(x)),
            pooled_projections=text.pooled_rows(len(x)),
            timestep=times(x, t),
            img_ids=grid_ids(height, width, 3),
            txt_ids=torch.zeros(len(text.tokens), 3),
            guidance=times(x, text.guidance) if config["guidance_embed"] else None,
        ).sample
        return rearrange(v, LATENTS, h=height, p=2, q=2)

    return velocity


def flux2(model: Any) -> Velocity:
    network = Flux2Transformer2DModel(
        in_channels=128, num_layers=2, num_single_layers=2, attention_head_dim=32,
        num_attention_heads=4, joint_attention_dim=tiny.TEXT, mlp_ratio=3.0,
        axes_dims_rope=(8, 8, 8, 8), rope_theta=2000,
    )  # fmt: skip
    key_map = dict(comfy.utils.flux_to_diffusers(model.model_config.unet_config))
    swap = comfy.utils.swap_scale_shift
    key_map["norm_out.linear.weight"] = ("final_layer.adaLN_modulation.1.weight", None, swap)
    for i in range(2):
        block, single = f"transformer_blocks.{i}", f"single_transformer_blocks.{i}.attn"
        for side, ours in (("ff", "img_mlp"), ("ff_context", "txt_mlp")):
            for name, number in (("linear_in", 0), ("linear_out", 2)):
                key_map[f"{block}.{side}.{name}.weight"] = (
                    f"double_blocks.{i}.{ours}.{number}.weight"
                )
        key_map[f"{single}.to_qkv_mlp_proj.weight"] = f"single_blocks.{i}.linear1.weight"
        key_map[f"{single}.to_out.weight"] = f"single_blocks.{i}.linear2.weight"
    for theirs, ours in (("timestep", "time_in"), ("guidance", "guidance_in")):
        for number, layer in ((1, "in_layer"), (2, "out_layer")):
            name = f"time_guidance_embed.{theirs}_embedder.linear_{number}.weight"
            key_map[name] = f"{ours}.{layer}.weight"
    for name in ("double_stream_modulation_img", "double_stream_modulation_txt"):
        key_map[f"{name}.linear.weight"] = f"{name}.lin.weight"
    key_map["single_stream_modulation.linear.weight"] = "single_stream_modulation.lin.weight"
    network = load(network, model.diffusion_model.state_dict(), key_map)

    def velocity(x: Tensor, t: float, text: Text) -> Tensor:
        height, width = x.shape[-2:]
        tokens = torch.cat([torch.zeros(512 - len(text.tokens), tiny.TEXT), text.tokens])
        numbers = torch.zeros(512, 4)
        numbers[:, 3] = torch.arange(512)
        v = network(
            hidden_states=rearrange(x, "b c h w -> b (h w) c"),
            encoder_hidden_states=tokens.expand(len(x), -1, -1),
            timestep=times(x, t),
            img_ids=grid_ids(height, width, 4),
            txt_ids=numbers,
            guidance=times(x, text.guidance),
        ).sample
        return rearrange(v, "b (h w) c -> b c h w", h=height)

    return velocity


def sd3(model: Any) -> Velocity:
    network = SD3Transformer2DModel(
        sample_size=16, in_channels=16, num_layers=2, attention_head_dim=64, num_attention_heads=2,
        joint_attention_dim=tiny.TEXT, caption_projection_dim=128,
        pooled_projection_dim=tiny.POOLED, pos_embed_max_size=16, dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )  # fmt: skip
    key_map = comfy.utils.mmdit_to_diffusers({"depth": 2, "num_blocks": 2})
    network = load(network, model.diffusion_model.state_dict(), key_map)

    def velocity(x: Tensor, t: float, text: Text) -> Tensor:
        return network(
            hidden_states=x,
            encoder_hidden_states=text.rows(len(x)),
            pooled_projections=text.pooled_rows(len(x)),
            timestep=times(x, 1000 * t),
        ).sample

    return velocity


def qwen(model: Any) -> Velocity:
    network = QwenImageTransformer2DModel(
        **{k: v for k, v in tiny.QWEN.items()}  # the same names
    )
    weights = model.diffusion_model.state_dict()
    network = load(network, weights, {name: name for name in weights})

    def velocity(x: Tensor, t: float, text: Text) -> Tensor:
        height, width = (n // 2 for n in x.shape[-2:])
        v = network(
            hidden_states=rearrange(x[:, :, 0], PATCHES, p=2, q=2),
            encoder_hidden_states=text.rows(len(x)),
            timestep=times(x, t),
            img_shapes=[[(1, height, width)]] * len(x),
        ).sample
        return rearrange(v, LATENTS, h=height, p=2, q=2)[:, :, None]

    return velocity


def z_image(model: Any) -> Velocity:
    layout = tiny.Z_IMAGE
    same = (
        "in_channels",
        "dim",
        "n_layers",
        "n_refiner_layers",
        "n_heads",
        "n_kv_heads",
        "qk_norm",
    )
    more = ("cap_feat_dim", "axes_dims", "axes_lens", "rope_theta")
    network = ZImageTransformer2DModel(**{name: layout[name] for name in same + more})
    key_map = comfy.utils.z_image_to_diffusers(layout)
    network = load(network, model.diffusion_model.state_dict(), key_map)

    def velocity(x: Tensor, t: float, text: Text) -> Tensor:
        images = [image[:, None] for image in x]
        out = network(images, 1 - times(x, t), [text.tokens] * len(x)).sample
        return -torch.stack([image[:, 0] for image in out])

    return velocity


NETWORKS: dict[str, Callable[[Any], Velocity]] = {
    "SD 3.5": sd3,
    "Flux.1": flux,
    "Flux.1 schnell": flux,
    "Flux.2": flux2,
    "Qwen-Image": qwen,
    "Z-Image": z_image,
}
SHIFTS: dict[str, dict[str, float]] = {
    **{"SD 3.5": {"shift": 3.0}, "Z-Image": {"shift": 3.0}, "Flux.1 schnell": {"shift": 1.0}},
    **{"Flux.1": {"mu": 1.15}, "Qwen-Image": {"mu": 1.15}, "Flux.2": {"mu": 2.02}},
}


def schedule(name: str, steps: int) -> list[float]:
    """linspace(1, 1/n, n) through the family's shift, and 0: in 64 bits, rounded to 32, as a
    network sees a thousand times what a sigma is off."""
    own = SHIFTS[name]
    u = np.linspace(1, 1 / steps, steps)
    if "mu" in own:
        sigmas = math.exp(own["mu"]) / (math.exp(own["mu"]) + 1 / u - 1)
    else:
        sigmas = own["shift"] * u / (1 + (own["shift"] - 1) * u)
    return [*torch.tensor(sigmas, dtype=torch.float32).tolist(), 0.0]


def diffusers_schedule(name: str, steps: int) -> list[float]:
    """The sigmas of diffusers' scheduler, the last one 0."""
    own = SHIFTS[name]
    mu = own.get("mu")
    scheduler = FlowMatchEulerDiscreteScheduler(
        shift=own.get("shift", 1.0), use_dynamic_shifting=mu is not None
    )
    scheduler.set_timesteps(sigmas=list(np.linspace(1, 1 / steps, steps)), mu=mu)
    return torch.as_tensor(scheduler.sigmas).tolist()


# -- methods ---------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Task:
    """x0: (B, C, ..., h, w), as the network sees it. guidance: of source and target. keep: 1 where
    the source stays."""

    x0: Tensor
    source: Text
    target: Text
    negative: Text
    guidance: tuple[float, float]
    sigmas: list[float]
    seed: int
    keep: Tensor | None = None
    draws: int = 1

    def noises(self) -> Callable[[], Tensor]:
        """Draws of normal noise, each image's from its own seed."""
        generators = [torch.Generator().manual_seed(self.seed + j) for j in range(len(self.x0))]
        shape = self.x0.shape[1:]
        return lambda: torch.stack([torch.randn(shape, generator=g) for g in generators])


def guided(velocity: Velocity, x: Tensor, t: float, text: Text, negative: Text, w: float) -> Tensor:
    v = velocity(x, t, text)
    if math.isclose(w, 1):
        return v
    unconditional = velocity(x, t, negative)
    return unconditional + w * (v - unconditional)


def predict(task: Task, velocity: Velocity, x_s: Tensor, x_t: Tensor, t: float) -> Tensor:
    """The difference of the two predictions of the image."""
    w_s, w_t = task.guidance
    v_s = guided(velocity, x_s, t, task.source, task.negative, w_s)
    v_t = guided(velocity, x_t, t, task.target, task.negative, w_t)
    d = (x_t - t * v_t) - (x_s - t * v_s)
    return d if task.keep is None else d * (1 - task.keep)


def infedit(task: Task, velocity: Velocity) -> list[Tensor]:
    """InfEdit, Algorithm 2: the predicted edit after each step."""
    draw, p, steps = task.noises(), task.x0, []
    for t in task.sigmas[:-1]:
        noise = draw()
        x_s, x_t = ((1 - t) * x + t * noise for x in (task.x0, p))
        p = task.x0 + predict(task, velocity, x_s, x_t, t)
        steps.append(p)
    return steps


def flow_edit(task: Task, velocity: Velocity, zeta: float = 0.0) -> list[Tensor]:
    """FlowEdit, Algorithm 1, and FlowAlign's term: z after each step."""
    draw, z, steps = task.noises(), task.x0, []
    for t, after in zip(task.sigmas, task.sigmas[1:], strict=False):
        changes = []
        for _ in range(task.draws):
            x_s = (1 - t) * task.x0 + t * draw()
            changes.append(predict(task, velocity, x_s, z + x_s - task.x0, t))
        d = sum(changes) / task.draws
        # v_target - v_source, from x = D + t v and x_target - x_source = z - x0
        drift = ((z - task.x0) - d) / t
        z = z + (after - t) * drift - zeta * d
        steps.append(z)
    return steps

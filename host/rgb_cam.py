"""RGB-CAM in a ComfyUI run: the maths of attention/rgb_cam.py in every cross-attention layer of a
UNet.

The rows to act on are known by the conditioning: chunks whose entry carries Object-Restricted
Embeddings. Everything that a run needs (projected keys and values, cells of each region on each
layer's grid) is built during the run and dropped at its end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol
from uuid import UUID

import comfy.patcher_extension
import torch
from comfy.ldm.modules import attention as comfy_attention
from torch import Tensor

from ..attention.rgb_cam import (
    JoinedText,
    LayerText,
    RegionText,
    joined_cross_attention,
    joined_text,
    layer_text,
    region_cross_attention,
    region_text,
)
from ..prompts.ore import ObjectRestrictedEmbeddings
from ..regions.grid import CellGroup, cell_groups, coverage
from ..regions.regions import AnyRegions
from .conditioning import OREEntry, ore_entries
from .messages import NodeName
from .patching import RGB_CAM_KEY, WRAPPERS, with_wrapper
from .regions import masks_of_latent
from .rows import ore_rows, require_whole_batch, require_whole_latents, with_latent
from .run_checks import require_width
from .unet import LayerKey, cross_attention_layers, require_cross_attention

NODE = NodeName("Region Cross-Attention")
JOINED_POSITIONS = 64
"""On a CPU, layers of at most so many cells take one masked call (docs/performance.md)."""
TEXT_KEY = "ale_edit_text"
"""Entry of a layer's own options with its text before other nodes' patches."""


class LayerAttention(Protocol):
    """An attention function of ComfyUI with a layer's heads and precision: (B, L, C); bias (L, N)
    is added to the scores."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor: ...


def apply_rgb_cam(
    model: Any, regions: AnyRegions, strength: float = 1.0, background: Any = None
) -> Any:
    """A clone of a MODEL whose cross-attention follows the regions.

    strength: 0 is the unpatched model, 1 is RGB-CAM; between them the two attention outputs are
        mixed.
    background: a CONDITIONING of one entry and one text, which the positions of no region see
        instead of the whole prompt without its objects' words (an extension: the paper edits images
        whose background is kept anyway), or None.
    Raises ValueError for a model without cross-attention and for any other background.
    """
    require_cross_attention(model, NODE)
    outside = None if background is None else _background_text(background)

    def outer_sample(
        executor: Any, noise: Tensor, latent_image: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        guider = executor.class_obj
        entries = _require_entries(guider, regions)
        masks = masks_of_latent(regions, latent_image, NODE)
        settings = next(iter(entries.values())).ore.settings
        if strength == 0 or not settings.rgb_cam:
            return executor(noise, latent_image, *args, **kwargs)
        run = _Run(entries, masks, strength, guider.model_patcher, outside)
        run.install(guider.model_options)
        try:
            return executor(noise, latent_image, *args, **kwargs)
        finally:
            run.end()

    return with_wrapper(model, WRAPPERS.OUTER_SAMPLE, RGB_CAM_KEY, outer_sample, NODE)


def _background_text(background: Any) -> Tensor:
    """(N, D): the text of a background CONDITIONING."""
    texts = [text for text, _ in background]
    if len(texts) != 1 or texts[0].shape[0] != 1:
        found = f"{len(texts)} entries" if len(texts) != 1 else f"{texts[0].shape[0]} texts"
        raise ValueError(
            f"{NODE}: the background input has {found}; it must be one text. Connect one CLIP Text "
            "Encode."
        )
    return texts[0][0]


def _require_entries(guider: Any, regions: AnyRegions) -> dict[UUID, OREEntry]:
    """Our conditioning entries of a run, checked against the regions."""
    entries = ore_entries(guider.conds)
    if not entries:
        raise ValueError(
            f"{NODE}: no conditioning of this run was made by Object-Restricted Embeddings. "
            "Connect the target output of that node to the positive input of the sampler, or to "
            "the target input of Two-Branch Guider."
        )
    for cond in (cond for conds in guider.conds.values() for cond in conds):
        if cond["uuid"] in entries:
            _require_untouched(cond, entries[cond["uuid"]])
    settings = {entry.ore.settings for entry in entries.values()}
    if len(settings) > 1:
        raise ValueError(
            f"{NODE}: the conditionings of this run were made with different Method Settings. "
            "Connect the same edits to every Object-Restricted Embeddings."
        )
    for entry in entries.values():
        phrases = entry.ore.phrases
        if len(phrases) != len(regions.names):
            raise ValueError(
                f"{NODE}: the conditioning has {len(phrases)} objects ({', '.join(phrases)}), the "
                f"regions input has {len(regions.names)} ({', '.join(regions.names)}). Connect "
                "the same edits to Object-Restricted Embeddings and to Regions."
            )
    return entries


class _Run:
    """State of one sampling run."""

    def __init__(
        self,
        entries: Mapping[UUID, OREEntry],
        masks: tuple[Tensor, ...],
        strength: float,
        patcher: Any,
        background: Tensor | None,
    ) -> None:
        self._entries = entries
        self._masks = masks
        self._strength = strength
        self._patcher = patcher
        self._background = background
        self._layers = cross_attention_layers(patcher.get_model_object("diffusion_model"))
        self._groups: dict[tuple[int, int, int], tuple[CellGroup, ...]] = {}
        self._texts: dict[Any, LayerText | JoinedText] = {}
        self._replacements: dict[tuple[LayerKey, int], Any] = {}
        texts = [("positive", entry.ore.keys) for entry in entries.values()]
        if background is not None:
            texts.append(("background", background))
        for module in self._layers.values():
            for name, text in texts:
                require_width(name, text.shape[-1], module.to_k.in_features, NODE)

    def install(self, model_options: dict[str, Any]) -> None:
        """Add this run to its own model options."""
        for kind, wrapper in (
            (WRAPPERS.PREDICT_NOISE, _remember_latent),
            (WRAPPERS.APPLY_MODEL, self._apply_model),
        ):
            comfy.patcher_extension.add_wrapper(kind, wrapper, model_options, is_model_options=True)

    def end(self) -> None:
        """Drop the replacements, which refer to this run: it would live, and its patcher with it,
        until the next garbage collection, and ComfyUI would warn of a memory leak."""
        self._replacements.clear()

    def _apply_model(
        self, executor: Any, x: Tensor, t: Tensor, concat: Any, context: Any, control: Any,
        options: dict[str, Any], **extra: Any,
    ) -> Tensor:  # fmt: skip
        """One UNet call. Its options are complete here, with the patches of hooks, so that our
        replacement is the outermost whatever the order of the nodes."""
        if any(uuid in self._entries for uuid in options["uuids"]):
            require_whole_batch(x.shape[0], options, NODE)
            require_whole_latents(x.shape[2:], options, NODE)
            options = self._with_replacements(options)
        return executor(x, t, concat, context, control, options, **extra)

    def _with_replacements(self, options: dict[str, Any]) -> dict[str, Any]:
        replace = dict(options.get("patches_replace", {}))
        attn2 = replace["attn2"] = dict(replace.get("attn2", {}))
        for key, module in self._layers.items():
            inner = attn2.get(key) or attn2.get(key[:2])
            made = key, id(inner)  # the replacement keeps inner alive
            if made not in self._replacements:
                self._replacements[made] = self._make_attn2_replace(key, module, inner)
            attn2[key] = self._replacements[made]
        patches = dict(options.get("patches", {}))
        if patches.get("attn2_patch"):
            others = patches["attn2_patch"]
            patches["attn2_patch"] = [_remember_text, *others, self._require_text]
        return {**options, "patches_replace": replace, "patches": patches}

    def _require_text(self, n: Tensor, context: Tensor, value: Tensor, options: Any) -> Any:
        """The last attn2_patch: refuses what the others did to the text of our rows."""
        before = options[TEXT_KEY]
        if context is not before or value is not before:
            is_same = context.shape == value.shape == before.shape and all(
                torch.equal(text[rows], before[rows])
                for text in (context, value)
                for rows, _ in ore_rows(before.shape[0], options, self._entries)
            )
            if not is_same:
                raise ValueError(
                    f"{NODE}: another node on the model changes the text inside cross-attention, "
                    "such as Hypernetwork Loader or an attention couple. Remove that node, or "
                    f"bypass {NODE}."
                )
        return n, context, value

    def _make_attn2_replace(self, key: LayerKey, module: Any, inner: Any) -> Any:
        def attn2_replace(q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> Tensor:
            _require_whole_queries(q, options)
            attention = _attention(options)
            targets = self._by_layout(ore_rows(q.shape[0], options, self._entries))
            if not targets:
                return inner(q, k, v, options) if inner else attention(q, k, v)
            rows = [rows for rows, *_ in targets]
            out = _inner_output(q, k, v, rows, options, inner, attention, self._strength == 1.0)
            for rows, entry, layout in targets:
                text = self._layer_text(key, module, entry.ore, q, options, layout)
                regional = _regional_attention(q, text, options)
                if isinstance(text, JoinedText):
                    ours = joined_cross_attention(q[rows], text, regional)
                else:
                    ours = region_cross_attention(q[rows], text, regional)
                if inner:
                    plain = regional(q[rows], k[rows], v[rows])
                    out[rows] += self._strength * (ours - plain)
                elif self._strength != 1.0:
                    out[rows] = torch.lerp(out[rows], ours, self._strength)
                else:
                    out[rows] = ours
            return out

        return attn2_replace

    def _by_layout(
        self, targets: list[tuple[slice, OREEntry]]
    ) -> list[tuple[slice, OREEntry, int]]:
        """Rows that share the layout of their regions, with its number: those of a chunk together,
        or each row alone where each image of the batch has its own."""
        if len(self._masks) == 1:
            return [(rows, entry, 0) for rows, entry in targets]
        return [
            (slice(rows.start + j, rows.start + j + 1), entry, j)
            for rows, entry in targets
            for j in range(len(self._masks))
        ]

    def _layer_text(
        self,
        key: LayerKey,
        module: Any,
        ore: ObjectRestrictedEmbeddings,
        q: Tensor,
        options: dict[str, Any],
        layout: int,
    ) -> LayerText | JoinedText:
        """Keys and values of every group of cells of one layer, projected once a run by the layer
        itself."""
        height, width = options["activations_shape"][-2:]
        cache_key = (key, id(ore), height, width, layout, q.device, q.dtype)
        text = self._texts.get(cache_key)
        if text is None:
            keys = module.to_k(ore.keys.to(q))  # (N, C)
            values = module.to_v(ore.values.to(q))  # (K+1, N, C)
            regions = [
                region_text(keys, values, ore.owner, g.cells, g.value, g.visible)
                for g in self._cell_groups(ore, height, width, layout)
                if g.visible or self._background is None
            ]
            outside = self._outside(module, ore, q, height, width, layout)
            text = layer_text([*regions, *outside])
            if height * width <= JOINED_POSITIONS and _is_slow_to_start(q, text):
                text = joined_text(text)
            # weight hooks may change the projections in the middle of a run
            if getattr(self._patcher, "current_hooks", None) is None:
                self._texts[cache_key] = text
        return text

    def _outside(
        self,
        module: Any,
        ore: ObjectRestrictedEmbeddings,
        q: Tensor,
        height: int,
        width: int,
        layout: int,
    ) -> list[RegionText]:
        """The cells of no region, with the keys and values of the background's own text."""
        if self._background is None:
            return []
        text = self._background.to(q)[None]
        keys, values = module.to_k(text), module.to_v(text)  # (1, N, C)
        return [
            RegionText(g.cells.to(q.device), keys, values)
            for g in self._cell_groups(ore, height, width, layout)
            if not g.visible
        ]

    def _cell_groups(
        self, ore: ObjectRestrictedEmbeddings, height: int, width: int, layout: int
    ) -> tuple[CellGroup, ...]:
        if (height, width, layout) not in self._groups:
            covered = coverage(self._masks[layout], height, width, ore.settings.variant)
            groups = cell_groups(covered, ore.settings.overlap == "last object")
            self._groups[height, width, layout] = groups
        return self._groups[height, width, layout]


def _remember_latent(
    executor: Any, x: Tensor, timestep: Tensor, model_options: dict[str, Any], *args: Any
) -> Tensor:
    return executor(x, timestep, with_latent(model_options, x), *args)


def _remember_text(n: Tensor, context: Tensor, value: Tensor, options: dict[str, Any]) -> Any:
    """The first attn2_patch: lets the last one see what the others changed."""
    options[TEXT_KEY] = context
    return n, context, value


def _require_whole_queries(q: Tensor, options: Mapping[str, Any]) -> None:
    height, width = options["activations_shape"][-2:]
    expected = (options["original_shape"][0], height * width)
    if q.shape[:2] != expected:
        raise ValueError(
            f"{NODE}: another node on the model changes the rows or positions of cross-attention, "
            f"such as an attention couple or token merging: {expected[0]} rows of {expected[1]} "
            f"positions became {q.shape[0]} of {q.shape[1]}. Remove that node, or bypass {NODE}."
        )


def _attention(options: dict[str, Any]) -> LayerAttention:
    """ComfyUI's selected attention, with the running layer's heads and precision."""
    return _of_layer(comfy_attention.optimized_attention, options)


def _regional_attention(
    q: Tensor, text: LayerText | JoinedText, options: dict[str, Any]
) -> LayerAttention:
    """The attention of the cells to their texts: ComfyUI's selected one, unless it is slow to
    start."""
    if isinstance(text, JoinedText) or _is_slow_to_start(q, text):
        return _of_layer(comfy_attention.attention_pytorch, options)
    return _attention(options)


def _is_slow_to_start(q: Tensor, text: LayerText) -> bool:
    """On a CPU ComfyUI selects sub-quadratic attention, to save memory that so few tokens do not
    need; PyTorch's own starts in a quarter of its time, which counts with several regions. A single
    one saves nothing, and so stays rounded as plain attention is."""
    selected = comfy_attention.optimized_attention
    is_sub_quad = q.device.type == "cpu" and selected is comfy_attention.attention_sub_quad
    return is_sub_quad and len(text.regions) > 1


def _of_layer(function: Any, options: dict[str, Any]) -> LayerAttention:
    def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        return function(
            q,
            k,
            v,
            options["n_heads"],
            attn_precision=options["attn_precision"],
            transformer_options=options,
            **({} if bias is None else {"mask": bias}),
        )

    return attention


def _inner_output(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    ours: list[slice],
    options: dict[str, Any],
    inner: Any,
    attention: LayerAttention,
    is_full_strength: bool,
) -> Tensor:
    """What the layer gives without RGB-CAM, (B, L, C); our own rows are left undefined where they
    are not needed."""
    if inner:
        return inner(q, k, v, options).clone()
    if not is_full_strength:
        return attention(q, k, v)
    out = torch.empty_like(q)
    for rows in _other_rows(q.shape[0], ours):
        out[rows] = attention(q[rows], k[rows], v[rows])
    return out


def _other_rows(count: int, ours: list[slice]) -> list[slice]:
    """The maximal runs of rows that are not ours."""
    edges = [
        0,
        *(edge for rows in sorted(ours, key=lambda r: r.start) for edge in (rows.start, rows.stop)),
        count,
    ]
    runs = zip(edges[::2], edges[1::2], strict=True)
    return [slice(start, stop) for start, stop in runs if start < stop]


def _require_untouched(cond: Mapping[str, Any], entry: OREEntry) -> None:
    """Refuses what other nodes may have done to our conditioning on its way to the sampler."""
    text, base = cond["cross_attn"], entry.ore.base
    tokens, expected = text.shape[1], base.shape[0]
    if tokens % expected:
        raise ValueError(
            f"{NODE}: the conditioning has {tokens} tokens where Object-Restricted Embeddings made "
            f"{expected}; another node changed the text after it. Remove what appends tokens to "
            "this conditioning."
        )
    # a negative has one text for both branches
    rows = text.chunk(2)[1] if entry.is_two_branch and text.shape[0] > 1 else text
    if not bool((rows.unflatten(1, (-1, expected)).to(base) == base).all()):
        raise ValueError(
            f"{NODE}: another node changed the text of the conditioning after Object-Restricted "
            "Embeddings (such as Conditioning Concat or Average). Connect that node's output "
            "directly."
        )
    if cond.get("area") is not None:
        raise ValueError(
            f"{NODE}: the conditioning is limited to the area {tuple(cond['area'])}. Remove "
            "Conditioning (Set Area); the regions say where each object is."
        )
    if cond.get("mask") is not None and cond.get("set_area_to_bounds"):
        raise ValueError(
            f"{NODE}: the conditioning is limited to the area of a mask. Set Conditioning (Set "
            "Mask) to default instead of mask bounds; the regions say where each object is."
        )

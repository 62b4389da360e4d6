"""Attention controls in the UNet of a ComfyUI run.

Each node of ours adds its control to the run (`add_control`); one adapter serves them all. Its
hooks are put into the options of each call of the model, where the patches of every other node and
hook are known already: it exchanges rows before them and computes outputs after them, whatever the
order of the nodes. Controls act in the order in which their nodes follow the checkpoint. Where two
give the same branch of a layer a route or an output, the later one's stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import comfy.patcher_extension
import torch
from torch import Tensor
from torch.nn import Module

from ...attention.control import Control, Layer, LayerKind, Step
from ..comfy_types import Options
from ..patching import WRAPPERS, add_outermost_wrapper, wrap_model
from ..text.conditioning import branch_entries
from .layer_call import LayerCall, Replacement
from .row_exchange import (
    RowIndices,
    exchange_features,
    exchange_rows,
    find_features,
    find_routes,
    has_readers,
    put_rows,
)
from .rows import (
    STEP_KEY,
    add_latent,
    add_step,
    chunks_of,
    require_options,
    require_whole_batch,
    require_whole_latents,
    step_index,
    step_of,
)
from .store import STORE_KEY, StepStore
from .unet import (
    LayerKey,
    cross_attention_layers,
    feature_modules,
    layer_stages,
    self_attention_layers,
)

if TYPE_CHECKING:
    from comfy.ldm.modules.attention import CrossAttention
    from comfy.model_patcher import ModelPatcher
    from comfy.patcher_extension import WrapperExecutor
    from comfy.samplers import CFGGuider

RUN_KEY = "ale_edit_attention"
"""Entry of transformer_options with the AttentionRun of the running sampler."""
TEXT_KEY = "ale_edit_text"
"""Entry of a layer's own options with its text before other nodes' patches."""
LAYER_KEYS = ("block", "block_index", "activations_shape", "original_shape")
"""What a UNet writes into the options of each attention layer."""
HOOKS: dict[LayerKind, str] = {"self": "attn1", "cross": "attn2"}


MakeControl: TypeAlias = "Callable[[CFGGuider, Tensor], Control | None]"
Replacements: TypeAlias = dict[tuple[str | int, ...], Replacement]
"""Of an attention layer by its block, (block, number) or (block, number, transformer)."""
AttentionInputs: TypeAlias = tuple[Tensor, Tensor, Tensor]
"""What queries, keys and values are projected from, as ComfyUI's patches take and give it."""


def add_control(
    model: ModelPatcher, key: str, make_control: MakeControl, node: str
) -> ModelPatcher:
    """A clone of a MODEL whose runs act under a control.

    make_control: (guider, latent image) -> the control of one run, or None for none; it refuses
        what the run cannot do. node: the node to name in errors.
    """

    def outer_sample(
        executor: WrapperExecutor, noise: Tensor, latent_image: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        guider = cast("CFGGuider", executor.class_obj)
        control = make_control(guider, latent_image)
        if control is None:
            return executor(noise, latent_image, *args, **kwargs)
        with _open_run(guider) as run:
            run.controls.append((control, node))
            return executor(noise, latent_image, *args, **kwargs)

    return wrap_model(model, WRAPPERS.OUTER_SAMPLE, key, outer_sample, node)


def running_controls(options: Options) -> list[Control]:
    """The controls of a run, by its transformer_options."""
    return [control for control, _ in controls_with_nodes(options)]


def controls_with_nodes(options: Options) -> list[tuple[Control, str]]:
    """The controls of a run, each with the node to name in errors."""
    return options[RUN_KEY].controls if RUN_KEY in options else []


@contextmanager
def _open_run(guider: CFGGuider) -> Iterator[AttentionRun]:
    """The AttentionRun of a guider's run. The first node opens it and ends it."""
    options = guider.model_options.setdefault("transformer_options", {})
    if RUN_KEY in options:
        yield options[RUN_KEY]
        return
    run = options[RUN_KEY] = AttentionRun(guider)
    run.install(guider.model_options)
    try:
        yield run
    finally:
        run.end()
        guider.model_options["transformer_options"].pop(RUN_KEY, None)


class AttentionRun:
    """The adapter of one sampling run.

    controls: with the node to name in errors, in the order in which they act.
    """

    def __init__(self, guider: CFGGuider) -> None:
        self.controls: list[tuple[Control, str]] = []
        self._entries = branch_entries(guider.conds)
        self._patcher = guider.model_patcher
        model = self._patcher.get_model_object("diffusion_model")
        self._branches: tuple[str, ...] = getattr(guider, "branch_names", ())
        self._modules: dict[LayerKind, dict[LayerKey, CrossAttention]] = {
            "self": self_attention_layers(model),
            "cross": cross_attention_layers(model),
        }
        self._feature_modules = feature_modules(model)
        self._layers: dict[tuple[object, ...], Layer] = {}
        self._replacements: dict[tuple[LayerKind, LayerKey, int], Replacement] = {}
        self._indices: RowIndices = {}
        self._schedule: list[float] = []
        self._has_acted = False  # caches of other nodes may leave out calls, but never the first

    @property
    def _node(self) -> str:
        """The node to name where it may be any of ours."""
        return self.controls[0][1]

    def install(self, model_options: Options) -> None:
        """Add this run to its own model options."""
        for kind, wrapper in (
            (WRAPPERS.PREDICT_NOISE, self._remember_latent),
            (WRAPPERS.APPLY_MODEL, self._apply_model),
        ):
            comfy.patcher_extension.add_wrapper(kind, wrapper, model_options, is_model_options=True)
        # around wrappers that leave out model calls: predictions are blended at every step
        add_outermost_wrapper(model_options, WRAPPERS.PREDICT_NOISE, RUN_KEY, self._blend)

    def end(self) -> None:
        """Drop what refers to this run: it would live, and its patcher with it, until the next
        garbage collection, and ComfyUI would warn of a memory leak."""
        self._replacements.clear()
        self.controls.clear()

    def _remember_latent(
        self,
        executor: WrapperExecutor,
        x: Tensor,
        timestep: Tensor,
        model_options: Options,
        *args: Any,
    ) -> Tensor:
        out = executor(x, timestep, add_latent(model_options, x, self._node), *args)
        if not self._has_acted and self._acts_in_network():
            raise ValueError(_describe_engine(self._node))
        return out

    def _acts_in_network(self) -> bool:
        return any(control.acts_in_network() for control, _ in self.controls)

    def _blend(
        self,
        executor: WrapperExecutor,
        x: Tensor,
        timestep: Tensor,
        model_options: Options,
        *args: Any,
    ) -> Tensor:
        """The guided predictions of a step, blended by the controls."""
        blending = [(c, node) for c, node in self.controls if type(c).blend is not Control.blend]
        if not blending:
            return executor(x, timestep, model_options, *args)
        step = step_of(add_step(model_options, timestep, blending[0][1])["transformer_options"])
        parts = executor(x, timestep, model_options, *args).chunk(len(self._branches))
        denoised = dict(zip(self._branches, parts, strict=True))
        for control, _ in blending:
            denoised = dict(control.blend(denoised, step))
        return torch.cat([denoised[name] for name in self._branches])

    # -- hooks of one call of the model ------------------------------------------------------------

    def _apply_model(
        self, executor: WrapperExecutor, x: Tensor, t: Tensor, concat: Tensor | None,
        context: Tensor, control: Options | None, options: Options, **extra: Any,
    ) -> Tensor:  # fmt: skip
        """One UNet call. Its options are complete here, with the patches of hooks."""
        self._has_acted = True
        if not self._acts_in_network():
            return executor(x, t, concat, context, control, options, **extra)
        require_options(options, ("uuids", "cond_or_uncond"), self._node)
        if any(uuid in self._entries for uuid in options["uuids"]):
            for given, node in self.controls:
                if given.kinds:
                    require_whole_batch(x.shape[0], options, node)
                    require_whole_latents(x.shape[2:], options, node)
            options = self._add_hooks(options)
            with self._exchange_features(x, options):
                return executor(x, t, concat, context, control, options, **extra)
        return executor(x, t, concat, context, control, options, **extra)

    def _add_hooks(self, options: Options) -> Options:
        patches = dict(options.get("patches", {}))
        replace = dict(options.get("patches_replace", {}))
        kinds = {kind for control, _ in self.controls for kind in control.kinds}
        for kind, hook in HOOKS.items():
            if kind in kinds:
                replace[hook] = self._add_replacements(kind, replace.get(hook, {}))
        patches["attn1_patch"] = [self._exchange_rows, *patches.get("attn1_patch", [])]
        others = patches.get("attn2_patch")
        if others and any(control.replaces_text for control, _ in self.controls):
            patches["attn2_patch"] = [_remember_text, *others, self._require_text]
        return {**options, "patches_replace": replace, "patches": patches}

    def _add_replacements(self, kind: LayerKind, others: Replacements) -> Replacements:
        replace = dict(others)
        for block, module in self._modules[kind].items():
            inner = replace.get(block) or replace.get(block[:2])
            key = kind, block, id(inner)  # the replacement keeps inner alive
            if key not in self._replacements:
                self._replacements[key] = self._make_replacement(kind, module, inner)
            replace[block] = self._replacements[key]
        return replace

    # -- routes ------------------------------------------------------------------------------------

    def _exchange_rows(
        self, n: Tensor, context: Tensor, value: Tensor, options: Options
    ) -> AttentionInputs:
        """The first attn1_patch: rows take the inputs of the branches of their routes."""
        layer, step = self._layer("self", options), self._step(options)
        chunks = chunks_of(n.shape[0], options, self._entries)
        store: StepStore | None = options.get(STORE_KEY)
        reads = find_routes(self.controls, layer, step)
        if store is not None:
            store.layers[layer.kind, layer.block] = layer
            put_rows(store, layer, chunks, reads, n, "input")
        if not has_readers(reads, chunks):
            return n, context, value
        require_whole_batch(n.shape[0], options, self._node_of_routes(layer, step))
        return exchange_rows((n, context, value), layer, chunks, reads, store, self._indices)

    def _node_of_routes(self, layer: Layer, step: Step) -> str:
        """The node to name where routes cannot be followed."""
        return next(
            node
            for control, node in self.controls
            for is_cond in (True, False)
            if control.routes(layer, step, is_cond)
        )

    # -- features ----------------------------------------------------------------------------------

    @contextmanager
    def _exchange_features(self, x: Tensor, options: Options) -> Iterator[None]:
        """Lets branches take the features of others while one call of the model runs."""
        node = next((node for control, node in self.controls if control.has_features()), None)
        if node is None:
            yield
            return
        seen: set[LayerKey] = set()

        def exchange(block: LayerKey, module: Any, inputs: Any, features: Tensor) -> Tensor:
            seen.add(block)
            layer = self._layer_at("self", block, features.shape[-2:], x.shape[-2:])
            chunks = chunks_of(features.shape[0], options, self._entries)
            store: StepStore | None = options.get(STORE_KEY)
            reads = find_features(self.controls, layer, self._step(options))
            if store is not None:
                put_rows(store, layer, chunks, reads, features, "features")
            if not has_readers(reads, chunks):
                return features
            require_whole_batch(features.shape[0], options, node)
            return exchange_features(features, layer, chunks, reads, store, self._indices)

        with ExitStack() as hooks:
            for block, module in self._feature_modules.items():
                hooks.enter_context(_hook_output(module, partial(exchange, block)))
            yield
        if not seen:
            raise ValueError(_describe_engine(node))

    # -- outputs -----------------------------------------------------------------------------------

    def _make_replacement(
        self, kind: LayerKind, module: CrossAttention, inner: Replacement | None
    ) -> Replacement:
        def replacement(q: Tensor, k: Tensor, v: Tensor, options: Options) -> Tensor:
            layer, step = self._layer(kind, options), self._step(options)
            store: StepStore | None = options.get(STORE_KEY)
            if store is not None:
                store.layers[layer.kind, layer.block] = layer
            running = LayerCall(layer, step, module, (q, k, v), options, store)
            running.keeps_projections = getattr(self._patcher, "current_hooks", None) is None
            chunks = chunks_of(q.shape[0], options, self._entries)
            for control, node in self.controls:
                if kind in control.kinds:
                    running.act(control, node, chunks)
            return running.output(inner)

        return replacement

    def _require_text(
        self, n: Tensor, context: Tensor, value: Tensor, options: Options
    ) -> AttentionInputs:
        """The last attn2_patch: refuses what the others did to text that a control replaces."""
        before = options[TEXT_KEY]
        if context is before and value is before:
            return n, context, value
        is_same = context.shape == value.shape == before.shape and all(
            torch.equal(text[chunk.rows[branch]], before[chunk.rows[branch]])
            for text in (context, value)
            for chunk in chunks_of(before.shape[0], options, self._entries)
            for branch in chunk.rows.keys() & chunk.entry.texts.keys()
        )
        if not is_same:
            node = next(node for control, node in self.controls if control.replaces_text)
            raise ValueError(
                f"{node}: another node on the model changes the text inside cross-attention, such "
                "as Hypernetwork Loader or an attention couple. Remove that node, or bypass "
                f"{node}."
            )
        return n, context, value

    # -- where a call is ---------------------------------------------------------------------------

    def _layer(self, kind: LayerKind, options: Options) -> Layer:
        require_options(options, LAYER_KEYS, self._node)
        block = (*options["block"], options["block_index"])
        sizes = (options[name][-2:] for name in ("activations_shape", "original_shape"))
        return self._layer_at(kind, block, *sizes)

    def _layer_at(
        self, kind: LayerKind, block: LayerKey, grid: Sequence[int], latent: Sequence[int]
    ) -> Layer:
        cells, whole = (grid[0], grid[1]), (latent[0], latent[1])
        key = kind, block, cells, whole
        if key not in self._layers:
            blocks = list(self._modules[kind])
            ordinal, stage = blocks.index(block), layer_stages(blocks)[block]
            self._layers[key] = Layer(kind, block, ordinal, len(blocks), cells, whole, stage=stage)
        return self._layers[key]

    def _step(self, options: Options) -> Step:
        require_options(options, ("sample_sigmas", "sigmas"), self._node)
        if not self._schedule:
            self._schedule = options["sample_sigmas"].tolist()
        number = (
            options[STEP_KEY] if STEP_KEY in options else step_index(options, options["sigmas"])
        )
        return Step(number, len(self._schedule) - 1, self._schedule[number])


@contextmanager
def _hook_output(module: Module, hook: Callable[[Any, Any, Tensor], Tensor]) -> Iterator[None]:
    """A module whose output a hook replaces."""
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _describe_engine(node: str) -> str:
    return (
        f"{node}: another node runs the model by an engine of its own, or with transformer_options "
        f"of its own, without those of {node}, which so could change nothing. Remove that node, or "
        f"sample without {node}."
    )


def _remember_text(n: Tensor, context: Tensor, value: Tensor, options: Options) -> AttentionInputs:
    """The first attn2_patch: lets the last one see what the others changed."""
    options[TEXT_KEY] = context
    return n, context, value

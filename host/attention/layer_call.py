"""Outputs: controls compute attention outputs of some rows of one layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from ...attention.control import Call, Control, Layer, Step
from ..comfy_types import Options
from .kernels import choose_attention, choose_attention_of_parts, is_slow_to_start
from .rows import RowChunk
from .store import StepStore, StoreKey

if TYPE_CHECKING:
    from comfy.ldm.modules.attention import CrossAttention


Replacement: TypeAlias = Callable[[Tensor, Tensor, Tensor, Options], Tensor]
"""An attn1_replace or attn2_replace: (q, k, v, options) -> the layer's output."""


class LayerCall:
    """One attention layer in one call of the model, with all its rows.

    inputs: q (rows, L, C), k and v (rows, N, C).
    """

    keeps_projections = True

    def __init__(
        self,
        layer: Layer,
        step: Step,
        module: CrossAttention,
        inputs: tuple[Tensor, Tensor, Tensor],
        options: Options,
        store: StepStore | None,
    ) -> None:
        self._layer = layer
        self._step = step
        self._module = module
        self._inputs = inputs
        self._options = options
        self._store = store
        self._attend = choose_attention(options)
        self._plain: Tensor | None = None
        self._outputs: dict[tuple[int, str], tuple[slice, Tensor]] = {}

    def act(self, control: Control, node: str, chunks: Sequence[RowChunk]) -> None:
        """Take a control's outputs for each chunk of rows.

        Raises ValueError when another node changed the rows or positions.
        """
        for number, chunk in enumerate(chunks):
            if not control.acts(self._layer, self._step, chunk.is_cond):
                continue
            require_whole_queries(self._inputs[0], self._layer, self._options, node)
            if self._store is not None:
                self._put_inputs(self._store, control, chunk)
            if not control.reads.keys() & chunk.rows.keys():
                continue
            for branch, output in control.outputs(self._call(control, chunk)).items():
                self._outputs[number, branch] = chunk.rows[branch], output

    def output(self, inner: Replacement | None) -> Tensor:
        """The layer's output (rows, L, C).

        inner: another node's replacement, or None. What it adds to plain attention is kept.
        """
        outputs = list(self._outputs.values())
        q, k, v = self._inputs
        if inner:
            out = inner(q, k, v, self._options)
            if not outputs:
                return out
            out = out.clone()
            for rows, output in outputs:
                plain = self._attend(q[rows], k[rows], v[rows])
                out[rows] += output - plain
            return out
        if not outputs:
            return self._plain_rows()
        if self._plain is not None:
            out = self._plain.clone()
        else:
            out = torch.empty_like(q)
            for rows in rows_between([rows for rows, _ in outputs], q.shape[0]):
                out[rows] = self._attend(q[rows], k[rows], v[rows])
        for rows, output in outputs:
            out[rows] = output
        return out

    def _call(self, control: Control, chunk: RowChunk) -> Call:
        q, k, v = self._inputs
        running = frozenset(chunk.rows)
        parts = {
            branch: (q[rows], *(chunk.entry.cut_text(branch, t[rows]) for t in (k, v)))
            if self._layer.kind == "cross"
            else (q[rows], k[rows], v[rows])
            for branch, rows in chunk.rows.items()
        }
        for branch in running:
            for read in control.reads.get(branch, frozenset()) - running:
                assert self._store is not None
                parts[read] = self._store.get(self._key(chunk, read), q)  # pyright: ignore
        return Call(
            layer=self._layer,
            step=self._step,
            is_cond=chunk.is_cond,
            running=running,
            heads=self._options["n_heads"],
            q={branch: part[0] for branch, part in parts.items()},
            k={branch: part[1] for branch, part in parts.items()},
            v={branch: part[2] for branch, part in parts.items()},
            texts=chunk.entry.texts,
            attend=self._attend,
            attend_parts=choose_attention_of_parts(q, self._options),
            plain=lambda branch: self._plain_rows()[chunk.rows[branch]],
            project_keys=self._module.to_k,
            project_values=self._module.to_v,
            keeps_projections=self.keeps_projections,
            is_slow_to_start=is_slow_to_start(q),
        )

    def _plain_rows(self) -> Tensor:
        if self._plain is None:
            self._plain = self._attend(*self._inputs)
        return self._plain

    def _put_inputs(self, store: StepStore, control: Control, chunk: RowChunk) -> None:
        read = frozenset[str]().union(*control.reads.values())
        for branch in sorted(read & chunk.rows.keys()):
            rows = chunk.rows[branch]
            q, k, v = (tensor[rows] for tensor in self._inputs)
            if self._layer.kind == "cross":
                k, v = (chunk.entry.cut_text(branch, t) for t in (k, v))
            store.put(self._key(chunk, branch), (q, k, v))

    def _key(self, chunk: RowChunk, branch: str) -> StoreKey:
        return StoreKey(self._layer.kind, self._layer.block, chunk.half, branch, "projected")


def require_whole_queries(q: Tensor, layer: Layer, options: Options, node: str) -> None:
    """Raises ValueError when the rows or positions of a layer are not those of the call."""
    height, width = options["activations_shape"][-2:]
    expected = (options["original_shape"][0], height * width)
    if q.shape[:2] != expected:
        raise ValueError(
            f"{node}: another node on the model changes the rows or positions of {layer.kind}-"
            f"attention, such as an attention couple or token merging: {expected[0]} rows of "
            f"{expected[1]} positions became {q.shape[0]} of {q.shape[1]}. Remove that node, or "
            f"bypass {node}."
        )


def rows_between(taken: Sequence[slice], count: int) -> list[slice]:
    """The maximal runs of `count` rows that are not taken."""
    edges = [0]
    for rows in sorted(taken, key=lambda rows: rows.start):
        edges += [rows.start, rows.stop]
    edges.append(count)
    runs = zip(edges[::2], edges[1::2], strict=True)
    return [slice(start, stop) for start, stop in runs if start < stop]

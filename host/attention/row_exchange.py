"""Routes and features: rows of a self-attention layer take the inputs of other branches, and rows
of a ResBlock their features.

A layer's rows are exchanged before it projects them and before any patch of another node, so that
what merges tokens merges those of the branch that is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

from torch import Tensor

from ...attention.control import Control, Layer, Step
from ...attention.self_injection import rows_with_source
from .rows import RowChunk
from .store import COND, HALVES, Form, Half, StepStore, StoreKey, half_read

RowIndices: TypeAlias = dict[tuple[object, ...], Tensor]
"""Row indices of a run by layout, so that each is sent to the device once."""
RowSource: TypeAlias = "slice | StoreKey"
Exchange: TypeAlias = list[tuple[slice, RowSource]]
"""Rows of a batch, and the rows of it or the stored inputs that they take."""


class Read(NamedTuple):
    """A branch whose rows are read, and the half of guidance in which they are."""

    branch: str
    half: Half


Reads: TypeAlias = Mapping[Half, Mapping[str, Mapping[str, Read]]]
"""What is read for the "q", "k" and "v" of a layer, or as "features", by the half of guidance and
the branch of the rows that read. Branches that run elsewhere are included."""
PARTS = ("q", "k", "v")


def find_routes(controls: Sequence[tuple[Control, str]], layer: Layer, step: Step) -> Reads:
    """What the routes of a layer read of other branches."""
    reads: dict[Half, dict[str, dict[str, Read]]] = {half: {} for half in HALVES}
    for control, _ in controls:
        for half, found in reads.items():
            for branch, route in control.routes(layer, step, half == COND).items():
                others = {part: getattr(route, part) for part in PARTS}
                found[branch] = {
                    part: Read(other, half_read(control, half))
                    for part, other in others.items()
                    if other != branch
                }
    return reads


def find_features(controls: Sequence[tuple[Control, str]], layer: Layer, step: Step) -> Reads:
    """What branches read of the features of others in the ResBlock before a layer."""
    reads: dict[Half, dict[str, dict[str, Read]]] = {half: {} for half in HALVES}
    for control, _ in controls:
        for half, found in reads.items():
            for branch, other in control.features(layer, step, half == COND).items():
                found[branch] = {"features": Read(other, half_read(control, half))}
    return reads


def has_readers(reads: Reads, chunks: Sequence[RowChunk]) -> bool:
    """Whether any branch of these chunks reads something."""
    return any(reads[chunk.half].keys() & chunk.rows.keys() for chunk in chunks)


def put_rows(
    store: StepStore,
    layer: Layer,
    chunks: Sequence[RowChunk],
    reads: Reads,
    rows: Tensor,
    form: Form,
) -> None:
    """Keep the rows of branches that others read."""
    read = {r for found in reads.values() for parts in found.values() for r in parts.values()}
    for chunk in chunks:
        for branch, own in chunk.rows.items():
            if (branch, chunk.half) in read:
                store.put(StoreKey(layer.kind, layer.block, chunk.half, branch, form), (rows[own],))


def exchange_rows(
    inputs: tuple[Tensor, Tensor, Tensor],
    layer: Layer,
    chunks: Sequence[RowChunk],
    reads: Reads,
    store: StepStore | None,
    indices: RowIndices,
) -> tuple[Tensor, Tensor, Tensor]:
    """The inputs (rows, L, C) of queries, keys and values after the routes of each chunk."""
    n, context, value = inputs
    of_queries, of_keys, of_values = (
        _find_exchange(layer, chunks, reads, part, "input") for part in PARTS
    )
    q = _take(n, of_queries, store, indices)
    is_shared = context is n and of_keys == of_queries
    k = q if is_shared else _take(context, of_keys, store, indices)
    return q, k, _take(value, of_values, store, indices)


def exchange_features(
    features: Tensor,
    layer: Layer,
    chunks: Sequence[RowChunk],
    reads: Reads,
    store: StepStore | None,
    indices: RowIndices,
) -> Tensor:
    """The features (rows, C, h, w) of the ResBlock before a layer, with those that are read."""
    exchange = _find_exchange(layer, chunks, reads, "features", "features")
    return _take(features, exchange, store, indices)


def _find_exchange(
    layer: Layer, chunks: Sequence[RowChunk], reads: Reads, part: str, form: Form
) -> Exchange:
    found = (
        (chunk, branch, parts[part])
        for chunk in chunks
        for branch, parts in reads[chunk.half].items()
        if branch in chunk.rows and part in parts
    )
    return [
        (chunk.rows[branch], _find_rows(layer, chunk, chunks, read, form))
        for chunk, branch, read in found
    ]


def _find_rows(
    layer: Layer, chunk: RowChunk, chunks: Sequence[RowChunk], read: Read, form: Form
) -> RowSource:
    """In this call, or else stored."""
    own_half = [chunk] if read.half == chunk.half else [c for c in chunks if c.half == read.half]
    inside = (c.rows[read.branch] for c in own_half if read.branch in c.rows)
    stored = StoreKey(layer.kind, layer.block, read.half, read.branch, form)
    return next(inside, stored)


def _take(rows: Tensor, exchange: Exchange, store: StepStore | None, indices: RowIndices) -> Tensor:
    if not exchange:
        return rows
    inside = [(to, source) for to, source in exchange if isinstance(source, slice)]
    if len(inside) == len(exchange):
        return rows[_row_index(rows, inside, indices)]
    out = rows.clone()
    for to, source in exchange:
        if isinstance(source, slice):
            out[to] = rows[source]
        else:
            assert store is not None
            (out[to],) = store.get(source, rows)
    return out


def _row_index(
    rows: Tensor, exchange: Sequence[tuple[slice, slice]], indices: RowIndices
) -> Tensor:
    """(rows,) int64: the row that each row takes."""
    layout = tuple((to.start, to.stop, source.start) for to, source in exchange)
    key = (rows.shape[0], layout, rows.device)
    if key not in indices:
        index = rows_with_source(rows.shape[0], [(source, to) for to, source in exchange])
        indices[key] = index.to(rows.device)
    return indices[key]

"""Routes: rows of a self-attention layer take the inputs of other branches.

The rows are exchanged before the layer projects them and before any patch of another node, so that
what merges tokens merges those of the branch that is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from torch import Tensor

from ...attention.control import Control, Layer, Route, Step
from ...attention.self_injection import rows_with_source
from .rows import RowChunk
from .store import StepStore, StoreKey

RowIndices: TypeAlias = dict[tuple[object, ...], Tensor]
"""Row indices of a run by layout, so that each is sent to the device once."""
RowSource: TypeAlias = "slice | StoreKey"
Exchange: TypeAlias = list[tuple[slice, RowSource]]
"""Rows of a batch, and the rows of it or the stored inputs that they take."""


def find_routes(
    controls: Sequence[tuple[Control, str]], layer: Layer, step: Step, is_cond: bool
) -> dict[str, Route]:
    """The routes of a layer by branch, those of branches that run elsewhere included."""
    routes: dict[str, Route] = {}
    for control, _ in controls:
        routes.update(control.routes(layer, step, is_cond))
    return routes


def put_inputs(
    store: StepStore, layer: Layer, chunk: RowChunk, routes: Mapping[str, Route], n: Tensor
) -> None:
    """Keep the inputs of branches that others read."""
    read = {source for branch, route in routes.items() for source in route.branches - {branch}}
    for branch in sorted(read & chunk.rows.keys()):
        key = StoreKey(layer.kind, layer.block, chunk.half, branch, "input")
        store.put(key, (n[chunk.rows[branch]],))


def exchange_rows(
    inputs: tuple[Tensor, Tensor, Tensor],
    layer: Layer,
    routed: Sequence[tuple[RowChunk, Mapping[str, Route]]],
    store: StepStore | None,
    indices: RowIndices,
) -> tuple[Tensor, Tensor, Tensor]:
    """The inputs (rows, L, C) of queries, keys and values after the routes of each chunk."""
    n, context, value = inputs
    exchanges: list[Exchange] = []
    for part in ("q", "k", "v"):
        exchanges.append(
            [
                (chunk.rows[branch], _source(layer, chunk, getattr(routes[branch], part)))
                for chunk, routes in routed
                for branch in chunk.rows
                if branch in routes and getattr(routes[branch], part) != branch
            ]
        )
    of_queries, of_keys, of_values = exchanges
    q = _take(n, of_queries, store, indices)
    is_shared = context is n and of_keys == of_queries
    k = q if is_shared else _take(context, of_keys, store, indices)
    return q, k, _take(value, of_values, store, indices)


def _source(layer: Layer, chunk: RowChunk, branch: str) -> RowSource:
    if branch in chunk.rows:
        return chunk.rows[branch]
    return StoreKey(layer.kind, layer.block, chunk.half, branch, "input")


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

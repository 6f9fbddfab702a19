"""Operators that find elements by numbers which the data, or a table, tells."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from secateur.graph.axes import Axis
from secateur.graph.rules.elementwise import broadcast
from secateur.graph.rules.table import Axes, Call, rule

BY_NUMBER = "finds them by their numbers"


@rule("aten::embedding")
def embedding(call: Call) -> Axes:
    """Rows of a table [entries, features]; an entry has a number, and stays."""
    table = call.axes("weight")
    call.fix(table[:1], BY_NUMBER)
    return (*call.axes("indices"), table[1])


@rule("aten::_embedding_bag", "aten::_embedding_bag_forward_only")
def embedding_bag(call: Call) -> Sequence[Axes]:
    """Sums of rows of a table."""
    table = call.axes("weight")
    call.fix(table[:1], BY_NUMBER)
    first = (call.fixed(call.shape[0]), table[1])
    return [first, *(tuple(call.fixed(size) for size in each.shape) for each in call.results[1:])]


@rule("aten::index_select")
def index_select(call: Call) -> Axes:
    """Some indices of one dimension."""
    axes = list(call.axes("self"))
    dim = call["dim"] % len(axes)
    call.fix([axes[dim]], BY_NUMBER)
    axes[dim] = call.fixed(call.shape[dim])
    return tuple(axes)


@rule("aten::index", "aten::_unsafe_index")
def index(call: Call) -> Axes:
    """Dimensions with indices go, and those of the indices come in their place."""
    axes = call.axes("self")
    indices: list[Tensor | None] = list(call["indices"])
    if (mask := _mask(indices)) is not None:
        call.fix(axes[: mask.dim()], "picks some of them")
        return (call.fixed(call.shape[0]), *axes[mask.dim() :])
    indices += [None] * (len(axes) - len(indices))
    picked = [dim for dim, each in enumerate(indices) if each is not None]
    call.fix([axes[dim] for dim in picked], BY_NUMBER)
    tables = [call.axes_of(each) for each in indices if each is not None]
    wide = max(map(len, tables))
    new = broadcast(tables, wide) if len(call.shape) == len(axes) - len(picked) + wide else ()
    if [axis.size for axis in new] != _new_sizes(call, axes, picked, wide):
        new = tuple(call.fixed(size) for size in _new_sizes(call, axes, picked, wide))
    together = picked == list(range(picked[0], picked[0] + len(picked)))
    rest = [axis for dim, axis in enumerate(axes) if dim not in picked]
    place = picked[0] if together else 0
    return (*rest[:place], *new, *rest[place:])


def _new_sizes(call: Call, axes: Axes, picked: Sequence[int], wide: int) -> list[int]:
    together = list(picked) == list(range(picked[0], picked[0] + len(picked)))
    place = picked[0] if together else 0
    return list(call.shape[place : place + wide])


def _mask(indices: Sequence[Tensor | None]) -> Tensor | None:
    """The only index, where it is a mask over the first dimensions."""
    first = indices[0] if len(indices) == 1 else None
    return first if first is not None and first.dtype in (torch.bool, torch.uint8) else None


@rule("aten::index_put", "aten::_index_put_impl", "aten::_unsafe_index_put")
def index_put(call: Call) -> Axes:
    """What is written at some indices has the axes of what it is written into."""
    axes, values = call.axes("self"), call.axes("values")
    indices: list[Tensor | None] = list(call["indices"])
    mask = _mask(indices)
    if mask is not None and call["values"].numel() == 1:  # one number for all that is masked
        return broadcast([axes[: mask.dim()], call.axes_of(mask)], mask.dim()) + axes[mask.dim() :]
    last = max(dim for dim, each in enumerate(indices) if each is not None)
    if any(each is not None and (each.dim() != 1 or each.dtype == torch.bool) for each in indices):
        raise NotImplementedError
    call.fix([axes[dim] for dim, each in enumerate(indices) if each is not None], BY_NUMBER)
    behind = len(axes) - last - 1
    broadcast([axes[len(axes) - behind :], values[max(len(values) - behind, 0) :]], behind)
    if len(values) > behind:
        call.fix(values[: len(values) - behind], BY_NUMBER)
    if any(each is None for each in indices[:last]):
        call.fix([axes[dim] for dim, each in enumerate(indices) if each is None], BY_NUMBER)
    return axes


@rule("aten::index_add", "aten::index_copy", "aten::index_reduce")
def index_add(call: Call) -> Axes:
    """Rows are added to those that a table names; the other dimensions are one."""
    axes, source = call.axes("self"), call.axes("source")
    dim = call["dim"] % len(axes)
    call.fix([axes[dim], source[dim]], BY_NUMBER)
    return tuple(
        axis if number == dim else broadcast([(axis,), (source[number],)], 1)[0] for number, axis in enumerate(axes)
    )


@rule("aten::scatter", "aten::scatter_add", "aten::scatter_reduce")
def scatter(call: Call) -> Axes:
    """Elements are put, or added, where a table of their own shape says, along one dimension."""
    axes, table = call.axes("self"), call.axes("index")
    dim = call["dim"] % len(axes)
    call.fix([axes[dim], table[dim]], BY_NUMBER)
    others = [number for number in range(len(axes)) if number != dim]
    for each in (table, *([call.axes("src")] if isinstance(call.get("src"), Tensor) else [])):
        if any(each[number].size != axes[number].size for number in others):
            raise NotImplementedError  # the first of them, and what those are is by their numbers
        for number in others:
            broadcast([(axes[number],), (each[number],)], 1)
    return axes


@rule("aten::gather", "aten::take_along_dim")
def gather(call: Call) -> Axes:
    """Along one dimension by numbers; along the others, those of the table of numbers."""
    axes, table = call.axes("self"), call.axes("index")
    dim = call["dim"] % len(axes)
    call.fix([axes[dim], table[dim]], BY_NUMBER)
    found: list[Axis] = []
    for number, (mine, theirs) in enumerate(zip(axes, table, strict=True)):
        if number != dim and mine.size == theirs.size:
            broadcast([(mine,), (theirs,)], 1)
        elif number != dim:
            call.fix([mine, theirs], BY_NUMBER)
        found.append(theirs)
    return tuple(found)

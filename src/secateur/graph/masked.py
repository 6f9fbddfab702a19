"""What a cut network must answer: the followed pass again, its sums taken over what is left."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from secateur.graph.axes import Axis
from secateur.graph.follow import Record
from secateur.graph.rules import Use, bound
from secateur.graph.scope import Scope, Scoped


class Masked(Scoped):
    """The same pass again, in which sums leave out the members of axes that are gone: what a cut network must answer.

    `alive(axis)` gives a mask [size], or None where all are left. Operations are found by where they run: what depends
    on the data may run otherwise.
    """

    def __init__(self, model: nn.Module, record: Record, alive: Callable[[Axis], Tensor | None]) -> None:
        super().__init__(Scope(model))
        self.record, self.alive = record, alive

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation on what is left."""
        uses = self.record.uses.get(self.scope.place(str(func)), ())
        given = bound(func, args, kwargs or {}) if uses else {}
        masks = []
        for use in uses:
            mask = self.alive(use.axis)
            if mask is not None:
                masks.append((use, mask))
        if not masks:
            return func(*args, **(kwargs or {}))
        found, alike = _left_out(func, given, masks)
        # What follows goes by how a result lies in memory, too: as the operator itself leaves it.
        return found if alike else tree_map(_laid_out_as, found, func(*args, **(kwargs or {})))


def _laid_out_as(x: Any, like: Any) -> Any:
    return torch.empty_like(like).copy_(x) if isinstance(like, Tensor) and x.shape == like.shape else x


def _left_out(func: Any, given: dict[str, Any], masks: Sequence[tuple[Use, Tensor]]) -> tuple[Any, bool]:
    """What an operator gives without the members that are gone along the dimensions it takes together, and whether that
    lies in memory as it would with them."""
    name = func._schema.name
    argument = masks[0][0].name
    x = given[argument]
    weight = torch.ones((), dtype=torch.bool, device=x.device)
    for use, mask in masks:
        weight = weight & mask.view([-1 if dim == use.dim else 1 for dim in range(x.dim())])
    if name in OVER_WHAT_STAYS:
        return OVER_WHAT_STAYS[name](x, given, weight), False
    left = x.masked_fill(~weight, NOTHING[name]) if name in NOTHING else x * weight
    found = _run(func, given, {argument: left})
    if name == "aten::mean":  # by a number: of tensors it would be in single precision
        found = found * (_members(x, [use.dim for use, _ in masks]) / int(weight.sum()))
    return found, left.stride() == x.stride()


NOTHING = {
    "aten::amax": -torch.inf, "aten::max": -torch.inf, "aten::logsumexp": -torch.inf,
    "aten::amin": torch.inf, "aten::min": torch.inf,
}  # fmt: skip
"""What counts for nothing, where that is not zero."""


def _run(func: Any, given: dict[str, Any], changed: dict[str, Any]) -> Any:
    schema = func._schema.arguments
    given = {**given, **changed}
    return func(
        *(given[each.name] for each in schema if not each.kwarg_only and each.name in given),
        **{each.name: given[each.name] for each in schema if each.kwarg_only and each.name in given},
    )


def _members(x: Tensor, dims: Sequence[int]) -> int:
    return math.prod(x.shape[dim] for dim in dims)


def _dims(x: Tensor, given: Mapping[str, Any]) -> list[int]:
    dim = given.get("dim")
    dims = range(x.dim()) if not dim and dim != 0 else [dim] if isinstance(dim, int) else dim
    return [each % x.dim() for each in dims]


def _variance(x: Tensor, given: Mapping[str, Any], weight: Tensor) -> tuple[Tensor, Tensor]:
    dims = _dims(x, given)
    weight = weight.expand(x.shape)
    count = weight.sum(dims, keepdim=True)
    mean = (x * weight).sum(dims, keepdim=True) / count
    centred = (x - mean) * weight
    correction = given.get("correction", 1 if given.get("unbiased", True) else 0)
    correction = 1 if correction is None else correction
    found = centred.square().sum(dims, keepdim=True) / (count - correction)
    return (found, mean) if given.get("keepdim") else (found.squeeze(dims), mean.squeeze(dims))


def _normalised(x: Tensor, weight: Tensor, dims: list[int], eps: float) -> tuple[Tensor, Tensor, Tensor]:
    weight = weight.expand(x.shape)
    count = weight.sum(dims, keepdim=True).clamp_min(1)
    mean = (x * weight).sum(dims, keepdim=True) / count
    spread = (((x - mean) * weight).square().sum(dims, keepdim=True) / count + eps).rsqrt()
    return (x - mean) * spread, mean, spread


def _layer_norm(x: Tensor, given: Mapping[str, Any], weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    dims = list(range(x.dim() - len(given["normalized_shape"]), x.dim()))
    y, mean, spread = _normalised(x, weight, dims, given["eps"])
    y = y if given.get("weight") is None else y * given["weight"]
    return y if given.get("bias") is None else y + given["bias"], mean, spread


def _batch_norm(x: Tensor, given: Mapping[str, Any], weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """By the statistics of its input, as standardised weights use it."""
    y, mean, spread = _normalised(x, weight, [0, *range(2, x.dim())], given["eps"])
    gain, offset = (
        None if given.get(name) is None else given[name].view(1, -1, *[1] * (x.dim() - 2))
        for name in ("weight", "bias")
    )
    y = y if gain is None else y * gain
    return y if offset is None else y + offset, mean.flatten(), spread.flatten()


def _group_norm(x: Tensor, given: Mapping[str, Any], weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    weight = weight.expand(x.shape).unflatten(1, (given["group"], -1))
    parts = x.unflatten(1, (given["group"], -1))
    y, mean, spread = _normalised(parts, weight, list(range(2, parts.dim())), given["eps"])
    y = y.flatten(1, 2)
    gain, offset = (
        None if given.get(name) is None else given[name].view(1, -1, *[1] * (x.dim() - 2))
        for name in ("weight", "bias")
    )
    y = y if gain is None else y * gain
    return y if offset is None else y + offset, mean.flatten(1), spread.flatten(1)


OVER_WHAT_STAYS: dict[str, Callable[[Tensor, Mapping[str, Any], Tensor], Any]] = {
    "aten::var": lambda x, given, weight: _variance(x, given, weight)[0],
    "aten::var_mean": _variance,
    "aten::std": lambda x, given, weight: _variance(x, given, weight)[0].sqrt(),
    "aten::std_mean": lambda x, given, weight: (_variance(x, given, weight)[0].sqrt(), _variance(x, given, weight)[1]),
    "aten::native_layer_norm": _layer_norm,
    "aten::native_batch_norm": _batch_norm,
    "aten::native_group_norm": _group_norm,
}
"""What takes moments anew."""

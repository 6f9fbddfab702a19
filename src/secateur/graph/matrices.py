"""Which layers are matrices whose rows are told apart: what ranking and refits work on, whatever operator it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from secateur.graph import operations
from secateur.graph.axes import Axis, total
from secateur.graph.extent import Extent
from secateur.graph.follow import Follower, Found
from secateur.graph.graph import Matrix
from secateur.graph.operations import PRODUCTS

OPERATORS = {each._qualified_op_name for each in PRODUCTS}
ADDING = {each._qualified_op_name for each in operations.ADDING}
Runs = Mapping[str, Sequence[Found]]
"""By layer, all that multiplies by the same part of the same weight."""


def matrices_of(runs: Runs, follower: Follower, examples: int, extent: Callable[[Axis], Extent]) -> dict[str, Matrix]:
    """By layer; those are left out whose weight is worked out from another, or whose rows belong to no example."""
    batch = {axis.root() for axis in follower.examples if axis.size == examples}
    found = {}
    for name, parts in _by_weight(runs).items():
        weight = follower.names[name]
        before = _before(parts, runs, weight)
        for layer, rest in before.items():
            first, often = runs[layer][0], len(runs[layer])
            if not all(map(_plain, runs[layer])):
                continue
            rows = {_rows(each, batch) for each in runs[layer]}
            if len(rows) != 1 or None in rows:
                continue
            alone = name not in follower.elsewhere
            found[layer] = Matrix(
                rows.pop() or (), often, _out_first(first, weight), extent(total(rest)) if rest
                else Extent(0), alone, _bias(first, rest, follower),
            )  # fmt: skip
    return found


def _plain(found: Found) -> bool:
    """Whether a pass can be watched for this operator, and it adds nothing but a bias."""
    return found.operator in OPERATORS and (found.operator not in ADDING or found.bias.told)


def _by_weight(runs: Runs) -> dict[str, list[str]]:
    """The layers that each parameter makes by itself."""
    found: dict[str, list[str]] = {}
    for name, all_of_it in runs.items():
        first = all_of_it[0]
        if first.weight is not None and not any(each.computed for each in all_of_it):
            found.setdefault(first.weight, []).append(name)
    return found


def _before(parts: Sequence[str], runs: Runs, weight: Tensor) -> dict[str, list[Axis]]:
    """The outputs of a parameter that come before those of each of its layers; nothing where they do not tile it."""
    ordered = sorted(parts, key=lambda name: runs[name][0].offset)
    outs = [runs[name][0].what.out for name in ordered]
    ends = [0]
    for out in outs:
        ends.append(ends[-1] + out.size)
    row = weight.stride(0)
    starts = [runs[name][0].offset for name in ordered]
    whole = math.prod(weight.shape) == sum(_elements(runs[name][0]) for name in ordered)
    tiled = len(parts) == 1 or (weight.dim() == 2 and [end * row for end in ends[:-1]] == starts)
    if not whole or not tiled or any(_misshapen(runs[name][0], weight) for name in ordered):
        return {}
    return {name: outs[:number] for number, name in enumerate(ordered)}


def _elements(found: Found) -> int:
    what = found.what
    groups = what.groups.size if what.groups is not None else 1
    return what.out.size * (what.contracted.size // groups) * math.prod(what.kernel)


def _misshapen(found: Found, weight: Tensor) -> bool:
    """Whether the operator takes the parameter in another shape than its own, or from both sides at once."""
    kernel = found.what.kernel
    if kernel:
        return tuple(found.what.weight.shape) != tuple(weight.shape)
    sides, taken = found.what.sides, found.what.weight.shape
    several = any(stride and size > 1 for stride, size in zip(found.strides[:-2], taken[:-2], strict=True))
    return weight.dim() != 2 or sides[0] == sides[1] or several


def _rows(found: Found, batch: set[Axis]) -> tuple[int, ...] | None:
    """Sizes of the rows' factors, 0 for the examples; None where these are not one of them."""
    axes = found.what.others[: -len(found.what.kernel)] if found.what.kernel else found.what.others
    factors = [factor.root() for axis in axes for factor in axis.factors()]
    sizes = tuple(0 if factor in batch else factor.size for factor in factors)
    return sizes if sizes.count(0) == 1 else None


def _out_first(found: Found, weight: Tensor) -> bool:
    if found.what.kernel:
        return True
    if weight.shape[0] != weight.shape[1]:
        return weight.shape[1] == found.what.contracted.size  # what makes a part of the outputs has all inputs
    return found.strides[found.what.sides[1]] == weight.stride(0)


def _bias(found: Found, before: Sequence[Axis], follower: Follower) -> str:
    """The parameter, if its parts are those of the weight and nothing else takes it."""
    bias = found.bias
    mine = bias.told and bias.offset == sum(axis.size for axis in before) and bias.name not in follower.elsewhere
    return bias.name if mine else ""

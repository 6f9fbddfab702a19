"""The table of operators: what a rule is, how it is found, and how one of your own is added."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from secateur.graph.axes import Axis, fixed

Axes = tuple[Axis, ...]
"""One axis for each dimension of a tensor."""


@dataclass
class Use:
    """That an operation sums up, or depends on, all members of an axis: dimension `dim` of its argument `name`."""

    name: str
    dim: int
    axis: Axis


@dataclass
class Contraction:
    """A sum of products over `contracted`, for each index of `out` and of all the `others`.

    `weight` is the operand that may be a parameter. `groups` is there where the operation is one for each of its
    indices, of which both `contracted` and `out` are products.
    """

    weight: Tensor
    contracted: Axis
    out: Axis
    others: Axes
    kernel: tuple[int, ...] = ()
    groups: Axis | None = None
    sides: tuple[int, int] = (1, 0)
    """The dimensions of the weight that are contracted, and that give `out`."""
    factor: Axes = ()
    """Of a product of two activations: what both have, and neither contracts (heads)."""


@dataclass
class Call:
    """One run of an operator: its arguments by name, and what it gave."""

    name: str
    arguments: dict[str, Any]
    results: Sequence[Tensor]
    axes_of: Callable[[Tensor], Axes]
    where: Callable[[], str] = lambda: ""
    """Tells the module and the line that it runs at."""
    uses: list[Use] = field(default_factory=list)
    contractions: list[Contraction] = field(default_factory=list)

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def get(self, name: str, default: Any = None) -> Any:
        """An argument that not every operator of a kind has."""
        return self.arguments.get(name, default)

    def axes(self, name: str) -> Axes:
        """Of a tensor argument."""
        return self.axes_of(self.arguments[name])

    def tensors(self) -> list[Tensor]:
        """All tensor arguments."""
        return [leaf for leaf in tree_leaves(self.arguments) if isinstance(leaf, Tensor)]

    @property
    def shape(self) -> torch.Size:
        """Of the (first) result."""
        return self.results[0].shape

    def fix(self, axes: Sequence[Axis], what: str = "") -> None:
        """Nothing of these axes may go; `what` the operator does with them."""
        for axis in axes:
            axis.fix(self.told(what))

    def fixed(self, size: int) -> Axis:
        """A new axis that stays."""
        return fixed(size, self.told("makes them"))

    def told(self, what: str = "") -> str:
        """The operator, what it does, and where."""
        return f"{self.name.replace('::', '.')} {what}".strip() + self.where()

    def contract(self, name: str, dim: int, axis: Axis) -> None:
        """Note that the operation sums over a dimension of an argument."""
        if axis.size > 1:
            self.uses.append(Use(name, dim, axis))

    def mix(self, name: str, dim: int) -> None:
        """Note that what the operation gives depends on all members along a dimension of an argument."""
        axis = self.axes(name)[dim]
        if axis.size > 1:
            axis.mix(self.name)
            self.uses.append(Use(name, dim % len(self.axes(name)), axis))


def bound(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by name, with their defaults."""
    arguments = func._schema.arguments
    found = {each.name: value for each, value in zip(arguments, args, strict=False)}
    for each in arguments[len(args) :]:
        if each.name in kwargs:
            found[each.name] = kwargs[each.name]
        elif each.has_default_value():
            found[each.name] = each.default_value
    return found


Rule = Callable[[Call], "Axes | Sequence[Axes]"]
"""The axes of the result, or of each of several results; of views of free axes these are the same objects."""
_RULES: dict[str, Rule] = {}


def rule(*operators: str) -> Callable[[Rule], Rule]:
    """Register a rule for operators by their names in torch, such as `aten::cat`; in-place forms included."""

    def register(function: Rule) -> Rule:
        _RULES.update(dict.fromkeys(operators, function))
        return function

    return register


def rule_for(operator: Any) -> Rule | None:
    """The rule of an operator; those that torch marks as pointwise have one in common."""
    name = operator._schema.name
    found = _RULES.get(name) or _RULES.get(name.rstrip("_"))
    if found is None and torch.Tag.pointwise in operator.tags:
        return _RULES["pointwise"]
    return found


def rules() -> Iterator[tuple[str, Rule]]:
    """All that is registered, by the operator's name."""
    yield from sorted(_RULES.items())

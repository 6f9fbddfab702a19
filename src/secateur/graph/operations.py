"""The tensor operations of a forward pass, named by where they run.

A residual sum found in the dense network has to be found again in the pruned one. A value is therefore named by the
module whose forward computes it, the number of that module's call, the operator, and which of the operator's runs in
that call it is. Other operations, run more or less often, change no name; and who looks a value up checks that it is
what was looked for. Operations that only arrange a tensor anew name nothing: whether `reshape` copies depends on the
sizes, and on how many examples there are; and a pruned layer may pick channels from its input where the dense one
takes all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from secateur.graph.scope import Place, Scope, Scoped

COPIES = (
    torch.ops.aten.clone.default,
    torch.ops.aten._unsafe_view.default,
    torch.ops.aten._to_copy.default,
    torch.ops.aten.index_select.default,
)
IN_PLACE = (torch.ops.aten.as_strided_.default, torch.ops.aten.detach_.default)
"""What arranges a tensor anew and gives the same one."""
IN_ORDER = (
    torch.ops.aten.view.default,
    torch.ops.aten._unsafe_view.default,
    torch.ops.aten.unsqueeze.default,
    torch.ops.aten.squeeze.dim,
    torch.ops.aten.alias.default,
    torch.ops.aten.detach.default,
)
"""What gives the same elements in the same order: who reads it reads what it was made from."""
PRODUCTS = {
    torch.ops.aten.mm: (0, 1),
    torch.ops.aten.addmm: (1, 2),
    torch.ops.aten.bmm: (0, 1),
    torch.ops.aten.baddbmm: (1, 2),
    torch.ops.aten.linear: (0, 1),
    torch.ops.aten.matmul: (0, 1),
    torch.ops.aten.convolution: (0, 1),
    torch.ops.aten._convolution: (0, 1),
}
"""Which arguments operators multiply."""
CONVOLUTIONS = (torch.ops.aten.convolution, torch.ops.aten._convolution)
ADDING = (torch.ops.aten.addmm, torch.ops.aten.baddbmm)
"""Those that add their first argument to that."""
ADDITIONS = (torch.ops.aten.add.Tensor, torch.ops.aten.add_.Tensor)


Value = Place
"""The result of one operation, by where it is computed."""
WeightPlace = tuple[str, int]
"""A parameter, and which of its elements a weight begins at."""


class OperationLog(Scoped):
    """Name every operation of a model; remember sums (`keep_sums`), or hold on to the results of `wanted` ones."""

    def __init__(self, model: nn.Module, wanted: Collection[Value] = (), keep_sums: bool = False) -> None:
        super().__init__(Scope(model))
        self.wanted = frozenset(wanted)
        self.values: dict[Value, Tensor] = {}
        self.sums: list[tuple[Value | None, Value | None]] = []
        self.readers: Counter[Value | None] = Counter()
        self.made: list[tuple[WeightPlace, Value | None, torch.Size]] = []
        """Of each product by a weight (where sums are kept): the weight, and what is made, as [rows, out] or [N, out,
        *space]."""
        self.biased: dict[Value, Value] = {}
        """What operators of their own add a bias to, and what that gives."""
        self._weights = {x.untyped_storage().data_ptr(): (name, x) for name, x in model.named_parameters()}
        self._keep_sums = keep_sums
        self._made_by: dict[int, Value | None] = {}
        self._alive: list[Tensor] = []

    def maker(self, tensor: Tensor) -> Value | None:
        """The operation that last wrote `tensor`; None for an input, a parameter, or a tensor arranged anew."""
        return self._made_by.get(id(tensor))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation and note what it read and made."""
        kwargs = kwargs or {}
        if self.values and func._schema.is_mutable:
            self._rescue(args)
        result = func(*args, **kwargs)
        if func in IN_PLACE:
            return result
        name = None if func.is_view or func in COPIES else self.scope.place(str(func))
        if self._keep_sums:
            self._note(func, args, result, name, kwargs.get("alpha", 1) == 1)
        elif name is not None and name in self.wanted:
            self.values[name] = result if isinstance(result, Tensor) else result[0]
        return result

    def _rescue(self, args: tuple[Any, ...]) -> None:
        """Copy the values held that an operation is about to write over (`y += x`)."""
        written = {x.untyped_storage().data_ptr() for x in tree_leaves(args[:1]) if isinstance(x, Tensor)}
        for name, value in self.values.items():
            if value.untyped_storage().data_ptr() in written:
                self.values[name] = value.clone()

    def _before_bias(self, args: tuple[Any, ...]) -> Value | None:
        """The other term, where one is a parameter of one dimension: a bias that an operator of its own adds."""
        if len(args) == 2 and all(isinstance(each, Tensor) for each in args):
            for one, other in (args, args[::-1]):
                name, whole = self._weights.get(other.untyped_storage().data_ptr(), ("", other))
                if name and whole.dim() == other.dim() == 1:
                    return self.maker(one)
        return None

    def _note(self, func: Any, args: tuple[Any, ...], result: Any, name: Value | None, plain: bool) -> None:
        if func in IN_ORDER and isinstance(result, Tensor):
            self._made_by[id(result)] = self.maker(args[0])
            self._alive.append(result)
            return
        if func in ADDITIONS and plain and name is not None and (before := self._before_bias(args)) is not None:
            self.biased[before] = name
        for number in PRODUCTS.get(func._overloadpacket, ()):
            weight, whole = self._weights.get(args[number].untyped_storage().data_ptr(), ("", args[number]))
            if weight:
                shape = result.shape if func._overloadpacket in CONVOLUTIONS else result.flatten(0, -2).shape
                self.made.append(((weight, args[number].storage_offset() - whole.storage_offset()), name, shape))
        read = [self.maker(leaf) for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
        self.readers.update(read)
        if func in ADDITIONS and plain and len(read) == 2 and args[0].shape == args[1].shape:
            self.sums.append((read[0], read[1]))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._made_by[id(leaf)] = name
                self._alive.append(leaf)  # an address is reused once its tensor is gone

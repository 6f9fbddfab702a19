"""The tensor operations of a forward pass, in order of execution.

A network runs the same operations in the same order before and after pruning, so the ordinal of an operation
names a value in both: this is how a residual sum found in the dense network is found again in the pruned one.
Operations that only arrange a tensor anew are not numbered: whether `reshape` copies depends on the sizes, and on how
many examples there are; and a pruned layer may pick channels from its input where the dense one takes all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

COPIES = (
    torch.ops.aten.clone.default,
    torch.ops.aten._unsafe_view.default,
    torch.ops.aten._to_copy.default,
    torch.ops.aten.index_select.default,
)
ADDITIONS = (torch.ops.aten.add.Tensor, torch.ops.aten.add_.Tensor)


class OperationLog(TorchDispatchMode):
    """Number every operation; remember sums (`keep_sums`), or hold on to the results of `wanted` ordinals."""

    def __init__(self, wanted: Collection[int] = (), keep_sums: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.wanted = frozenset(wanted)
        self.values: dict[int, Tensor] = {}
        self.sums: list[tuple[int, int]] = []
        self.readers: defaultdict[int, int] = defaultdict(int)
        self._keep_sums = keep_sums
        self._count = 0
        self._made_by: dict[int, int] = {}
        self._alive: list[Tensor] = []

    def ordinal(self, tensor: Tensor) -> int:
        """The number of the operation that last wrote `tensor`; -1 for an input or a parameter, and a negative
        number of its own for a tensor arranged anew."""
        return self._made_by.get(id(tensor), -1)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """For a while, count nothing: what runs is not the network's own, and runs at full speed."""
        with _disable_current_modes():
            yield

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation and note what it read and made."""
        kwargs = kwargs or {}
        if self.values and func._schema.is_mutable:
            self._rescue(args)
        result = func(*args, **kwargs)
        numbered = not (func.is_view or func in COPIES)
        self._count += numbered
        if self._keep_sums:
            self._note(func, args, result, self._count if numbered else -2 - len(self._alive))
        elif numbered and self._count in self.wanted:
            self.values[self._count] = result if isinstance(result, Tensor) else result[0]
        return result

    def _rescue(self, args: tuple[Any, ...]) -> None:
        """Copy the values held that an operation is about to write over (`y += x`)."""
        written = {x.untyped_storage().data_ptr() for x in tree_leaves(args[:1]) if isinstance(x, Tensor)}
        for ordinal, value in self.values.items():
            if value.untyped_storage().data_ptr() in written:
                self.values[ordinal] = value.clone()

    def _note(self, func: Any, args: tuple[Any, ...], result: Any, number: int) -> None:
        read = [self.ordinal(leaf) for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
        for ordinal in read:
            self.readers[ordinal] += 1
        if func in ADDITIONS and len(read) == 2 and args[0].shape == args[1].shape:
            self.sums.append((read[0], read[1]))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._made_by[id(leaf)] = number
                self._alive.append(leaf)  # an address is reused once its tensor is gone

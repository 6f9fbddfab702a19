"""Which parameters are biases of products by weights: what the operator adds itself, or one of its own behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from secateur.graph import operations
from secateur.graph.axes import Axis
from secateur.graph.rules import Axes, Call

IN_ORDER = {each._schema.name for each in operations.IN_ORDER}


@dataclass
class Bias:
    """A parameter that may be added to the outputs of a product, along their axis."""

    name: str = ""
    offset: int = 0
    """Which of its elements the bias begins at."""
    later: bool = False
    """Whether an operator of its own adds it; then nothing else may read what the product gives."""
    reads: int = 0
    """How many operators read that."""

    @property
    def told(self) -> bool:
        """Whether it is one."""
        return bool(self.name) and (not self.later or self.reads == 1)


class Biases:
    """Follows what becomes of what products give, until a bias is added or something else is done to it."""

    def __init__(self, names: Mapping[str, Tensor], origin: Any, axes_of: Callable[[Tensor], Axes]) -> None:
        self._names, self._origin, self._axes_of = names, origin, axes_of
        self._made: Any = WeakIdKeyDictionary()

    def of(self, call: Call, out: Axis) -> Bias:
        """What a product adds itself; what it gives is followed from now on."""
        found = Bias()
        plain = call.get("alpha", 1) == 1 and call.get("beta", 1) == 1
        added = call.get("bias", call.get("self") if call.name in ("aten::addmm", "aten::baddbmm") else None)
        if plain and isinstance(added, Tensor):
            self._note(found, added, out)
        self._made[call.results[0]] = found, out
        return found

    def see(self, call: Call, writes: bool) -> bool:
        """Look at an operator that may read what a product gave; whether it adds a bias to that."""
        first = next(iter(call.arguments.values()), None)
        if call.name in IN_ORDER and isinstance(first, Tensor) and first in self._made and call.results:
            self._made[call.results[0]] = self._made[first]
            return False
        added = call.name in ("aten::add", "aten::add_") and call.get("alpha", 1) == 1 and self._adds(call)
        for tensor in call.tensors():
            if tensor in self._made:
                self._made[tensor][0].reads += 1
        if writes and isinstance(first, Tensor):
            place = first.untyped_storage().data_ptr()
            for tensor in [each for each in self._made if each.untyped_storage().data_ptr() == place]:
                del self._made[tensor]
        return added

    def _adds(self, call: Call) -> bool:
        for one, other in ((call["self"], call["other"]), (call["other"], call["self"])):
            if isinstance(one, Tensor) and isinstance(other, Tensor) and one in self._made:
                bias, out = self._made[one]
                if not bias.name and self._axes_of(one)[-1].root() is out.root() and self._note(bias, other, out):
                    bias.later = True
                    return True
        return False

    def _note(self, bias: Bias, added: Tensor, out: Axis) -> bool:
        """Whether this is a parameter, or a part of one, in its own order, along the axis of the outputs."""
        name = self._origin.get(added)
        if name is None or added.dim() != 1 or self._axes_of(added)[0].root() is not out.root():
            return False
        whole = self._names[name]
        if added.untyped_storage().data_ptr() != whole.untyped_storage().data_ptr() or added.stride() != whole.stride():
            return False
        bias.name, bias.offset = name, int(added.storage_offset() - whole.storage_offset())
        return True

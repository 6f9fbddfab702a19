"""One forward pass, followed operator by operator: which axes its tensors have, and what sums over them.

The pass is watched where PyTorch hands operators to its kernels (`TorchDispatchMode`): there are few of them, whatever
the Python above looks like. An operator without a rule, or one that is not borne out by the shapes it gave, fixes the
axes of what it took, and says where.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from secateur.graph.axes import Axis, fixed, stated_by, unify
from secateur.graph.biases import Bias, Biases
from secateur.graph.inputs import tensors_in
from secateur.graph.operations import WeightPlace
from secateur.graph.rules import Axes, Call, Contraction, Use, bound, rule_for
from secateur.graph.scope import Place, Scope, Scoped, users_frame
from secateur.graph.sizes import Calls

COPIES = ("aten::clone", "aten::_to_copy", "aten::_unsafe_view", "aten::contiguous", "aten::alias", "aten::detach")


@dataclass
class Record:
    """What one pass showed: of every operation the axes that it sums over, and every sum of products."""

    uses: dict[Place, list[Use]] = field(default_factory=dict)
    contractions: list[Found] = field(default_factory=list)
    norms: list[tuple[str, str, int]] = field(default_factory=list)
    """Of weights of given norms: the parameter of the norms, that of the directions, and the dimension between."""
    spectra: list[tuple[str, str, str]] = field(default_factory=list)
    """Of weights under a spectral norm: the left singular vector, the weight, and the right one."""


@dataclass
class Found:
    """A contraction, by the module in whose forward it is, and the weight if it is one."""

    module: str
    operator: str
    what: Contraction
    weight: str | None
    computed: bool
    """Whether what multiplies is worked out from that parameter."""
    offset: int
    """Where in the weight a part of it begins."""
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    strides: tuple[int, ...] = ()
    """Of the weight, as the operator takes it."""
    bias: Bias = field(default_factory=Bias)

    @property
    def place(self) -> WeightPlace:
        """What tells the weight from others, whatever module uses it."""
        return self.weight or "", self.offset


class Follower(Scoped):
    """Follows passes of one model. Its parameters and buffers have the same axes in every pass."""

    def __init__(self, model: nn.Module) -> None:
        self.calls = Calls()
        super().__init__(Scope(model, self._begin, self._end))
        self.model = model
        self.record = Record()
        self.axes: Any = WeakIdKeyDictionary()
        self.origin: Any = WeakIdKeyDictionary()
        """The parameter that a tensor is a view of."""
        self.computed: Any = WeakIdKeyDictionary()
        """The parameter that a tensor is worked out from, by parameters alone."""
        self.multiplied: Any = WeakIdKeyDictionary()
        """Of products of a matrix and a vector that are parameters both: their names."""
        self._unclaimed: Any = WeakIdKeyDictionary()
        self.names: dict[str, Tensor] = {}
        self._biases = Biases(self.names, self.origin, self.axes_of)
        self.touched: set[str] = set()
        self.seen: dict[str, set[Axis]] = {}
        """By module that ran: the axes of the values that its forward works with, between its modules."""
        self.ran: set[str] = set()
        """The functions that ran torch's operators."""
        self.emptied = False
        """Whether some operation gave no elements: nothing can be followed through that."""
        self.examples: list[Axis] = []
        """The first axes of what the network is called with."""
        self.elsewhere: set[str] = set()
        """Parameters that something else than a product takes."""
        self.fed: dict[str, bool] = {}
        """Weights that took part in products, and whether any was of more than nothing."""
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            self.names[name] = tensor
            self.axes[tensor] = tuple(
                Axis(size) if size > 1 else fixed(size, "a single index") for size in tensor.shape
            )
            self.origin[tensor] = name

    def _begin(self, name: str, given: object) -> None:
        self.calls.begin(name)
        self._see(given)

    def _end(self, output: object) -> None:
        self.calls.end()
        self._see(output)

    def _see(self, values: object) -> None:
        seen = self.seen.setdefault(self.scope.module, set())
        seen.update(axis for x in tree_leaves(values) if isinstance(x, Tensor) for axis in self.axes_of(x))

    def axes_of(self, tensor: Tensor) -> Axes:
        """Of a tensor seen before; what comes from elsewhere is fixed."""
        found = self.axes.get(tensor)
        if found is None or tuple(axis.size for axis in found) != tuple(tensor.shape):
            what = f"meets a tensor that is no parameter or buffer{self.where()}"
            found = tuple(fixed(size, what) for size in tensor.shape)
            self.axes[tensor] = found
        return found  # type: ignore[no-any-return]

    def give(self, inputs: object) -> None:
        """The network's inputs stay as they are."""
        for leaf in tree_leaves(inputs):
            if isinstance(leaf, Tensor):
                self.axes[leaf] = tuple(fixed(size, "the network's input") for size in leaf.shape)
                self.examples += self.axes[leaf][:1]

    def take(self, outputs: object) -> None:
        """And so do its outputs, and what parameters were multiplied for without being a norm."""
        for axis, what in (pair for pairs in self._unclaimed.values() for pair in pairs):
            axis.fix(what)
        for tensor in tensors_in(outputs):
            for axis in self.axes_of(tensor):
                axis.fix("the network's output")

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation, and say which axes it gives."""
        kwargs = kwargs or {}
        turned = torch.Tag.inplace_view in func.tags  # what it writes in place is how a tensor is viewed
        before = self.axes_of(args[0]) if turned else ()
        result = func(*args, **kwargs)
        place = self.scope.place(str(func))
        tensors = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        axes_of = (lambda x: before if x is args[0] else self.axes_of(x)) if turned else self.axes_of
        call = Call(func._schema.name, bound(func, args, kwargs), tensors, axes_of, self.where)
        for tensor in call.tensors():
            if (name := self.origin.get(tensor)) is not None:
                self.touched.add(name)
        self.emptied |= any(not x.numel() and x.dim() > 1 for x in tensors)
        if tensors or func._schema.is_mutable:
            with stated_by(call.told):
                self._note(func, call, place)
        self._see(tensors)
        self.ran.add(place[2].partition(" ")[2].partition("+")[0])
        return result

    def _note(self, func: Any, call: Call, place: Place) -> None:
        found = self._by_rule(func, call)
        passes_on = func.is_view or call.name in COPIES
        first = next(iter(call.arguments.values()), None)
        first = first[0] if isinstance(first, (list, tuple)) and first else first
        for result, axes in zip(call.results, found, strict=False):
            if result is not first or torch.Tag.inplace_view in func.tags:
                self.axes[result] = axes
            else:  # written in place: it stays what it was
                for mine, theirs in zip(self.axes_of(result), axes, strict=True):
                    unify(mine, theirs)
            if passes_on and isinstance(first, Tensor) and first in self.origin:
                self.origin[result] = self.origin[first]
            elif (name := self._all_parameters(call)) is not None:
                self.computed[result] = name
        if call.name == "aten::_weight_norm_interface":
            self.record.norms.append((self.origin.get(call["g"]), self.origin.get(call["v"]), call.get("dim", 0)))
        if call.name in ("aten::mv", "aten::dot", "aten::vdot") and self._all_parameters(call) is not None:
            self._note_spectrum(call)
        if call.uses:
            self.record.uses[place] = call.uses
        self._note_contractions(func, call, passes_on)

    def _note_spectrum(self, call: Call) -> None:
        """A spectral norm divides a weight by `u W v`, which a cut leaves as it was (see `Record.spectra`)."""
        call.contractions.clear()
        one, other = call.tensors()
        if call.name == "aten::mv":
            of = f"a weight of {self.scope.module or 'the network'} is worked out from all of them"
            self.multiplied[call.results[0]] = self.origin.get(one), self.origin.get(other)
            self._unclaimed[call.results[0]] = [(use.axis, of) for use in call.uses]
            call.uses.clear()
            return
        for vector, made in ((one, other), (other, one)):
            names = (self.origin.get(vector), *self.multiplied.get(made, ()))
            if len(names) == 3 and None not in names:
                self._unclaimed.pop(made, None)
                self.record.spectra.append(names)
                call.uses.clear()

    def _all_parameters(self, call: Call) -> str | None:
        """Where every tensor that is taken is a parameter, or worked out from some: the name of the largest."""
        names = [self.origin.get(x) or self.computed.get(x) for x in call.tensors()]
        if not names or None in names:
            return None
        return max(names, key=lambda name: self.names[name].numel())  # type: ignore[no-any-return]

    def _note_contractions(self, func: Any, call: Call, passes_on: bool) -> None:
        """Keep those by a weight; where none is one, the first. What else takes a parameter is noted too."""
        known = [each for each in call.contractions if each.weight in self.origin]
        added = self._biases.see(call, func._schema.is_mutable)
        if not known and not passes_on and not added:
            self.elsewhere.update(filter(None, map(self.origin.get, call.tensors())))
        known += [each for each in call.contractions if each.weight in self.computed]
        for each in (known or call.contractions)[:1]:
            other = next((x for x in call.tensors() if x is not each.weight), each.weight)
            weight, computed = self.origin.get(each.weight), self.computed.get(each.weight)
            where = self.scope.module, call.name
            shapes = tuple(other.shape), tuple(call.shape)
            offset = int(each.weight.storage_offset())
            bias = self._biases.of(call, each.out) if known else Bias()
            found = Found(
                *where, each, weight or computed, weight is None, offset, *shapes, each.weight.stride(), bias
            )  # fmt: skip
            if found.weight is not None:
                self.fed[found.weight] = self.fed.get(found.weight, False) or 0 not in (*shapes[0], *shapes[1])
            self.record.contractions.append(found)

    def _by_rule(self, func: Any, call: Call) -> Sequence[Axes]:
        """One tuple of axes for each result."""
        rule = rule_for(func)
        try:
            if rule is None:
                raise NotImplementedError
            found: Any = rule(call)
            several: list[Axes] = found if isinstance(found, list) else [found]
            sizes = [tuple(axis.size for axis in axes) for axes in several]
            shapes = [tuple(each.shape) for each in call.results]
            if sizes != shapes:
                raise ValueError(f"{sizes} for {shapes}")
        except (NotImplementedError, ValueError, IndexError, KeyError, StopIteration, AttributeError):
            call.uses.clear()
            call.contractions.clear()
            return self._opaque(call)
        return several

    def _opaque(self, call: Call) -> list[Axes]:
        """What is not followed stays as it is."""
        what = f"{call.name.replace('::', '.')} over the channels of {self.where().removeprefix(' in ')}"
        for tensor in call.tensors():
            for axis in self.axes_of(tensor):
                axis.fix(what)
        return [tuple(fixed(size, what) for size in each.shape) for each in call.results]

    def where(self) -> str:
        """The module and the line that run, in words."""
        return f" in {self.scope.module or 'the network'}{self.line()}"

    def line(self) -> str:
        """Where in the user's own code it is, in brackets."""
        frame = users_frame(whole=True)
        return "" if frame is None else f" ({Path(frame.f_code.co_filename).name}:{frame.f_lineno})"


def in_double(model: nn.Module) -> bool:
    """Whether the model computes in double precision."""
    return any(x.dtype == torch.float64 for x in model.parameters())


class Precise(TorchDispatchMode):
    """A network in double precision stays so where its forward asks for single, as norms of transformers do."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation, in double where single is asked for."""
        kwargs = {name: torch.float64 if x is torch.float32 else x for name, x in (kwargs or {}).items()}
        return func(*(torch.float64 if x is torch.float32 else x for x in args), **kwargs)


@contextmanager
def plain_kernels(double: bool = False) -> Iterator[None]:
    """For a while, attention and recurrent layers run as the operators that they are made of; `double`: `Precise`."""
    fast = torch.backends.mha.get_fastpath_enabled()
    mkldnn = torch._C._get_mkldnn_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    torch._C._set_mkldnn_enabled(False)
    try:
        in_full = Precise() if double else nullcontext()  # type: ignore[no-untyped-call]
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), in_full:
            yield
    finally:
        torch._C._set_mkldnn_enabled(mkldnn)
        torch.backends.mha.set_fastpath_enabled(fast)

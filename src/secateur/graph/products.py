"""The products by weights of a pass, told by their operators, whatever module runs them.

A weight is known by where its numbers lie in memory: a view of it (`weight.t()`, a third of `in_proj_weight`) begins at
the same number. So nothing has to be known of the class that uses it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from secateur.graph.graph import Layer, Matrix
from secateur.graph.operations import ADDING, PRODUCTS

COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.clone.default)
SAVED = ("_saved_weight", "_saved_mat2", "_saved_self", "_saved_mat1", "_saved_batch2", "_saved_batch1")
"""What autograd keeps of them."""


def weight_of(model: nn.Module, layer: Layer, counts: Mapping[str, Any] | None = None) -> Tensor:
    """The weight of a layer with a matrix, a view of the parameter: [groups, out of a group, in of a group, *kernel].

    `counts` are the units that a cut network has kept.
    """
    matrix, counts = matrix_of(layer), counts or {}
    whole = tensor_of(model, layer.weight).detach()
    if layer.kind == "linear":
        rows = whole if matrix.out_first else whole.T
        start = int(matrix.before.size(counts))
        return rows[start : start + int(layer.outputs.size(counts))][None]
    groups = int(layer.at(counts).groups)
    weight: Tensor = whole.unflatten(0, (groups, -1))
    return weight.transpose(1, 2) if layer.kind == "transposed" else weight


def bias_of(model: nn.Module, layer: Layer, counts: Mapping[str, Any] | None = None) -> Tensor | None:
    """What is added to the layer's outputs [out], a view of the parameter; None where nothing is."""
    matrix, counts = matrix_of(layer), counts or {}
    if not matrix.bias:
        return None
    start = int(matrix.before.size(counts))
    return tensor_of(model, matrix.bias).detach()[start : start + int(layer.outputs.size(counts))]


def tensor_of(model: nn.Module, name: str) -> Tensor:
    """A parameter or a buffer, by its name; of a scripted module, too."""
    owner, _, leaf = name.rpartition(".")
    return getattr(model.get_submodule(owner), leaf)  # type: ignore[no-any-return]


def matrix_of(layer: Layer) -> Matrix:
    """Of a layer that has one."""
    assert layer.matrix is not None, layer.name
    return layer.matrix


def with_matrix(layers: Iterable[Layer]) -> list[Layer]:
    """Those that have one."""
    return [layer for layer in layers if layer.matrix is not None]


@dataclass
class Run:
    """One product as it runs: what it multiplies, and how a convolution moves."""

    x: Tensor
    layer: Layer
    left: bool = False
    """Whether the weight is the first factor, so that rows of the operand are its columns."""
    biased: bool = False
    """Whether what is given has the bias in it already; else another operator adds it."""
    groups: int = 1
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    output_padding: tuple[int, ...] = ()
    transposed: bool = False


Before = Callable[[Run], None]
After = Callable[[Run, Tensor], None]


class Products(TorchDispatchMode):
    """Calls `before(run)` and `after(run, output)` at every product by the weight of one of the layers."""

    def __init__(
        self,
        model: nn.Module,
        layers: Iterable[Layer],
        before: Before | None = None,
        after: After | None = None,
        counts: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.layers = places(model, layers, counts)
        """By where the weights lie in memory, and copies of them in another precision."""
        self._casts: dict[int, tuple[Tensor, Tensor]] = {}
        self._before, self._after = before, after

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operator."""
        if func in COPIES and args[0].data_ptr() in self.layers:
            return self._cast(func, args, kwargs or {})
        operands = PRODUCTS.get(func._overloadpacket)
        run = None if operands is None else self._run(args[operands[0]], args[operands[1]], args, func)
        if run is not None and self._before is not None:
            self._before(run)
            for copy, weight in self._casts.values():  # the weight may be another now
                copy.copy_(weight)
        result = func(*args, **(kwargs or {}))
        if run is not None and self._after is not None:
            self._after(run, result)
        return result

    def _cast(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
        """A weight in another precision (autocast), or in another order in memory, is that weight still."""
        copy: Tensor = func(*args, **kwargs)
        place = args[0].data_ptr()
        if args[0].numel() and copy.shape == args[0].shape:
            if place in self._casts:  # that of a pass before
                self.layers.pop(self._casts[place][0].data_ptr(), None)
            self.layers[copy.data_ptr()] = self.layers[place]
            self._casts[place] = copy, args[0]
        return copy

    def _run(self, one: Tensor, other: Tensor, args: Sequence[Any], func: Any) -> Run | None:
        biased = func._overloadpacket in ADDING or (len(args) == 3 and args[2] is not None)  # a linear operator's third
        for x, weight, left in ((one, other, False), (other, one, True)):
            layer = self.layers.get(weight.data_ptr())
            if layer is not None:
                return _moving(x, layer, weight, args) if layer.kernel else Run(x, layer, left, biased)
        return None


def _moving(x: Tensor, layer: Layer, weight: Tensor, args: Sequence[Any]) -> Run:
    """A convolution's."""
    dims = weight.dim() - 2

    def each(numbers: Sequence[int]) -> tuple[int, ...]:
        return tuple(numbers) if len(numbers) == dims else tuple(numbers) * dims

    stride, padding, dilation, transposed, output_padding, groups = args[3:9]
    return Run(
        x,
        layer,
        biased=args[2] is not None,
        groups=groups,
        kernel=tuple(weight.shape[2:]),
        stride=each(stride),
        padding=each(padding),
        dilation=each(dilation),
        output_padding=each(output_padding),
        transposed=transposed,
    )


def places(model: nn.Module, layers: Iterable[Layer], counts: Mapping[str, Any] | None = None) -> dict[int, Layer]:
    """The layers with a matrix, by where their weights lie in memory."""
    weights = {layer.name: (layer, weight_of(model, layer, counts)) for layer in with_matrix(layers)}
    return {weight.data_ptr(): layer for layer, weight in weights.values() if weight.numel()}


def nodes(answers: Sequence[Tensor], layers: Mapping[int, Layer]) -> dict[str, list[Any]]:
    """What autograd remembers of the products that answers come of, by the name of the layer, in order of running."""
    waiting = [x.grad_fn for x in answers if x.grad_fn is not None]
    seen, found = set(waiting), dict[str, list[Any]]()
    while waiting:
        node = waiting.pop()
        for name in SAVED:
            kept = getattr(node, name, None)
            layer = layers.get(kept.data_ptr()) if isinstance(kept, Tensor) else None
            if layer is not None:
                found.setdefault(layer.name, []).append(node)
                break
        following = [each for each, _ in node.next_functions if each is not None and each not in seen]
        seen.update(following)
        waiting += following
    return {name: sorted(mine, key=lambda node: node._sequence_nr()) for name, mine in found.items()}


@contextmanager
def as_operators(model: nn.Module) -> Iterator[None]:
    """For a while, attention and recurrent layers run as the operators that they are made of; in all threads."""
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    fast, mkldnn = torch.backends.mha.get_fastpath_enabled(), torch._C._get_mkldnn_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    torch._C._set_mkldnn_enabled(mkldnn and not recurrent)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(mkldnn)
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def unwatched() -> Iterator[None]:
    """For a while, what runs is not the network's own, and runs at full speed."""
    with _disable_current_modes(), torch._C.DisableTorchFunction():
        yield

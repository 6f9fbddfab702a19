"""Linear and convolution layers that keep and compute only the blocks of their weight that are not zero.

For inference: training keeps the dense weight and a mask. Where no kernel can run (no compiler, or no Triton on a GPU)
they multiply by the dense weight, made again when it is first needed.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
from functools import cache
from types import ModuleType
from typing import Any, Self, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.sparse.masked import impose
from secateur.sparse.matrix import Block, BlockSparse
from secateur.sparse.native import library
from secateur.sparse.pattern import Blocks

TYPES = (torch.float32, torch.bfloat16)
Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


@cache
def triton_kernel() -> ModuleType | None:
    """The kernel for GPUs; None without Triton."""
    if importlib.util.find_spec("triton") is None:
        return None
    return importlib.import_module("secateur.sparse.gpu")


class _BlockSparseLayer(nn.Module):
    """The weight's blocks as buffers: they are what is saved and loaded."""

    start: Tensor
    column: Tensor
    values: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, block: Block) -> None:
        super().__init__()
        if weight.dtype not in TYPES:
            raise TypeError(f"a block-sparse layer is float32 or bfloat16, not {weight.dtype}")
        self.shape = weight.shape
        matrix = BlockSparse.of(weight.detach().flatten(1), block)
        for name in ("start", "column", "values"):
            self.register_buffer(name, getattr(matrix, name))
        self.register_buffer("bias", None if bias is None else bias.detach().clone())
        self._ready: tuple[Tensor, BlockSparse, Tensor | None] | None = None
        self._dense: tuple[Tensor, Tensor] | None = None

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        for name in ("start", "column", "values"):  # which blocks are kept comes with them
            if prefix + name in state_dict:
                shape = state_dict[prefix + name].shape
                setattr(self, name, getattr(self, name).new_empty(shape))
        self._ready = self._dense = None
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _matrix(self) -> BlockSparse:
        return BlockSparse(self.start, self.column, self.values, (self.shape[0], self.shape[1:].numel()))

    def dense_weight(self) -> Tensor:
        """The weight as the dense layer has it, exactly."""
        return self._matrix().dense().view(self.shape)

    def _product(self, x: Tensor, out: Tensor) -> None:
        """W x + bias for x [in, n] into `out` [out, n], both of one precision."""
        if self._ready is None or self._ready[0] is not self.values or self._ready[1].values.dtype != x.dtype:
            whole = self._matrix()
            matrix = BlockSparse(whole.start, whole.column, whole.values.to(x.dtype), whole.shape)
            self._ready = self.values, matrix, None if self.bias is None else self.bias.to(x.dtype)
        _, matrix, bias = self._ready
        found = triton_kernel() if x.is_cuda else None
        if found is None:
            matrix.times(x, out, bias)
        else:
            found.times(matrix, x, out, bias)

    def _remembered(self) -> Tensor:
        """The dense weight, made once."""
        if self._dense is None or self._dense[0] is not self.values:
            self._dense = self.values, self.dense_weight()
        return self._dense[1]

    def _fits(self, x: Tensor) -> bool:
        """Whether a kernel may be given this input: it trusts the sizes."""
        raise NotImplementedError

    def _precision(self, x: Tensor) -> torch.dtype | None:
        """What a kernel computes this input in; none where the dense weight has to do it.

        No kernel passes gradients on; under autocast the dense layer decides on the precision; and an input that does
        not fit is the dense layer's to take or to refuse. Raises RuntimeError where a trace is made, which would not
        see what a kernel does.
        """
        if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            raise RuntimeError("block-sparse layers cannot be traced: trace secateur.sparse.dense_again(network)")
        alone = not (x.requires_grad and torch.is_grad_enabled()) and not torch.is_autocast_enabled(x.device.type)
        if not alone or not self._fits(x):
            return None
        if x.dtype not in TYPES or x.numel() == 0:
            return None
        if x.is_cuda:
            found = triton_kernel()
            return x.dtype if found is not None and x.dtype == self.values.dtype and found.takes(self.values) else None
        return torch.float32 if x.device.type == "cpu" and library() is not None else None


class BlockSparseLinear(_BlockSparseLayer):
    """x [..., in] -> [..., out], as `nn.Linear` of the same weight."""

    @classmethod
    def of(cls, layer: nn.Linear, block: Block) -> Self:
        """From a layer whose weight has blocks of zeros."""
        return cls(layer.weight, layer.bias, block)

    def to_dense(self) -> nn.Linear:
        """The layer with its dense weight, of which the blocks that are there may be trained on."""
        made = nn.Linear(self.shape[1], self.shape[0], bias=self.bias is not None, dtype=self.values.dtype)
        return _filled(made, self)

    def _fits(self, x: Tensor) -> bool:
        return x.shape[-1:] == self.shape[1:]

    def forward(self, x: Tensor) -> Tensor:
        """The layer's answer, in the input's precision."""
        precision = self._precision(x)
        if precision is None:
            return F.linear(x, self._remembered(), self.bias)
        rows = x.reshape(-1, self.shape[1]).to(precision)
        out = rows.new_empty(len(rows), self.shape[0])
        self._product(rows.t(), out.t())
        return out.to(x.dtype).view(*x.shape[:-1], self.shape[0])

    def extra_repr(self) -> str:
        """Sizes and the share of blocks kept."""
        return f"in_features={self.shape[1]}, out_features={self.shape[0]}, {_kept(self)}"


class BlockSparseConv2d(_BlockSparseLayer):
    """x [N, in, H, W] -> [N, out, H', W'], as `nn.Conv2d` of the same weight, its matrix form [out, in * kh * kw]."""

    def __init__(self, layer: nn.Conv2d, block: Block) -> None:
        padding = _padding(layer)
        if layer.groups != 1 or padding is None:
            raise ValueError("a block-sparse convolution has one group, and as many zeros around on either side")
        super().__init__(layer.weight, layer.bias, block)
        self.stride, self.padding, self.dilation = layer.stride, padding, layer.dilation

    @classmethod
    def of(cls, layer: nn.Conv2d, block: Block) -> Self:
        """From a layer whose weight has blocks of zeros."""
        return cls(layer, block)

    def to_dense(self) -> nn.Conv2d:
        """The layer with its dense weight, of which the blocks that are there may be trained on."""
        out, inside, *kernel = self.shape
        bias, dtype = self.bias is not None, self.values.dtype
        form: dict[str, Any] = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}
        return _filled(nn.Conv2d(inside, out, (kernel[0], kernel[1]), **form, bias=bias, dtype=dtype), self)

    def _fits(self, x: Tensor) -> bool:
        return x.dim() == 4 and x.shape[1] == self.shape[1]

    def forward(self, x: Tensor) -> Tensor:
        """The layer's answer, in the input's precision."""
        precision = self._precision(x)
        if precision is None:
            return F.conv2d(x, self._remembered(), self.bias, self.stride, self.padding, self.dilation)
        kernel = self.shape[2:]
        height, width = (
            (size + 2 * pad - dilation * (taps - 1) - 1) // stride + 1
            for size, pad, dilation, taps, stride in zip(
                x.shape[2:], self.padding, self.dilation, kernel, self.stride, strict=True
            )
        )
        pointwise = set(kernel) == set(self.stride) == {1} and not any(self.padding)
        ready = x.to(precision)
        columns = ready.flatten(2) if pointwise else F.unfold(ready, kernel, self.dilation, self.padding, self.stride)
        out = ready.new_empty(len(x), self.shape[0], height * width)
        for one, answer in zip(columns, out, strict=True):
            self._product(one, answer)
        return out.to(x.dtype).view(*out.shape[:2], height, width)

    def extra_repr(self) -> str:
        """Sizes and the share of blocks kept."""
        return f"{self.shape[1]}, {self.shape[0]}, kernel_size={tuple(self.shape[2:])}, {_kept(self)}"


def _padding(layer: nn.Conv2d) -> tuple[int, int] | None:
    """Zeros on either side, down and across; none where a convolution pads in another way."""
    before = layer._reversed_padding_repeated_twice  # what comes before and after, across and then down
    if layer.padding_mode != "zeros" or before[0] != before[1] or before[2] != before[3]:
        return None
    return before[2], before[0]


def _filled(made: Layer, sparse: _BlockSparseLayer) -> Layer:
    with torch.no_grad():
        made.weight.copy_(sparse.dense_weight())
        if made.bias is not None and sparse.bias is not None:
            made.bias.copy_(sparse.bias)
    matrix = sparse._matrix()
    kept = BlockSparse(matrix.start, matrix.column, torch.ones_like(matrix.values), matrix.shape).dense()
    impose(made.to(sparse.values.device), kept.bool().view(sparse.shape), Blocks(matrix.block))
    return made


def block_sparse_layers(model: nn.Module) -> list[str]:
    """The names of the layers that are block-sparse; "" is the model itself."""
    return [name for name, x in model.named_modules() if isinstance(x, BlockSparseLinear | BlockSparseConv2d)]


def dense_again(model: nn.Module) -> nn.Module:
    """A copy whose block-sparse layers are dense ones with masks again; the model itself where there are none."""
    if isinstance(model, BlockSparseLinear | BlockSparseConv2d):
        return model.to_dense()
    names = block_sparse_layers(model)
    made = copy.deepcopy(model) if names else model
    for name in names:
        parent, _, child = name.rpartition(".")
        layer = made.get_submodule(name)
        assert isinstance(layer, BlockSparseLinear | BlockSparseConv2d)
        setattr(made.get_submodule(parent), child, layer.to_dense())
    return made


def _kept(layer: _BlockSparseLayer) -> str:
    blocks = (len(layer.start) - 1) * -(-layer.shape[1:].numel() // layer.values.shape[1])
    return f"block={layer.values.shape[2]}x{layer.values.shape[1]}, kept={len(layer.values) / max(blocks, 1):.1%}"

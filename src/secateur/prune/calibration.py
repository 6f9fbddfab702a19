"""Calibration inputs, and the rows that a layer turns into outputs (im2col at sampled positions)."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.errors import DataError
from secateur.graph import Layer
from secateur.prune.entry import picked_inputs

Batch = Tensor | Sequence[Tensor]


@dataclass(frozen=True)
class Calibration:
    """The model's inputs for some hundreds of unlabelled examples, held in memory."""

    inputs: tuple[Tensor, ...]

    @classmethod
    def gather(cls, batches: Iterable[Batch], inputs: int = 1, most: int = 2000) -> Calibration:
        """Collect up to `most` examples from batches of inputs, or of (inputs, labels).

        `inputs` is how many leading tensors of a batch the model takes. Raises DataError on none.
        """
        batches = [batches] if isinstance(batches, Tensor) else batches  # one batch, not a sequence of examples
        columns: list[list[Tensor]] = [[] for _ in range(inputs)]
        seen = 0
        for batch in batches:
            parts = (batch,) if isinstance(batch, Tensor) else tuple(batch)
            if len(parts) < inputs or not all(isinstance(part, Tensor) for part in parts[:inputs]):
                raise DataError(f"a calibration batch holds {len(parts)} tensors; the model takes {inputs}")
            for column, part in zip(columns, parts, strict=False):
                column.append(part[: most - seen])
            seen += len(columns[0][-1])
            if seen >= most:
                break
        if seen == 0:
            raise DataError("the calibration data is empty; give some hundreds of unlabelled examples")
        return cls(tuple(torch.cat(column).detach() for column in columns))

    def __len__(self) -> int:
        return len(self.inputs[0])

    def batches(self, size: int) -> Iterator[tuple[Tensor, ...]]:
        """The inputs in pieces of `size` examples."""
        for start in range(0, len(self), size):
            yield tuple(x[start : start + size] for x in self.inputs)

    def to(self, device: torch.device) -> Calibration:
        """The same inputs on another device."""
        return Calibration(tuple(x.to(device) for x in self.inputs))

    def head(self, examples: int) -> Calibration:
        """The first examples only."""
        return Calibration(tuple(x[:examples] for x in self.inputs))

    def tail(self, examples: int) -> Calibration:
        """The last examples only."""
        return Calibration(tuple(x[-examples:] for x in self.inputs))


MOST_ELEMENTS = 2**27
"""Of one layer's input rows, so that they fit in memory (0.5 GB)."""


def sample_positions(layer: Layer, examples: int, rows: int = 32, fewest: int = 4096) -> Tensor:
    """Output positions to look at, [examples, per example]: about `rows` for each input feature, `fewest` at least.

    All of a layer's positions where it has no more; else drawn with a seed that is the layer's name.
    """
    total = max(layer.positions, 1)
    wide = layer.features * layer.groups
    wanted = min(max(rows * layer.features, fewest), MOST_ELEMENTS // wide)
    each = min(max(-(-wanted // examples), 1), total)
    if each == total:
        return torch.arange(total).expand(examples, total)
    generator = torch.Generator().manual_seed(zlib.crc32(layer.name.encode()))
    return torch.randint(total, (examples, each), generator=generator)


def input_rows(module: nn.Module, x: Tensor, positions: Tensor) -> Tensor:
    """What the weights of a layer see at output `positions` [N, P]: [N * P, groups, features per group].

    Features are ordered as in `weight.flatten(1)`.
    """
    examples, each = positions.shape
    positions = positions.to(x.device)
    x = picked_inputs(module, x)
    if isinstance(module, nn.Linear):
        tokens = x.reshape(examples, -1, x.shape[-1])
        return tokens[torch.arange(examples, device=x.device)[:, None], positions].reshape(-1, 1, x.shape[-1])
    assert isinstance(module, (nn.Conv1d, nn.Conv2d))
    if module.padding_mode != "zeros":
        x = F.pad(x, module._reversed_padding_repeated_twice, mode=module.padding_mode)
    flat = isinstance(module, nn.Conv1d)
    x = x[:, :, None] if flat else x
    row, column, inside = _reach(module, positions, x.shape[2:], flat)
    example = torch.arange(examples, device=x.device)[:, None, None]
    pixels = x.permute(0, 2, 3, 1)[example, row, column]  # [N, P, taps, channels]: nothing else is copied
    if inside is not None:
        pixels = pixels * inside[..., None]
    return pixels.flatten(0, 1).transpose(1, 2).reshape(examples * each, module.groups, -1)


def _reach(
    module: nn.Conv1d | nn.Conv2d, positions: Tensor, shape: torch.Size, flat: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Row and column of every input pixel [N, P, taps] that an output reads, and which lie inside, if not all do."""
    one = (1,) if flat else ()
    kernel, stride, dilation = ((*one, *each) for each in (module.kernel_size, module.stride, module.dilation))
    padding = [0, 0, 0, 0]
    if module.padding_mode == "zeros":
        padding = [*module._reversed_padding_repeated_twice, *([0, 0] if flat else [])]
    height, width = shape
    columns = (width + padding[0] + padding[1] - dilation[1] * (kernel[1] - 1) - 1) // stride[1] + 1
    down = torch.arange(kernel[0]).repeat_interleave(kernel[1]) * dilation[0] - padding[2]
    right = torch.arange(kernel[1]).repeat(kernel[0]) * dilation[1] - padding[0]
    row = (positions // columns * stride[0])[..., None] + down.to(positions.device)
    column = (positions % columns * stride[1])[..., None] + right.to(positions.device)
    if not any(padding):
        return row, column, None
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    return row.clamp(0, height - 1), column.clamp(0, width - 1), inside


def output_rows(y: Tensor, positions: Tensor, convolution: bool) -> Tensor:
    """A layer's outputs (or anything of their shape) at `positions` [N, P]: [N * P, out channels]."""
    examples = len(positions)
    index = torch.arange(examples, device=y.device)[:, None]
    positions = positions.to(y.device)
    if convolution and y.dim() == 4:
        return y.permute(0, 2, 3, 1)[index, positions // y.shape[3], positions % y.shape[3]].flatten(0, 1)
    tokens = y.flatten(2).transpose(1, 2) if convolution else y.reshape(examples, -1, y.shape[-1])
    return tokens[index, positions].flatten(0, 1)

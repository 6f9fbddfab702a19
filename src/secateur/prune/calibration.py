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


FEWEST_ROWS = 4096
MOST_ELEMENTS = 2**27
"""Of one layer's input rows, so that they fit in memory (0.5 GB)."""


def sample_positions(layer: Layer, examples: int, rows: int) -> Tensor:
    """Output positions to look at, [examples, per example]: about `rows` for each input feature.

    All of a layer's positions where it has no more; else drawn with a seed that is the layer's name.
    """
    total = max(layer.positions, 1)
    wide = layer.features * layer.groups
    wanted = min(max(rows * layer.features, FEWEST_ROWS), MOST_ELEMENTS // wide)
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
    if isinstance(module, nn.Linear):
        tokens = x.reshape(examples, -1, x.shape[-1])
        return tokens[torch.arange(examples, device=x.device)[:, None], positions].reshape(-1, 1, x.shape[-1])
    assert isinstance(module, (nn.Conv1d, nn.Conv2d))
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    padded = F.pad(x, module._reversed_padding_repeated_twice, mode=mode)
    flat = isinstance(module, nn.Conv1d)
    padded = padded[:, :, None] if flat else padded
    kernel = (1, *module.kernel_size) if flat else module.kernel_size
    stride = (1, *module.stride) if flat else module.stride
    dilation = (1, *module.dilation) if flat else module.dilation
    height, width = padded.shape[2:]
    columns = (width - dilation[1] * (kernel[1] - 1) - 1) // stride[1] + 1
    corner = (positions // columns) * stride[0] * width + (positions % columns) * stride[1]
    reach = (torch.arange(kernel[0])[:, None] * dilation[0] * width + torch.arange(kernel[1]) * dilation[1]).ravel()
    image = torch.arange(examples, device=x.device)[:, None, None] * (height * width)
    index = image + corner[:, :, None] + reach.to(x.device)
    pixels = padded.permute(0, 2, 3, 1).reshape(-1, padded.shape[1])[index.ravel()]
    rows = pixels.view(examples * each, len(reach), padded.shape[1]).transpose(1, 2)
    return rows.reshape(examples * each, module.groups, -1)


def output_rows(y: Tensor, positions: Tensor, convolution: bool) -> Tensor:
    """A layer's outputs (or anything of their shape) at `positions` [N, P]: [N * P, out channels]."""
    examples = len(positions)
    tokens = y.flatten(2).transpose(1, 2) if convolution else y.reshape(examples, -1, y.shape[-1])
    index = torch.arange(examples, device=y.device)[:, None]
    return tokens[index, positions.to(y.device)].flatten(0, 1)


def with_constant(rows: Tensor) -> Tensor:
    """Append a feature that is always 1, [..., features + 1]: least squares then finds the bias too."""
    return F.pad(rows, (0, 1), value=1.0)

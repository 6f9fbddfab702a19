"""Calibration inputs, and the rows that a layer turns into outputs (im2col at sampled positions)."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.errors import DataError
from secateur.graph import Inputs, Layer, joined, laid_out
from secateur.prune.entry import picked_inputs

Batch = Tensor | Sequence[Any] | Mapping[str, Any] | Inputs


@dataclass(frozen=True)
class Calibration:
    """The model's inputs for some hundreds of unlabelled examples, held in memory."""

    inputs: Inputs

    @classmethod
    def gather(cls, batches: Iterable[Batch], example: Inputs, most: int = 2000) -> Calibration:
        """Collect up to `most` examples from batches of inputs, or of (inputs, labels), of the example's sizes.

        Where the example is a dict, so are batches; what they hold beside its names is left out. Where the example's
        tensors hang together (nodes and edges), the first batch is all that is taken.
        Where layers are looked at follows from the sizes. Raises DataError on none.
        """
        if not isinstance(batches, (Iterable, Inputs)):
            raise DataError(f"calibration is {batches!r}: give batches of unlabelled inputs")
        batches = [batches] if isinstance(batches, (Tensor, Mapping, Inputs)) else batches  # one batch
        pieces: list[Inputs] = []
        seen = 0
        for batch in batches:
            inputs = replace(inputs_of(batch, example), whole=example.whole)
            pieces.append(inputs.part(0, min(len(inputs), most - seen)))
            seen += len(pieces[-1])
            if seen >= most or example.whole:
                break
        if seen == 0:
            raise DataError("the calibration data is empty; give some hundreds of unlabelled examples")
        try:
            together = joined(pieces).map(Tensor.detach)
        except RuntimeError as error:
            raise DataError(f"the calibration batches are of different sizes: {error}") from error
        for mine, wanted in zip(together.tensors, example.tensors, strict=False):
            if mine.shape[1:] != wanted.shape[1:] and not _listed(example) and not example.whole:
                raise DataError(
                    f"calibration inputs are {list(mine.shape[1:])} each, and the example input is "
                    f"{list(wanted.shape[1:])}: give both as the network is used"
                )
        if any(x.is_floating_point() and not x.isfinite().all() for x in together.tensors):
            raise DataError("the calibration data holds numbers that are not finite (NaN or infinity): take them out")
        return cls(laid_out(together, torch.contiguous_format))

    def __len__(self) -> int:
        return len(self.inputs)

    def batches(self, size: int) -> Iterator[Inputs]:
        """The inputs in pieces of `size` examples."""
        for start in range(0, len(self), size):
            yield self.inputs.part(start, start + size)

    def to(self, device: torch.device) -> Calibration:
        """The same inputs on another device."""
        return Calibration(self.inputs.to(device))

    def head(self, examples: int) -> Calibration:
        """The first examples only."""
        return Calibration(self.inputs.part(0, examples))

    def tail(self, examples: int) -> Calibration:
        """The last examples only."""
        return Calibration(self.inputs.part(len(self) - min(examples, len(self)), len(self)))


def inputs_of(batch: Batch, example: Inputs) -> Inputs:
    """The inputs of a batch, which may hold labels behind them or beside them. Raises DataError where they are not."""
    if isinstance(batch, Inputs):
        return batch
    wrong = DataError(
        f"a calibration batch is a {type(batch).__name__} that does not begin with as many tensors as the model takes "
        f"({len(example.args) + len(example.kwargs)})"
    )
    if example.kwargs:
        given = batch[0] if isinstance(batch, (tuple, list)) and batch and isinstance(batch[0], Mapping) else batch
        if not isinstance(given, Mapping) or not set(example.kwargs) <= set(given):
            raise DataError(
                f"a calibration batch is a {type(batch).__name__} without {', '.join(map(str, example.kwargs))}, which "
                "the example input has: give dicts of the same names"
            )
        return Inputs((), {name: given[name] for name in example.kwargs})
    if isinstance(batch, Tensor):
        parts: tuple[Any, ...] = (batch,)
    elif _listed(example) and isinstance(batch, list):
        parts = (batch,)
    else:
        parts = tuple(batch) if isinstance(batch, (tuple, list)) else ()
    if parts and isinstance(parts[0], (tuple, list)) and len(example.args) > 1:
        parts = tuple(parts[0])  # ((one, other), labels)
    if len(parts) < len(example.args):
        raise wrong
    for part, wanted in zip(parts, example.args, strict=False):
        if isinstance(wanted, Tensor) != isinstance(part, Tensor):
            raise wrong
    return Inputs(tuple(parts[: len(example.args)]))


def _listed(example: Inputs) -> bool:
    return bool(example.args) and isinstance(example.args[0], list)


MOST_ELEMENTS = 2**27
"""Of one layer's input rows, so that they fit in memory (0.5 GB)."""


def sample_positions(
    layer: Layer, examples: int, rows: int = 32, fewest: int = 4096, matters: Tensor | None = None
) -> Tensor:
    """Output positions to look at, [examples, per example]: about `rows` for each input feature, `fewest` at least.

    All of a layer's positions where it has no more; else drawn with a seed that is the layer's name. Where `matters`
    [examples or more, positions] is given, of each example only those that matter.
    """
    most = max(layer.positions, 1)
    if matters is not None:
        matters = matters[:examples]
        most = max(int(matters.sum(1).max()), 1)
    wide = layer.features * layer.groups
    wanted = min(max(rows * layer.features, fewest), MOST_ELEMENTS // wide)
    each = min(max(-(-wanted // examples), 1), most)
    if each == most:
        chosen = torch.arange(most).expand(examples, most)
    else:
        generator = torch.Generator().manual_seed(zlib.crc32(layer.name.encode()))
        chosen = torch.randint(most, (examples, each), generator=generator)
    if matters is None:
        return chosen
    first = torch.argsort(~matters, dim=1, stable=True)
    return first.gather(1, chosen % matters.sum(1, keepdim=True).clamp_min(1))


def input_rows(module: nn.Module, x: Tensor, positions: Tensor, taps: Taps | None = None) -> Tensor:
    """What the weights of a layer see at output `positions` [N, P]: [N * P, groups, features per group].

    Features are ordered as in `weight.flatten(1)`. A convolution's `taps` for these positions may be given.
    """
    examples, each = positions.shape
    x = picked_inputs(module, x)
    if isinstance(module, nn.Linear):
        tokens = x.reshape(examples, -1, x.shape[-1])
        index = torch.arange(examples, device=x.device)[:, None]
        return tokens[index, positions.to(x.device)].reshape(-1, 1, x.shape[-1])
    assert isinstance(module, (nn.Conv1d, nn.Conv2d))
    if module.padding_mode != "zeros":
        x = F.pad(x, module._reversed_padding_repeated_twice, mode=module.padding_mode)
    x = x[:, :, None] if x.dim() == 3 else x
    taps = taps or taps_at(module, positions.to(x.device), x.shape)
    pixels = taps.of(x).view(examples * each, -1, x.shape[1])
    return pixels.transpose(1, 2).reshape(examples * each, module.groups, -1)


@dataclass(frozen=True)
class Taps:
    """What outputs of a convolution read of its input: pixels, one after the other."""

    pixel: Tensor
    """Which of the examples * height * width, [rows * taps]."""
    inside: Tensor | None
    """1, or 0 where padding is read, [rows * taps, 1]; None where none is."""

    def of(self, x: Tensor) -> Tensor:
        """These pixels of x [N, channels, height, width], [rows * taps, channels]; nothing else is copied."""
        pixels = x.permute(0, 2, 3, 1)
        if pixels.is_contiguous():
            found = pixels.flatten(0, 2).index_select(0, self.pixel)
        else:
            found = pixels[torch.unravel_index(self.pixel, pixels.shape[:3])]
        return found if self.inside is None else found.mul_(self.inside)


def taps_at(module: nn.Conv1d | nn.Conv2d, positions: Tensor, shape: Sequence[int]) -> Taps:
    """What the outputs at `positions` [N, P] read of inputs of a shape [N, channels, height, width].

    Height is 1 for Conv1d. Inputs are padded already where the padding is not zeros.
    """
    one = (1,) if isinstance(module, nn.Conv1d) else ()
    kernel, stride, dilation = ((*one, *each) for each in (module.kernel_size, module.stride, module.dilation))
    padding = [0, 0, 0, 0]
    if module.padding_mode == "zeros":
        padding = [*module._reversed_padding_repeated_twice, *([0, 0] if one else [])]
    height, width = shape[2:]
    columns = (width + padding[0] + padding[1] - dilation[1] * (kernel[1] - 1) - 1) // stride[1] + 1
    where = positions.device
    down = torch.arange(kernel[0], device=where).repeat_interleave(kernel[1]) * dilation[0] - padding[2]
    right = torch.arange(kernel[1], device=where).repeat(kernel[0]) * dilation[1] - padding[0]
    row = (positions // columns * stride[0])[..., None] + down
    column = (positions % columns * stride[1])[..., None] + right
    first = torch.arange(len(positions), device=where)[:, None, None] * (height * width)
    if not any(padding):
        return Taps((first + row * width + column).flatten(), None)
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    pixel = first + row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
    return Taps(pixel.flatten(), inside.float().view(-1, 1))


def output_rows(y: Tensor, positions: Tensor, convolution: bool) -> Tensor:
    """A layer's outputs (or anything of their shape) at `positions` [N, P]: [N * P, out channels]."""
    examples = len(positions)
    index = torch.arange(examples, device=y.device)[:, None]
    positions = positions.to(y.device)
    if convolution and y.dim() == 4:
        return y.permute(0, 2, 3, 1)[index, positions // y.shape[3], positions % y.shape[3]].flatten(0, 1)
    tokens = y.flatten(2).transpose(1, 2) if convolution else y.reshape(examples, -1, y.shape[-1])
    return tokens[index, positions].flatten(0, 1)

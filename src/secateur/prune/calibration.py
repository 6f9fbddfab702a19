"""Calibration inputs: some hundreds of unlabelled examples, held in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from secateur.errors import DataError
from secateur.graph import Inputs, joined, laid_out

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

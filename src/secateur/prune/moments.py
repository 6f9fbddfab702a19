"""Second moments of what each layer sees: all that least squares needs to know about the data.

Collected once on the dense network; every refit of every candidate is then a small solve.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur.errors import DataError
from secateur.graph import Layer, ModelGraph, first_input
from secateur.prune.calibration import Calibration, input_rows, sample_positions
from secateur.prune.offset import has_offset
from secateur.prune.sensitivity import Sensitivity
from secateur.prune.shrink import own_moments, shrink

LARGEST = 8192
"""Input features beyond which a layer's moments are not collected (0.5 GB each in double precision)."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Of a layer's input rows x (a patch each), for each of its groups: `square` = E[x x^T], `mean` = E[x].

    Where the layer's offset is free, the square is taken about the mean: to lose the mean of an input costs nothing.
    What two inputs have in common is shrunk by how few examples tell of it.
    """

    square: Tensor
    """[groups, D, D], double precision."""
    mean: Tensor
    """[groups, D]."""
    centred: bool


AllMoments = Mapping[str, Moments]
"""By the layer's name."""


def refittable(graph: ModelGraph) -> tuple[Layer, ...]:
    """Layers that mix input channels of which some can be cut, or may be sparse; small enough to solve."""
    prunable = {group.key for group in graph.prunable}
    return tuple(
        layer
        for layer in graph.layers
        if layer.once
        and layer.kind != "depthwise"
        and (layer.sparsities or prunable & set(layer.inputs.groups))
        and layer.features <= LARGEST
    )


def collect(
    model: nn.Module,
    graph: ModelGraph,
    calibration: Calibration,
    sensed: Sensitivity | None = None,
    batch_size: int = 100,
) -> AllMoments:
    """One pass of the dense network over the calibration inputs, at positions that matter."""
    matters = (sensed or Sensitivity()).matters
    sums = {
        layer.name: _Sums(
            has_offset(model, layer), sample_positions(layer, len(calibration), matters=matters.get(layer.name))
        )
        for layer in refittable(graph)
    }
    handles = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda module, args, kwargs, mine=mine: mine.add(module, first_input(args, kwargs).float()),
            with_kwargs=True,
        )
        for name, mine in sums.items()
    ]
    try:
        with torch.no_grad():
            for batch in calibration.batches(batch_size):
                batch.run(model)
    except (RuntimeError, TypeError, IndexError) as error:
        shapes = ", ".join(f"{[*x.shape[1:]]} of {x.dtype}".replace("torch.", "") for x in calibration.inputs.tensors)
        raise DataError(
            f"the network does not run on the calibration inputs, {shapes} each, up to {batch_size} "
            f"at a time (it has to take any number, along the first dimension): {error}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    unseen = [name for name, mine in sums.items() if not mine.seen]
    if unseen:
        raise DataError(
            f"the calibration inputs never reach {unseen[0]}, as the example input does: give such as it is"
        )
    return {name: sums.pop(name).moments() for name in list(sums)}


class _Sums:
    """What is added up of one layer's input rows, about a point near their mean where the offset is free."""

    def __init__(self, centred: bool, positions: Tensor) -> None:
        self._centred, self._positions, self._seen = centred, positions, 0

    @property
    def seen(self) -> int:
        """Examples that have been added."""
        return self._seen

    def add(self, module: nn.Module, x: Tensor) -> None:
        """The rows of a batch of examples."""
        where = self._positions[self._seen : self._seen + len(x)]
        if len(where) < len(x):
            return  # a layer that runs twice in one pass has been looked at once already
        rows = input_rows(module, x, where).transpose(0, 1)
        if self._seen == 0:
            self._start(rows)
        rows = rows - self._about[:, None]
        self._seen += len(x)
        self._square += (rows.transpose(1, 2) @ rows).double()
        self._sum += rows.double().sum(1)
        self._own += own_moments(rows.unflatten(1, where.shape))

    def _start(self, rows: Tensor) -> None:
        groups, _, width = rows.shape
        self._about = rows.mean(1) if self._centred else rows.new_zeros(groups, width)
        self._square = rows.new_zeros(groups, width, width, dtype=torch.float64)
        self._sum = rows.new_zeros(groups, width, dtype=torch.float64)
        self._own = rows.new_zeros(groups, dtype=torch.float64)

    def moments(self) -> Moments:
        """Their means, those between two features shrunk."""
        examples, each = self._positions.shape
        square, mean = self._square.div_(examples * each), self._sum / (examples * each)
        if self._centred:
            square.sub_(mean[:, :, None] * mean[:, None, :])
        shrink(square, self._own, examples)
        return Moments(square, mean + self._about, self._centred)

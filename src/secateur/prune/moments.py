"""Second moments of what each layer sees: all that least squares needs to know about the data.

Collected once on the dense network; every refit of every candidate is then a small solve.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur.errors import DataError
from secateur.graph import Layer, ModelGraph, Products, Run, as_operators, matrix_of, unwatched, with_matrix
from secateur.prune.calibration import Calibration
from secateur.prune.offset import has_offset
from secateur.prune.rows import examples_in, operand_rows, sample_positions, sample_run
from secateur.prune.sensitivity import Sensitivity
from secateur.prune.shrink import own_moments, shrink
from secateur.prune.wide import blocks_of, in_blocks, precision


@dataclass(frozen=True, eq=False)
class Moments:
    """Of a layer's input rows x (a patch each), for each of its groups: `square` = E[x x^T], `mean` = E[x].

    Those of a very wide layer are in blocks of D features each (`prune.wide`). Where the layer's offset is free, the
    square is taken about the mean: to lose the mean of an input costs nothing. What two inputs have in common is shrunk
    by how few examples tell of it.
    """

    square: Tensor
    """[groups * blocks, D, D], in double precision unless they are wide."""
    mean: Tensor
    """[groups * blocks, D]."""
    centred: bool


AllMoments = Mapping[str, Moments]
"""By the layer's name."""


def readers(graph: ModelGraph) -> tuple[Layer, ...]:
    """Layers that mix input channels of which some can be cut, or may be sparse."""
    prunable = {group.key for group in graph.prunable}
    return tuple(
        layer
        for layer in with_matrix(graph.layers)
        if layer.kind != "depthwise"
        and (layer.sparsities or prunable & set(layer.inputs.groups))
        and _blocks(graph, layer)
    )


def _blocks(graph: ModelGraph, layer: Layer) -> int | None:
    """Into how many blocks the features of each of its groups are split; no unit into two.

    None where that cannot be done.
    """
    channels = layer.in_channels // layer.groups
    area = layer.features // channels
    read = [
        part.index % channels
        for group in graph.prunable
        for part in group.slices
        if part.side == "in" and part.module == layer.name
    ]

    def whole(size: int) -> bool:
        blocks = [index * area // size for index in read]
        return size % area == 0 and all(bool((block == block[:, :1]).all()) for block in blocks)

    count = blocks_of(layer.features, whole)
    return None if layer.sparsities and count != 1 else count


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
        layer.name: _Sums(layer, has_offset(model, layer), len(calibration), matters.get(layer.name))
        for layer in readers(graph)
    }
    blocks = {name: _blocks(graph, graph.layer[name]) or 1 for name in sums}

    def look(run: Run) -> None:
        with unwatched():
            sums[run.layer.name].add(run, blocks[run.layer.name])

    wanted = [graph.layer[name] for name in sums]
    try:
        with torch.no_grad(), as_operators(model), Products(model, wanted, before=look):
            for batch in calibration.batches(batch_size):
                batch.run(model)
    except (RuntimeError, TypeError, IndexError) as error:
        shapes = ", ".join(f"{[*x.shape[1:]]} of {x.dtype}".replace("torch.", "") for x in calibration.inputs.tensors)
        raise DataError(
            f"the network does not run on the calibration inputs, {shapes} each, up to {batch_size} "
            f"at a time (it has to take any number, along the first dimension): {error}"
        ) from error
    unseen = [name for name, mine in sums.items() if not mine.seen]
    if unseen:
        raise DataError(
            f"the calibration inputs never reach {unseen[0]}, as the example input does: give such as it is"
        )
    return {name: sums.pop(name).moments() for name in list(sums)}


class _Sums:
    """What is added up of one layer's input rows, about a point near their mean where the offset is free."""

    def __init__(self, layer: Layer, centred: bool, examples: int, matters: Tensor | None) -> None:
        self._once = matrix_of(layer).runs == 1
        self._centred, self._among = centred, examples
        self._positions = sample_positions(layer, examples, matters=matters if self._once else None)
        self._rows, self._examples = 0, 0

    @property
    def seen(self) -> int:
        """Rows that have been added."""
        return self._rows

    def add(self, run: Run, blocks: int) -> None:
        """The rows of a batch of examples; of a layer that runs several times, those of one run."""
        batch = examples_in(run)
        where = self._positions[self._examples :][:batch] if self._once else sample_run(run, self._among)
        if len(where) < batch:
            return  # a layer that runs more often here than for the example has been looked at already
        rows = in_blocks(operand_rows(run, where).transpose(0, 1), blocks)
        if self._rows == 0:
            self._start(rows)
        rows = rows - self._about[:, None]
        self._rows += rows.shape[1]
        self._examples += len(where)
        self._square += (rows.transpose(1, 2) @ rows).to(self._square)
        self._sum += rows.double().sum(1)
        self._own += own_moments(rows.unflatten(1, where.shape))

    def _start(self, rows: Tensor) -> None:
        groups, _, width = rows.shape
        self._about = rows.mean(1) if self._centred else rows.new_zeros(groups, width)
        self._square = rows.new_zeros(groups, width, width, dtype=precision(width))
        self._sum = rows.new_zeros(groups, width, dtype=torch.float64)
        self._own = rows.new_zeros(groups, dtype=torch.float64)

    def moments(self) -> Moments:
        """Their means, those between two features shrunk."""
        square, mean = self._square.div_(self._rows), (self._sum / self._rows).to(self._square)
        if self._centred:
            square.sub_(mean[:, :, None] * mean[:, None, :])
        shrink(square, self._own, self._examples)
        return Moments(square, mean + self._about, self._centred)

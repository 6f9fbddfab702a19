"""The refit that counts: layer by layer, each on what the pruned network itself feeds it.

A refit on the dense network's inputs ignores that the layers before have drifted. Here every layer is fitted,
in order of execution, so that it reproduces the dense network's output from the pruned network's input; where
a residual sum follows, so that the sum comes out right, and the drift of the shortcut is made up for too.
One forward pass of the pruned network does it: weights change while the pass goes on.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from secateur.graph import (
    BATCH_NORMS,
    Kept,
    Layer,
    ModelGraph,
    OperationLog,
    Products,
    Run,
    as_operators,
    best_layout,
    bias_of,
    laid_out,
    matrix_of,
    unwatched,
    weight_of,
    with_matrix,
)
from secateur.prune.calibration import Calibration
from secateur.prune.cut import places
from secateur.prune.moments import LARGEST
from secateur.prune.offset import bias_behind, has_offset, offset_behind, shift
from secateur.prune.rows import Taps, examples_in, operand_rows, output_rows, sample_positions, taps_at
from secateur.prune.sensitivity import Sensitivity
from secateur.prune.shrink import own_moments, own_products, shrink, trusted
from secateur.prune.solve import masked_least_squares, solve_positive
from secateur.sparse import mask_of

MOST_ACTIVATIONS = 2**29
"""Elements of one layer's input and output, over all examples (2 GB)."""
MOST_TAPS = 2**20
"""Numbers of input pixels that are remembered for one layer (8 MB)."""
NARROW, PIECES = 32, 4
"""Columns below which a product is not worth cutting up, and pieces at most."""


@dataclass(frozen=True)
class Effort:
    """How much of the examples a refit looks at, and how far it trusts what it sees."""

    rows: int = 32
    """Output positions that a layer is fitted on, for each of its input features."""
    fewest: int = 4096
    """The least of them for a layer."""
    grouped: int = 4096
    """The same for a depthwise layer, or another of many groups: each of them has few features."""
    ridge: float = 1e-3
    """Pull towards the weights as they are, as a fraction of the mean energy of a layer's inputs."""
    shrink: bool = True
    """Whether what features have in common by chance is left out; a hard pull needs no more of that."""


QUICK = Effort(rows=1, fewest=512, grouped=128, ridge=2.0, shrink=False)
"""For a trial. So few rows alone would be overfitted; pulled so hard, they rank plans as the finished networks rank."""


class SequentialRefit:
    """What the dense network answers at every layer, remembered once; then refits any pruned form of it."""

    def __init__(
        self,
        dense: nn.Module,
        graph: ModelGraph,
        calibration: Calibration,
        effort: Effort | None = None,
        sensed: Sensitivity | None = None,
    ) -> None:
        self.graph = graph
        self.effort = effort = effort or Effort()
        self.calibration = calibration.head(_affordable(graph))
        self.layers = [layer for layer in with_matrix(graph.layers) if _can_be_fitted(layer)]
        matters = (sensed or Sensitivity()).matters
        self._positions = {
            layer.name: sample_positions(
                layer,
                len(self.calibration),
                effort.rows,
                effort.fewest if layer.groups == 1 else effort.grouped,
                matters.get(layer.name),
            )
            for layer in self.layers
        }
        self._taps: dict[str, Taps] = {}
        self._joined = {layer.shortcut for layer in self.layers if layer.shortcut is not None}
        self._targets: dict[str, Tensor] = {}
        self._shortcuts: dict[str, Tensor] = {}
        self._layout = best_layout(dense, self.calibration.head(2).inputs)
        self._inputs = laid_out(self.calibration.inputs, self._layout)
        self._remember(dense)

    def _remember(self, dense: nn.Module) -> None:
        """Sampled outputs of every layer [rows, out], its offset taken in, and the shortcuts that are added to them."""
        targets: dict[str, list[Tensor]] = {layer.name: [] for layer in self.layers}
        shortcuts: dict[str, list[Tensor]] = {layer.name: [] for layer in self.layers}
        start = 0

        def look(run: Run, y: Tensor) -> None:
            layer = run.layer
            if layer.name in runs:
                return  # a layer that runs more often here than for the example
            runs[layer.name] = replace(run, x=run.x.new_empty(0)), y.shape
            with unwatched():
                offset = offset_behind(dense, layer) + bias_behind(dense, run)
                targets[layer.name].append(self._rows(run, y, start) + offset)

        for batch in self.calibration.batches(100):
            runs: dict[str, tuple[Run, torch.Size]] = {}
            log, products = OperationLog(dense, self._joined), Products(dense, self.layers, after=look)
            with torch.no_grad(), as_operators(dense), log, products:
                batch.run(dense)
            for layer in self.layers:
                value = None if layer.shortcut is None else log.values.get(layer.shortcut)
                run, shape = runs.get(layer.name, (None, torch.Size()))
                if value is not None and run is not None and _alike(value.shape, shape):
                    shortcuts[layer.name].append(self._rows(run, value, start))
            start += len(batch)
        self._targets = {name: torch.cat(pieces) for name, pieces in targets.items() if pieces}
        self._shortcuts = {name: torch.cat(shortcuts[name]) for name in self._seen_everywhere(shortcuts)}

    def _seen_everywhere(self, shortcuts: Mapping[str, list[Tensor]]) -> Iterator[str]:
        """The layers whose shortcut was found in every batch; the others are fitted without, which is said."""
        for layer in self.layers:
            if layer.shortcut is None or layer.name not in self._targets:
                continue
            if sum(map(len, shortcuts[layer.name])) == len(self._targets[layer.name]):
                yield layer.name
            else:
                warnings.warn(
                    f"on the calibration inputs {layer.name} is not added to what it is added to on the example (the "
                    "forward takes another path): it is refitted without regard to that sum",
                    stacklevel=2,
                )

    def _rows(self, run: Run, y: Tensor, start: int = 0) -> Tensor:
        positions = self._positions[run.layer.name]
        return output_rows(run, y.float(), positions[start : start + examples_in(run, y)])

    def _read(self, run: Run) -> Taps | None:
        """What a layer reads at its positions, the same whatever is pruned: remembered, if it is not much."""
        name = run.layer.name
        positions = self._positions[name].to(run.x.device)
        if not run.kernel or positions.numel() * math.prod(run.kernel) > MOST_TAPS:
            return None
        if name not in self._taps:
            self._taps[name] = taps_at(run, positions)
        return self._taps[name]

    def apply(self, pruned: nn.Module, kept: Kept, for_good: bool = False) -> None:
        """Refit every layer of `pruned`, the dense network cut to `kept`, in place. It is in eval mode.

        Recurrent layers run as operators `for_good` alone: that is a setting of all threads, and would change how the
        candidates of others are rounded.
        """
        outward = {name: torch.from_numpy(at) for (name, side), at in places(self.graph, kept).items() if side == "out"}
        counts = {key: len(units) for key, units in kept.items()}
        fitted: set[str] = set()

        def fit(run: Run) -> None:
            layer = run.layer
            if layer.name in fitted or layer.name not in self._targets:
                return
            fitted.add(layer.name)
            with unwatched():
                left = outward.get(layer.name, slice(None))
                target = self._targets[layer.name][:, left]
                shortcut = None if layer.shortcut is None else log.values.pop(layer.shortcut, None)
                if shortcut is not None and layer.name in self._shortcuts:  # it may run only after this branch
                    drift = self._shortcuts[layer.name][:, left] - self._rows(run, shortcut)
                    target = target + _before_norm(pruned, layer, drift)
                rows = operand_rows(run, self._positions[layer.name], self._read(run))
                _fit(_Fitted(pruned, layer, counts), rows, target, self.effort, len(self.calibration))

        pruned.to(memory_format=self._layout)  # type: ignore[call-overload]
        log, products = OperationLog(pruned, self._joined), Products(pruned, self.layers, before=fit, counts=counts)
        with torch.no_grad(), as_operators(pruned) if for_good else nullcontext(), log, products:
            self._inputs.run(pruned)


def _can_be_fitted(layer: Layer) -> bool:
    """Whether its weights are its own, small enough to solve, and used once, on rows that all stay."""
    matrix = matrix_of(layer)
    return matrix.alone and matrix.runs == 1 and layer.features <= LARGEST and not layer.repeats.groups


def _alike(shape: torch.Size, other: torch.Size) -> bool:
    """Whether these are rows of the same, [N * T, out] and [N, T, out]."""
    return shape.numel() == other.numel() and shape[-1] == other[-1]


@dataclass(frozen=True)
class _Fitted:
    """A layer of a network that has kept so many units."""

    model: nn.Module
    layer: Layer
    counts: Mapping[str, int]

    @property
    def mask(self) -> Tensor | None:
        """Which of its weights there are, where it is sparse."""
        return mask_of(self.model.get_submodule(self.layer.name)) if self.layer.sparsities else None


def _affordable(graph: ModelGraph) -> int:
    """How many examples may go through at once: the widest layer's input and output have to fit in memory."""
    widest = max(
        layer.in_channels * (math.prod(layer.in_hw) if layer.kind != "linear" else layer.positions)
        + layer.out_channels * layer.positions
        for layer in graph.layers
    )
    return max(MOST_ACTIVATIONS // widest, 1)


def _before_norm(model: nn.Module, layer: Layer, drift: Tensor) -> Tensor:
    """What has to change before the batch norm for its output to change by `drift` [rows, out]."""
    if layer.norm is None:
        return drift
    norm = model.get_submodule(layer.norm)
    assert isinstance(norm, BATCH_NORMS)
    if norm.running_var is None:
        return torch.zeros_like(drift)
    spread = (norm.running_var + norm.eps).sqrt()
    gain = norm.weight if norm.weight is not None else torch.ones_like(spread)
    reachable = gain.abs() > 1e-3 * gain.abs().max()
    return drift * torch.where(reachable, spread / torch.where(reachable, gain, 1.0), 0.0).to(drift.dtype)


def _fit(fitted: _Fitted, rows: Tensor, target: Tensor, effort: Effort, examples: int) -> None:
    """Move weights (and offset) to the least-squares solution on `rows` [rows, groups, D] of so many examples."""
    model, layer, counts = fitted.model, fitted.layer, fitted.counts
    held, own = weight_of(model, layer, counts), bias_of(model, layer, counts)
    weight = held.float().flatten(2)
    x, wanted = rows.transpose(0, 1), target.unflatten(1, weight.shape[:2]).transpose(0, 1)
    if len(x) > 1:  # products of hundreds of small matrices take half as long where each lies in a piece
        x, wanted = x.contiguous(), wanted.contiguous()
    missing = wanted - x @ weight.transpose(1, 2)
    if offset := has_offset(model, layer):
        mean, level = x.mean(1, keepdim=True), missing.mean(1, keepdim=True)
        x, missing = x - mean, missing - level
        bias = offset_behind(model, layer) if own is None else own.float()
        level = level - torch.as_tensor(bias).view(len(weight), 1, -1)
    square, right = _moments(x), x.transpose(1, 2) @ missing
    if effort.shrink:
        _leave_chance_out(square, right, x, missing, examples)
    diagonal = square.diagonal(dim1=1, dim2=2)
    diagonal.add_(effort.ridge * diagonal.mean(1, keepdim=True) + 1e-9)
    mask = fitted.mask
    change = solve_positive(square, right) if mask is None else _solve_masked(square, right, mask)
    moved = weight + change.transpose(1, 2)
    held.copy_(moved.view(held.shape))
    if offset:
        shift(model, layer, (level - mean @ change).flatten(), counts)


def _leave_chance_out(square: Tensor, right: Tensor, x: Tensor, missing: Tensor, examples: int) -> None:
    """Shrink x^T x [groups, D, D] and x^T missing [groups, D, out] to what the examples agree about, in place."""
    count = x.shape[1]
    mine, theirs = (rows.unflatten(1, (examples, -1)) for rows in (x, missing))
    shrink(square.div_(count), own_moments(mine), examples)
    square.mul_(count)
    common = (right / count).square().sum((1, 2), dtype=torch.float64)
    right.mul_(trusted(common, own_products(mine, theirs), examples).to(right.dtype)[:, None, None])


def _moments(x: Tensor) -> Tensor:
    """x^T x [groups, D, D] of x [groups, rows, D]; wide ones by pieces, as what lies below the diagonal is known."""
    pieces = max(min(x.shape[2] // NARROW, PIECES), 1)
    ends = [x.shape[2] * number // pieces for number in range(pieces + 1)]
    square = x.new_empty(len(x), x.shape[2], x.shape[2])
    for low, high in pairwise(ends):
        square[:, low:high, low:] = x[..., low:high].transpose(1, 2) @ x[..., low:]
        square[:, high:, low:high] = square[:, low:high, high:].transpose(1, 2)
    return square


def _solve_masked(square: Tensor, right: Tensor, mask: Tensor) -> Tensor:
    """The same, [1, D, D] and [1, D, out], where each output may use some features only."""
    change = masked_least_squares(square[0], right[0].T, torch.zeros_like(right[0].T), mask.flatten(1))
    return change.T[None]

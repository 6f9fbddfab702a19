"""The refit that counts: layer by layer, each on what the pruned network itself feeds it.

A refit on the dense network's inputs ignores that the layers before have drifted. Here every layer is fitted,
in order of execution, so that it reproduces the dense network's output from the pruned network's input; where
a residual sum follows, so that the sum comes out right, and the drift of the shortcut is made up for too.
One forward pass of the pruned network does it: weights change while the pass goes on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from secateur.graph import (
    Kept,
    Layer,
    ModelGraph,
    OperationLog,
    Products,
    Run,
    as_operators,
    best_layout,
    laid_out,
    matrix_of,
    unwatched,
    with_matrix,
)
from secateur.prune.calibration import Calibration
from secateur.prune.cut import places
from secateur.prune.fit import Effort, Fitted, Rows, before_norm, fit
from secateur.prune.rows import Taps, in_pieces, operand_rows, sample_positions, taps_at
from secateur.prune.targets import Asked, Watched, beside, remembered

MOST_ACTIVATIONS = 2**28
"""Elements of one layer's input and output, over all examples (1 GB)."""
MOST_TAPS = 2**20
"""Numbers of input pixels that are remembered for one layer (8 MB)."""


WIDEST = 2**14
"""Input features beyond which a layer is not refitted (1 GB of moments, in one block)."""


class SequentialRefit:
    """Refits pruned forms of a dense network, layer by layer.

    With `many`, what the dense network gives at every layer is remembered for all of them; else it runs once more
    beside each, which takes no memory for what all layers give.
    """

    def __init__(
        self,
        dense: nn.Module,
        graph: ModelGraph,
        calibration: Calibration,
        effort: Effort | None = None,
        matters: Mapping[str, Tensor] | None = None,
        many: bool = False,
    ) -> None:
        self.graph = graph
        self.effort = effort = effort or Effort()
        self.calibration = calibration.head(_affordable(graph))
        self.layers = [layer for layer in with_matrix(graph.layers) if _can_be_fitted(layer)]
        self._positions = {
            layer.name: sample_positions(
                layer,
                len(self.calibration),
                effort.rows,
                effort.fewest if layer.groups == 1 else effort.grouped,
                (matters or {}).get(layer.name),
            )
            for layer in self.layers
        }
        self._taps: dict[str, Taps] = {}
        self._dense = Watched(dense, self.layers, self._positions)
        self._layout = best_layout(dense, self.calibration.head(2).inputs)
        self._inputs = laid_out(self.calibration.inputs, self._layout)
        self._remembered = remembered(self._dense, self.calibration) if many else None

    def apply(self, pruned: nn.Module, kept: Kept) -> None:
        """Refit every layer of `pruned`, the dense network cut to `kept`, in place. It is in eval mode.

        Of `many`, recurrent layers are not: that they run as operators is a setting of all threads, and would change
        how the candidates of others are rounded.
        """
        pruned.to(memory_format=self._layout)  # type: ignore[call-overload]
        if self._remembered is not None:
            self._run(pruned, kept, self._remembered.get)
            return
        with as_operators(pruned), beside(self._dense, self._inputs) as ask:
            self._run(pruned, kept, ask)

    def _run(self, pruned: nn.Module, kept: Kept, ask: Asked) -> None:
        """One pass, in which each layer is fitted before it runs."""
        outward = {name: torch.from_numpy(at) for (name, side), at in places(self.graph, kept).items() if side == "out"}
        counts = {key: len(units) for key, units in kept.items()}
        done: set[str] = set()

        def look(run: Run) -> None:
            layer = run.layer
            target = None if layer.name in done else ask(layer.name)
            done.add(layer.name)
            if target is None:
                return
            with unwatched():
                left = outward.get(layer.name, slice(None))
                wanted = target.output[:, left]
                shortcut = self._dense.shortcut(run, log)
                if shortcut is not None and target.shortcut is not None:
                    wanted = wanted + before_norm(pruned, layer, target.shortcut[:, left] - shortcut)
                fit(Fitted(pruned, layer, counts), self._rows(run, wanted), self.effort)

        log = OperationLog(pruned, self._dense.joined)
        products = Products(pruned, self.layers, before=look, counts=counts)
        with torch.no_grad(), log, products:
            self._inputs.run(pruned)

    def _rows(self, run: Run, wanted: Tensor) -> Iterator[Rows]:
        """What a layer sees and should give [rows, out], in pieces that fit in memory."""
        positions = self._positions[run.layer.name]
        each = positions.shape[1]
        for part, first, last in in_pieces(run, len(positions), positions.shape[1] * run.layer.features * run.groups):
            where = positions[first:last]
            taps = self._read(run) if last - first == len(positions) else None
            yield Rows(operand_rows(part, where, taps), wanted[first * each : last * each], last - first)

    def _read(self, run: Run) -> Taps | None:
        """What a layer reads at its positions, the same whatever is pruned: remembered, if it is not much."""
        name = run.layer.name
        positions = self._positions[name].to(run.x.device)
        if not run.kernel or positions.numel() * math.prod(run.kernel) > MOST_TAPS:
            return None
        if name not in self._taps:
            self._taps[name] = taps_at(run, positions)
        return self._taps[name]


def _can_be_fitted(layer: Layer) -> bool:
    """Whether its weights are its own, small enough to solve, and used once, on rows that all stay."""
    matrix = matrix_of(layer)
    return matrix.alone and matrix.runs == 1 and layer.features <= WIDEST and not layer.repeats.groups


def _affordable(graph: ModelGraph) -> int:
    """How many examples may go through at once: the widest layer's input and output have to fit in memory."""
    widest = max(
        layer.in_channels * (math.prod(layer.in_hw) if layer.kind != "linear" else layer.positions)
        + layer.out_channels * layer.positions
        for layer in graph.layers
    )
    return max(MOST_ACTIVATIONS // widest, 1)

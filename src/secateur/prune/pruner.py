"""From a plan to a network: trial candidates in milliseconds, and the final network for good."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from secateur.errors import PlanError
from secateur.graph import Kept, Layer, ModelGraph, Sparsity, copied, private_copy, structural
from secateur.memory import give_back
from secateur.plan import Plan
from secateur.prune.calibration import Calibration
from secateur.prune.checking import restate_where_needed
from secateur.prune.cut import Cutter
from secateur.prune.entry import as_before
from secateur.prune.fit import QUICK
from secateur.prune.fold import without_norms
from secateur.prune.measured import examples_for, measured
from secateur.prune.moments import AllMoments, collect
from secateur.prune.order import Criterion, Curve, Order, Orders, keep, rank
from secateur.prune.recalibrate import nearer, recalibrated
from secateur.prune.refit import Refitter
from secateur.prune.relate import relate
from secateur.prune.rotate import rotate
from secateur.prune.sensitivity import Sensitivity, sense
from secateur.prune.sequence import SequentialRefit
from secateur.prune.weights import Masks, WeightOrder, WeightOrders, masks, masks_by, rank_weights
from secateur.sparse import impose, release


@dataclass(frozen=True)
class PruneSettings:
    """How channels are chosen and what makes up for those that leave."""

    criterion: Criterion = "elimination"
    refit: bool = True
    sequential: bool = True
    """Refit once more, layer by layer, on the pruned network's own activations."""
    trial_examples: int | None = None
    """Calibration examples of a trial's sequential refit (the final network uses all); 0 to do without. By default 64,
    or 32 for a network of large inputs, which have more positions to fit on (see `TRIAL_MACS`)."""
    recalibrate: bool = True
    """For the final network only: renew batch-norm statistics where that is measured to help."""


TRIAL_EXAMPLES, TRIAL_MACS = 64, 2e8
"""By default a trial refits in sequence on so many examples, or half of them if one costs more MACs than this."""


class Pruner:
    """Everything that does not depend on the plan, done once: moments of the inputs, channel orders."""

    def __init__(
        self,
        model: nn.Module,
        graph: ModelGraph,
        calibration: Calibration,
        settings: PruneSettings | None = None,
    ) -> None:
        give_back()  # what tracing took
        self.graph = graph
        self.settings = settings or PruneSettings()
        self.dense = private_copy(model).requires_grad_(False)
        calibration = calibration.to(next(self.dense.parameters()).device)
        self.calibration = calibration
        needed = self.settings.refit or self.settings.criterion == "elimination"
        sensed = sense(self.dense, graph, calibration) if needed else Sensitivity()
        sensed = rotate(self.dense, graph, calibration, sensed)
        moments = collect(self.dense, graph, calibration, sensed) if needed else {}
        self.orders: Orders = rank(self.dense, graph, moments, self.settings.criterion, sensed)
        folded, plain = without_norms(self.dense, graph, calibration.head(2).inputs)
        # How much an output matters shows behind its norm, not before: where gradients do not tell, norms are folded.
        compared = self.dense if sensed.square else folded
        self.weight_orders: WeightOrders = rank_weights(compared, graph, moments, self.settings.criterion, sensed)
        self._sensed = {key for key in [*self.orders, *self.weight_orders] if sensed.tells_of(graph, key)}
        self._matters = sensed.matters
        del sensed  # it is as large as the moments, and not needed again
        give_back()
        known = moments if self.settings.refit else None
        self._for_good = _Cut(self.dense, graph, known, remember=False)
        few = min(self.trial_examples, len(calibration))
        self._in_trials = (
            SequentialRefit(folded, plain, calibration.head(few), QUICK, self._matters, many=True) if few else None
        )
        self._for_trials = _Cut(folded, plain, known, sparse=not few)

    @property
    def trial_examples(self) -> int:
        """Examples of a trial's sequential refit, as it was set or as it is by default."""
        if not self.settings.sequential:
            return 0
        default = TRIAL_EXAMPLES if self.graph.dense.macs <= TRIAL_MACS else TRIAL_EXAMPLES // 2
        return default if self.settings.trial_examples is None else self.settings.trial_examples

    def fork(self) -> Pruner:
        """The same, with a candidate of its own: what one more thread needs."""
        twin = copy.copy(self)
        twin._for_trials = self._for_trials.fork()
        return twin

    @cached_property
    def losses(self) -> dict[str, Curve]:
        """The loss curve of every site, by its key: what each count of it is expected to change of the answers."""
        found: dict[str, Order | WeightOrder] = {**self.orders, **self.weight_orders}
        curves = {key: order.loss for key, order in found.items()}
        if self.settings.criterion == "magnitude":
            return curves
        few = self.calibration.tail(examples_for(self.graph.dense.macs, len(curves)))
        return measured(curves, lambda counts: self._cut(self._for_good, counts)[0], self.dense, few, self._sensed)

    def kept(self, counts: Mapping[str, int]) -> Kept:
        """The units that stay in each group of a plan."""
        return keep(self.orders, {key: count for key, count in counts.items() if key in self.orders})

    def _cut(self, cut: _Cut, counts: Mapping[str, int]) -> tuple[nn.Module, Kept]:
        kept = self.kept(counts)
        return cut(kept, masks(self.graph, self.weight_orders, counts, structural(kept))), structural(kept)

    def candidate(self, counts: Mapping[str, int]) -> nn.Module:
        """The cut and refitted network, its norms folded, valid until the next call; no copy is made."""
        candidate, kept = self._cut(self._for_trials, counts)
        if self._in_trials is not None:
            self._in_trials.apply(candidate, kept)
        return candidate

    def final(self, counts: Mapping[str, int]) -> nn.Module:
        """A network of its own for good: cut, refitted in sequence, recalibrated.

        Each of the last two is taken only where it brings the answers, on calibration inputs held out from
        it, nearer to the dense network's: few examples can be overfitted.
        """
        pruned, kept = self._cut(self._for_good, counts)
        pruned = copied(pruned).eval()
        fit, check = self._parts
        if self.settings.sequential:
            refitted = copied(pruned)
            self._in_sequence.apply(refitted, kept)
            pruned = nearer(refitted, pruned, self.dense, check)
        if self.settings.recalibrate and check is not fit:
            pruned = nearer(recalibrated(pruned, fit), pruned, self.dense, check)
        _pick_only_where_cut(pruned, self.dense, self.graph, counts)
        pruned.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        few = check.head(2).inputs
        restate_where_needed(pruned, self.dense, self.graph, kept, few)
        relate(pruned, self.dense, few)
        return pruned.requires_grad_(True)

    @cached_property
    def _parts(self) -> tuple[Calibration, Calibration]:
        """What final networks are refitted on, and what tells whether that helped."""
        held_out = len(self.calibration) // 5
        fit = self.calibration.head(len(self.calibration) - held_out)
        return fit, self.calibration.tail(held_out) if held_out else fit

    @cached_property
    def _in_sequence(self) -> SequentialRefit:
        """Of final networks: what the dense network answers is the same for all of them."""
        return SequentialRefit(self.dense, self.graph, self._parts[0], matters=self._matters)


def shaped(cutter: Cutter, counts: Mapping[str, int]) -> nn.Module:
    """The network cut and thinned out to these sizes, whichever channels and blocks: what takes the same time."""
    graph, generator = cutter.graph, torch.Generator().manual_seed(0)
    network = copied(cutter.cut({key: np.arange(count) for key, count in counts.items() if key in graph.group}))
    _pick_only_where_cut(network, cutter.dense, graph, counts)

    def value(layer: Layer, each: Sparsity) -> Tensor:
        weight = network.get_parameter(f"{layer.name}.weight")
        return torch.rand(weight.shape, generator=generator).to(weight.device)

    return _thinned(network, graph, masks_by(graph, counts, value))


def _pick_only_where_cut(network: nn.Module, dense: nn.Module, graph: ModelGraph, counts: Mapping[str, int]) -> None:
    """A convolution that keeps all of an entry is an ordinary one again: to pick everything takes time."""
    for group in graph.groups:
        if group.entry and counts.get(group.key, group.width) == group.width:
            as_before(network, dense, group.consumers[0])


def _thinned(network: nn.Module, graph: ModelGraph, masks: Masks) -> nn.Module:
    """The network with these masks, and no others that it had."""
    for layer in graph.sparse.values():
        module, mask = network.get_submodule(layer.name), masks.get(layer.name)
        release(module) if mask is None else impose(module, *mask)
    return network


class _Cut:
    """Cuts a network, and refits it on the dense network's inputs if their moments are given.

    Sparse layers too, unless another refit follows: theirs takes iterations, not a solution that can be remembered.
    """

    def __init__(
        self,
        network: nn.Module,
        graph: ModelGraph,
        moments: AllMoments | None,
        sparse: bool = True,
        remember: bool = True,
    ) -> None:
        self._network, self._graph, self._sparse = network, graph, sparse
        self._cutter = Cutter(network, graph)
        self._refitter = None if moments is None else Refitter(network, graph, moments, remember)

    def fork(self) -> _Cut:
        """The same, with a network of its own; what the refits have solved is shared."""
        twin = copy.copy(self)
        twin._cutter = Cutter(self._network, self._graph)
        return twin

    def __call__(self, kept: Kept, masks: Masks) -> nn.Module:
        """The network cut and thinned out, valid until the next call."""
        candidate = _thinned(self._cutter.cut(kept), self._graph, masks)
        if self._refitter is not None:
            self._refitter.apply(candidate, kept, self._sparse)
        return candidate


def counts_of_plan(plan: Plan, graph: ModelGraph) -> dict[str, int]:
    """Units kept of each group, or levels of each sparsity, that a plan names.

    Raises PlanError where it names what the network does not have.
    """
    counts = {}
    for key in plan:
        if key in graph.sparse:
            counts[key] = max(1, round(plan[key] * graph.width(key)))
            continue
        if key not in graph.group:
            known = ", ".join(group.key for group in graph.prunable[:6])
            raise PlanError(f"the plan names {key!r}, which this network does not have (it has {known}, ...)")
        group = graph.group[key]
        if group.fixed and plan[key] < 1:
            raise PlanError(f"{key} cannot be cut: {group.fixed}. Take it out of the plan")
        if not plan[key] and not group.bypass:
            raise PlanError(f"{key} has to keep something: it is not the inside of a residual branch")
        if not group.fixed:
            counts[key] = max(1, round(plan[key] * group.width)) if plan[key] else 0
    return counts

"""What a plan may be: the sites, and the budget that every plan has to meet. Arithmetic only."""

from __future__ import annotations

import copy
import fnmatch
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from secateur.cost import CostModel, CountedCosts, LayerTable, NetworkCost, model_for
from secateur.errors import BudgetError, PlanError, TraceError
from secateur.graph import ChannelGroup, ModelGraph, Sparsity, entries_of, may_be_sparse, with_entries, with_sparsity
from secateur.plan import Budget, Costs, Plan, Site
from secateur.sparse import Pattern, patterns

Curve = npt.NDArray[np.float64]
HALVINGS = 16
"""Of the factor that scales a plan to its budget: finer than any rounding step."""
REMEDY = {
    "latency_ms": "what tells the latency of layers: name a device's profile or a table (latency = ...)",
    "energy_mj": 'what tells the energy of layers: energy = "estimate", or a table by a meter',
}
GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class SpaceSettings:
    """Which groups are searched, and how finely."""

    min_keep: float = 0.1
    """No group keeps less than this fraction."""
    step: int | None = None
    """Channels are kept in multiples of this; by default in those of the table that tells latency or energy, or else 8
    on wide groups, down to 1 on 16 channels."""
    streams: bool = False
    """Whether residual streams are cut too, not only the insides of blocks."""
    entries: bool = False
    """Whether convolutions that read a stream which is not cut may each leave out some of its channels."""
    depth: bool = False
    """Whether the inside of a residual branch may keep nothing: its block becomes its shortcut."""
    leave: tuple[str, ...] = ()
    """Names, or patterns such as `layer1.*`, of groups to leave alone."""
    sparsity: dict[str, str | tuple[str, ...]] = field(default_factory=dict)
    """Layers, by names or patterns of names, whose weights may be thinned out, and what goes together: `element`,
    blocks such as `16x16` (outputs by inputs), or `n:4` (so many of every four); or several of these, each a site of
    its own, the finer within what the coarser leaves. The first name that fits a layer counts."""

    def __post_init__(self) -> None:
        if isinstance(self.leave, str):
            raise BudgetError(f"leave = {self.leave!r}: give a list of names")
        if not 0 < self.min_keep <= 1:
            raise BudgetError(f"min_keep = {self.min_keep}: give a fraction in (0, 1]")
        if self.step is not None and self.step < 1:
            raise BudgetError(f"step = {self.step}: give a number of channels, 1 or more")
        for name, texts in self.sparsity.items():
            try:
                patterns(texts)
            except ValueError as error:
                raise BudgetError(f"sparsity of {name}: {error}") from error

    def left_alone(self, group: ChannelGroup) -> str:
        """Why the group is not searched; empty if it is."""
        if group.fixed:
            return group.fixed
        if any(fnmatch.fnmatch(name, pattern) for pattern in self.leave for name in (group.key, *group.producers)):
            return "named in `leave`"
        if group.stream and not self.streams:
            return "a residual stream (set streams = true to cut it)"
        return ""

    def check_names(self, graph: ModelGraph) -> None:
        """Raises BudgetError where `leave` names what is not there: something else would be cut than was meant."""
        names = [*graph.layer, *graph.group, *(name for group in graph.groups for name in group.producers)]
        for pattern in self.leave:
            if not fnmatch.filter(names, pattern):
                few = ", ".join(names[:6])
                raise BudgetError(f"leave names {pattern!r}, and no layer or group is called so; there are {few}, ...")

    def site(self, group: ChannelGroup, measured: int | None = None) -> Site:
        """The site of a group, in units of channels that are cut together; `measured` is a table's step."""
        step = self.step or measured or default_step(group.width)
        step = min(step, group.width)
        least = math.ceil(max(self.min_keep * group.width, 1) / step) * step
        return Site(group.key, group.width, step, min(least, group.width), bypass=self.depth and group.bypass)

    def patterns(self, graph: ModelGraph) -> dict[str, list[Pattern]]:
        """The layers that may be sparse, and how. Raises BudgetError where a name stands for none."""
        able = [layer.name for layer in graph.layers if may_be_sparse(layer)]
        found: dict[str, list[Pattern]] = {}
        for wanted, texts in self.sparsity.items():
            names = fnmatch.filter(able, wanted)
            if not names:
                raise BudgetError(
                    f"sparsity names {wanted!r}, and no layer of that name can be sparse; it can be in "
                    f"{', '.join(able[:6])}, ... (not in depthwise or grouped ones, nor in those that run twice)"
                )
            found = {name: patterns(texts) for name in names} | found
        return found

    def thinned(self, sparsity: Sparsity) -> Site:
        """The site of a layer that may be sparse, in steps of its density."""
        least = math.ceil(self.min_keep * sparsity.levels)
        return Site(sparsity.key, sparsity.levels, 1, max(least, 1), str(sparsity.pattern))


def default_step(width: int) -> int:
    """Eight on 128 channels and more, half that for each halving: real kernels like multiples of 8."""
    return max(1, min(8, 1 << int(math.log2(max(width // 16, 1)))))


class SearchSpace:
    """The sites in forward order, the cost of any choice, and the limit.

    `limit` is the most that a plan may cost; `lowest` is less than that where a range of budgets is searched.
    `prices` tell the metrics that shapes alone do not: latency, energy.
    """

    def __init__(
        self,
        graph: ModelGraph,
        budget: Budget,
        settings: SpaceSettings | None = None,
        prices: Sequence[CostModel] = (),
    ) -> None:
        self.settings = settings or SpaceSettings()
        self.settings.check_names(graph)
        names = entries_of(graph, self.settings.left_alone) if self.settings.entries else ()
        graph = with_entries(graph, names)
        self.graph = graph = with_sparsity(graph, self.settings.patterns(graph))
        self.losses: Mapping[str, Curve] = {}
        self.weighed = False
        self.budget = budget
        self._counted = CountedCosts(graph)
        self.prices = {model.metric: NetworkCost(graph, model) for model in prices}
        self.dense = graph.dense.also({metric: cost.dense for metric, cost in self.prices.items()})
        groups = [group for group in graph.groups if not self.settings.left_alone(group)]
        if not groups and not graph.sparse:
            raise TraceError("every group that can be pruned is left alone; loosen `leave`, or set streams = true")
        step = next((model.step for model in prices if isinstance(model, LayerTable)), None)
        sites = [self.settings.site(group, step) for group in groups]
        sites += [self.settings.thinned(each) for each in graph.sparsity.values()]
        rank = {layer.name: number for number, layer in enumerate(graph.layers)}
        self.sites = tuple(sorted(sites, key=lambda site: rank[graph.layers_of(site.key)[0]]))
        self.cost = self._price(budget.metric)
        self.lowest, self.limit = budget.limits(self.dense)
        least = self.cost({site.key: site.fewest for site in self.sites})
        if least > self.lowest:
            raise BudgetError(
                f"the budget of {budget} cannot be met{budget.hint}: with every site at its least, "
                f"{least / self.cost.dense:.1%} ({least:,.6g} {budget.metric}) is left. Allow more, lower min_keep "
                f"(now {self.settings.min_keep:g}), or let more be cut (streams, leave)"
            )

    def informed(self, losses: Mapping[str, Curve], weighed: bool = False) -> SearchSpace:
        """The same, with the loss curve of each site: [width + 1], by how much the answers change at every count.

        `weighed` says that the reward weighs costs itself, so that one budget of a range is the best.
        """
        twin = copy.copy(self)
        twin.losses, twin.weighed = losses, weighed and self.budget.is_range
        return twin

    def limited(self, limit: float) -> SearchSpace:
        """The same with another limit, in the metric's own unit, where one budget is searched."""
        twin = copy.copy(self)
        twin.limit = twin.lowest = limit
        return twin

    def _price(self, metric: str) -> NetworkCost:
        if (model := model_for(metric)) is not None:
            return NetworkCost(self.graph, model)
        if metric not in self.prices:
            raise BudgetError(f"a budget in {metric} needs {REMEDY[metric]}")
        return self.prices[metric]

    def costs(self, counts: Mapping[str, int]) -> Costs:
        """What the network costs with these units left, in every metric that is known."""
        return self._counted(counts).also({metric: cost(counts) for metric, cost in self.prices.items()})

    def loss(self, site: Site) -> Curve:
        """What keeping 0, 1, ..., all units of a site is expected to lose, [width + 1], 0 at the end.

        Where nobody has measured it: the square of the fraction that goes, as large as other sites' losses are.
        """
        known = self.losses.get(site.key)
        if known is not None and np.isfinite(known).all():
            return known
        others = [float(curve[0]) for curve in self.losses.values() if np.isfinite(curve).all()]
        gone: Curve = 1.0 - np.arange(site.width + 1) / site.width
        return gone**2 * (np.median(others) if others else 1.0)

    def counts(self, plan: Plan) -> dict[str, int]:
        """Units kept at every site."""
        return {site.key: site.count(plan[site.key]) for site in self.sites}

    def check(self, plan: Plan) -> Plan:
        """The plan itself. Raises PlanError where it decides on what is no site, or costs more than it may."""
        if not isinstance(plan, Plan):
            raise PlanError(f"{type(plan).__name__} is no Plan: build one by space.fit(keeps) or space.plan(counts)")
        if unknown := {*plan} - {site.key for site in self.sites}:
            raise PlanError(f"{min(unknown)} is no site of this search")
        if empty := [site.key for site in self.sites if not plan[site.key] and not site.bypass]:
            raise PlanError(f"{empty[0]} has to keep something: set depth = true where a residual branch may go")
        if (cost := self.cost(self.counts(plan))) > self.limit * (1 + 1e-9):
            raise PlanError(
                f"the plan costs {cost:,.6g} {self.budget.metric}, more than the {self.limit:,.6g} that it may: "
                "space.fit(keeps) gives one that does not"
            )
        return plan

    def plan(self, counts: Mapping[str, int]) -> Plan:
        """The plan that keeps these units."""
        return Plan({site.key: site.keep(counts[site.key]) for site in self.sites})

    def point(self, budget: Budget) -> float:
        """The limit that another budget sets. Raises BudgetError where it is outside what is searched."""
        limit = budget.limit(self.dense)
        within = self.lowest * (1 - 1e-9) <= limit <= self.limit * (1 + 1e-9)
        if budget.metric != self.budget.metric or not within:
            raise BudgetError(f"a budget of {budget} is outside what was searched ({self.budget})")
        return limit

    def limit_of(self, trial: int) -> float:
        """The most that trial `trial` may cost: where a range of budgets is searched, multiples of the golden
        ratio fill it evenly, whenever the search is stopped."""
        return self.lowest + trial * GOLDEN % 1.0 * (self.limit - self.lowest)

    def fit(self, keeps: Sequence[float], limit: float | None = None) -> Plan:
        """The plan nearest in proportions to `keeps` that uses `limit` (the space's own) up and never exceeds it.

        All fractions are scaled by one factor, the largest that fits; what rounding leaves is spent one
        step a site, on those that rounding took most from. Every searcher's plans come through here.
        """
        limit = self.limit if limit is None else limit
        low, high = 0.0, 1.0 / min((keep for keep in keeps if keep), default=1.0)
        if self.cost(self._scaled(keeps, high)) <= limit:
            return self.plan(self._scaled(keeps, high))
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            if self.cost(self._scaled(keeps, middle)) <= limit:
                low = middle
            else:
                high = middle
        counts = self._scaled(keeps, low)
        return self.plan(self._spend(counts, keeps, low, limit - self.cost(counts)))

    def _scaled(self, keeps: Sequence[float], factor: float) -> dict[str, int]:
        pairs = zip(self.sites, keeps, strict=True)
        return {site.key: site.count(min(factor * keep, 1.0)) for site, keep in pairs}

    def _spend(self, counts: dict[str, int], keeps: Sequence[float], factor: float, spare: float) -> dict[str, int]:
        missing = {
            site: (factor * keep * site.width - counts[site.key]) / site.step
            for site, keep in zip(self.sites, keeps, strict=True)
        }
        for site in sorted(self.sites, key=lambda site: -missing[site]):
            more = next((count for count in site.counts if count > counts[site.key]), site.width)
            extra = self.cost.step(counts, site.key, more)
            if more > counts[site.key] and extra <= spare:
                counts[site.key] = more
                spare -= extra
        return counts

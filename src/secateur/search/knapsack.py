"""The plan of least expected loss that fits a budget: a knapsack, solved by a price on the cost.

With a price on every unit of cost each site chooses for itself, and the price is raised until the choices fit
(Lagrange's multiplier, found by bisection). What is left of the budget is then spent step by step where it helps
most. Sites that share layers change each other's costs, so choices are repeated until they settle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from secateur.errors import BudgetError
from secateur.plan import Plan
from secateur.search.belief import Believer
from secateur.search.searcher import Searcher
from secateur.search.space import SearchSpace

Array = npt.NDArray[np.float64]

SWEEPS = 3
HALVINGS = 20


class Solver:
    """Solves for one space; `losses` are [width + 1] arrays, one a site, by count."""

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self._choices = [np.array(site.counts) for site in space.sites]

    def solve(self, losses: Sequence[Array], limit: float | None = None) -> dict[str, int]:
        """Counts of least total loss that cost no more than `limit` (the space's, if not given)."""
        limit = self.space.limit if limit is None else limit
        whole = {site.key: site.width for site in self.space.sites}
        if self.space.cost(whole) <= limit:
            return whole
        counts = {site.key: site.fewest for site in self.space.sites}
        if self.space.cost(counts) > limit:
            least = self.space.cost(counts) / self.space.cost.dense
            raise BudgetError(f"no plan costs as little as that: with every site at its least, {least:.1%} is left")
        low, high = -30.0, 30.0  # logarithms of a price in units of total loss over total cost
        unit = sum(float(loss[0]) for loss in losses) / self.space.cost.dense
        start = counts
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            found = self._at_price(start, losses, unit * float(np.exp(middle)))
            if self.space.cost(found) <= limit:
                high, counts = middle, found
            else:
                low = middle
        return self._spend(dict(counts), losses, limit)

    def _at_price(self, counts: dict[str, int], losses: Sequence[Array], price: float) -> dict[str, int]:
        counts = dict(counts)
        for _ in range(SWEEPS):
            before = dict(counts)
            for site, choices, loss in zip(self.space.sites, self._choices, losses, strict=True):
                curve = self.space.cost.curve(counts, site.key)
                counts[site.key] = int(choices[np.argmin(loss[choices] + price * curve[choices])])
            if counts == before:
                break
        return counts

    def _spend(self, counts: dict[str, int], losses: Sequence[Array], limit: float) -> dict[str, int]:
        """Add what still fits, always where it saves most loss for its cost."""
        spare = limit - self.space.cost(counts)
        while True:
            best: tuple[float, str, int, float] | None = None
            for site, choices, loss in zip(self.space.sites, self._choices, losses, strict=True):
                now = counts[site.key]
                more = choices[choices > now]
                if not len(more):
                    continue
                curve = self.space.cost.curve(counts, site.key)
                extra = curve[more] - curve[now]
                gain = np.where(extra <= spare, (loss[now] - loss[more]) / np.maximum(extra, 1e-12), -np.inf)
                pick = int(np.argmax(gain))
                if gain[pick] > -np.inf and (best is None or gain[pick] > best[0]):
                    best = (float(gain[pick]), site.key, int(more[pick]), float(extra[pick]))
            if best is None:
                return counts
            _, key, count, extra_cost = best
            counts[key] = count
            spare -= extra_cost


@dataclass(frozen=True)
class Knapsack:
    """The loss curves' own answer, corrected by every reward: a rival that has no policy to learn.

    Each plan is the best one for weights of the curves drawn from what is believed of them (Thompson sampling).
    """

    seed: int = 0
    learn: bool = True
    """Without it, every plan is the answer of the raw curves."""
    prior: str | None = None
    """A searcher.safetensors that a search on another network left: begin with what it learnt."""

    def start(self, space: SearchSpace) -> Searcher:
        """A fresh searcher."""
        return _KnapsackSearcher(space, self)


class _KnapsackSearcher(Believer):
    def __init__(self, space: SearchSpace, settings: Knapsack) -> None:
        super().__init__(space, settings.seed, settings.prior)
        self.settings = settings
        self.solver = Solver(space)

    def ask(self) -> Plan:
        """The plan of what is known beforehand, then plans for sampled weights."""
        surrogate, limit = self.belief.surrogate, self.limit()
        first = self.asked == 0 or not self.settings.learn
        self.asked += 1
        weights = surrogate.mean if first else surrogate.sample(self.rng)
        return self.space.plan(self.solver.solve(surrogate.weighted(weights), limit))

    def propose(self, limit: float) -> Plan:
        """The answer for the weights that are most likely now."""
        surrogate = self.belief.surrogate
        return self.space.plan(self.solver.solve(surrogate.weighted(surrogate.sound(surrogate.mean)), limit))

    def tell(self, plan: Plan, reward: float | None) -> None:
        if self.settings.learn:
            super().tell(plan, reward)

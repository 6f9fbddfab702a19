"""Bayesian optimisation of plans: propose what the surrogate believes in, learn from what it really achieves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from secateur.plan import Plan
from secateur.search.belief import Believer, Counts
from secateur.search.knapsack import Solver
from secateur.search.searcher import Searcher
from secateur.search.space import SearchSpace
from secateur.search.surrogate import as_rows

DARING = 0.3
"""Spread of a draw of what plans are worth, in that of the belief: less, to stay nearer to what is known."""
LEAP = 0.15
"""Spread of a mutated site's change, as a fraction of its choices."""
CLIMBS = 4
"""Rounds of improvement on the surrogate alone, for a plan that is not going to be evaluated."""


@dataclass(frozen=True)
class Bayesian:
    """A Gaussian process over plans that begins with the loss curves (see `surrogate`), by Thompson sampling.

    The first plans are the knapsack's, each for likely weights of the curves. Later plans are, of many children of the
    best ones so far and of a few such answers, the best in a draw of what they may be worth: no sum over sites says
    all, and where the knapsack settles there is still something to be gained.
    """

    seed: int = 0
    children: int = 100
    """Mutants of the best plans considered for each plan proposed."""
    parents: int = 8
    """The best plans so far that have children."""
    alone: int = 10
    """Plans that are the knapsack's before children are considered; with a prior, which tells as much, the first is."""
    knapsacks: int = 4
    """Answers of the weighted loss curves considered beside them."""
    prior: str | None = None
    """A searcher.safetensors that a search on another network left: begin with what it learnt."""

    def start(self, space: SearchSpace) -> Searcher:
        """A fresh searcher."""
        return _BayesianSearcher(space, self)


class _BayesianSearcher(Believer):
    def __init__(self, space: SearchSpace, settings: Bayesian) -> None:
        super().__init__(space, settings.seed, settings.prior)
        self.settings = settings
        self.alone = 1 if settings.prior else settings.alone
        self.solver = Solver(space)

    def ask(self) -> Plan:
        """The next plan, within the budget, or at the next point of a range of budgets."""
        number, limit, surrogate = self.asked, self.limit(), self.belief.surrogate
        self.asked += 1
        if number < self.alone:
            weights = surrogate.sample(self.rng) if number else surrogate.mean
            return self.space.plan(self.solver.solve(surrogate.weighted(weights), limit))
        candidates = self._candidates(limit)
        worth = surrogate.draw(as_rows(candidates), self.rng, DARING)
        return self.space.plan(candidates[int(np.argmax(worth))])

    def _candidates(self, limit: float) -> list[Counts]:
        """Plans that were not tried yet, as far as there are any."""
        surrogate, rng = self.belief.surrogate, self.rng
        weighted = [surrogate.weighted(surrogate.sample(rng)) for _ in range(self.settings.knapsacks)]
        found = [self.solver.solve(losses, limit) for losses in weighted]
        parents = self._parents(limit) or found
        for number in range(self.settings.children):
            found.append(mutant(self.space, parents[number % len(parents)], limit, rng))
        tried = {tuple(plan.values()) for plan in self.belief.plans}
        return [plan for plan in found if tuple(plan.values()) not in tried] or found

    def _parents(self, limit: float) -> list[Counts]:
        return self.belief.best(self.settings.parents, limit if self.space.budget.is_range else None)

    def propose(self, limit: float) -> Plan:
        """What the surrogate believes best at this limit, climbed to from what is known."""
        rng, surrogate = np.random.default_rng([self.settings.seed, self.asked]), self.belief.surrogate
        best = [self.solver.solve(surrogate.weighted(surrogate.sound(surrogate.mean)), limit)]
        starts = self._parents(limit)
        for _ in range(CLIMBS):
            found = best + [mutant(self.space, plan, limit, rng) for plan in starts for _ in range(20)]
            order = np.argsort(-surrogate.expect(as_rows(found)))
            best = starts = [found[number] for number in order[: self.settings.parents]]
        return self.space.plan(best[0])


def mutant(space: SearchSpace, plan: Counts, limit: float, rng: np.random.Generator) -> Counts:
    """A plan with a few sites changed, others one step lower until it costs no more than `limit`, and none
    that could still be one step higher."""
    counts, cost = dict(plan), space.cost
    sites = [space.sites[number] for number in rng.permutation(len(space.sites))]
    for site in sites[: int(rng.geometric(0.5))]:
        position = site.counts.index(counts[site.key]) + round(rng.normal(0, max(LEAP * len(site.counts), 1.0)))
        counts[site.key] = site.counts[min(max(position, 0), len(site.counts) - 1)]
    spare = limit - cost(counts)
    for direction in (-1, 1):
        waiting = sites[::-1]  # those just changed come last
        while waiting and (spare < 0 or direction > 0):
            site = waiting.pop(0)
            position = site.counts.index(counts[site.key]) + direction
            if not 0 <= position < len(site.counts):
                continue
            change = cost.step(counts, site.key, site.counts[position])
            if direction < 0 or change <= spare:
                counts[site.key] = site.counts[position]
                spare -= change
                waiting.append(site)
    return counts

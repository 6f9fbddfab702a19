"""All plans told so far with their rewards, the surrogate fitted to them, and what searchers by it have in common."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from secateur.plan import Plan
from secateur.search.searcher import State, random_state, restore_random
from secateur.search.space import SearchSpace
from secateur.search.surrogate import Surrogate, as_rows
from secateur.search.transfer import lessons, prior_weights

Counts = dict[str, int]
NEAR = 0.07
"""Spread of the logarithm of a cost that is near another."""


class Belief:
    """What a searcher has learnt; `prior` is the searcher.safetensors that a search on another network left."""

    def __init__(self, space: SearchSpace, prior: str | Path | None = None) -> None:
        self.space = space
        self.surrogate = Surrogate(space, prior_weights(space, prior))
        self.plans: list[Counts] = []
        self.rewards: list[float] = []

    def learn(self, plan: Plan, reward: float) -> None:
        """Take one more reward into account."""
        self.plans.append(self.space.counts(plan))
        self.rewards.append(reward)
        self._fit()

    def best(self, most: int, near: float | None = None) -> list[Counts]:
        """The `most` best plans so far; of the 3 * `most` whose cost is nearest to `near`, if that is given."""
        order = list(range(len(self.plans)))
        if near is not None:
            apart = [abs(self.space.cost(plan) - near) for plan in self.plans]
            order = sorted(order, key=lambda number: apart[number])[: 3 * most]
        return [self.plans[number] for number in sorted(order, key=lambda number: -self.rewards[number])[:most]]

    def state(self) -> State:
        """Plans [told, sites] as counts, rewards [told], and the lessons for other networks."""
        told = {"told.plans": as_rows(self.plans), "told.rewards": np.array(self.rewards)} if self.plans else {}
        return {**told, **lessons(self.space, self.surrogate.sound(self.surrogate.mean))}

    def restore(self, state: State) -> None:
        """Become what `state` was taken from."""
        keys = [site.key for site in self.space.sites]
        self.plans = [dict(zip(keys, map(int, row), strict=True)) for row in state.get("told.plans", ())]
        self.rewards = [float(reward) for reward in state.get("told.rewards", ())]
        self._fit()

    def _fit(self) -> None:
        if self.plans:
            self.surrogate.fit(as_rows(self.plans), np.array(self.rewards))


class Believer:
    """A searcher's part that is the same whatever it proposes by its belief."""

    def __init__(self, space: SearchSpace, seed: int, prior: str | Path | None) -> None:
        self.space = space
        self.belief = Belief(space, prior)
        self.rng = np.random.default_rng(seed)
        self.asked = 0

    def limit(self) -> float:
        """The most that the next plan may cost. Where rewards weigh costs, every other plan is near the best one's."""
        limit = self.space.limit_of(self.asked)
        if self.space.weighed and self.asked % 2 and self.belief.plans:
            near = self.space.cost(self.belief.best(1)[0]) * float(np.exp(NEAR * self.rng.standard_normal()))
            limit = min(max(near, self.space.lowest), self.space.limit)
        return limit

    def tell(self, plan: Plan, reward: float | None) -> None:
        """Believe a reward; a failed trial teaches nothing."""
        if reward is not None:
            self.belief.learn(plan, reward)

    def state(self) -> State:
        """All that was told, and the random numbers."""
        return {"random": random_state(self.rng), "asked": np.array([self.asked]), **self.belief.state()}

    def restore(self, state: State) -> None:
        """Become what `state` was taken from."""
        restore_random(self.rng, state["random"])
        self.asked = int(state["asked"][0])
        self.belief.restore(state)

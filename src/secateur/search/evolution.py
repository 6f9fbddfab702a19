"""Evolution of plans, and the memory that it shares with the other rivals of the agent."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from secateur.errors import StudyError
from secateur.plan import Plan
from secateur.search.baselines import random_keeps, rule_plan
from secateur.search.searcher import Searcher, State
from secateur.search.space import SearchSpace

Vector = npt.NDArray[np.float64]
"""One number a site: [sites]."""

ATTEMPTS = 20
"""Children that may turn out to be plans tried before, until one is taken all the same."""


class History:
    """Every point asked for, in order, and the rewards told so far, which belong to the first of them.

    A searcher that proposes from its history and from `random(number)` alone has no other state: nothing but
    the history has to be saved, and a restored searcher cannot go on otherwise than the old one would have.
    """

    def __init__(self, seed: int, sites: int) -> None:
        self.seed = seed
        self.sites = sites
        self.points: list[Vector] = []
        self.rewards: list[float] = []
        """Minus infinity where the trial failed."""

    @property
    def number(self) -> int:
        """Of the next trial to ask for."""
        return len(self.points)

    def random(self) -> np.random.Generator:
        """The random numbers of the next trial: each has its own, so there is no generator to save."""
        return np.random.default_rng([self.seed, self.number])

    def ask(self, point: Vector) -> None:
        """Remember a point that is now out for evaluation."""
        self.points.append(point)

    def tell(self, reward: float | None) -> int:
        """The reward of the earliest point that has none, None where its evaluation failed; the point's number."""
        if len(self.rewards) == len(self.points):
            raise StudyError("a reward was told for a plan that was never asked for; ask before telling")
        self.rewards.append(-math.inf if reward is None else reward)
        return len(self.rewards) - 1

    def best(self, most: int) -> list[Vector]:
        """Up to `most` points of the highest rewards, the best first, of equals the earlier; none that failed."""
        ranked = sorted(range(len(self.rewards)), key=lambda number: -self.rewards[number])
        return [self.points[number] for number in ranked[:most] if self.rewards[number] > -math.inf]

    def state(self) -> State:
        """Points [asked, sites] and rewards [told]."""
        points = np.array(self.points, dtype=np.float64).reshape(-1, self.sites)
        return {"points": points, "rewards": np.array(self.rewards, dtype=np.float64)}

    def restore(self, state: State) -> None:
        """Become what `state` was taken from."""
        self.points = [np.array(point, dtype=np.float64) for point in state["points"]]
        self.rewards = [float(reward) for reward in state["rewards"]]


def least_keeps(space: SearchSpace) -> Vector:
    """The least fraction of each site."""
    return np.array([site.keep(site.fewest) for site in space.sites])


def keeps_of(space: SearchSpace, plan: Plan) -> Vector:
    """The plan's fractions in the order of the sites."""
    return np.array([plan[site.key] for site in space.sites])


@dataclass(frozen=True)
class Evolution:
    """(mu + lambda) evolution: the best plans so far are crossed, and a few of their sites changed.

    Every child competes with all plans before it as soon as its reward is told, so lambda is the number of
    trials that run at a time.
    """

    seed: int = 0
    population: int = 20
    """Plans to begin with: the hand-made rules, and the rest at random."""
    parents: int = 3
    """The best plans so far that may have children (mu)."""
    mutated: float = 2.0
    """Sites that are changed in a child, on average."""
    sigma: float = 0.2
    """Spread of the truncated normal change of a site's fraction."""

    def __post_init__(self) -> None:
        if min(self.population, self.parents) < 1 or self.mutated <= 0 or self.sigma <= 0:
            raise StudyError(f"{self}: population and parents are 1 or more, mutated and sigma above 0")

    def start(self, space: SearchSpace) -> Searcher:
        """A fresh population over a space."""
        return _EvolutionSearcher(space, self)


class _EvolutionSearcher:
    def __init__(self, space: SearchSpace, settings: Evolution) -> None:
        self.space = space
        self.settings = settings
        self.least = least_keeps(space)
        self.history = History(settings.seed, len(space.sites))

    def ask(self) -> Plan:
        plan = rule_plan(self.space, self.history.number) or self._untried(self.history.random())
        self.history.ask(keeps_of(self.space, plan))
        return plan

    def _untried(self, rng: np.random.Generator) -> Plan:
        """A child that is no plan tried before, if one is found: trying a plan twice teaches nothing."""
        parents = self.history.best(self.settings.parents)
        tried = {point.tobytes() for point in self.history.points}
        for _ in range(ATTEMPTS):
            if self.history.number < self.settings.population or not parents:
                keeps = random_keeps(self.space, rng)
            else:
                keeps = self._child(parents, rng)
            plan = self.space.fit(keeps)
            if keeps_of(self.space, plan).tobytes() not in tried:
                break
        return plan

    def _child(self, parents: list[Vector], rng: np.random.Generator) -> list[float]:
        """Each site from one of two parents, then a few sites changed."""
        mother, father = (parents[_tournament(len(parents), rng)] for _ in range(2))
        child = np.where(rng.random(len(mother)) < 0.5, mother, father)
        changed = rng.random(len(child)) < self.settings.mutated / len(child)
        changed[rng.integers(len(child))] = True
        for site in np.flatnonzero(changed):
            child[site] = _truncated_normal(child[site], self.settings.sigma, self.least[site], rng)
        return [float(keep) for keep in child]

    def tell(self, plan: Plan, reward: float | None) -> None:
        self.history.tell(reward)

    def state(self) -> State:
        return self.history.state()

    def restore(self, state: State) -> None:
        self.history.restore(state)


def _tournament(size: int, rng: np.random.Generator) -> int:
    """The better of two at random, where lower numbers are better."""
    return int(rng.integers(size, size=2).min())


def _truncated_normal(mean: float, sigma: float, low: float, rng: np.random.Generator) -> float:
    """Normal within [low, 1], by drawing again; `mean` lies within."""
    for _ in range(20):
        drawn = float(rng.normal(mean, sigma))
        if low <= drawn <= 1.0:
            return drawn
    return mean

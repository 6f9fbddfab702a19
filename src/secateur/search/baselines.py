"""What the agent has to beat: a random policy, and the hand-made rules of the paper (AMC, section 4.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from secateur.plan import Plan
from secateur.search.searcher import Searcher, State, random_state, restore_random
from secateur.search.space import SearchSpace

GENTLEST, HARSHEST = 1.0, 0.4
"""Ends of the ramp of the shallow and deep rules, before it is scaled to the budget."""


@dataclass(frozen=True)
class Random:
    """Each site's fraction uniform between its least and 1, scaled to the budget."""

    seed: int = 0

    def start(self, space: SearchSpace) -> Searcher:
        """A fresh random searcher."""
        return _RandomSearcher(space, self.seed)


class _RandomSearcher:
    def __init__(self, space: SearchSpace, seed: int) -> None:
        self.space = space
        self.rng = np.random.default_rng(seed)

    def ask(self) -> Plan:
        return self.space.fit(random_keeps(self.space, self.rng))

    def tell(self, plan: Plan, reward: float | None) -> None:
        pass

    def state(self) -> State:
        return {"random": random_state(self.rng)}

    def restore(self, state: State) -> None:
        restore_random(self.rng, state["random"])


def random_keeps(space: SearchSpace, rng: np.random.Generator) -> list[float]:
    """A fraction for each site, uniform between its least and 1."""
    return [float(rng.uniform(site.keep(site.fewest), 1.0)) for site in space.sites]


WHOLE = 1e6
"""A proportion beside which any other is cut first."""

Rule = Callable[[int], Sequence[float]]


def uniform(sites: int) -> Sequence[float]:
    """The same fraction everywhere."""
    return [1.0] * sites


def shallow(sites: int) -> Sequence[float]:
    """Shallow layers pruned hardest, deep layers least."""
    return [float(keep) for keep in np.linspace(HARSHEST, GENTLEST, sites)]


def deep(sites: int) -> Sequence[float]:
    """Deep layers pruned hardest, shallow layers least."""
    return [float(keep) for keep in np.linspace(GENTLEST, HARSHEST, sites)]


RULES: dict[str, Rule] = {"uniform": uniform, "shallow": shallow, "deep": deep}


def apply_rule(space: SearchSpace, rule: Rule, limit: float | None = None) -> Plan:
    """The rule's plan that uses `limit` (the space's own) up. Rules are made for what layers put out: entries stay
    whole and weights dense, unless the budget cannot be met so."""
    made = {group.key for group in space.graph.groups if not group.entry}
    beside = [site.key not in made for site in space.sites]
    limit = space.limit if limit is None else limit
    at_least = {site.key: site.width if alone else site.fewest for site, alone in zip(space.sites, beside, strict=True)}
    if all(beside) or not any(beside) or space.cost(at_least) > limit:
        return space.fit(rule(len(space.sites)), limit)
    keeps = iter(rule(beside.count(False)))
    return space.fit([WHOLE if alone else next(keeps) for alone in beside], limit)


def rule_plan(space: SearchSpace, number: int, limit: float | None = None) -> Plan | None:
    """The plan of hand-made rule `number`; None where there is none left. Searchers that learn without
    solving for a plan begin with these."""
    rules = [*RULES.values()]
    return apply_rule(space, rules[number], limit) if number < len(rules) else None


@dataclass(frozen=True)
class _Fixed:
    """A rule that proposes one plan, always."""

    seed: int = 0

    def rule(self, sites: int) -> Sequence[float]:
        """Proportions over the sites."""
        raise NotImplementedError

    def start(self, space: SearchSpace) -> Searcher:
        """A searcher that knows one plan."""
        return _FixedSearcher(apply_rule(space, self.rule))


class Uniform(_Fixed):
    """The same fraction at every site."""

    def rule(self, sites: int) -> Sequence[float]:
        """Level."""
        return uniform(sites)


class Shallow(_Fixed):
    """Shallow layers pruned hardest."""

    def rule(self, sites: int) -> Sequence[float]:
        """Rising."""
        return shallow(sites)


class Deep(_Fixed):
    """Deep layers pruned hardest."""

    def rule(self, sites: int) -> Sequence[float]:
        """Falling."""
        return deep(sites)


class _FixedSearcher:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def ask(self) -> Plan:
        return self.plan

    def tell(self, plan: Plan, reward: float | None) -> None:
        pass

    def state(self) -> State:
        return {}

    def restore(self, state: State) -> None:
        pass

"""The samplers of the optuna family behind our protocol: `pip install optuna cmaes`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from secateur.errors import StudyError
from secateur.plan import Plan
from secateur.search.baselines import RULES, rule_plan
from secateur.search.evolution import History, Vector, keeps_of, least_keeps
from secateur.search.searcher import Searcher, State
from secateur.search.space import SearchSpace

if TYPE_CHECKING:
    from cmaes import CMA
    from optuna import Study
    from optuna.distributions import BaseDistribution


@dataclass(frozen=True)
class TPE:
    """Optuna's tree-structured Parzen estimator, over all sites at once (Bergstra et al., NeurIPS 2011)."""

    seed: int = 0
    startup: int = 10
    """Trials before the estimator is used: the hand-made rules, and the rest at random."""
    candidates: int = 24
    """Points drawn from the estimator for each trial; the most promising is tried."""

    def __post_init__(self) -> None:
        if min(self.startup, self.candidates) < 1:
            raise StudyError(f"{self}: startup and candidates are 1 or more")

    def start(self, space: SearchSpace) -> Searcher:
        """A fresh optuna study over a space. Raises StudyError where optuna is missing."""
        with _needs_the_extra():
            import optuna  # noqa: F401
        return _TPESearcher(space, self)


class _TPESearcher:
    """Its points are the fractions of plans, [sites]: optuna learns from the plan tried, not from what it drew.

    Many points are one plan once they are fitted to the budget, and the estimator is the worse for each of them.
    """

    def __init__(self, space: SearchSpace, settings: TPE) -> None:
        from optuna.distributions import FloatDistribution

        self.space = space
        self.settings = settings
        least = least_keeps(space)
        pairs = zip(space.sites, least, strict=True)
        self.axes: dict[str, BaseDistribution] = {site.key: FloatDistribution(float(low), 1.0) for site, low in pairs}
        self.history = History(settings.seed, len(space.sites))
        self._begin()

    def _begin(self) -> None:
        self.study = _silent_study()
        self.numbers: list[int] = []
        """What optuna numbers each point of the history."""

    def ask(self) -> Plan:
        plan = rule_plan(self.space, self.history.number) or self.space.fit(self._drawn())
        self.history.ask(keeps_of(self.space, plan))
        self._try(self.history.points[-1])
        return plan

    def _drawn(self) -> list[float]:
        """What optuna would try next. That trial ends here: the plan that the point is fitted to takes its place."""
        from optuna.samplers import TPESampler
        from optuna.trial import TrialState

        # A sampler for each trial: its seed follows from the trial's number, so it has no state to be saved.
        self.study.sampler = TPESampler(
            n_startup_trials=self.settings.startup,
            n_ei_candidates=self.settings.candidates,
            seed=int(self.history.random().integers(2**32)),
            multivariate=True,
            constant_liar=True,  # trials that run at the same time keep away from each other
        )
        trial = self.study.ask(self.axes)
        self.study.tell(trial, state=TrialState.FAIL)
        return [trial.params[site.key] for site in self.space.sites]

    def _try(self, point: Vector) -> None:
        """Tell optuna that a point is out for evaluation."""
        from optuna.trial import TrialState, create_trial

        params = {site.key: float(keep) for site, keep in zip(self.space.sites, point, strict=True)}
        self.numbers.append(len(self.study.get_trials(deepcopy=False)))
        self.study.add_trial(create_trial(state=TrialState.RUNNING, params=params, distributions=self.axes))

    def tell(self, plan: Plan, reward: float | None) -> None:
        self._learn(self.history.tell(reward))

    def _learn(self, number: int) -> None:
        """Tell optuna the reward of a point."""
        from optuna.trial import TrialState

        reward = self.history.rewards[number]
        if reward == -math.inf:
            self.study.tell(self.numbers[number], state=TrialState.FAIL)
        else:
            self.study.tell(self.numbers[number], reward)

    def state(self) -> State:
        return self.history.state()

    def restore(self, state: State) -> None:
        self.history.restore(state)
        self._begin()
        for point in self.history.points:
            self._try(point)
        for number in range(len(self.history.rewards)):
            self._learn(number)


def _silent_study() -> Study:
    """An optuna study in memory, without the line that optuna logs for each; other users of optuna keep theirs."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return optuna.create_study(direction="maximize")
    finally:
        optuna.logging.set_verbosity(before)


@dataclass(frozen=True)
class CMAES:
    """Covariance matrix adaptation (Hansen, 2016), by the package behind optuna's sampler of that name.

    It begins around the best of the hand-made rules.
    """

    seed: int = 0
    sigma: float = 0.2
    """Spread at the beginning, where every site's range from its least to 1 counts as 1."""
    population: int | None = None
    """Trials of a generation; by default 4 + 3 ln(sites)."""

    def __post_init__(self) -> None:
        if self.sigma <= 0 or (self.population is not None and self.population < 4):
            raise StudyError(f"{self}: sigma is above 0, population 4 or more")

    def start(self, space: SearchSpace) -> Searcher:
        """A fresh distribution over a space. Raises StudyError where cmaes is missing."""
        with _needs_the_extra():
            import cmaes  # noqa: F401
        return _CMAESSearcher(space, self)


class _CMAESSearcher:
    """Its points [sites] may lie anywhere: a site's range of fractions is [0, 1], and what is beyond means its end.

    The rules are the first trials and choose where the distribution begins; a generation is the trials told
    next, whichever one they were drawn from, without those that failed.
    """

    def __init__(self, space: SearchSpace, settings: CMAES) -> None:
        self.space = space
        self.settings = settings
        self.least = least_keeps(space)
        self.history = History(settings.seed, len(space.sites))
        self._begin()

    def _begin(self) -> None:
        self.optimizer: CMA | None = None
        self.generation: list[tuple[Vector, float]] = []

    def ask(self) -> Plan:
        plan = rule_plan(self.space, self.history.number)
        if plan is not None:
            span = np.where(self.least < 1.0, 1.0 - self.least, 1.0)
            self.history.ask((keeps_of(self.space, plan) - self.least) / span)
            return plan
        point = self._drawn(self.history.random())
        self.history.ask(point)
        return self.space.fit([float(keep) for keep in self.least + point.clip(0.0, 1.0) * (1.0 - self.least)])

    def _drawn(self, rng: np.random.Generator) -> Vector:
        """A point of the distribution, or any point while the rules are still out for evaluation."""
        if self.optimizer is None:
            return rng.random(len(self.least))
        # Seeded for each trial: what is drawn follows from the trial's number, so there is no state to be saved.
        self.optimizer.reseed_rng(int(rng.integers(2**32)))
        return np.asarray(self.optimizer.ask(), dtype=np.float64)

    def tell(self, plan: Plan, reward: float | None) -> None:
        self._learn(self.history.tell(reward))

    def _learn(self, number: int) -> None:
        """Take the reward of a point in."""
        point, reward = self.history.points[number], self.history.rewards[number]
        if number == len(RULES) - 1:
            best = int(np.argmax(self.history.rewards[: len(RULES)]))
            self.optimizer = self._around(self.history.points[best])
        elif self.optimizer is not None and reward > -math.inf:
            self.generation.append((point, -reward))
            if len(self.generation) == self.optimizer.population_size:
                self.optimizer.tell(self.generation)
                self.generation = []

    def _around(self, mean: Vector) -> CMA:
        from cmaes import CMA

        return CMA(mean, self.settings.sigma, population_size=self.settings.population)

    def state(self) -> State:
        return self.history.state()

    def restore(self, state: State) -> None:
        self.history.restore(state)
        self._begin()
        for number in range(len(self.history.rewards)):
            self._learn(number)


@contextmanager
def _needs_the_extra() -> Iterator[None]:
    """Raises StudyError where a package of the extra is not installed."""
    try:
        yield
    except ImportError as error:
        raise StudyError(f"this searcher needs {error.name}: pip install optuna cmaes") from error

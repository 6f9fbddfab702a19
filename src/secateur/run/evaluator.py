"""What a plan achieves: build its network, run the caller's `evaluate` on it, price it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from torch import nn

from secateur.plan import Outcome, Plan
from secateur.run.race import expected, hopeless
from secateur.run.score import Evaluate, Staged, Values, finite, score_of
from secateur.runtimes import Eager, Engine
from secateur.search import Reward, SearchSpace, resource_constrained

Build = Callable[[Mapping[str, int]], nn.Module]
"""From counts to a network: `Pruner.candidate` for a trial, `Pruner.final` for what would be delivered."""


class Evaluator:
    """Plan -> outcome. One a worker: it is not shared between threads, since builders reuse their candidate."""

    def __init__(
        self,
        build: Build,
        space: SearchSpace,
        evaluate: Evaluate,
        reward: Reward = resource_constrained,
        engine: Engine | None = None,
        dense: Outcome | None = None,
    ) -> None:
        self.build = build
        self.engine = engine or Eager()
        self.space = space
        self.evaluate = evaluate
        self.reward = reward
        self.dense = dense or Outcome(1.0, space.dense, 0.0, 0.0)

    def __call__(self, plan: Plan, rival: Outcome | None = None) -> Outcome:
        """Evaluate a plan, no further than it takes to see that it cannot beat `rival`, if there is one.

        Raises whatever `evaluate` raises, or EvaluationError.
        """
        started = time.perf_counter()
        counts = self.space.counts(plan)
        candidate = self.engine(self.build(counts))
        values = None if rival is None else rival.values
        score, stages, seen = self._score(candidate, values)
        price = self.space.costs(counts)
        reward = finite(self.reward(score, price, self.dense), "the reward")
        complete = values is None or seen is None or len(seen) == len(values)
        terms = getattr(self.reward, "terms", None)
        parts = {} if terms is None else terms(score, price, self.dense)
        return Outcome(score, price, reward, time.perf_counter() - started, stages, complete, parts, seen)

    def _score(self, candidate: nn.Module, rival: Values | None) -> tuple[float, tuple[float, ...], Values | None]:
        """The score, that of each stage, and the values of the examples looked at."""
        if not isinstance(self.evaluate, Staged):
            score = score_of(self.evaluate, candidate)
            return score, (score,), None
        stages: list[float] = []
        for values in self.evaluate.stages(candidate):
            stages.append(finite(float(values.mean())))
            if rival is not None and len(values) < len(rival) and hopeless(values, rival):
                return expected(values, rival), tuple(stages), values
        return stages[-1], tuple(stages), values

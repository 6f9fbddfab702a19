"""What a plan achieves: build the candidate, run the caller's `evaluate` on it, price it."""

from __future__ import annotations

import time

import torch
from torch import nn

from secateur.cost import costs
from secateur.plan import Outcome, Plan
from secateur.prune import Pruner, fold_norms
from secateur.run.race import hopeless
from secateur.run.score import Evaluate, Staged, finite, score_of
from secateur.search import Reward, SearchSpace


class Evaluator:
    """Plan -> outcome, on a candidate of its own. One a worker: it is not shared between threads."""

    def __init__(self, pruner: Pruner, space: SearchSpace, evaluate: Evaluate, reward: Reward) -> None:
        self.pruner = pruner
        self.space = space
        self.evaluate = evaluate
        self.reward = reward

    def __call__(self, plan: Plan, rival: Outcome | None = None) -> Outcome:
        """Evaluate a plan, no further than it takes to see that it cannot beat `rival`, if there is one.

        Raises whatever `evaluate` raises, or EvaluationError.
        """
        started = time.perf_counter()
        counts = self.space.counts(plan)
        candidate = fold_norms(self.pruner.candidate(counts), self.space.graph)
        candidate = candidate.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        stages, complete = self._score(candidate, rival)
        price = costs(self.space.graph, counts)
        reward = self.reward(stages[-1], price, self.space.graph.dense)
        return Outcome(stages[-1], price, reward, time.perf_counter() - started, stages, complete)

    def _score(self, candidate: nn.Module, rival: Outcome | None) -> tuple[tuple[float, ...], bool]:
        """The scores by stages, and whether the last one is over everything."""
        if not isinstance(self.evaluate, Staged):
            return (score_of(self.evaluate, candidate),), True
        stages: list[float] = []
        for score, examples, total in self.evaluate.stages(candidate):
            stages.append(finite(score))
            if examples < total and hopeless(score, examples, len(stages) - 1, rival):
                return tuple(stages), False
        return tuple(stages), True

"""What a plan achieves: build the candidate, run the caller's `evaluate` on it, price it."""

from __future__ import annotations

import time

import torch

from secateur.cost import costs
from secateur.plan import Outcome, Plan
from secateur.prune import Pruner, fold_norms
from secateur.run.score import Evaluate, score_of
from secateur.search import Reward, SearchSpace


class Evaluator:
    """Plan -> outcome, on a candidate of its own. One a worker: it is not shared between threads."""

    def __init__(self, pruner: Pruner, space: SearchSpace, evaluate: Evaluate, reward: Reward) -> None:
        self.pruner = pruner
        self.space = space
        self.evaluate = evaluate
        self.reward = reward

    def __call__(self, plan: Plan) -> Outcome:
        """Evaluate a plan. Raises whatever `evaluate` raises, or EvaluationError."""
        started = time.perf_counter()
        counts = self.space.counts(plan)
        candidate = fold_norms(self.pruner.candidate(counts), self.space.graph)
        score = score_of(self.evaluate, candidate.to(memory_format=torch.channels_last))  # type: ignore[call-overload]
        price = costs(self.space.graph, counts)
        reward = self.reward(score, price, self.space.graph.dense)
        return Outcome(score, price, reward, time.perf_counter() - started)

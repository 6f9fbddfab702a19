"""What a plan achieves: build the candidate, run the caller's `evaluate` on it, price it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from numbers import Real

import torch
from torch import nn

from secateur.cost import costs
from secateur.errors import EvaluationError
from secateur.plan import Outcome, Plan
from secateur.prune import Pruner, fold_norms
from secateur.search import Reward, SearchSpace

Evaluate = Callable[[nn.Module], float]
"""A network in eval mode -> its score, higher is better (top-1 as a fraction, or any other number)."""


def score_of(evaluate: Evaluate, network: nn.Module) -> float:
    """Run the caller's `evaluate` without gradients. Raises EvaluationError on anything but a finite number."""
    with torch.no_grad():
        score = evaluate(network)
    if isinstance(score, torch.Tensor) and score.numel() == 1:
        score = score.item()
    if not isinstance(score, Real) or isinstance(score, bool):
        raise EvaluationError(f"evaluate returned {type(score).__name__} {score!r:.80}; return one number")
    if not math.isfinite(score):
        raise EvaluationError(f"evaluate returned {score}; return a finite number")
    return float(score)


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
        candidate = self.pruner.candidate(counts)
        fast = fold_norms(candidate, self.space.graph)
        score = score_of(self.evaluate, fast)
        price = costs(self.space.graph, counts)
        reward = self.reward(score, price, self.space.graph.dense)
        return Outcome(score, price, reward, time.perf_counter() - started)

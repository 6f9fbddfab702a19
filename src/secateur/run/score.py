"""How good a network is: the caller's `evaluate`, held to its promise, and the built-in one."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real

import torch
from torch import Tensor, nn

from secateur.errors import EvaluationError

Evaluate = Callable[[nn.Module], float]
"""A network in eval mode -> its score, higher is better (top-1 as a fraction, or any other number)."""


def score_of(evaluate: Evaluate, network: nn.Module) -> float:
    """Run the caller's `evaluate` without gradients. Raises EvaluationError on anything but a finite number."""
    with torch.no_grad():
        score = evaluate(network.eval())
    if isinstance(score, torch.Tensor) and score.numel() == 1:
        score = score.item()
    if not isinstance(score, Real) or isinstance(score, bool):
        raise EvaluationError(f"evaluate returned {type(score).__name__} {score!r:.80}; return one number")
    if not math.isfinite(score):
        raise EvaluationError(f"evaluate returned {score}; return a finite number")
    return float(score)


def accuracy(images: Tensor, labels: Tensor, batch: int = 100) -> Evaluate:
    """An `evaluate` that gives top-1 as a fraction, over images [N, C, H, W] and class indices [N] in memory.

    Images are held channels-last and go through in small batches that stay in the cache. Networks whose
    classes begin with a background class have to be wrapped by the caller.
    """
    pieces = [piece.contiguous(memory_format=torch.channels_last) for piece in images.split(batch)]

    def evaluate(network: nn.Module) -> float:
        with torch.inference_mode():
            answers = torch.cat([network(piece).argmax(1) for piece in pieces])
        return float((answers == labels.to(answers.device)).float().mean())

    return evaluate

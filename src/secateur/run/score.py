"""How good a network is: the caller's `evaluate`, held to its promise, and the built-in one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from numbers import Real
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from secateur.errors import EvaluationError

Evaluate = Callable[[nn.Module], float]
"""A network in eval mode -> its score, higher is better (top-1 as a fraction, or any other number)."""


@runtime_checkable
class Staged(Protocol):
    """An `evaluate` that can also score by stages, so that hopeless candidates need not be scored to the end."""

    def __call__(self, network: nn.Module) -> float:
        """The whole score."""

    def stages(self, network: nn.Module) -> Iterator[tuple[float, int, int]]:
        """(mean score in [0, 1] over the examples so far, how many they are, how many there are in all)."""


def score_of(evaluate: Evaluate, network: nn.Module) -> float:
    """Run the caller's `evaluate` without gradients. Raises EvaluationError on anything but a finite number."""
    with torch.no_grad():
        return finite(evaluate(network.eval()))


def finite(score: object) -> float:
    """The score as a float. Raises EvaluationError on anything but a finite number."""
    if isinstance(score, torch.Tensor) and score.numel() == 1:
        score = score.item()
    if not isinstance(score, Real) or isinstance(score, bool):
        raise EvaluationError(f"evaluate returned {type(score).__name__} {score!r:.80}; return one number")
    if not math.isfinite(score):
        raise EvaluationError(f"evaluate returned {score}; return a finite number")
    return float(score)


def accuracy(images: Tensor, labels: Tensor, batch: int = 100) -> Accuracy:
    """An `evaluate` that gives top-1 as a fraction, over images [N, C, H, W] and class indices [N] in memory."""
    return Accuracy(images, labels, batch)


class Accuracy:
    """Top-1 as a fraction. Images are held channels-last and go through in batches that stay in the cache."""

    def __init__(self, images: Tensor, labels: Tensor, batch: int) -> None:
        self._pieces = [piece.contiguous(memory_format=torch.channels_last) for piece in images.split(batch)]
        self._labels = labels.split(batch)
        self._examples = len(labels)

    def __call__(self, network: nn.Module) -> float:
        """Over all images."""
        *_, (score, _, _) = self.stages(network)
        return score

    def stages(self, network: nn.Module) -> Iterator[tuple[float, int, int]]:
        """Over an eighth of the images, a quarter, a half, and all."""
        marks = [self._examples // 8, self._examples // 4, self._examples // 2, self._examples]
        right = seen = 0
        for piece, labels in zip(self._pieces, self._labels, strict=True):
            with torch.inference_mode():
                right += int((network(piece).argmax(1) == labels.to(piece.device)).sum())
            seen += len(labels)
            if marks and seen >= marks[0]:
                marks = [mark for mark in marks if mark > seen]
                yield right / seen, seen, self._examples

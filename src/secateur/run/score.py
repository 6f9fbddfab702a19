"""How good a network is: the caller's `evaluate`, held to its promise, and the built-in ones."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from numbers import Real
from typing import Protocol, get_args, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from secateur.answers import By, Dense, logits_of
from secateur.errors import EvaluationError
from secateur.graph import Example, Inputs, as_inputs, examples_of, laid_out, private_copy

Evaluate = Callable[[nn.Module], float]
"""A network in eval mode -> its score, higher is better (top-1 as a fraction, or any other number)."""
FEWEST = 100
"""Examples below which no candidate is judged."""
ASKED_AGAIN, ALIKE = 8, 0.999
"""Examples that the dense network is asked of twice, and how far it has to agree with itself."""
Values = npt.NDArray[np.float32]
"""What each example contributes to a score, [N]; the score is their mean."""


@runtime_checkable
class Staged(Protocol):
    """An `evaluate` that is a mean over examples and can stop early, so that hopeless candidates cost less.

    It looks at the same examples in the same order every time: candidates are compared example by example.
    """

    def __call__(self, network: nn.Module) -> float:
        """The whole score."""

    def stages(self, network: nn.Module) -> Iterator[Values]:
        """The values of the examples so far, at growing numbers of them; at last of all."""


def score_of(evaluate: Evaluate, network: nn.Module) -> float:
    """Run the caller's `evaluate` without gradients. Raises EvaluationError on anything but a finite number."""
    with torch.no_grad():
        return finite(evaluate(network.eval()))


def finite(score: object, whose: str = "evaluate") -> float:
    """The score, or what else `whose` gave, as a float. Raises EvaluationError on anything but a finite number."""
    if isinstance(score, torch.Tensor) and score.numel() == 1:
        score = score.item()
    if not isinstance(score, Real) or isinstance(score, bool):
        raise EvaluationError(f"{whose} returned {type(score).__name__} {score!r:.80}; return one number")
    if not math.isfinite(score):
        raise EvaluationError(f"{whose} returned {score}; return a finite number")
    return float(score)


def accuracy(images: Tensor, labels: Tensor, batch: int = 100) -> Examples:
    """An `evaluate` that gives top-1 as a fraction, over images [N, C, H, W] and class indices [N] in memory.

    They are looked at in an order of its own, so that a first hundred of them stands for all. Labels [N, H, W] are of
    pixels. Raises EvaluationError where labels are not as many as images, or not of the shape of the network's answers.
    """
    if len(images) != len(labels):
        raise EvaluationError(f"there are {len(images)} images and {len(labels)} labels: give one for each")
    return Examples(images, partial(_right, labels), batch)


def agreement(model: nn.Module, inputs: Example | Inputs, batch: int = 100, by: By = "auto") -> Examples:
    """An `evaluate` that needs no labels: how far a network answers as `model` does, 1 where it always does.

    Inputs [N, ...], or what else the network takes (see `inspect`), stay in memory, as do the dense network's answers;
    both go through in batches. Of logits [N, classes] it is the mean cosine, each taken about its mean over the
    classes: that ranks plans as test top-1 does on far fewer images than top-1 takes, though the model was trained on
    them (`benchmarks/scores.py`). Other answers are measured by what they are, several of them each at its own scale
    (docs/extend.md lists them): numbers by their square error as a share of the variance, vectors by their cosine,
    tokens by their distributions over the vocabulary or their vectors, where `attention_mask` is 1 alone, detections by
    the overlap of boxes. `by` says what answers are, where that does not show: a network that is called with tokens and
    answers by a tensor alone is compared by "vectors", unless they are said to be "distributions".
    Raises EvaluationError where there is nothing to compare.
    """
    _refuse_none(inputs)
    if by not in get_args(By):
        raise EvaluationError(f"agreement goes by {', '.join(get_args(By))}, not by {by!r}")
    dense = private_copy(model).eval()
    given = laid_out(as_inputs(inputs), torch.contiguous_format)
    given = replace(given, whole=examples_of(dense, given.part(0, batch)).whole)
    answers = Dense(dense, given, batch, by)
    if not given.whole:
        _warn_of_chance(dense, answers, given)
    return Examples(given, answers, batch)


def _warn_of_chance(dense: nn.Module, answers: Dense, inputs: Inputs) -> None:
    """Where a network does not agree with itself about a few examples that it is asked of again."""
    numbers = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))[:ASKED_AGAIN]
    device = next((each.device for each in dense.parameters()), None)
    few = inputs.chosen(numbers).to(device)
    with torch.inference_mode(), torch.random.fork_rng([]):
        alike = float(answers(few.run(dense), numbers, few).mean())
    if alike < ALIKE:
        warnings.warn(
            f"the dense network answers a few examples otherwise when they are asked again in another batch (agreement "
            f"{alike:.3f}): is it random, or does it mix up the examples of a batch (tokens first)? Scores are noisy",
            stacklevel=3,
        )


def _refuse_none(images: Example | Inputs) -> None:
    if isinstance(images, Tensor) and not len(images):
        raise EvaluationError("there are no images to score by: give some hundreds")


def _right(labels: Tensor, outputs: object, numbers: Tensor, inputs: Inputs) -> Tensor:
    """Whether an answer to the examples of these numbers [n] is right, [n]."""
    logits = logits_of(outputs)
    if not isinstance(logits, Tensor):
        raise EvaluationError(
            f"accuracy is of networks that answer by logits [N, classes], and this one answers by a "
            f"{type(outputs).__name__}: score it by a function of your own (network -> number, higher is better)"
        )
    return _is_right(logits, labels[numbers.to(labels.device)].to(logits.device))


def _is_right(logits: Tensor, labels: Tensor) -> Tensor:
    """For logits [n, classes, ...] and class indices [n, ...], the share of each example that is right, [n]."""
    answers = logits.argmax(1) if logits.dim() > 1 else logits
    if answers.shape != labels.shape:  # they would be broadcast, and every answer compared with every label
        raise EvaluationError(
            f"accuracy compares logits [N, classes] with class indices [N], and was given logits {list(logits.shape)} "
            f"and labels {list(labels.shape)}: flatten them to that"
        )
    right = (answers == labels).float()
    return right.flatten(1).mean(1) if right.dim() > 1 else right


@contextmanager
def in_eval(network: nn.Module) -> Iterator[None]:
    """For a while, all of a network is in eval mode: norms would learn from what is only looked at."""
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def doublings(examples: int) -> list[int]:
    """Numbers of examples at which a candidate is looked at: 100, 200, 400, ..., all."""
    marks = [FEWEST]
    while 2 * marks[-1] < examples:
        marks.append(2 * marks[-1])
    return [*(mark for mark in marks if mark < examples), examples]


class Examples:
    """The mean of `measure(outputs, numbers [n], inputs) -> [n]` over examples held in memory, known by their numbers.

    Images are held channels-last, until a network does not take them so, and go through in batches that stay in the
    cache; shuffled, since images that lie sorted by class would have a race decided by the first class. A network is
    in eval mode meanwhile, and afterwards as it was.
    """

    def __init__(
        self, images: Example | Inputs, measure: Callable[[object, Tensor, Inputs], Tensor], batch: int
    ) -> None:
        _refuse_none(images)
        inputs = as_inputs(images)
        self._numbers = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0)).split(batch)
        self._pieces = [laid_out(inputs.chosen(piece), torch.channels_last) for piece in self._numbers]
        self._layout = torch.channels_last
        self._measure = measure
        self.examples = len(inputs)

    def __call__(self, network: nn.Module) -> float:
        """Over all images."""
        *_, values = self.stages(network)
        return float(values.mean())

    def stages(self, network: nn.Module) -> Iterator[Values]:
        """Over some hundred images, and twice as many each time."""
        marks = doublings(self.examples)
        found: list[Values] = []
        seen = 0
        for number, examples in enumerate(self._numbers):
            with torch.inference_mode(), in_eval(network):
                outputs = self._outputs(network, number)
                found.append(self._measure(outputs, examples, self._pieces[number]).cpu().numpy())
            seen += len(examples)
            if seen >= marks[0]:
                marks = [mark for mark in marks if mark > seen]
                yield np.concatenate(found)

    def _outputs(self, network: nn.Module, number: int) -> object:
        """For a piece of the images."""
        device = next((each.device for each in network.parameters()), None)
        try:
            return self._pieces[number].to(device).run(network)
        except RuntimeError:  # it may take the `view` of a feature map
            if self._layout == torch.contiguous_format:
                raise
            self._layout = torch.contiguous_format
            self._pieces = [laid_out(piece, self._layout) for piece in self._pieces]
            return self._pieces[number].to(device).run(network)

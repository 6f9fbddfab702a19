"""Restore accuracy: train the pruned network for some epochs, taught by the dense one if it is given.

Weights that a sparse layer leaves out stay zero.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sized
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur.errors import DataError
from secateur.finish.lesson import Lesson, Loss
from secateur.finish.processes import processes
from secateur.finish.settings import FineTune
from secateur.finish.training import Epoch, Training
from secateur.sparse import block_sparse_layers

OnEpoch = Callable[[Epoch], None]


def finetune(  # noqa: PLR0913  # as of search: what the caller has, and all but two have defaults
    model: nn.Module,
    train_batches: Iterable[tuple[Tensor, Tensor]],
    *,
    teacher: nn.Module | None = None,
    loss: Loss | None = None,
    epochs: int | None = None,
    settings: FineTune | None = None,
    evaluate: Callable[[nn.Module], float] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    on_epoch: OnEpoch | None = None,
) -> list[Epoch]:
    """Train a classifier, or any network by a loss of your own, in place; it ends in eval mode.

    Under `torchrun`, the processes share every batch among them: on GPUs each has its model on its own, on the CPU
    gloo joins them; scores, files and `on_epoch` are the first one's.

    Args:
        model: the pruned network; its device is used.
        train_batches: re-iterable batches of (inputs [N, ...], class indices [N, ...]), or what `loss` takes as
            labels [N, ...]; one with `set_epoch(n)` is told the epoch: a resumed training sees the same batches.
        teacher: the dense network, for distillation; it is not touched.
        loss: in place of cross-entropy and distillation, `(answer, labels) -> mean over the batch`, a scalar tensor;
            with a teacher, `(answer, labels, the teacher's answer)`. `distil`, `temperature` and `label_smoothing` of
            the settings are then its own affair.
        epochs: shorthand for `settings.epochs`.
        settings: schedule, loss and precision.
        evaluate: called after every epoch; its score is in the history.
        checkpoint: a file written after every epoch; a training found there is resumed. Its folder is made.
        on_epoch: called after every epoch.

    Returns:
        One `Epoch` for each epoch trained, those before a resume included.

    Raises:
        DataError: there are no batches, the loss is no longer finite, or layers are block-sparse already.
        CheckpointError: the checkpoint is damaged or belongs to another training.
    """
    if block_sparse_layers(model):
        raise DataError("block-sparse layers are for inference: fine-tune the network that they were made from")
    settings = settings or FineTune()
    if epochs is not None:
        settings = replace(settings, epochs=epochs)
    steps = _count(train_batches)
    place = Path(checkpoint) if checkpoint is not None else None
    if place is not None:
        place.parent.mkdir(parents=True, exist_ok=True)
    with (
        processes(next(model.parameters()).device) as among,
        closing(Lesson(model, teacher, settings, loss)) as lesson,
        closing(Training(model, lesson, settings, steps, among)) as training,
    ):
        history = training.resume(place) if place is not None and place.exists() else []
        tell = on_epoch if on_epoch and among.rank == 0 else _nobody
        for epoch in history:
            tell(epoch)
        for number in range(len(history), settings.epochs):
            started = time.perf_counter()
            if hasattr(train_batches, "set_epoch"):
                train_batches.set_epoch(number)
            mean = training.epoch(number, train_batches)
            score = among.told(_evaluated(training.delivered, evaluate) if among.rank == 0 else None)
            history.append(Epoch(number, mean, score, time.perf_counter() - started))
            if place is not None:
                training.save(place, history)
            tell(history[-1])
        training.finish()
    return history


def _nobody(epoch: Epoch) -> None:
    """Told by all processes but the first."""


def _count(batches: Iterable[Any]) -> int:
    """Batches an epoch; one-shot iterators are refused, since every epoch needs them again."""
    if iter(batches) is batches:
        raise DataError("train_batches can be walked only once; give a list or a DataLoader, not a generator")
    count = len(batches) if isinstance(batches, Sized) else sum(1 for _ in batches)
    if count == 0:
        raise DataError("there are no training batches")
    return count


def _evaluated(model: nn.Module, evaluate: Callable[[nn.Module], float] | None) -> float | None:
    if evaluate is None:
        return None
    with torch.no_grad():
        return float(evaluate(model.eval()))

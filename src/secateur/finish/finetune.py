"""Restore accuracy: train the pruned network for some epochs, taught by the dense one if it is given."""

from __future__ import annotations

import copy
import io
import math
import os
import time
from collections.abc import Callable, Iterable, Sized
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.errors import CheckpointError, DataError, SecateurError
from secateur.run import write_atomically

Precision = Literal["float32", "bfloat16", "auto"]


@dataclass(frozen=True)
class FineTune:
    """How to fine-tune. The cosine schedule falls to zero over all epochs, after `warmup_epochs` of rising."""

    epochs: int = 20
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup_epochs: float = 0.5
    distil: float = 0.7
    """Share of the loss that is agreement with the teacher; the rest is the labels. 0 without a teacher."""
    temperature: float = 3.0
    """Softening of both networks' logits for distillation (Hinton et al., 2015)."""
    label_smoothing: float = 0.0
    clip: float = 5.0
    """Largest norm of the gradient."""
    precision: Precision = "auto"
    """float32, bfloat16 (autocast), or auto: bfloat16 where the GPU or the CPU's matrix units have it."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 0 or not 0 <= self.distil <= 1 or self.precision not in get_args(Precision):
            raise SecateurError(
                f"fine-tuning with epochs = {self.epochs}, distil = {self.distil}, precision = {self.precision!r}: "
                f"epochs are 0 or more, distil lies in [0, 1], precision is one of {', '.join(get_args(Precision))}"
            )


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave: mean training loss, the caller's score if there is one, and wall time."""

    number: int
    loss: float
    score: float | None
    seconds: float


OnEpoch = Callable[[Epoch], None]


def finetune(
    model: nn.Module,
    train_batches: Iterable[tuple[Tensor, Tensor]],
    *,
    teacher: nn.Module | None = None,
    epochs: int | None = None,
    settings: FineTune | None = None,
    evaluate: Callable[[nn.Module], float] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    on_epoch: OnEpoch | None = None,
) -> list[Epoch]:
    """Train a classifier in place; it ends in eval mode.

    Args:
        model: the pruned network; its device is used.
        train_batches: re-iterable batches of (inputs, class indices [N]); one with `set_epoch(n)` is told the
            epoch, so that a resumed training sees the same batches.
        teacher: the dense network, for distillation; it is not touched.
        epochs: shorthand for `settings.epochs`.
        settings: schedule, loss and precision.
        evaluate: called after every epoch; its score is in the history.
        checkpoint: a file written after every epoch; a training found there is resumed.
        on_epoch: called after every epoch.

    Returns:
        One `Epoch` for each epoch trained, those before a resume included.

    Raises:
        DataError: there are no batches, or the loss is no longer finite.
        CheckpointError: the checkpoint is damaged or belongs to another training.
    """
    settings = settings or FineTune()
    if epochs is not None:
        settings = replace(settings, epochs=epochs)
    steps = _count(train_batches)
    training = _Training(model, teacher, settings, steps)
    place = Path(checkpoint) if checkpoint is not None else None
    history = training.resume(place) if place is not None and place.exists() else []
    for history_epoch in history:
        if on_epoch:
            on_epoch(history_epoch)
    for number in range(len(history), settings.epochs):
        started = time.perf_counter()
        if hasattr(train_batches, "set_epoch"):
            train_batches.set_epoch(number)
        loss = training.epoch(train_batches)
        score = _evaluated(model, evaluate)
        history.append(Epoch(number, loss, score, time.perf_counter() - started))
        if place is not None:
            training.save(place, history)
        if on_epoch:
            on_epoch(history[-1])
    model.eval()
    return history


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


class _Training:
    """Model, optimiser and schedule, with all that a checkpoint has to hold."""

    def __init__(self, model: nn.Module, teacher: nn.Module | None, settings: FineTune, steps: int) -> None:
        self.model = model
        self.settings = settings
        self.identity = {spec.name: getattr(settings, spec.name) for spec in fields(FineTune)} | {"batches": steps}
        self.device = next(model.parameters()).device
        self.teacher = _frozen(teacher, self.device) if teacher is not None and settings.distil > 0 else None
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.SGD(
            trained,
            settings.lr,
            settings.momentum,
            weight_decay=settings.weight_decay,
            nesterov=settings.momentum > 0,
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, _cosine(settings, steps))
        self.autocast = _autocast(settings.precision, self.device)

    def epoch(self, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
        """One pass over the batches; the mean loss."""
        self.model.train()
        total, seen = torch.zeros((), device=self.device), 0
        for inputs, labels in batches:
            inputs, labels = inputs.to(self.device), labels.to(self.device)
            loss = self._loss(inputs, labels)
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
            self.optimizer.step()
            self.schedule.step()
            total += loss.detach() * len(labels)
            seen += len(labels)
        mean = float(total) / max(seen, 1)
        if not math.isfinite(mean):
            raise DataError(f"the training loss became {mean}; lower lr (now {self.settings.lr}), or use float32")
        return mean

    def _loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        with self.autocast():
            logits = self.model(inputs)
            if self.teacher is not None:
                with torch.no_grad():
                    lesson = self.teacher(inputs)
        hard = F.cross_entropy(logits.float(), labels, label_smoothing=self.settings.label_smoothing)
        if self.teacher is None:
            return hard
        heat = self.settings.temperature
        mine, theirs = F.log_softmax(logits.float() / heat, 1), F.log_softmax(lesson.float() / heat, 1)
        soft = F.kl_div(mine, theirs, reduction="batchmean", log_target=True) * heat**2
        return self.settings.distil * soft + (1 - self.settings.distil) * hard

    def save(self, place: Path, history: list[Epoch]) -> None:
        """Write everything that a resume needs, atomically."""
        buffer: dict[str, Any] = {
            "settings": self.identity,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": {"last_epoch": self.schedule.last_epoch},
            "history": [asdict(epoch) for epoch in history],
            "random": torch.get_rng_state(),
        }
        raw = io.BytesIO()
        torch.save(buffer, raw)
        write_atomically(place, raw.getvalue())

    def resume(self, place: Path) -> list[Epoch]:
        """Take a training up where its checkpoint left it; only tensors and plain values are read."""
        try:
            saved = torch.load(place, map_location="cpu", weights_only=True)
            if saved["settings"] != self.identity:
                raise CheckpointError(
                    f"{place} belongs to a training with {saved['settings']}; use those settings, or delete it"
                )
            self.model.load_state_dict(saved["model"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.schedule.last_epoch = saved["schedule"]["last_epoch"]
            torch.set_rng_state(saved["random"])
            return [Epoch(**epoch) for epoch in saved["history"]]
        except CheckpointError:
            raise
        except Exception as error:
            raise CheckpointError(f"{place} cannot be resumed from ({error}); delete it to train afresh") from error


def _frozen(teacher: nn.Module, device: torch.device) -> nn.Module:
    return copy.deepcopy(teacher).to(device).eval().requires_grad_(False)


def _cosine(settings: FineTune, steps: int) -> Callable[[int], float]:
    total, rising = max(settings.epochs * steps, 1), max(settings.warmup_epochs * steps, 1.0)

    def factor(step: int) -> float:
        return min((step + 1) / rising, 1.0) * 0.5 * (1 + math.cos(math.pi * min(step / total, 1.0)))

    return factor


def _autocast(precision: Precision, device: torch.device) -> Callable[[], Any]:
    """bfloat16 where it is asked for, or pays: on GPUs that have it and on CPUs with matrix units (AMX)."""
    if precision == "auto":
        gpu = device.type == "cuda" and torch.cuda.is_bf16_supported()
        cpu = device.type == "cpu" and getattr(torch.cpu, "_is_amx_tile_supported", bool)()
        precision = "bfloat16" if gpu or cpu else "float32"
    if precision == "float32":
        return nullcontext
    return lambda: torch.autocast(device.type, torch.bfloat16)

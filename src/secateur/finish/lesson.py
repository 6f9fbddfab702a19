"""What a pruned network learns from: labels, the dense network's logits, and, if asked for, what it sees on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.errors import DataError
from secateur.finish.settings import FineTune
from secateur.graph import Inputs, copied

Loss = Callable[..., Tensor]
"""Of an answer and labels, and of the teacher's answer where there is a teacher: a number, the mean over a batch."""


class Lesson:
    """The loss of a batch: a classifier's, or the caller's own. Without a teacher, labels are all there is."""

    def __init__(
        self, student: nn.Module, teacher: nn.Module | None, settings: FineTune, own_loss: Loss | None = None
    ) -> None:
        self.settings, self._own_loss = settings, own_loss
        if settings.features and teacher is None:
            raise DataError("features are a teacher's: give the dense network as teacher")
        heard = teacher is not None and (own_loss or settings.distil > 0 or settings.features)
        place = next(student.parameters()).device
        self.teacher = copied(teacher).to(place).eval().requires_grad_(False) if teacher and heard else None
        mine, theirs = (_modules(network, settings.features) for network in (student, self.teacher or student))
        self._mine, self._theirs = Seen(mine), Seen(theirs)

    @property
    def identity(self) -> dict[str, object]:
        """What makes it another lesson, beside the settings, in types that a checkpoint may hold."""
        own = self._own_loss
        name = None if own is None else getattr(own, "__qualname__", type(own).__qualname__)
        return {"loss": name, "taught": self.teacher is not None}

    def loss(self, answer: Callable[..., Any], inputs: Inputs, labels: Tensor) -> Tensor:
        """Of the student's `answer` to inputs [N, ...], a scalar; a classifier's labels are class indices [N, ...]."""
        mine = inputs.run(answer)
        with torch.no_grad():
            theirs = inputs.run(self.teacher) if self.teacher is not None else None
        loss = self._classified(mine, labels, theirs) if self._own_loss is None else self._own(mine, labels, theirs)
        return loss + self.settings.feature_weight * self._apart() if self.settings.features else loss

    def _classified(self, mine: object, labels: Tensor, theirs: object) -> Tensor:
        """By logits [N, classes, ...]."""
        settings = self.settings
        logits = as_logits(mine)
        _check_labels(logits, labels)
        hard = F.cross_entropy(logits.float(), labels, label_smoothing=settings.label_smoothing)
        if theirs is None:
            return hard
        lesson = as_logits(theirs, "the teacher")
        if lesson.shape != logits.shape:
            raise DataError(f"the network's logits are {list(logits.shape)}, the teacher's {list(lesson.shape)}")
        heat = settings.temperature
        cool, taught = F.log_softmax(logits.float() / heat, 1), F.log_softmax(lesson.float() / heat, 1)
        soft = F.kl_div(cool, taught, reduction="none", log_target=True).sum(1).mean() * heat**2
        return settings.distil * soft + (1 - settings.distil) * hard

    def _own(self, mine: object, labels: Tensor, theirs: object) -> Tensor:
        """By the caller's loss."""
        assert self._own_loss is not None
        loss = self._own_loss(mine, labels) if theirs is None else self._own_loss(mine, labels, theirs)
        if not isinstance(loss, Tensor) or loss.dim():
            what = f"a tensor {list(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
            raise DataError(f"loss gives {what}: it has to give a tensor of one number, the mean over the batch")
        return loss

    def close(self) -> None:
        """Leave both networks as they were."""
        for handle in (*self._mine.handles, *self._theirs.handles):
            handle.remove()

    def _apart(self) -> Tensor:
        """How far the features are from the teacher's, as a share of their energy; the mean over all that are named."""
        gaps = []
        for name in self.settings.features:
            mine, theirs = self._mine.outputs.get(name), self._theirs.outputs.get(name)
            if not isinstance(mine, Tensor) or not isinstance(theirs, Tensor):
                raise DataError(f"features: {name} puts out no tensor in a forward pass; name another module")
            if mine.shape != theirs.shape:
                raise DataError(
                    f"features: {name} puts out {list(mine.shape)} and the teacher's {list(theirs.shape)}; name "
                    "modules whose channels stay whole, such as the stages of a residual network"
                )
            gaps.append(F.mse_loss(mine.float(), theirs.float()) / theirs.float().square().mean().clamp_min(1e-12))
        return torch.stack(gaps).mean()


def as_logits(answer: object, whose: str = "the network") -> Tensor:
    """What a network answers in training. Raises DataError where that is no tensor of logits."""
    if not isinstance(answer, Tensor):
        raise DataError(
            f"in training {whose} answers by a {type(answer).__name__}, not by logits [N, classes]: build it without "
            "auxiliary heads, or give sc.finetune a loss of your own"
        )
    if answer.dim() < 2 or answer.shape[1] < 2:
        raise DataError(
            f"{whose} answers by {list(answer.shape)}: without a loss of your own (sc.finetune takes one), only "
            "classifiers of two classes or more, by logits [N, classes], can be fine-tuned"
        )
    return answer


def _check_labels(logits: Tensor, labels: Tensor) -> None:
    wanted = [len(logits), *logits.shape[2:]]
    if labels.dtype != torch.int64 or [*labels.shape] != wanted:
        raise DataError(
            f"train_batches give labels {list(labels.shape)} of {str(labels.dtype).removeprefix('torch.')}: for logits "
            f"{list(logits.shape)} they have to be class indices {wanted} of int64, or sc.finetune needs your own loss"
        )
    if labels.device.type == "cpu" and labels.numel() and int(labels.max()) >= logits.shape[1]:  # a GPU would wait
        raise DataError(
            f"train_batches give label {int(labels.max())}: the network tells {logits.shape[1]} classes apart"
        )


def _modules(network: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
    """The modules by their names. Raises DataError where there is none of a name."""
    known = dict(network.named_modules())
    for name in names:
        if name not in known:
            raise DataError(f"features: {type(network).__name__} has no module {name!r}")
    return {name: known[name] for name in names}


class Seen:
    """What modules put out last."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self.outputs: dict[str, object] = {}
        self.handles = [
            module.register_forward_hook(lambda _, args, y, name=name: self._keep(name, y))
            for name, module in modules.items()
        ]

    def _keep(self, name: str, output: object) -> None:
        self.outputs[name] = output

"""A training: network, optimiser, schedule and average, with all that a checkpoint has to hold."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from secateur.errors import CheckpointError, DataError, TraceError
from secateur.finish.lesson import Lesson
from secateur.finish.processes import Processes
from secateur.finish.replay import Replay
from secateur.finish.settings import FineTune, Precision
from secateur.graph import Inputs, as_inputs, best_layout, laid_out
from secateur.run import write_atomically
from secateur.sparse import hold, hold_gradients

ALIKE = 0.01
"""How far the norms of a network's weights may be apart, made twice: refits on other machines round otherwise."""


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave: mean training loss, the caller's score if there is one, and wall time."""

    number: int
    loss: float
    score: float | None
    seconds: float


class Training:
    """Trains `model` in place, epoch by epoch of `steps` batches each."""

    def __init__(self, model: nn.Module, lesson: Lesson, settings: FineTune, steps: int, among: Processes) -> None:
        self.model, self.lesson, self.settings, self.among = model, lesson, settings, among
        self.device = next(model.parameters()).device
        if settings.replay and (self.device.type != "cuda" or among.count > 1):
            raise DataError(
                f"replay is for one process with its network on a GPU, and this is one of {among.count} on "
                f"{self.device}: leave it out"
            )
        self.identity = lesson.identity | _identity(settings) | {"batches": steps}
        self._layout: torch.memory_format | None = None
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if not trained:
            raise DataError("none of the network's parameters requires a gradient: there is nothing to train")
        self.optimizer = _sgd(trained, settings, self.device)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, _cosine(settings, steps))
        self.average = _average(model, settings.averaging)
        self.autocast = _autocast(settings.precision, self.device)
        self._answer: Callable[..., Any] = torch.compile(model) if settings.compile else model
        self._replay = Replay(self._learn, self.device) if settings.replay else None
        among.alike(model)
        self._began = _norms(model)

    @property
    def delivered(self) -> nn.Module:
        """The network as it would be delivered now."""
        return self.model if self.average is None else self.average.module

    def finish(self) -> None:
        """Leave the model as it is delivered, in eval mode."""
        if self.average is not None:
            self.model.load_state_dict(self.average.module.state_dict())
        self.among.alike(self.model)
        self.model.eval()

    def close(self) -> None:
        """Let go of the GPU's memory."""
        self._replay = None  # what it has recorded holds on to the GPU's memory

    def epoch(self, number: int, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
        """One pass over the batches; the mean loss. What is drawn, for dropout say, is the same each time."""
        self.model.train()
        total, seen = torch.zeros((), device=self.device), 0
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(self.settings.seed + number)
            for inputs, labels in map(_labelled, batches):
                if len(labels) >= 2 * self.among.count:  # norms need two examples in every process
                    total += self._step(inputs, labels) * len(labels)
                    seen += len(labels)
                    self.schedule.step()
        if not seen:
            raise DataError(
                f"every batch has fewer than two examples for each of {self.among.count} processes; larger ones"
            )
        mean = float(self.among.summed(total)) / seen
        if not math.isfinite(mean):
            raise DataError(f"the training loss became {mean}; lower lr (now {self.settings.lr}), or use float32")
        return mean

    def _step(self, inputs: Inputs, labels: Tensor) -> Tensor:
        """One step of the optimiser; this process's part of the batch's mean loss."""
        whole = len(labels)
        if self.among.count > 1:
            inputs = inputs.chosen(self.among.part(torch.arange(len(inputs))))
        inputs, labels = inputs.to(self.device), self.among.part(labels).to(self.device)
        inputs = laid_out(inputs, self._layout or self._lay_out(inputs.part(0, 2)))
        if self._replay:
            loss = self._replay(inputs.args[0], labels)
        else:
            loss = self._learn(inputs, labels, len(labels) / whole)
        if self.average is not None:
            self.average.update_parameters(self.model)
        return loss

    def _lay_out(self, inputs: Inputs) -> torch.memory_format:
        """Decide, once, how images and weights lie in memory."""
        networks = [self.model, *([self.lesson.teacher] if self.lesson.teacher else [])]
        layouts = [best_layout(network, inputs) for network in networks] if self.settings.channels_last else []
        self._layout = torch.channels_last if {*layouts} == {torch.channels_last} else torch.contiguous_format
        for network in (*networks, self.delivered):
            network.to(memory_format=self._layout)  # type: ignore[call-overload]
        return self._layout

    def _learn(self, inputs: Inputs | Tensor, labels: Tensor, share: float = 1.0) -> Tensor:
        """Go down the gradient of a batch, of which this process has a share; its part of the mean loss before."""
        with self.autocast():
            loss = self.lesson.loss(self._answer, as_inputs(inputs), labels) * share
        self.optimizer.zero_grad()
        loss.backward()
        self.among.sum_gradients(self.model)
        hold_gradients(self.model)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        self.optimizer.step()
        hold(self.model)
        return loss.detach()

    def save(self, place: Path, history: list[Epoch]) -> None:
        """Write everything that a resume needs, atomically; of several processes, one does."""
        if self.among.rank == 0:
            buffer: dict[str, Any] = {
                "settings": self.identity,
                "began": self._began,
                "model": self.model.state_dict(),
                "average": None if self.average is None else self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "schedule": {"last_epoch": self.schedule.last_epoch},
                "history": [asdict(epoch) for epoch in history],
            }
            raw = io.BytesIO()
            torch.save(buffer, raw)
            write_atomically(place, raw.getvalue())
        self.among.told(None)  # the others wait until it is written

    def resume(self, place: Path) -> list[Epoch]:
        """Take a training up where its checkpoint left it; only tensors and plain values are read."""
        try:
            saved = torch.load(place, map_location="cpu", weights_only=True)
            # An older version's lacks what was added since.
            kept = self.lesson.identity | _identity(FineTune()) | saved["settings"]
            if {name: kept.get(name) for name in self.identity} != self.identity:
                raise CheckpointError(
                    f"{place} belongs to a training with {saved['settings']}; use those settings, or delete it"
                )
            self.model.load_state_dict(saved["model"])
            self._began = self._same_beginning(saved.get("began", self._began), place)
            if self.average is not None:
                self.average.load_state_dict(saved["average"])
            own = [(group["lr"], group["fused"]) for group in self.optimizer.param_groups]
            self.optimizer.load_state_dict(saved["optimizer"])
            for group, (rate, fused) in zip(self.optimizer.param_groups, own, strict=True):
                now = float(group["lr"])  # it may have been trained on another device
                group.update(lr=rate.fill_(now) if isinstance(rate, Tensor) else now, fused=fused)
            self.schedule.last_epoch = saved["schedule"]["last_epoch"]
            return [Epoch(**epoch) for epoch in saved["history"]]
        except CheckpointError:
            raise
        except Exception as error:
            raise CheckpointError(f"{place} cannot be resumed from ({error}); delete it to train afresh") from error

    def _same_beginning(self, began: dict[str, float], place: Path) -> dict[str, float]:
        """What the training began with, with a warning where that was another network than the one given."""
        differing = [
            name
            for name, norm in self._began.items()
            if not math.isclose(norm, began[name], rel_tol=ALIKE, abs_tol=ALIKE)
        ]
        if differing and self.among.rank == 0:
            warnings.warn(
                f"the training of {place} began with other weights than are given now ({differing[0]}), and goes on "
                "with its own; to train those given, delete it",
                stacklevel=4,
            )
        return began


def _norms(model: nn.Module) -> dict[str, float]:
    """The norm of every parameter: two networks of the same shapes differ by that, and one from run to run does not."""
    return {name: float(parameter.detach().float().norm()) for name, parameter in model.named_parameters()}


def _labelled(batch: object) -> tuple[Inputs, Tensor]:
    """A batch as it is learnt from. Raises DataError where it is another thing."""
    if isinstance(batch, Mapping) and isinstance(batch.get("labels"), Tensor):
        return as_inputs({name: value for name, value in batch.items() if name != "labels"}), batch["labels"]
    if isinstance(batch, (tuple, list)) and len(batch) == 2 and isinstance(batch[1], Tensor):
        with suppress(TraceError):
            return as_inputs(batch[0]), batch[1]
    raise DataError(
        f"train_batches give a {type(batch).__name__}, not pairs (inputs, labels), nor dicts with labels; inputs are a "
        "tensor, a tuple or a dict of what the network takes"
    )


def _sgd(trained: list[nn.Parameter], settings: FineTune, device: torch.device) -> torch.optim.Optimizer:
    """A recorded step reads its rate from the GPU, where the schedule can change it."""
    rate = torch.tensor(settings.lr, device=device) if settings.replay else settings.lr
    momentum, decay = settings.momentum, settings.weight_decay
    fused = True if settings.replay else None
    return torch.optim.SGD(trained, rate, momentum, weight_decay=decay, nesterov=momentum > 0, fused=fused)


def _identity(settings: FineTune) -> dict[str, Any]:
    """What makes it another training, in types that a checkpoint may hold."""
    own = {field.name: getattr(settings, field.name) for field in fields(FineTune)}  # not what a subclass adds
    del own["replay"]  # the steps are the same
    return {name: list(value) if isinstance(value, tuple) else value for name, value in own.items()}


def _average(model: nn.Module, kept: float) -> AveragedModel | None:
    if not kept:
        return None

    def averaged(average: Tensor, now: Tensor, _: Tensor | int) -> Tensor:
        return average.lerp(now, 1 - kept) if average.is_floating_point() else now  # channel numbers have no average

    return AveragedModel(model, avg_fn=averaged, use_buffers=True).eval()


def _cosine(settings: FineTune, steps: int) -> Callable[[int], float]:
    total, rising = max(settings.epochs * steps, 1), max(settings.warmup_epochs * steps, 1.0)

    def factor(step: int) -> float:
        falling = 0.5 * (1 + math.cos(math.pi * min(step / total, 1.0)))
        return min((step + 1) / rising, 1.0) * (settings.lr_floor + (1 - settings.lr_floor) * falling)

    return factor


def _autocast(precision: Precision, device: torch.device) -> Callable[[], Any]:
    """bfloat16 where it is asked for, or pays: on GPUs and CPUs whose units have it."""
    if precision == "auto":
        gpu = device.type == "cuda" and torch.cuda.is_bf16_supported()
        units = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
        cpu = device.type == "cpu" and any(getattr(torch.cpu, name, bool)() for name in units)
        precision = "bfloat16" if gpu or cpu else "float32"
    if precision == "float32":
        return nullcontext
    return lambda: torch.autocast(device.type, torch.bfloat16)

"""What the dense network gives where layers are refitted: kept for many refits, or told while it runs beside one.

Of a small network a few examples are kept. For good all examples are looked at, and what every layer gives for them
takes gigabytes: there the dense network runs in a thread of its own, a layer ahead of the pruned one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from queue import Queue
from threading import Thread

import torch
from torch import Tensor, nn

from secateur.graph import Inputs, Layer, OperationLog, Products, Run, as_operators, unwatched
from secateur.prune.calibration import Calibration
from secateur.prune.offset import bias_behind, offset_behind
from secateur.prune.rows import examples_in, output_rows

Positions = Mapping[str, Tensor]
"""By layer, where it is looked at, [examples, positions]."""


@dataclass(frozen=True)
class Target:
    """Of one layer: what the dense network gives, its offset taken in, and the shortcut that is added, [rows, out].

    The shortcut is None where the layer runs into no sum, or what is added to it is not there yet when it runs.
    """

    output: Tensor
    shortcut: Tensor | None


Asked = Callable[[str], Target | None]
"""By a layer's name; None of a layer that does not run. Each is asked for once, in order of running."""


class Watched:
    """The dense network, and where its layers are looked at."""

    def __init__(self, dense: nn.Module, layers: Sequence[Layer], positions: Positions) -> None:
        self.dense, self.layers, self.positions = dense, layers, positions
        self.joined = {layer.shortcut: layer.name for layer in layers if layer.shortcut is not None}
        """The shortcuts, and the last layer that each is added to."""

    def rows(self, run: Run, y: Tensor, start: int = 0) -> Tensor:
        """Of what a run gives, those that are looked at [rows, out]; the first of its examples has number `start`."""
        where = self.positions[run.layer.name]
        return output_rows(run, y.float(), where[start : start + examples_in(run, y)])

    def shortcut(self, run: Run, log: OperationLog, start: int = 0) -> Tensor | None:
        """What is added to what a run gives [rows, out], as far as it has run before; held no longer than needed."""
        name = run.layer.shortcut
        if name is None or name not in log.values:
            return None
        value = log.values[name]
        if self.joined[name] == run.layer.name:
            del log.values[name]
        return self.rows(run, value, start)

    def run(self, inputs: Inputs, start: int, give: Callable[[str, Target], None]) -> set[str]:
        """Run the dense network on examples from number `start` on, and give each layer's target as it runs.

        Returns the layers that are added to nothing, though they are on the example.
        """
        seen: set[str] = set()
        alone: set[str] = set()
        early: list[Layer] = []

        def look(run: Run, y: Tensor) -> None:
            layer = run.layer
            if layer.name in seen:
                return  # a layer that runs more often here than for the example
            seen.add(layer.name)
            with unwatched():
                told = replace(run, x=run.x.new_empty(0))
                output = self.rows(told, y, start) + offset_behind(self.dense, layer) + bias_behind(self.dense, told)
                shortcut = None
                if layer.shortcut is not None and layer.shortcut not in log.values:
                    early.append(layer)
                elif layer.shortcut is not None and not _alike(log.values[layer.shortcut].shape, y.shape):
                    alone.add(layer.name)
                else:
                    shortcut = self.shortcut(told, log, start)
                give(layer.name, Target(output, shortcut))

        log, products = OperationLog(self.dense, self.joined), Products(self.dense, self.layers, after=look)
        with torch.no_grad(), as_operators(self.dense), log, products:
            inputs.run(self.dense)
        return alone | {layer.name for layer in early if layer.shortcut not in log.values}


def remembered(watched: Watched, calibration: Calibration) -> Mapping[str, Target]:
    """The targets of all examples."""
    found: dict[str, list[Target]] = {layer.name: [] for layer in watched.layers}
    alone: set[str] = set()
    start = 0
    for batch in calibration.batches(100):
        alone |= watched.run(batch, start, lambda name, target: found[name].append(target))
        start += len(batch)
    _say(alone)
    return {name: _joined(mine) for name, mine in found.items() if mine}


def _joined(parts: Sequence[Target]) -> Target:
    shortcuts = [part.shortcut for part in parts if part.shortcut is not None]
    everywhere = len(shortcuts) == len(parts)
    return Target(torch.cat([part.output for part in parts]), torch.cat(shortcuts) if everywhere else None)


@contextmanager
def beside(watched: Watched, inputs: Inputs) -> Iterator[Asked]:
    """The targets of all examples, told while the dense network runs."""
    runs = _Beside(watched, inputs)
    runs.start()
    try:
        yield runs.ask
    finally:
        runs.stop()
    _say(runs.alone)


class _Stopped(Exception):
    """Nobody asks any more."""


class _Beside(Thread):
    """Runs the dense network; waits whenever one target has not been taken."""

    def __init__(self, watched: Watched, inputs: Inputs) -> None:
        super().__init__(daemon=True)
        self.alone: set[str] = set()
        self._watched, self._inputs, self._threads = watched, inputs, torch.get_num_threads()
        self._given: Queue[tuple[str, Target] | BaseException | None] = Queue(1)
        self._found: dict[str, Target] = {}
        self._over, self._stopped = False, False

    def run(self) -> None:
        """In the thread."""
        torch.set_num_threads(self._threads)
        try:
            self.alone = self._watched.run(self._inputs, 0, self._give)
            self._given.put(None)
        except BaseException as error:  # whatever it is, it belongs to who asks
            self._given.put(error)

    def _give(self, name: str, target: Target) -> None:
        if self._stopped:
            raise _Stopped
        self._given.put((name, target))

    def ask(self, name: str) -> Target | None:
        """Wait for it."""
        while name not in self._found and not self._over:
            given = self._given.get()
            if isinstance(given, BaseException):
                self._over = True
                raise given
            if given is None:
                self._over = True
            else:
                self._found[given[0]] = given[1]
        return self._found.pop(name, None)

    def stop(self) -> None:
        """No more is asked."""
        self._stopped = True
        while not self._over:
            self._over = not isinstance(self._given.get(), tuple)
        self.join()


def _say(alone: set[str]) -> None:
    for name in sorted(alone):
        warnings.warn(
            f"on the calibration inputs {name} is not added to what it is added to on the example (the "
            "forward takes another path): it is refitted without regard to that sum",
            stacklevel=4,
        )


def _alike(shape: torch.Size, other: torch.Size) -> bool:
    """Whether these are rows of the same, [N * T, out] and [N, T, out]."""
    return shape.numel() == other.numel() and shape[-1] == other[-1]

"""Live displays of the two long steps; one plain line now and then where the output is no terminal."""

from __future__ import annotations

import importlib.util
import math
from collections import deque
from collections.abc import Callable, Sequence
from itertools import pairwise
from time import monotonic
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from secateur.plan import Trial
from secateur.report.wording import duration, pace, share
from secateur.run import Study

BLOCKS = "▁▂▃▄▅▆▇█"
LINES = 20
"""Plain lines in a whole step, at most; the first failure is one more."""
REFRESHES_PER_SECOND = 2
WINDOW = 32
"""Steps that the pace is measured over: a resumed search rushes through its past, and that must wear off."""


class EpochLike(Protocol):
    """What an epoch of fine-tuning tells; `number` counts from 0."""

    @property
    def number(self) -> int:
        """Which epoch this was."""

    @property
    def loss(self) -> float:
        """Mean training loss."""

    @property
    def score(self) -> float | None:
        """The caller's score, if there is one."""

    @property
    def seconds(self) -> float:
        """Wall time."""


def small_bars(fractions: Sequence[float], width: int) -> str:
    """Fractions in [0, 1] as blocks, at most `width` of them: neighbours share one, as their mean."""
    number = min(len(fractions), max(width, 1))
    edges = [len(fractions) * n // number for n in range(number + 1)] if number else []
    bins = [fractions[low:high] for low, high in pairwise(edges)]
    top = len(BLOCKS) - 1
    return "".join(BLOCKS[min(max(round(sum(bin) / len(bin) * top), 0), top)] for bin in bins)


class _Pace:
    """Steps done, time since the start, and an estimate of the time left."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0
        self.started = monotonic()
        self._marks: deque[tuple[float, int]] = deque(maxlen=WINDOW)

    def mark(self, done: int, seconds: float) -> None:
        """`done` steps are behind us, the latest of which says that it took `seconds`."""
        now = monotonic()
        if not self._marks:
            # The clock of the steps starts with the first step, not with what had to be prepared for it.
            self._marks.append((now - seconds, done - 1))
        self.done = done
        self._marks.append((now, done))

    @property
    def each(self) -> float:
        """Seconds for one step, by the clock: steps may run side by side."""
        (first, before), (last, done) = self._marks[0], self._marks[-1]
        return (last - first) / max(done - before, 1)

    def words(self) -> str:
        """The times as one line."""
        elapsed = f"{duration(monotonic() - self.started)} elapsed"
        if not self._marks:
            return elapsed
        left = max(self.total - self.done, 0) * self.each
        return f"{elapsed}  {duration(left)} left  {pace(self.each)} each"


class _Screen:
    """Shows a step: live on a terminal, else by the line."""

    def __init__(self, name: str, total: int, console: Console | None) -> None:
        self.name = name
        self.console = console or Console()
        self.pace = _Pace(total)
        self._live: Live | None = None
        self._every = max(-(-total // LINES), 1)
        self._said = 0

    def start(self, details: Callable[[], list[Text]]) -> None:
        """Begin; `details` are the lines under the bar."""
        self.pace.started = monotonic()
        if _can_redraw(self.console):
            self._live = Live(
                get_renderable=lambda: Group(self._bar(), *details()),
                console=self.console,
                refresh_per_second=REFRESHES_PER_SECOND,
            )
            self._live.start()

    def stop(self) -> None:
        """Leave the last state standing, if there is one: a study found finished tells of no step."""
        if self._live:
            self._live.transient = self.pace.done == 0
            self._live.stop()
            self._live = None

    def step(self, details: Callable[[], list[Text]]) -> None:
        """Say a plain line if one is due."""
        done, total = self.pace.done, self.pace.total
        due = done == total or done // self._every > self._said // self._every
        if self._live is None and done > self._said and due:
            self._said = done
            self.say(f"{self.name} {done}/{total}  {self.pace.words()}", *(line.plain for line in details()))

    def note(self, *lines: Text) -> None:
        """Say what a live display shows by itself."""
        if self._live is None:
            self.say(self.name, *(line.plain for line in lines))

    def say(self, *parts: str) -> None:
        """One line that scrolls away, above the live display if there is one."""
        coding = self.console.encoding
        text = "  ".join(parts).encode(coding, "replace").decode(coding)
        self.console.print(Text(text), soft_wrap=True, highlight=False)

    def _bar(self) -> RenderableType:
        done, total = self.pace.done, self.pace.total
        line = Table.grid(padding=(0, 2, 0, 0))
        line.add_row(
            Text(self.name, style="bold"),
            ProgressBar(total=max(total, 1), completed=min(done, total), width=28),
            Text(f"{done}/{total}"),
            Text(self.pace.words(), style="dim"),
        )
        return line


def _can_redraw(console: Console) -> bool:
    if console.is_jupyter:
        # Without it rich can only warn and show nothing.
        return importlib.util.find_spec("ipywidgets") is not None
    return console.is_terminal and not console.is_dumb_terminal


class SearchProgress:
    """Shows a search: `with SearchProgress(400) as progress: search(..., on_trial=progress)`."""

    def __init__(self, trials: int, name: str = "search", score: str = "score", console: Console | None = None) -> None:
        self._screen = _Screen(name, trials, console)
        self._score = score
        self._study: Study | None = None
        self._seen = 0
        self._failures = 0
        self._best: Trial | None = None
        self._best_reward = -math.inf

    def begin(self) -> None:
        """Say, where that is known, that it takes a while until there is anything to show."""
        self._screen.say(f"{self._screen.name}: reading the data, proving what can be cut, ranking channels")

    def __enter__(self) -> Self:
        self._screen.start(self._details)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._study and self._study.checked:
            self._screen.note(*self._after(self._study))
        self._screen.stop()

    def __call__(self, study: Study, trial: Trial) -> None:
        """Take one finished trial in. Those of a resumed study come without a call: they are in its list."""
        self._study = study
        for recorded in study.trials[self._seen :]:
            self._count(recorded)
        self._seen = len(study.trials)
        self._screen.pace.mark(self._seen, trial.outcome.seconds if trial.outcome else 0.0)
        self._screen.step(self._details)

    def _count(self, trial: Trial) -> None:
        if trial.outcome is None:
            self._failures += 1
            if self._failures == 1:
                self._screen.say(f"{self._screen.name}: trial {trial.number} failed: {trial.error}")
        elif trial.outcome.complete and trial.outcome.reward > self._best_reward:
            self._best, self._best_reward = trial, trial.outcome.reward

    def _details(self) -> list[Text]:
        lines = [Text(f"{self._failures} failed", style="red")] if self._failures else []
        study, best = self._study, self._best
        if study is None or best is None or best.outcome is None:
            return lines
        costs = "  ".join(f"{m} {share(best.outcome.costs[m], study.dense.costs[m])}" for m in best.outcome.costs.known)
        found = f"best (trial {best.number}): {self._score} {best.outcome.score:.4f}  reward {best.outcome.reward:.4f}"
        lines.append(Text(f"{found}  {costs}"))
        lines += self._after(study)
        if self._screen.console.options.ascii_only:
            return lines
        label = "keeps "
        keeps = [best.plan[site.key] for site in study.space.sites]
        bars = small_bars(keeps, self._screen.console.width - len(label))
        return [*lines, Text(label, style="dim").append(bars, style="green")]

    def _after(self, study: Study) -> list[Text]:
        """What goes on, or has come out, when all trials are done; a range of budgets has no plans to finish."""
        if study.checked and study.best.outcome:
            best = study.best
            return [Text(f"best once finished (trial {best.number}): {self._score} {study.best.outcome.score:.4f}")]
        if self._seen < self._screen.pace.total or study.space.budget.is_range:
            return []
        return [Text("finishing the best plans, to score them as they would be delivered", style="dim")]


class FineTuneProgress:
    """Shows fine-tuning: `with FineTuneProgress(20) as progress: finetune(..., on_epoch=progress)`.

    Epochs are scored by top-1, if they are.
    """

    def __init__(self, epochs: int, name: str = "fine-tune", console: Console | None = None) -> None:
        self._screen = _Screen(name, epochs, console)
        self._last: EpochLike | None = None

    def __enter__(self) -> Self:
        self._screen.start(self._details)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._screen.stop()

    def __call__(self, epoch: EpochLike) -> None:
        """Take one finished epoch in; those before a resume may or may not be told again."""
        self._last = epoch
        self._screen.pace.mark(epoch.number + 1, epoch.seconds)
        self._screen.step(self._details)

    def _details(self) -> list[Text]:
        if self._last is None:
            return []
        top1 = "" if self._last.score is None else f"  top-1 {self._last.score:.4f}"
        return [Text(f"loss {self._last.loss:.4f}{top1}")]

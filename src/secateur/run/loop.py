"""The loop: ask, evaluate, journal, tell. Killed anywhere, it goes on as if nothing had happened."""

from __future__ import annotations

import math
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace

import numpy as np

from secateur.errors import PlanError, StudyError
from secateur.plan import Outcome, Plan, Trial
from secateur.run.folder import RunFolder, Snapshot
from secateur.run.study import Study
from secateur.run.workers import Workers
from secateur.search import Searcher
from secateur.threads import one_thread

HOPELESS = 10
"""A run stops when this many of its trials have failed and none has ever succeeded: what failed before it was resumed
may have been put right."""
SNAPSHOT_EVERY = 10
"""Trials between snapshots of the searcher, for each that is under way at once; later ones are replayed."""

FINALISTS, TRIED = 3, 10
"""Plans whose networks are finished and scored at the end, as a trial's quick refit does not rank quite as they do; and
how many are tried, where some cannot be finished."""

Finalists = Callable[[Study], Iterator[Trial]]
"""The trials to be finished: asked for one by one, so that what the last one came to may decide on the next."""


def best_first(study: Study) -> Iterator[Trial]:
    """The few of highest reward that can be finished."""
    wanted = FINALISTS
    for trial in study.ranked[:TRIED]:
        if wanted:
            yield trial
            wanted -= trial.number in study.checked


def nobody(study: Study) -> Iterator[Trial]:
    """Where any budget of a range may be asked for: its plan is finished then."""
    yield from ()


def smallest_first(tolerance: float, metric: str) -> Finalists:
    """The smallest network that loses no more than the tolerance, by what is known of it, until it is one that was
    finished."""

    def finalists(study: Study) -> Iterator[Trial]:
        while (trial := study.within_tolerance(tolerance, metric)) and trial.number not in study.checked:
            yield trial
        if trial is None:
            yield from best_first(study)

    return finalists


OnTrial = Callable[[Study, Trial], None]
UnderWay = deque[tuple[Plan, Trial | Future[Outcome]]]
"""Plans that were asked for and not told yet, the oldest first, each with its trial or what will be its outcome."""


@dataclass
class Loop:
    """Runs a study with `ahead` trials under way.

    The next plan is asked for when the oldest trial under way has been told, however many of the others are done:
    so what is proposed depends on the seed and the rewards alone, never on which worker was quicker.
    """

    study: Study
    searcher: Searcher
    workers: Workers
    seed: int
    ahead: int = 1
    race: bool = False
    folder: RunFolder | None = None
    finalists: Finalists = best_first
    on_trial: OnTrial = lambda study, trial: None
    _again: dict[int, Outcome] = field(default_factory=dict, init=False)
    _started: float = field(default=0.0, init=False)
    _before: float = field(default=0.0, init=False)
    """When this run began, by the monotonic clock, and the seconds that runs before it took."""

    def run(self, trials: int, seconds: float = math.inf) -> Study:
        """Go on until the study has `trials` trials, or begin no more after so many seconds, earlier runs included."""
        self._started = time.monotonic()
        if self.folder:
            self.folder.begin()
        recorded = self.folder.journal.read() if self.folder else []
        finished = self.folder.finalists.read() if self.folder else []
        self.study.searcher = self.searcher
        try:
            under_way = self._restore(recorded)
            ends = self._started - self._before + seconds
            while True:
                number = len(self.study.trials) + len(under_way)
                in_time = time.monotonic() < ends or number < max(len(recorded), 1)
                if len(under_way) < self.ahead and number < trials and in_time:
                    under_way.append(self._begin(number, self._ask(), recorded))
                    continue
                if len(self.study.trials) % (SNAPSHOT_EVERY * self.ahead) == 0 or not under_way:
                    self._snapshot(under_way)
                if not under_way:
                    break
                self._take(under_way.popleft(), len(recorded))
            _ = self.study.best  # says the first cause where all have failed
            self._finish_best({trial.plan.digest: trial.outcome for trial in finished if trial.outcome})
        finally:
            self.workers.close()
            if self.folder:
                self.folder.close()
        return self.study

    def _finish_best(self, known: Mapping[str, Outcome]) -> None:
        """Score the best few plans as they would be delivered, but those `known`, by digest, from the folder.

        An `evaluate` that fails now and then costs a finalist, with a warning, and not the search.
        """
        if self.study.check is None:
            return
        for trial in self.finalists(self.study):
            outcome = known.get(trial.plan.digest) or self.study.checked.get(trial.number)
            if outcome is None:
                try:
                    outcome = self.study.check(trial.plan)
                except Exception as error:
                    warnings.warn(f"trial {trial.number} could not be finished: {error}", stacklevel=2)
                    self.study.unfinished.add(trial.number)
                    continue
                if self.folder:
                    self.folder.finalists.append(replace(trial, outcome=outcome))
            self.study.checked[trial.number] = outcome

    def _restore(self, recorded: list[Trial]) -> UnderWay:
        """Take the snapshot up: the trials it stands for need no replay, and those under way then begin again."""
        if self.folder is None:
            return deque()
        last = self.folder.load_searcher()
        if last.told > len(recorded):
            raise StudyError("the searcher's snapshot is ahead of the journal; delete searcher.safetensors and resume")
        if last.told or last.asked:
            self.searcher.restore(last.state)
        self._before, self.study.trials = last.seconds, recorded[: last.told]
        return deque(self._begin(number, plan, recorded) for number, plan in enumerate(last.asked, start=last.told))

    def _snapshot(self, under_way: UnderWay) -> None:
        if self.folder:
            seconds = self._before + time.monotonic() - self._started
            asked = tuple(plan for plan, _ in under_way)
            self.folder.save_searcher(Snapshot(self.searcher.state(), len(self.study.trials), asked, seconds))

    def _ask(self) -> Plan:
        with one_thread():
            plan = self.searcher.ask()
        try:
            return self.study.space.check(plan)
        except PlanError as error:
            raise StudyError(f"{type(self.searcher).__name__} asked for a plan that is none here: {error}") from error

    def _begin(self, number: int, plan: Plan, recorded: list[Trial]) -> tuple[Plan, Trial | Future[Outcome]]:
        """Evaluate a plan, unless the journal holds it already, or a trial that was told by then had the same."""
        if number < len(recorded):
            return recorded[number].plan, recorded[number]
        told = replace(self.study, trials=self.study.trials[: max(number - self.ahead + 1, 0)])
        for trial in told.succeeded:
            if trial.plan.digest == plan.digest:
                return plan, Trial(number, self.seed, plan, trial.outcome)
        return plan, self.workers.submit(plan, self._rival(plan, told) if self.race else None)

    def _rival(self, plan: Plan, told: Study) -> Outcome | None:
        """What a plan has to beat, with the value of each example: the best so far that costs no more than it may.

        Where a range of budgets is searched that is the front at the plan's own cost, between the two trials whose
        costs enclose it: what the cheaper one scores would stop almost none.
        """
        space = told.space
        limit = space.cost(space.counts(plan)) if space.budget.is_range else space.limit
        best = told.within(limit)
        if best is None:
            return None
        rival = self._valued(best)
        dearer = told.beyond(limit)
        if dearer is None:
            return rival
        low, high = told.cost(best), told.cost(dearer)
        return _between(rival, self._valued(dearer), (limit - low) / (high - low))

    def _valued(self, trial: Trial) -> Outcome:
        """A trial's outcome with its examples' values: a resumed study looks at those of old trials again."""
        assert trial.outcome is not None
        if trial.outcome.values is None and trial.number not in self._again:
            with suppress(Exception):  # then there is nothing to race against; a plan that fails fails as a trial
                self._again[trial.number] = self.workers.submit(trial.plan).result()
        return self._again.get(trial.number, trial.outcome)

    def _finished(self, number: int, plan: Plan, future: Future[Outcome]) -> Trial:
        try:
            return Trial(number, self.seed, plan, outcome=future.result())
        except Exception as error:
            return Trial(number, self.seed, plan, error=f"{type(error).__name__}: {error}")

    def _take(self, begun: tuple[Plan, Trial | Future[Outcome]], recorded: int) -> None:
        """Wait for the oldest trial under way; journal it if it is new, and tell the searcher."""
        plan, result = begun
        number = len(self.study.trials)
        trial = result if isinstance(result, Trial) else self._finished(number, plan, result)
        if number >= recorded and self.folder:
            self.folder.journal.append(trial)
        self.study.trials.append(trial)
        with one_thread():
            self.searcher.tell(trial.plan, trial.outcome.reward if trial.outcome else None)
        self.on_trial(self.study, trial)
        if number + 1 - recorded == HOPELESS:
            _ = self.study.best  # refuses to go on where there is none


def _between(low: Outcome, high: Outcome, share: float) -> Outcome:
    """The first outcome, its examples' values moved by `share` towards the second's, where both are known."""
    if low.values is None or high.values is None:
        return low
    return replace(low, values=low.values + np.float32(share) * (high.values - low.values))

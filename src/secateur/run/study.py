"""The loop: ask, evaluate, journal, tell. Killed anywhere, it goes on as if nothing had happened."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from secateur.errors import StudyError
from secateur.graph import ModelGraph
from secateur.plan import Outcome, Plan, Trial
from secateur.run.folder import RunFolder
from secateur.run.workers import Workers
from secateur.search import Searcher, SearchSpace

HOPELESS = 10
"""A study stops when this many trials have failed and none has succeeded."""
SNAPSHOT_EVERY = 10
"""Rounds between snapshots of the searcher; the rounds since the last one are replayed from the journal."""

OnTrial = Callable[["Study", Trial], None]


@dataclass
class Study:
    """A search and what it found so far."""

    space: SearchSpace
    dense: Outcome
    """The score and the costs of the dense network."""
    trials: list[Trial] = field(default_factory=list)

    @property
    def graph(self) -> ModelGraph:
        """The network that is searched."""
        return self.space.graph

    @property
    def succeeded(self) -> list[Trial]:
        """The trials that have an outcome."""
        return [trial for trial in self.trials if trial.outcome is not None]

    @property
    def best(self) -> Trial:
        """The complete trial of highest reward, the first of equals. Raises StudyError where all trials failed."""
        whole = [(trial.outcome.reward, trial) for trial in self.trials if trial.outcome and trial.outcome.complete]
        if not whole:
            cause = self.trials[0].error if self.trials else "no trial was run"
            raise StudyError(f"no trial of {len(self.trials)} succeeded; the first failed with: {cause}")
        return max(whole, key=lambda pair: pair[0])[1]


@dataclass
class Loop:
    """Runs a study in rounds of `parallel` trials.

    A round's plans are all asked for before any of its rewards are told, in a fixed order, so that what is
    proposed depends on the seed and the rewards alone, never on which worker was quicker.
    """

    study: Study
    searcher: Searcher
    workers: Workers
    seed: int
    parallel: int = 1
    race: bool = False
    folder: RunFolder | None = None
    on_trial: OnTrial = lambda study, trial: None

    def run(self, trials: int) -> Study:
        """Go on until the study has `trials` trials."""
        recorded = self.folder.journal.read() if self.folder else []
        done = self._restore(recorded)
        try:
            while done < trials:
                done = self._round(done, trials, recorded)
                if self.folder and (done // self.parallel % SNAPSHOT_EVERY == 0 or done == trials):
                    self.folder.save_searcher(self.searcher.state(), done)
        finally:
            self.workers.close()
            if self.folder:
                self.folder.close()
        _ = self.study.best  # says the first cause where all have failed
        return self.study

    def _restore(self, recorded: list[Trial]) -> int:
        """Take the snapshot up; the trials it stands for need no replay."""
        state, told = self.folder.load_searcher() if self.folder else ({}, 0)
        if told > len(recorded):
            raise StudyError("the searcher's snapshot is ahead of the journal; delete searcher.safetensors and resume")
        if told:
            self.searcher.restore(state)
        self.study.trials = recorded[:told]
        return told

    def _round(self, first: int, trials: int, recorded: list[Trial]) -> int:
        """One round; trials that the journal already holds are told again, not evaluated again."""
        plans = [self.searcher.ask() for _ in range(min(self.parallel, trials - first))]
        rival = self.study.best.outcome if self.race and self.study.succeeded else None
        known = {trial.plan.digest: trial.outcome for trial in self.study.succeeded}
        pending: list[Trial | Future[Outcome]] = []
        for number, plan in enumerate(plans, start=first):
            if number < len(recorded):
                pending.append(recorded[number])
            elif plan.digest in known:
                pending.append(Trial(number, self.seed, plan, known[plan.digest]))
            else:
                pending.append(self.workers.submit(plan, rival))
        for number, (plan, result) in enumerate(zip(plans, pending, strict=True), start=first):
            trial = result if isinstance(result, Trial) else self._finished(number, plan, result)
            self._take(trial, new=number >= len(recorded))
        return first + len(plans)

    def _finished(self, number: int, plan: Plan, future: Future[Outcome]) -> Trial:
        try:
            return Trial(number, self.seed, plan, outcome=future.result())
        except Exception as error:
            return Trial(number, self.seed, plan, error=f"{type(error).__name__}: {error}")

    def _take(self, trial: Trial, new: bool) -> None:
        if new and self.folder:
            self.folder.journal.append(trial)
        self.study.trials.append(trial)
        self.searcher.tell(trial.plan, trial.outcome.reward if trial.outcome else None)
        self.on_trial(self.study, trial)
        if len(self.study.trials) == HOPELESS:
            _ = self.study.best

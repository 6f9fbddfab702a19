"""The loop: ask, evaluate, journal, tell. Killed anywhere, it goes on as if nothing had happened."""

from __future__ import annotations

import math
import time
import warnings
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace

import numpy as np

from secateur.errors import BudgetError, StudyError
from secateur.graph import ModelGraph
from secateur.plan import Budget, Outcome, Plan, Trial
from secateur.run.folder import RunFolder
from secateur.run.workers import Workers
from secateur.search import Conditioned, Searcher, SearchSpace

HOPELESS = 10
"""A study stops when this many trials have failed and none has succeeded."""
SNAPSHOT_EVERY = 10
"""Trials between snapshots of the searcher, for each that is under way at once; later ones are replayed."""

FINALISTS = 3
"""Plans whose networks are finished and scored at the end: a trial's quick refit does not rank quite as they do."""

OnTrial = Callable[["Study", Trial], None]
UnderWay = deque[tuple[Plan, Trial | Future[Outcome]]]
"""Plans that were asked for and not told yet, the oldest first, each with its trial or what will be its outcome."""


@dataclass
class Study:
    """A search and what it found so far."""

    space: SearchSpace
    dense: Outcome
    """The score and the costs of the dense network."""
    trials: list[Trial] = field(default_factory=list)
    checked: dict[int, Outcome] = field(default_factory=dict)
    """Outcomes of the best few trials, by number, as their networks would be delivered: refitted with all
    calibration inputs and scored in full precision. Empty where a range of budgets was searched."""
    searcher: Searcher | None = None
    """What proposed the trials, with all that it learnt."""

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
        """The complete trial of highest reward, the first of equals; of those checked again, if any were.

        Raises StudyError where all trials failed.
        """
        finalists = self.finalists
        if not finalists:
            cause = self.trials[0].error if self.trials else "no trial was run"
            raise StudyError(f"no trial of {len(self.trials)} succeeded; the first failed with: {cause}")
        return max(finalists, key=_reward)

    @property
    def finalists(self) -> list[Trial]:
        """The complete trials, the highest reward first; with their new outcomes those checked again, if any were."""
        checked = [replace(self.trials[number], outcome=outcome) for number, outcome in self.checked.items()]
        return checked or self.ranked

    @property
    def front(self) -> list[Trial]:
        """The complete trials that no cheaper or equally cheap one is better than, the cheapest first."""
        metric, best, front = self.space.budget.metric, -math.inf, []
        for trial in sorted(self.ranked, key=lambda trial: _cost(trial, metric)):  # the better first, of equal cost
            if _reward(trial) > best:
                best = _reward(trial)
                front.append(trial)
        return front

    def within(self, limit: float) -> Trial | None:
        """The best complete trial that costs no more than `limit`, in the budget's metric; none if none does."""
        metric = self.space.budget.metric
        return next((trial for trial in self.ranked if _cost(trial, metric) <= limit), None)

    def smallest(self, tolerance: float) -> Trial:
        """The cheapest finalist, in the budget's metric, that loses no more than `tolerance` of the dense network's
        score; the best of all where none does.
        """
        kept = [x for x in self.finalists if x.outcome and x.outcome.score >= self.dense.score - tolerance]
        return min(kept, key=lambda trial: _cost(trial, self.space.budget.metric), default=self.best)

    def plan(self, budget: Budget) -> Plan:
        """The plan for any budget of the range that was searched: nothing is evaluated again.

        It is what the searcher believes best there. Raises BudgetError outside the range, and StudyError where
        the searcher serves one budget only.
        """
        low, high = self.space.lowest, self.space.limit
        limit = budget.limit(self.space.dense)
        if budget.metric != self.space.budget.metric or not low * (1 - 1e-9) <= limit <= high * (1 + 1e-9):
            raise BudgetError(f"a budget of {budget} is outside what was searched ({self.space.budget})")
        if not isinstance(self.searcher, Conditioned):
            raise StudyError("this searcher serves one budget only; use study.best.plan")
        return self.searcher.propose(limit)

    def under(self, limit: float) -> Plan:
        """The plan to take where no more than `limit` may be spent, in the metric's own unit, whatever was searched.

        It is what the searcher believes best there; where it serves one budget only, the best plan in proportion.
        """
        if isinstance(self.searcher, Conditioned):
            return self.searcher.propose(limit)
        best = self.best.plan
        return self.space.fit([best[site.key] for site in self.space.sites], limit)

    @property
    def ranked(self) -> list[Trial]:
        """The complete trials, the highest reward first, of equals the earlier; each plan once."""
        whole = {
            trial.plan.digest: trial for trial in reversed(self.trials) if trial.outcome and trial.outcome.complete
        }
        return sorted(whole.values(), key=_reward, reverse=True)


def _cost(trial: Trial, metric: str) -> float:
    assert trial.outcome is not None
    return trial.outcome.costs[metric]


def _reward(trial: Trial) -> float:
    assert trial.outcome is not None
    return trial.outcome.reward


def _between(low: Outcome, high: Outcome, share: float) -> Outcome:
    """The first outcome, its examples' values moved by `share` towards the second's, where both are known."""
    if low.values is None or high.values is None:
        return low
    return replace(low, values=low.values + np.float32(share) * (high.values - low.values))


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
    check: Callable[[Plan], Outcome] | None = None
    """Scores the best few plans once more at the end, as they would be delivered."""
    on_trial: OnTrial = lambda study, trial: None
    _again: dict[int, Outcome] = field(default_factory=dict, init=False)

    def run(self, trials: int, seconds: float = math.inf) -> Study:
        """Go on until the study has `trials` trials, or begin no more after so many seconds."""
        ends = time.monotonic() + seconds
        recorded = self.folder.journal.read() if self.folder else []
        finished = self.folder.finalists.read() if self.folder else []
        self.study.searcher = self.searcher
        try:
            under_way = self._restore(recorded)
            while True:
                number = len(self.study.trials) + len(under_way)
                in_time = time.monotonic() < ends or number < max(len(recorded), 1)
                if len(under_way) < self.ahead and number < trials and in_time:
                    under_way.append(self._begin(number, self.searcher.ask(), recorded))
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
        if self.check is None:
            return
        for trial in self.study.ranked[:FINALISTS]:
            outcome = known.get(trial.plan.digest)
            if outcome is None:
                try:
                    outcome = self.check(trial.plan)
                except Exception as error:
                    warnings.warn(f"trial {trial.number} could not be finished: {error}", stacklevel=2)
                    continue
                if self.folder:
                    self.folder.finalists.append(replace(trial, outcome=outcome))
            self.study.checked[trial.number] = outcome

    def _restore(self, recorded: list[Trial]) -> UnderWay:
        """Take the snapshot up: the trials it stands for need no replay, and those under way then begin again."""
        if self.folder is None:
            return deque()
        state, told, asked = self.folder.load_searcher()
        if told > len(recorded):
            raise StudyError("the searcher's snapshot is ahead of the journal; delete searcher.safetensors and resume")
        if told or asked:
            self.searcher.restore(state)
        self.study.trials = recorded[:told]
        return deque(self._begin(number, plan, recorded) for number, plan in enumerate(asked, start=told))

    def _snapshot(self, under_way: UnderWay) -> None:
        if self.folder:
            self.folder.save_searcher(self.searcher.state(), len(self.study.trials), [plan for plan, _ in under_way])

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
        dearer = next((trial for trial in told.front if _cost(trial, space.budget.metric) > limit), None)
        if dearer is None:
            return rival
        low, high = (_cost(trial, space.budget.metric) for trial in (best, dearer))
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
        self.searcher.tell(trial.plan, trial.outcome.reward if trial.outcome else None)
        self.on_trial(self.study, trial)
        if len(self.study.trials) == HOPELESS:
            _ = self.study.best

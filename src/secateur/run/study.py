"""A search and what it found so far: its trials, the best of them, and the plan for any budget that it covers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from torch import nn

from secateur.errors import StudyError
from secateur.graph import ModelGraph
from secateur.plan import Budget, Outcome, Plan, Trial
from secateur.prune import Pruner
from secateur.search import Conditioned, Searcher, SearchSpace


@dataclass
class Study:
    """A search and what it found so far."""

    space: SearchSpace
    dense: Outcome
    """The score and the costs of the dense network."""
    trials: list[Trial] = field(default_factory=list)
    checked: dict[int, Outcome] = field(default_factory=dict)
    """Outcomes of the trials that were finished, by number, as their networks would be delivered: refitted with all
    calibration inputs and scored in full precision. Empty where any budget of a range may be asked for."""
    unfinished: set[int] = field(default_factory=set)
    """Trials, by number, that could not be finished: they are not delivered, unless no other can be."""
    check: Callable[[Plan], Outcome] | None = field(default=None, repr=False, compare=False)
    """Finishes a plan's network as it would be delivered, and scores it."""
    searcher: Searcher | None = None
    """What proposed the trials, with all that it learnt."""
    pruner: Pruner | None = field(default=None, repr=False, compare=False)
    """What the search has prepared to make networks of plans."""

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
        whole = [trial for trial in self.ranked if trial.number not in self.unfinished]
        return checked or whole or self.ranked

    @property
    def front(self) -> list[Trial]:
        """The complete trials that no cheaper or equally cheap one is better than, the cheapest first."""
        best, front = -math.inf, []
        for trial in sorted(self.ranked, key=self.cost):  # the better first, of equal cost
            if _reward(trial) > best:
                best = _reward(trial)
                front.append(trial)
        return front

    def cost(self, trial: Trial, metric: str | None = None) -> float:
        """What a trial with an outcome costs, in `metric` or else the budget's."""
        assert trial.outcome is not None
        return trial.outcome.costs[metric or self.space.budget.metric]

    def within(self, limit: float) -> Trial | None:
        """The best complete trial that costs no more than `limit`, in the budget's metric; none if none does."""
        return next((trial for trial in self.ranked if self.cost(trial) <= limit), None)

    def beyond(self, limit: float) -> Trial | None:
        """The cheapest of the front that costs more than `limit`; none if none does."""
        return next((trial for trial in self.front if self.cost(trial) > limit), None)

    def smallest(self, tolerance: float, metric: str | None = None) -> Trial:
        """The cheapest trial, in `metric` or else the budget's, that loses no more than `tolerance` of the dense
        network's score: a finalist, or in a range of budgets any, by its final score where it has one. The best of
        all, with a warning, where none loses so little.
        """
        found = self.within_tolerance(tolerance, metric)
        if found is None:
            warnings.warn(f"no trial lost as little as {tolerance:g} of score: the best is taken instead", stacklevel=2)
        return found or self.best

    def within_tolerance(self, tolerance: float, metric: str | None = None) -> Trial | None:
        """The same; none where none does."""
        known = self.finalists
        if self.space.budget.is_range:
            known = [replace(trial, outcome=self.checked.get(trial.number, trial.outcome)) for trial in self.ranked]
        known = [trial for trial in known if trial.number not in self.unfinished]
        kept = [x for x in known if x.outcome and x.outcome.score >= self.dense.score - tolerance]
        return min(kept, key=lambda trial: self.cost(trial, metric), default=None)

    def plan(self, budget: Budget) -> Plan:
        """The plan for any budget of the range that was searched: nothing is searched again.

        What the searcher believes best there and the best trial that costs no more are finished, and the one of the
        higher reward is it. Raises BudgetError outside the range, and StudyError where the searcher serves one budget
        only.
        """
        limit = self.space.point(budget)
        if not isinstance(self.searcher, Conditioned):
            raise StudyError("this searcher serves one budget only; use study.best.plan")
        proposed, tried = self.searcher.propose(limit), self.within(limit)
        if self.check is None or tried is None or tried.plan == proposed:
            return proposed
        return max(proposed, tried.plan, key=self._checked_reward)

    def _checked_reward(self, plan: Plan) -> float:
        assert self.check is not None
        return self.check(plan).reward

    def prune(self, plan: Plan) -> nn.Module:
        """The network of a plan for good, in eval mode: what `sc.prune` gives, without preparing for it again.

        Raises StudyError where the study does not come from `sc.search`.
        """
        if self.pruner is None:
            raise StudyError("this study was not made by sc.search: use sc.prune")
        return self.pruner.final(self.space.counts(plan))

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


def _reward(trial: Trial) -> float:
    assert trial.outcome is not None
    return trial.outcome.reward

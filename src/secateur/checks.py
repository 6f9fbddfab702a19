"""What a search refuses, or warns of, before it begins."""

from __future__ import annotations

import warnings
from dataclasses import is_dataclass

from secateur.errors import BudgetError, StudyError
from secateur.plan import Budget, Outcome
from secateur.search import Reward, SearchSpace

SCORES_APART = 0.01
"""Share by which a score may differ from what it was before a resume: other machines round otherwise."""


def check_arguments(budget: object, strategy: object, trials: int) -> None:
    """Refuse what is easily mistaken for them."""
    if not isinstance(budget, Budget):
        raise BudgetError(f"budget = {budget!r:.80}: give sc.Budget(macs=0.5), or one in another metric")
    if isinstance(strategy, type) or not is_dataclass(strategy):
        raise StudyError(
            f"searcher is {strategy!r:.80}: give the settings of one, a dataclass such as sc.Random(seed=1)"
        )
    if trials < 1:
        raise StudyError(f"trials = {trials}: give 1 or more")


def check_reward(reward: Reward, space: SearchSpace) -> None:
    """Refuse, before anything is run, a reward whose metrics nobody tells."""
    needed = getattr(reward, "needs", ())
    missing = [metric for metric in needed if metric not in space.dense.known]
    if missing:
        raise StudyError(f"{type(reward).__name__} needs {missing[0]}: name what tells it (latency, energy)")


def try_reward(reward: Reward, dense: Outcome) -> None:
    """Refuse a reward that cannot be paid at all, by paying the dense network."""
    try:
        reward(dense.score, dense.costs, dense)
    except Exception as error:
        raise StudyError(f"the reward of the dense network: {type(error).__name__}: {error}") from error


def compare_scores(before: float, now: float) -> None:
    """Tell, as far as the dense network does, that the trials of a resumed study were scored by something else."""
    if abs(now - before) > SCORES_APART * max(abs(now), abs(before)):
        warnings.warn(
            f"the dense network scored {before:.6g} when this study began, and {now:.6g} now: by another evaluate, or "
            "on other data, its trials cannot be compared; use a new folder",
            stacklevel=3,
        )

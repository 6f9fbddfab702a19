"""A budget that holds when it is measured: a table of layers proposes, the whole network on its runtime decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from secateur.errors import BudgetError
from secateur.plan import Plan
from secateur.run.study import Study
from secateur.search import Conditioned, Knapsack, SearchSpace

AIMS = 3
"""Plans that are measured before a search, at most; the least one too, where none of them meets the budget."""
TRIES = 6
SLACK = 0.03
"""A plan that leaves more of the budget than this fraction unused is not the last to be tried."""
MARGIN = 0.005
"""By how much a limit is set too low, as measurements of one network differ."""


@dataclass(frozen=True)
class Met:
    """A plan, and what it takes when it is measured, as a fraction of what the dense network takes."""

    plan: Plan
    measured: float
    tries: tuple[tuple[float, float], ...]
    """What was predicted and measured for every plan tried, as such fractions."""


def aim(space: SearchSpace, measured: Callable[[Plan], float]) -> float:
    """What the limit has to be, in the metric's own unit, for plans to meet the budget when they are measured.

    Found before anything is searched, by plans that the loss curves alone propose: so all trials are spent on plans of
    the right cost. `measured(plan)` tells a plan's cost over the dense network's. Raises BudgetError where not even the
    least that can be kept meets it.
    """
    proposer = Knapsack(learn=False).start(space)
    assert isinstance(proposer, Conditioned)
    dense, wanted = space.cost.dense, space.limit / space.cost.dense
    least, limit = space.cost({site.key: site.fewest for site in space.sites}), space.limit
    taken = 1.0
    for _ in range(AIMS):
        plan = proposer.propose(limit)
        predicted, taken = space.cost(space.counts(plan)) / dense, measured(plan)
        before, limit = limit, min(max(dense * predicted * wanted / taken, least), dense)
        if abs(limit / before - 1) <= MARGIN:
            return limit
    if taken > wanted and (taken := measured(proposer.propose(least))) > wanted:
        raise BudgetError(
            f"no plan meets {space.budget} when it is measured: with every site at its least, {taken:.1%} of the dense "
            f"network's {space.budget.metric} is left. Allow more, or let more be cut"
        )
    return limit


def meet(study: Study, measured: Callable[[Plan], float], plan: Plan) -> Met:
    """The best plan of a study that meets its budget when `measured(plan)` tells its cost over the dense network's.

    The first to be tried is `plan`; it will do if it fits and leaves nothing unused, or if the reward chose its cost.
    Where the prediction of a plan is off, the limit is corrected by as much, and the searcher proposes what it
    believes best under it: nothing is evaluated again. Raises BudgetError where no plan tried meets the budget.
    """
    space, met = study.space, None
    dense, wanted = space.cost.dense, space.budget.limits(space.dense)[1] / space.cost.dense
    least = space.cost({site.key: site.fewest for site in space.sites})
    tries: list[tuple[float, float]] = []
    for _ in range(TRIES):
        predicted, taken = space.cost(space.counts(plan)) / dense, measured(plan)
        tries.append((predicted, taken))
        if taken <= wanted and (met is None or taken > met.measured):
            met = Met(plan, taken, ())
        if taken <= wanted and (space.weighed or taken >= wanted * (1 - SLACK)):
            break
        following = study.under(max(dense * predicted * wanted / taken * (1 - MARGIN), least))
        if following == plan:
            break
        plan = following
    if met is None:
        shown = ", ".join(f"{taken:.1%} (predicted: {predicted:.1%})" for predicted, taken in tries)
        raise BudgetError(
            f"no plan meets {space.budget} when it is measured: {shown} of the dense network's {space.budget.metric}. "
            "Measure a new table on this machine, or allow more"
        )
    return Met(met.plan, met.measured, tuple(tries))

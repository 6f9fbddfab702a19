"""In how many stages a budget is reached: a network that has lost too much at once teaches a search nothing."""

from __future__ import annotations

import dataclasses
import math

from secateur.errors import BudgetError
from secateur.job.words import Job
from secateur.plan import Budget
from secateur.search import SearchSpace


def stages(job: Job, whole: SearchSpace) -> int:
    """How many it takes; `whole` is all that could be cut of the dense network.

    Of several, raises BudgetError now, not after the stages before, where not even the last could reach it; a single
    one is refused by its own space.
    """
    number = steps(job, _share(job, whole))
    if number > 1:
        least = dataclasses.replace(job.space, min_keep=job.space.min_keep**number, step=1)
        try:
            SearchSpace(whole.graph, job.budget, least, job.settings.prices)
        except BudgetError as error:
            raise BudgetError(
                f"the budget of {job.budget} cannot be met{job.budget.hint}, not in {number} stages that keep at least "
                f"min_keep = {job.space.min_keep:g} of every site: allow more, or let more be cut"
            ) from error
    return number


def before_the_last(job: Job, whole: SearchSpace, number: int) -> Budget:
    """What the stage before the last of `number` has to reach: each goes as far, by a fraction of the one before."""
    return Budget.of(job.budget.metric, _share(job, whole) ** (1 - 1 / number))


def steps(job: Job, share: float) -> int:
    """In how many steps, none below the job's `stage`, this share of the dense network is reached.

    Ranges, what is sparse or met by measurement, and what is not fine-tuned, take one.
    """
    at_once = job.budget.is_range or job.space.sparsity or job.measured or not job.finetune.epochs
    if at_once or share >= job.stage * (1 - 1e-9):
        return 1
    return math.ceil(math.log(share) / math.log(job.stage) - 1e-9)


def _share(job: Job, whole: SearchSpace) -> float:
    """Of the dense network, what the budget leaves."""
    return job.budget.limit(whole.dense) / whole.cost.dense

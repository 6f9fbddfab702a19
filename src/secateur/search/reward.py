"""What the agent is paid for a pruned network."""

from __future__ import annotations

from collections.abc import Callable

from secateur.plan import Costs

Reward = Callable[[float, Costs, Costs], float]
"""(score of the pruned network, its costs, costs of the dense network) -> reward, higher is better."""


def resource_constrained(score: float, costs: Costs, dense: Costs) -> float:
    """R = -Error (AMC, section 3.4): the budget is held by the action space, so accuracy is all that counts.

    Error = 1 - score; any other scale of score only shifts the reward.
    """
    return score - 1.0

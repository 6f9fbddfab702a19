"""What a plan takes when it is measured on this machine."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from secateur import runtimes
from secateur.cost import LayerTable
from secateur.errors import BudgetError
from secateur.graph import Example, as_inputs, positional
from secateur.plan import Plan
from secateur.prune import Cutter, shaped
from secateur.search import SearchSpace


def clock(
    space: SearchSpace, model: nn.Module, example: Example, runtime: str | None = None, threads: int | None = None
) -> Callable[[Plan], float]:
    """What plans take when they are measured here, over the dense network: as it is measured too, or, where the budget
    is absolute, as the table has it, so that it is held to in milliseconds. Raises BudgetError, ExportError.
    """
    if space.budget.metric != "latency_ms":
        raise BudgetError(f"a budget of {space.budget} is not measured by a clock; only latency_ms is")
    table = space.prices["latency_ms"].model
    made_by = (table.runtime, table.threads) if isinstance(table, LayerTable) else (None, 1)
    where, threads = runtime or made_by[0], threads or made_by[1]
    here = runtimes.hardware(made_by[0] or "torch")
    if runtime is None and isinstance(table, LayerTable) and not table.device.endswith(here):
        raise BudgetError(
            f"the table is of {table.device}, this machine is {here}: what is measured here tells nothing of "
            "that device. Make a table here (secateur profile), or leave measured out"
        )
    if where is None:
        raise BudgetError("the device of a profile is not here to be measured: name a runtime of this machine")
    runtimes.require(where)
    cutter, inputs = Cutter(model, space.graph), as_inputs(example)
    tensors = positional(model, inputs)[1]

    def measured(plan: Plan) -> float:
        networks = {"dense": model, "cut": shaped(cutter, space.counts(plan))}
        flat = {name: positional(network, inputs)[0] for name, network in networks.items()}
        found = runtimes.measure(flat, tensors, [where], threads)
        return found[1].latency_ms / (space.cost.dense if space.budget.absolute else found[0].latency_ms)

    return measured

"""What a search is paid for a pruned network: the paper's rewards, and the weighted sum of its readers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from secateur.errors import JobError
from secateur.plan import METRICS, Costs, Outcome

Reward = Callable[[float, Costs, Outcome], float]
"""(score of the pruned network, its costs, score and costs of the dense network) -> reward, higher is better."""

Shape = Literal["linear", "logarithmic", "quadratic"]
SHAPES: Mapping[Shape, Callable[[float], float]] = {
    "linear": lambda x: x,
    "logarithmic": math.log1p,
    "quadratic": lambda x: x * x,
}
"""What a difference x >= 0 counts: x, ln(1 + x) or x squared; nothing for no difference."""


WHOLE: Mapping[str, float] = {"latency_ms": 1e6, "energy_mj": 1e6}
"""Nanoseconds in a millisecond, nanojoules in a millijoule: a logarithm of less than 1 would pay for a larger cost."""


def resource_constrained(score: float, costs: Costs, dense: Outcome) -> float:
    """R = -Error (AMC, section 3.4): the budget is held by the action space, so accuracy is all that counts.

    Error = 1 - score; any other scale of score only shifts the reward.
    """
    return score - 1.0


@dataclass(frozen=True)
class AccuracyGuaranteed:
    """R = -Error * log(cost) (AMC, section 3.4): little is gained by a smaller network that errs more.

    Error is never counted as less than the dense network's own and `tolerance`: a loss within it costs nothing,
    so that the smallest network among those without loss is the best, even where the dense network makes no error.
    """

    metric: str = "macs"
    """log(FLOPs) is macs, log(#Param) params; or any other metric, as many as whole numbers count (see `WHOLE`)."""
    tolerance: float = 0.005

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise JobError(f"[reward] metric = {self.metric!r}: give one of {', '.join(METRICS)}")
        if not 0 < self.tolerance < 1:
            raise JobError(f"[reward] tolerance = {self.tolerance}: give a fraction in (0, 1)")

    def __call__(self, score: float, costs: Costs, dense: Outcome) -> float:
        """Higher is better; negative."""
        if not 0 <= dense.score < 1 + self.tolerance:  # else the error would turn its sign
            raise JobError(
                f"the accuracy-guaranteed reward takes scores as fractions, 1 where nothing is wrong, and the dense "
                f"network scores {dense.score:g}: divide percents by 100, and decibels by the dense network's"
            )
        error = max(1.0 - score, 1.0 - dense.score + self.tolerance)
        return -error * math.log(max(costs[self.metric] * WHOLE.get(self.metric, 1.0), 1 + 1e-9))

    @property
    def needs(self) -> tuple[str, ...]:
        """Metrics that have to be known for it."""
        return (self.metric,)


@dataclass(frozen=True)
class Composite:
    """R = alpha f(|t_base - t|) + beta g(|a_base - a|) + gamma h(|P_base - P|) + delta F(BSF).

    t is latency, a the score, P power, BSF block-sparse elements over all elements. Every difference is a fraction
    of the dense network's own value, so that the coefficients weigh like with like. Signs are the user's: a positive
    alpha pays for time saved, a negative beta charges for accuracy lost. A network that is slower, better or
    thirstier than the dense one counts the other way round.
    """

    alpha: float = 1.0
    beta: float = -10.0
    gamma: float = 0.0
    delta: float = 0.0
    f: Shape = "linear"
    g: Shape = "linear"
    h: Shape = "linear"
    F: Shape = "linear"

    def __post_init__(self) -> None:
        for name in ("f", "g", "h", "F"):
            if getattr(self, name) not in SHAPES:
                raise JobError(f"[reward] {name} = {getattr(self, name)!r}: give one of {', '.join(SHAPES)}")
        for name in ("alpha", "beta", "gamma", "delta"):
            if not math.isfinite(getattr(self, name)):
                raise JobError(f"[reward] {name} = {getattr(self, name)}: give a number")
        if not any((self.alpha, self.beta, self.gamma, self.delta)):
            raise JobError("[reward] all coefficients are 0; give one of alpha, beta, gamma, delta")

    @property
    def needs(self) -> tuple[str, ...]:
        """Metrics that have to be known for it."""
        return (("latency_ms",) if self.alpha else ()) + (("latency_ms", "energy_mj") if self.gamma else ())

    def terms(self, score: float, costs: Costs, dense: Outcome) -> dict[str, float]:
        """The four terms: latency, accuracy, power, sparsity."""
        saved = {
            "latency": _saved(dense.costs.latency_ms, costs.latency_ms) if self.alpha else 0.0,
            "accuracy": (dense.score - score) / max(abs(dense.score), 1e-9),
            "power": _saved(dense.costs.power_w, costs.power_w) if self.gamma else 0.0,
            "sparsity": costs.block_sparsity,
        }
        weighed = zip(
            saved.items(),
            (self.alpha, self.beta, self.gamma, self.delta),
            (self.f, self.g, self.h, self.F),
            strict=True,
        )
        return {
            name: weight * math.copysign(SHAPES[shape](abs(value)), value) for (name, value), weight, shape in weighed
        }

    def __call__(self, score: float, costs: Costs, dense: Outcome) -> float:
        """The sum of the terms."""
        return sum(self.terms(score, costs, dense).values())


def _saved(dense: float | None, now: float | None) -> float:
    """The fraction of the dense network's value that is saved."""
    if dense is None or now is None:
        raise JobError("[reward] alpha and gamma need a budget or a table that tells latency and energy")
    return (dense - now) / dense

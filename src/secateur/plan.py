"""The values that every floor speaks in: sites, plans, budgets, costs and outcomes. No torch in here.

One direction only: `keep` is the fraction that stays, in (0, 1].
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from secateur.errors import BudgetError, PlanError

METRICS = ("macs", "params", "bytes")


@dataclass(frozen=True)
class Site:
    """One place where one ratio is decided.

    `width` counts units: channels, or sets of channels that a grouped convolution ties together. A count is
    a multiple of `step` or the whole width, and never below `least`.
    """

    key: str
    width: int
    step: int = 1
    least: int = 1
    granularity: str = "channel"

    def count(self, keep: float) -> int:
        """Units kept for a fraction: rounded to the nearest step, within [least, width]."""
        units = keep * self.width
        rounded = round(units / self.step) * self.step
        if abs(self.width - units) < abs(rounded - units):
            rounded = self.width
        return min(max(rounded, self.least), self.width)

    def keep(self, count: int) -> float:
        """The fraction that `count` units are."""
        return count / self.width

    @property
    def counts(self) -> tuple[int, ...]:
        """Every count a plan may choose here, ascending."""
        stepped = range(self.least, self.width, self.step)
        return (*stepped, self.width)


@dataclass(frozen=True)
class Plan:
    """Site key -> fraction kept. A key that is absent is kept whole."""

    keeps: Mapping[str, float]

    def __post_init__(self) -> None:
        for key, keep in self.keeps.items():
            if not (isinstance(keep, (int, float)) and 0.0 < keep <= 1.0):
                raise PlanError(f"plan keeps {keep!r} of {key!r}; give a fraction in (0, 1]")

    def __getitem__(self, key: str) -> float:
        return self.keeps.get(key, 1.0)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keeps)

    @property
    def digest(self) -> str:
        """Sixteen hex digits that name this plan."""
        text = json.dumps(sorted(self.keeps.items()))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, float]:
        """The plan as plain JSON."""
        return dict(self.keeps)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        """Read back what `to_json` gave; raises PlanError where a value is not a fraction in (0, 1]."""
        return cls({str(key): value for key, value in raw.items()})


@dataclass(frozen=True)
class Costs:
    """What a network costs for one example: multiply-adds, parameters, and bytes of its state dict."""

    macs: int
    params: int
    bytes: int

    def __getitem__(self, metric: str) -> int:
        return int(getattr(self, metric))


@dataclass(frozen=True)
class Budget:
    """The most that a pruned network may cost, in exactly one metric.

    A value in (0, 1] is a fraction of the dense network; a larger one is absolute: `Budget(macs=0.5)`,
    `Budget(params=1_000_000)`.
    """

    macs: float | None = None
    params: float | None = None
    bytes: float | None = None

    def __post_init__(self) -> None:
        given = [name for name in METRICS if getattr(self, name) is not None]
        if len(given) != 1:
            named = ", ".join(given) or "none"
            raise BudgetError(f"a budget limits exactly one of {', '.join(METRICS)}; given: {named}")
        value = getattr(self, given[0])
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise BudgetError(f"budget {given[0]} = {value!r}: give a fraction in (0, 1] or an absolute number")

    @property
    def metric(self) -> str:
        """The metric that is limited."""
        return next(name for name in METRICS if getattr(self, name) is not None)

    def limit(self, dense: Costs) -> float:
        """The most allowed, in the metric's own unit, for a network whose dense costs are `dense`."""
        value = float(getattr(self, self.metric))
        return value * dense[self.metric] if value <= 1 else value

    def __str__(self) -> str:
        value = getattr(self, self.metric)
        return f"{value:.1%} of {self.metric}" if value <= 1 else f"{value:,.0f} {self.metric}"


@dataclass(frozen=True)
class Outcome:
    """What a plan achieved: the caller's score (higher is better), costs, reward, and wall time in seconds.

    `stages` are the scores over growing numbers of examples, where the evaluation went by stages; it is
    `complete` unless it was stopped before the last one. Only complete outcomes can be the best.
    """

    score: float
    costs: Costs
    reward: float
    seconds: float
    stages: tuple[float, ...] = ()
    complete: bool = True


@dataclass(frozen=True)
class Trial:
    """One line of the journal: a plan with its outcome, or with the error that stopped its evaluation."""

    number: int
    seed: int
    plan: Plan
    outcome: Outcome | None = None
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The trial as plain JSON, one journal line."""
        raw = {field.name: getattr(self, field.name) for field in fields(self)}
        return raw | {"plan": self.plan.to_json(), "outcome": self.outcome and asdict(self.outcome)}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        """Read back what `to_json` gave."""
        outcome = raw["outcome"]
        if outcome is not None:
            typed = {"costs": Costs(**outcome["costs"]), "stages": tuple(outcome["stages"])}
            outcome = Outcome(**{**outcome, **typed})
        return cls(raw["number"], raw["seed"], Plan.from_json(raw["plan"]), outcome, raw["error"])

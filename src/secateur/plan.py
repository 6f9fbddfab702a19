"""The values that every floor speaks in: sites, plans, budgets, costs and outcomes. No torch in here.

One direction only: `keep` is the fraction that stays, in (0, 1].
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from numbers import Real
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from secateur.errors import BudgetError, PlanError

COUNTED = ("macs", "params", "bytes")
"""Metrics that follow from shapes alone."""
METRICS = (*COUNTED, "latency_ms", "energy_mj")


@dataclass(frozen=True)
class Site:
    """One place where one ratio is decided.

    `width` counts units: channels, or sets of channels that a grouped convolution ties together; where `granularity`
    is a pattern of sparsity, equal parts of a layer's weights. A count is a multiple of `step` or the whole width, and
    never below `least`, but may be nothing where a `bypass` leaves the site's whole branch out.
    """

    key: str
    width: int
    step: int = 1
    least: int = 1
    granularity: str = "channel"
    bypass: bool = False

    def count(self, keep: float) -> int:
        """Units kept for a fraction: rounded to the nearest step, within [least, width], or to nothing if that is
        nearer."""
        units = keep * self.width
        if self.bypass and units < self.least / 2:
            return 0
        rounded = round(units / self.step) * self.step
        if abs(self.width - units) < abs(rounded - units):
            rounded = self.width
        return min(max(rounded, self.least), self.width)

    def keep(self, count: int) -> float:
        """The fraction that `count` units are."""
        return count / self.width

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Every count a plan may choose here, ascending."""
        stepped = range(self.least, self.width, self.step)
        return (*([0] if self.bypass else []), *stepped, self.width)

    @property
    def fewest(self) -> int:
        """The least of them."""
        return self.counts[0]


@dataclass(frozen=True)
class Plan:
    """Site key -> fraction kept; 0 leaves out a residual branch, where it may. A key that is absent is kept whole."""

    keeps: Mapping[str, float]

    def __post_init__(self) -> None:
        if not isinstance(self.keeps, Mapping):
            raise PlanError(f"a plan is a dict of names and fractions kept, not a {type(self.keeps).__name__}")
        for key, keep in self.keeps.items():
            if not (isinstance(keep, Real) and 0.0 <= keep <= 1.0):
                raise PlanError(f"plan keeps {keep!r} of {key!r}; give a fraction in [0, 1]")
        plain = {key: keep if isinstance(keep, int) else float(keep) for key, keep in self.keeps.items()}
        object.__setattr__(self, "keeps", plain)

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
        """Read back what `to_json` gave; raises PlanError where a value is not a fraction in [0, 1]."""
        return cls({str(key): value for key, value in raw.items()})


@dataclass(frozen=True)
class Costs:
    """What a network costs for one example: multiply-adds, parameters, and bytes of its state dict.

    Latency and energy are None where nobody told what a device takes. `block_sparsity` is the share of weights that
    lie in whole blocks of zeros.
    """

    macs: int
    params: int
    bytes: int
    latency_ms: float | None = None
    energy_mj: float | None = None
    block_sparsity: float = 0.0

    def __getitem__(self, metric: str) -> float:
        value: float | None = getattr(self, metric)
        if value is None:
            raise BudgetError(f"nothing tells the {metric} of this network: name a device's profile or table")
        return value

    def also(self, measured: Mapping[str, float]) -> Costs:
        """The same with latency and energy, as far as they are told."""
        return replace(self, latency_ms=measured.get("latency_ms"), energy_mj=measured.get("energy_mj"))

    @property
    def power_w(self) -> float | None:
        """Energy over time, in watts."""
        return None if self.energy_mj is None or not self.latency_ms else self.energy_mj / self.latency_ms

    @property
    def known(self) -> tuple[str, ...]:
        """The metrics that have a value."""
        return tuple(name for name in METRICS if getattr(self, name) is not None)


Limit = float | tuple[float, float] | None


@dataclass(frozen=True)
class Budget:
    """The most that a pruned network may cost, in exactly one metric.

    A value in (0, 1] is a fraction of the dense network; a larger one is absolute: `Budget(macs=0.5)`,
    `Budget(params=1_000_000)`, `Budget(latency_ms=0.5)` for half the time and `Budget(latency_ms=12.5)` for 12.5 ms.
    Two values, the lower first, are a range that one search serves as a whole: `Budget(macs=(0.3, 0.7))`.
    With `absolute`, small values are absolute too: `Budget(latency_ms=0.8, absolute=True)` for 0.8 ms.
    """

    macs: Limit = None
    params: Limit = None
    bytes: Limit = None
    latency_ms: Limit = None
    energy_mj: Limit = None
    absolute: bool = False

    def __post_init__(self) -> None:
        given = [name for name in METRICS if getattr(self, name) is not None]
        if len(given) != 1:
            named = ", ".join(given) or "none"
            raise BudgetError(f"a budget limits exactly one of {', '.join(METRICS)}; given: {named}")
        value = getattr(self, given[0])
        ends = value if isinstance(value, tuple) else (value,)
        for end in ends:
            if isinstance(end, bool) or not isinstance(end, (int, float)) or not 0 < end < math.inf:
                raise BudgetError(f"budget {given[0]} = {value!r}: give a fraction in (0, 1] or an absolute number")
        if isinstance(value, tuple) and not (
            len(ends) == 2 and ends[0] < ends[1] and self._fraction(ends[0]) == self._fraction(ends[1])
        ):
            raise BudgetError(
                f"budget {given[0]} = {value!r}: give a range as two fractions, or two absolute numbers, "
                "the lower first"
            )

    @classmethod
    def of(cls, metric: str, value: float, absolute: bool = False) -> Budget:
        """The budget of a metric by its name."""
        return cls(**{metric: value, "absolute": absolute})  # type: ignore[arg-type]

    @property
    def metric(self) -> str:
        """The metric that is limited."""
        return next(name for name in METRICS if getattr(self, name) is not None)

    @property
    def value(self) -> float | tuple[float, float]:
        """What was given for the metric."""
        given: float | tuple[float, float] = getattr(self, self.metric)
        return given

    @property
    def hint(self) -> str:
        """What a number between 1 and 100 was perhaps meant to be."""
        percent = 0 if isinstance(self.value, tuple) or self.absolute else self.value
        return f" (for {percent:g} % write {percent / 100:g})" if 1 < percent < 100 else ""

    @property
    def is_range(self) -> bool:
        """Whether it is a range of budgets."""
        return isinstance(self.value, tuple)

    def limits(self, dense: Costs) -> tuple[float, float]:
        """The least and the most allowed, in the metric's own unit, for a network whose dense costs are `dense`."""
        ends = self.value if isinstance(self.value, tuple) else (self.value, self.value)
        low, high = (float(end * dense[self.metric] if self._fraction(end) else end) for end in ends)
        return low, high

    def limit(self, dense: Costs) -> float:
        """The most allowed, in the metric's own unit."""
        return self.limits(dense)[1]

    def __str__(self) -> str:
        ends = self.value if isinstance(self.value, tuple) else (self.value,)
        shown = [f"{end:.1%}" if self._fraction(end) else f"{end:,.0f}" if end >= 100 else f"{end:g}" for end in ends]
        return " to ".join(shown) + (f" of {self.metric}" if self._fraction(ends[0]) else f" {self.metric}")

    def _fraction(self, end: float) -> bool:
        return end <= 1 and not self.absolute


@dataclass(frozen=True)
class Outcome:
    """What a plan achieved: the caller's score (higher is better), costs, reward, and wall time in seconds.

    `stages` are the scores over growing numbers of examples, where the evaluation went by stages; it is
    `complete` unless it was stopped before the last one: then `score` is what was to be expected. Only complete
    outcomes can be the best. `terms` are the parts of the reward, where it is a sum. `values` [examples seen] are what
    each example gave; they are not written down.
    """

    score: float
    costs: Costs
    reward: float
    seconds: float
    stages: tuple[float, ...] = ()
    complete: bool = True
    terms: dict[str, float] = field(default_factory=dict, hash=False)
    values: npt.NDArray[np.float32] | None = field(default=None, compare=False, repr=False)


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
        raw = {each.name: getattr(self, each.name) for each in fields(self)}
        outcome = self.outcome and {key: x for key, x in asdict(self.outcome).items() if key != "values"}
        return raw | {"plan": self.plan.to_json(), "outcome": outcome}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        """Read back what `to_json` gave."""
        outcome = raw["outcome"]
        if outcome is not None:
            typed = {"costs": Costs(**outcome["costs"]), "stages": tuple(outcome["stages"])}
            outcome = Outcome(**{**outcome, **typed})
        return cls(raw["number"], raw["seed"], Plan.from_json(raw["plan"]), outcome, raw["error"])

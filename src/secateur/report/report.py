"""What a report is made of: one row for each network compared, and how they were found. Values only."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from secateur.errors import StudyError
from secateur.plan import Costs
from secateur.run import write_atomically
from secateur.schema import Malformed, decode

DENSE = "dense"
"""Name of the first row of every report."""


@dataclass(frozen=True)
class Row:
    """One network of the comparison: the dense one, one pruned by a rule, or the one the search found.

    Accuracies are fractions in [0, 1]; `score` is top-1 on the data that scored plans, `before` and
    `after` are on the test data, before and after fine-tuning (the same where that was undone).
    """

    name: str
    plan: dict[str, float]
    """Site key -> fraction kept; empty for the dense network."""
    score: float | None
    before: float
    after: float | None
    costs: Costs
    file_bytes: int | None
    latency_ms: float | None

    @property
    def accuracy(self) -> float:
        """What the network ends with: after fine-tuning, or before it where there was none."""
        return self.before if self.after is None else self.after


@dataclass(frozen=True)
class Report:
    """A finished study, ready to be shown. The first row is the dense network, the last the one delivered."""

    title: str
    budget: str
    """What was asked for, in words: `50.0% of macs`."""
    made: str
    """ISO date and time."""
    machine: str
    command: str
    rows: tuple[Row, ...]
    rewards: dict[str, list[float | None]]
    """Searcher -> the reward of each trial; None where the trial failed."""
    sites: tuple[str, ...]
    """Site keys in forward order."""
    layers: tuple[tuple[str, int, int], ...]
    """(layer, its MACs in the dense network, its MACs in the delivered one), in forward order."""
    left_alone: tuple[tuple[str, str], ...]
    """(group key, why it was not pruned)"""
    history: dict[str, list[tuple[float, float | None]]]
    """Row name -> (training loss, score) of each epoch of fine-tuning."""
    front: tuple[tuple[float, float], ...] = ()
    """Where a range of budgets was searched: (fraction of the dense cost, score) of each plan that no cheaper one
    beats, the cheapest first."""
    front_plans: tuple[dict[str, float], ...] = ()
    """What each plan of the front keeps, by site key, as a row's `plan`."""
    blocks: dict[str, float] = field(default_factory=dict)
    """Layer -> the share of the delivered one's weights that lies in whole blocks of zeros, where that is any."""
    sources: dict[str, str] = field(default_factory=dict)
    """Latency and energy, as far as they were told -> by what, in words."""
    measured: float | None = None
    """What a latency budget that had to be met by measurement came to: a fraction of what the dense network takes, as
    it was measured too, or for a budget in milliseconds as it was told."""
    terms: tuple[dict[str, float], ...] = ()
    """Where the reward is a sum: its terms in each trial of the delivered row's search, empty where one failed."""

    undone: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Row name -> its scores before and after fine-tuning, where that made it worse: it stays as it was before."""

    def __post_init__(self) -> None:
        names = [row.name for row in self.rows]
        if len(names) < 2 or names[0] != DENSE or len(set(names)) < len(names):
            raise StudyError(
                f"a report compares {', '.join(names) or 'nothing'}: give the row {DENSE!r} first, then at "
                "least one pruned network, each under a name of its own"
            )

    @property
    def dense(self) -> Row:
        """The network that was pruned."""
        return self.rows[0]

    @property
    def delivered(self) -> Row:
        """The network that the study gives back."""
        return self.rows[-1]

    @property
    def best(self) -> Row:
        """The most accurate pruned row, the first of equals.

        Rows are compared after fine-tuning only where all of them had it: anything else would be unfair.
        """
        pruned = self.rows[1:]
        tuned = all(row.after is not None for row in pruned)
        return max(pruned, key=lambda row: row.accuracy if tuned else row.before)

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON."""
        raw: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return raw

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        """Read back what `to_json` gave; raises StudyError, naming the field, where it is malformed."""
        try:
            report: Self = decode(cls, raw, "report")
        except Malformed as error:
            raise StudyError(f"not a report: {error}; make it anew from the study") from error
        return report

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the report as a JSON file."""
        write_atomically(Path(path), json.dumps(self.to_json(), indent=1).encode() + b"\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a file that `save` wrote; raises StudyError where it cannot be read or is malformed."""
        try:
            return cls.from_json(json.loads(Path(path).read_text(encoding="utf-8")))
        except OSError as error:
            raise StudyError(f"cannot read the report {path}: {error.strerror}") from error
        except ValueError as error:
            raise StudyError(f"{path} is damaged ({error}); make the report anew from the study") from error
        except StudyError as error:
            raise StudyError(f"{path}: {error}") from error

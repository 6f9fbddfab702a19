"""What a search is told beside the network and the budget, and what makes it the study that it is."""

from __future__ import annotations

import hashlib
import inspect
from contextlib import suppress
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secateur.cost import DEVICES, CostModel, energy_model, latency_model
from secateur.errors import StudyError
from secateur.prune import PruneSettings
from secateur.runtimes import ENGINES
from secateur.search import Reward, SearchSpace, SpaceSettings, Strategy, resource_constrained

AHEAD = 2
"""Trials under way for each of several workers: one that is done early, as races often are, goes on at once."""


@dataclass(frozen=True)
class SearchSettings:
    """What a search may choose, how candidates are built, and how many are evaluated at once."""

    space: SpaceSettings = field(default_factory=SpaceSettings)
    prune: PruneSettings = field(default_factory=PruneSettings)
    workers: int = 1
    """Trials evaluated at once, each in a thread of its own; `evaluate` must allow that."""
    race: bool = False
    """Stop scoring a candidate that is unlikely to beat the best on the same examples (see `secateur.run.race`); needs
    an `evaluate` that scores by stages, such as `agreement` and `accuracy`. What is reported is scored in full."""
    seconds: float | None = None
    """Start no more trials once the search has taken so many seconds, over all its runs; give more to go on."""
    reward: Reward = resource_constrained
    """What a plan is paid: `resource_constrained`, `AccuracyGuaranteed`, `Composite`, or any function (score, costs,
    dense) -> float, dense being the dense network's outcome. Only the first makes sense with a single budget."""
    latency: str | None = None
    """What tells latency: a profile that comes with Secateur (pixel1), or a table's or profile's file."""
    measured: bool = False
    """Whether a latency budget is meant as measured here, on the runtime that the table is of: a few plans are timed
    before the first trial, and the limit is set to what the budget comes to by the table (see also `meet`). A range of
    budgets is searched by the table alone."""
    energy: str | None = None
    """What tells energy: `estimate`, by operations and bytes moved, or the file of a table that a meter made."""
    engine: str = "torch"
    """What runs the candidates: torch, openvino or openvino-int8 (both need `secateur[openvino]`). With the latter
    two, the best few plans are scored again by torch at the end, and the best of those is reported."""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise StudyError(f"workers = {self.workers}: give 1 or more")
        if self.seconds is not None and not self.seconds > 0:
            raise StudyError(f"seconds = {self.seconds}: give more than 0")
        if self.measured and self.latency in (None, *DEVICES):
            raise StudyError("measured needs a table of this machine: name its file (latency = ...)")
        if self.engine not in ENGINES:
            raise StudyError(f"engine = {self.engine!r}: give one of {', '.join(ENGINES)}")

    @property
    def ahead(self) -> int:
        """Trials under way at once."""
        return 1 if self.workers == 1 else AHEAD * self.workers

    @property
    def prices(self) -> list[CostModel]:
        """Cost models of the metrics that shapes alone do not tell. Raises BudgetError."""
        found: list[CostModel] = [] if self.latency is None else [latency_model(self.latency)]
        return found if self.energy is None else [*found, energy_model(self.energy)]


def identity(model: nn.Module, space: SearchSpace, searcher: Strategy, settings: SearchSettings) -> dict[str, Any]:
    """What makes a study this study: resuming it with anything else would mix two."""
    metric = space.budget.metric
    measured = {"measured": True} if settings.measured else {}
    return measured | {
        "format": 2,
        "model": space.graph.fingerprint,
        "weights": _weights_digest(model),
        "budget": {metric: space.budget.value} | ({"absolute": True} if space.budget.absolute else {}),
        "searcher": {"kind": type(searcher).__name__, **asdict(searcher)},  # type: ignore[call-overload]
        "prior": _digest_of(getattr(searcher, "prior", None)),
        "space": {**asdict(settings.space), "sparsity": _in_order(settings.space.sparsity)},
        "prune": asdict(settings.prune),
        "workers": settings.workers,
        "race": settings.race,
        "engine": settings.engine,
        "reward": _named(settings.reward),
        "latency": [settings.latency, _digest_of(settings.latency)],
        "energy": [settings.energy, _digest_of(settings.energy)],
    }


def _in_order(table: dict[str, Any]) -> Any:
    """A table of which the first entry that fits counts, so that its order does."""
    return [*table.items()] if len(table) > 1 else table


def _digest_of(file: str | None) -> str | None:
    """Names what a file holds; none for what is no file."""
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16] if file and Path(file).is_file() else None


def _named(reward: Reward) -> dict[str, Any]:
    """A reward as plain values."""
    if is_dataclass(reward) and not isinstance(reward, type):
        return {"kind": type(reward).__name__, **asdict(reward)}
    found = {"kind": getattr(reward, "__qualname__", type(reward).__name__)}
    if reward is resource_constrained:
        return found
    with suppress(OSError, TypeError):  # a user's own: two functions of one name are not the same
        found["source"] = hashlib.sha256(inspect.getsource(reward).encode()).hexdigest()[:16]
    return found


def _weights_digest(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]

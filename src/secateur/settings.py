"""What a search is told beside the network and the budget, and what makes it the study that it is."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import partial
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
    latency: str | CostModel | None = None
    """What tells latency: a profile that comes with Secateur (pixel1), a table's or profile's file, or a cost model of
    your own, a frozen dataclass."""
    measured: bool = False
    """Whether a latency budget is meant as measured here, on the runtime that the table is of: a few plans are timed
    before the first trial, and the limit is set to what the budget comes to by the table (see also `meet`). A range of
    budgets is searched by the table alone."""
    energy: str | CostModel | None = None
    """What tells energy: `estimate`, by operations and bytes moved, the file of a table that a meter made, or a cost
    model of your own, a frozen dataclass."""
    engine: str = "torch"
    """What runs the candidates: torch, openvino or openvino-int8 (both need `secateur[openvino]`). With the latter
    two, the best few plans are scored again by torch at the end, and the best of those is reported."""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise StudyError(f"workers = {self.workers}: give 1 or more")
        if self.seconds is not None and not self.seconds > 0:
            raise StudyError(f"seconds = {self.seconds}: give more than 0")
        for metric, model in (("latency_ms", self.latency), ("energy_mj", self.energy)):
            if model is not None and not isinstance(model, str) and (not _frozen(model) or model.metric != metric):
                raise StudyError(f"{model!r:.80} does not tell {metric}: give a frozen dataclass whose metric is that")
        if self.measured and (not isinstance(self.latency, str) or self.latency in DEVICES):
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
        models = (self.latency, latency_model), (self.energy, energy_model)
        return [read(told) if isinstance(told, str) else told for told, read in models if told is not None]


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
        "space": _of_space(settings.space),
        "prune": asdict(settings.prune),
        "workers": settings.workers,
        "race": settings.race,
        "engine": settings.engine,
        "reward": _named(settings.reward),
        "latency": _told_by(settings.latency),
        "energy": _told_by(settings.energy),
    }


def _frozen(settings: object) -> bool:
    params = getattr(settings, "__dataclass_params__", None)
    return params is not None and params.frozen and not isinstance(settings, type)


def _of_space(space: SpaceSettings) -> dict[str, Any]:
    """As studies of before `depth` wrote it, where that is not set."""
    values = {name: value for name, value in asdict(space).items() if name != "depth" or value}
    return {**values, "sparsity": _in_order(space.sparsity)}


def _told_by(model: str | CostModel | None) -> list[str | None]:
    """What tells a metric, and what it holds."""
    return (
        [model, _digest_of(model)] if model is None or isinstance(model, str) else [type(model).__name__, repr(model)]
    )


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
    found: dict[str, Any] = {"kind": getattr(reward, "__qualname__", type(reward).__name__)}
    if reward is resource_constrained:
        return found
    if held := _held(reward):
        found["holds"] = held
    with suppress(OSError, TypeError):  # a user's own: two functions of one name are not the same
        found["source"] = hashlib.sha256(inspect.getsource(reward).encode()).hexdigest()[:16]
    return found


def _held(reward: Any) -> dict[str, str]:
    """The plain values in a function's closure, a partial's arguments or an object: they make it another reward."""
    if isinstance(reward, partial):
        return {"of": str(_named(reward.func)), **_plain(dict(enumerate(reward.args)) | reward.keywords)}
    closed = inspect.getclosurevars(reward).nonlocals if inspect.isfunction(reward) else getattr(reward, "__dict__", {})
    return _plain(closed)


def _plain(values: Mapping[Any, Any]) -> dict[str, str]:
    return {str(name): repr(value) for name, value in values.items() if isinstance(value, (str, int, float, tuple))}


def _weights_digest(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]

"""The verbs, thin: inspect, search, prune, and (from their own floors) finetune, save, load."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from secateur.errors import StudyError
from secateur.graph import Example, ModelGraph, as_inputs, private_copy, trace
from secateur.plan import Budget, Outcome, Plan
from secateur.prune import Batch, Calibration, Pruner, PruneSettings, counts_of_plan, prove
from secateur.run import Evaluate, Evaluator, InProcess, Loop, OnTrial, RunFolder, Study, Threads, score_of
from secateur.search import DDPG, SearchSpace, SpaceSettings, Strategy, resource_constrained


@dataclass(frozen=True)
class SearchSettings:
    """What a search may choose, how candidates are built, and how many are evaluated at once."""

    space: SpaceSettings = field(default_factory=SpaceSettings)
    prune: PruneSettings = field(default_factory=PruneSettings)
    workers: int = 1
    """Trials evaluated at once, each in a thread of its own; `evaluate` must allow that."""
    race: bool = False
    """Stop scoring a candidate that is four standard errors behind the best on the same examples; needs an
    `evaluate` that scores by stages, such as `accuracy`. The plan reported is always scored in full."""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise StudyError(f"workers = {self.workers}: give 1 or more")


def inspect(model: nn.Module, example_input: Example) -> ModelGraph:
    """Trace a model and prove, group by group, that its channels can be cut. Nothing is trained or changed.

    Args:
        model: any network that runs on the example; it is not touched.
        example_input: a tensor [N, ...] or a tuple of them, as the model's forward takes them.

    Raises:
        TraceError: it does not run, cannot be followed, or nothing of it can be pruned.
    """
    return prove(model, trace(model, example_input), example_input)


def search(  # noqa: PLR0913  # each is a thing the caller has, and all but four have defaults
    model: nn.Module,
    example_input: Example,
    *,
    evaluate: Evaluate,
    calibration: Iterable[Batch],
    budget: Budget,
    searcher: Strategy | None = None,
    trials: int = 400,
    folder: str | os.PathLike[str] | None = None,
    settings: SearchSettings | None = None,
    on_trial: OnTrial | None = None,
) -> Study:
    """Search how much of each layer to keep, under a budget (AMC, He et al., ECCV 2018).

    Args:
        model: the trained network; it is not touched.
        example_input: a tensor [N, ...] or a tuple of them.
        evaluate: network -> score, higher is better, on data kept for this (never the test set).
        calibration: batches of some hundreds of unlabelled inputs, or of (inputs, labels).
        budget: the most the pruned network may cost; no trial ever exceeds it.
        searcher: settings of the searcher; the paper's agent by default.
        trials: how many plans to evaluate.
        folder: where the study lives; a study found there is resumed, bit for bit.
        settings: search space, pruning and workers.
        on_trial: called with the study and each new trial.

    Returns:
        The study; `study.best.plan` is what to prune by.

    Raises:
        TraceError, BudgetError, EvaluationError, StudyError, DataError: before the first trial where it can
        be known then; StudyError also where every trial fails.
    """
    strategy: Strategy = searcher or DDPG()
    settings = settings or SearchSettings()
    if trials < 1:
        raise StudyError(f"trials = {trials}: give 1 or more")
    graph = inspect(model, example_input)
    space = SearchSpace(graph, budget, settings.space)
    home = RunFolder(folder, _header(model, space, strategy, settings)) if folder is not None else None
    dense = Outcome(score_of(evaluate, private_copy(model).requires_grad_(False)), graph.dense, 0.0, 0.0)
    inputs = Calibration.gather(calibration, inputs=len(as_inputs(example_input)))
    pruner = Pruner(model, graph, inputs, settings.prune)
    evaluators = [
        Evaluator(pruner if n == 0 else pruner.fork(), space, evaluate, resource_constrained)
        for n in range(settings.workers)
    ]
    workers = InProcess(evaluators[0]) if settings.workers == 1 else Threads(evaluators)
    loop = Loop(
        Study(space, dense), strategy.start(space), workers, strategy.seed, settings.workers, settings.race, home
    )
    if on_trial:
        loop.on_trial = on_trial
    return loop.run(trials)


def prune(
    model: nn.Module,
    example_input: Example,
    plan: Plan,
    *,
    calibration: Iterable[Batch],
    settings: PruneSettings | None = None,
) -> nn.Module:
    """Apply a plan for good: a new, physically smaller network of the same class, refitted to the dense one.

    Args:
        model: the trained network; it is not touched.
        example_input: a tensor [N, ...] or a tuple of them.
        plan: which fraction of each group to keep.
        calibration: batches of some hundreds of unlabelled inputs, or of (inputs, labels).
        settings: how channels are chosen and what makes up for them.

    Raises:
        TraceError, DataError: as in `search`.
        PlanError: the plan names groups that the network does not have, or that cannot be cut.
    """
    graph = inspect(model, example_input)
    counts = counts_of_plan(plan, graph)
    inputs = Calibration.gather(calibration, inputs=len(as_inputs(example_input)))
    pruned = Pruner(model, graph, inputs, settings).final(counts)
    return pruned.train(model.training)


def _header(model: nn.Module, space: SearchSpace, searcher: Strategy, settings: SearchSettings) -> dict[str, Any]:
    """What makes a study this study: resuming it with anything else would mix two."""
    metric = space.budget.metric
    return {
        "format": 1,
        "model": space.graph.fingerprint,
        "weights": _weights_digest(model),
        "budget": {metric: getattr(space.budget, metric)},
        "searcher": {"kind": type(searcher).__name__, **asdict(searcher)},  # type: ignore[call-overload]
        "space": asdict(settings.space),
        "prune": asdict(settings.prune),
        "workers": settings.workers,
        "race": settings.race,
    }


def _weights_digest(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]

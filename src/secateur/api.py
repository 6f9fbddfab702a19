"""The verbs, thin: inspect, search, prune, meet, block_sparse, export, measure; finetune, save and load have floors of
their own."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur import run, runtimes
from secateur.cost import CostModel, LayerTable, energy_model, latency_model
from secateur.errors import BudgetError, StudyError
from secateur.graph import (
    Example,
    ModelGraph,
    as_inputs,
    entries_named,
    private_copy,
    sparsities_named,
    trace,
    with_entries,
    with_sparsity,
)
from secateur.plan import Budget, Outcome, Plan
from secateur.prune import Batch, Calibration, Cutter, Pruner, PruneSettings, counts_of_plan, fold_norms, prove, shaped
from secateur.run import Evaluate, Evaluator, InProcess, Loop, Met, OnTrial, RunFolder, Study, Threads, score_of
from secateur.runtimes import ENGINES, Measured, engine
from secateur.search import Conditioned, Knapsack, Reward, SearchSpace, SpaceSettings, Strategy, resource_constrained

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
    """Start no more trials after so many seconds; resumed, the search has as many again."""
    reward: Reward = resource_constrained
    """What a plan is paid: `resource_constrained`, `AccuracyGuaranteed`, `Composite`, or any function (score, costs,
    dense) -> float, dense being the dense network's outcome. Only the first makes sense with a single budget."""
    latency: str | None = None
    """What tells latency: a profile that comes with Secateur (pixel1), or a table's or profile's file."""
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
        if self.engine not in ENGINES:
            raise StudyError(f"engine = {self.engine!r}: give one of {', '.join(ENGINES)}")

    @property
    def prices(self) -> list[CostModel]:
        """Cost models of the metrics that shapes alone do not tell. Raises BudgetError."""
        found: list[CostModel] = [] if self.latency is None else [latency_model(self.latency)]
        return found if self.energy is None else [*found, energy_model(self.energy)]


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
        searcher: settings of the searcher; `Knapsack` by default.
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
    strategy: Strategy = searcher or Knapsack()
    settings = settings or SearchSettings()
    if trials < 1:
        raise StudyError(f"trials = {trials}: give 1 or more")
    space = SearchSpace(inspect(model, example_input), budget, settings.space, settings.prices)
    _check_reward(settings.reward, space)
    if budget.is_range and not isinstance(strategy.start(space), Conditioned):
        raise StudyError(f"{type(strategy).__name__} serves one budget only; for a range of them use Knapsack")
    home = RunFolder(folder, _header(model, space, strategy, settings)) if folder is not None else None
    dense = Outcome(score_of(evaluate, private_copy(model).requires_grad_(False)), space.dense, 0.0, 0.0)
    inputs = Calibration.gather(calibration, inputs=len(as_inputs(example_input)))
    pruner = Pruner(model, space.graph, inputs, settings.prune)
    space = space.informed(pruner.losses, weighed=settings.reward is not resource_constrained)
    evaluators = _evaluators(pruner, space, evaluate, as_inputs(example_input), settings, dense)
    workers = InProcess(evaluators[0]) if settings.workers == 1 else Threads(evaluators)
    proposer = strategy.start(space)
    ahead = 1 if settings.workers == 1 else AHEAD * settings.workers
    loop = Loop(Study(space, dense), proposer, workers, strategy.seed, ahead, settings.race, home)
    if settings.engine != "torch":
        loop.check = Evaluator(pruner, space, evaluate, settings.reward, dense=dense)
    if on_trial:
        loop.on_trial = on_trial
    return loop.run(trials, math.inf if settings.seconds is None else settings.seconds)


def _check_reward(reward: Reward, space: SearchSpace) -> None:
    """Refuse, before anything is run, a reward whose metrics nobody tells."""
    needed = getattr(reward, "needs", ())
    missing = [metric for metric in needed if metric not in space.dense.known]
    if missing:
        raise StudyError(f"{type(reward).__name__} needs {missing[0]}: name what tells it (latency, energy)")


def _evaluators(
    pruner: Pruner,
    space: SearchSpace,
    evaluate: Evaluate,
    example: tuple[Tensor, ...],
    settings: SearchSettings,
    dense: Outcome,
) -> list[Evaluator]:
    """One for each worker, with a candidate and an engine of its own."""
    folded, inputs = fold_norms(pruner.dense, space.graph), pruner.calibration.inputs
    return [
        Evaluator(
            pruner.fork(), space, evaluate, settings.reward, engine(settings.engine, folded, example, inputs), dense
        )
        for _ in range(settings.workers)
    ]


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
    graph = with_entries(graph, entries_named(graph, plan))
    graph = with_sparsity(graph, sparsities_named(graph, plan))
    counts = counts_of_plan(plan, graph)
    inputs = Calibration.gather(calibration, inputs=len(as_inputs(example_input)))
    pruned = Pruner(model, graph, inputs, settings).final(counts)
    return pruned.train(model.training)


def meet(
    study: Study, model: nn.Module, example_input: Example, *, runtime: str | None = None, threads: int | None = None
) -> Met:
    """Make a latency budget hold when it is measured: on this machine, dense and pruned taking turns.

    Args:
        study: a finished search under a budget in latency_ms.
        model: the network that was searched.
        example_input: a tensor [N, ...] or a tuple of them; one example at a time is timed.
        runtime: where it has to hold, torch or a runtime's name; by default where the table was made.
        threads: by default as many as the table was made with.

    Returns:
        The plan to prune by, and what it takes: `study.best.plan`, or what the searcher believes best under a limit
        that makes up for what the table got wrong.

    Raises:
        BudgetError: the budget is in another metric, no runtime is known, or no plan tried meets it.
        ExportError: the network cannot be exported to the runtime, or it is not installed.
    """
    space = study.space
    if space.budget.metric != "latency_ms":
        raise BudgetError(f"a budget of {space.budget} is not measured by a clock; only latency_ms is")
    table = space.prices["latency_ms"].model
    made_by = (table.runtime, table.threads) if isinstance(table, LayerTable) else (None, 1)
    runtime, threads = runtime or made_by[0], threads or made_by[1]
    if runtime is None:
        raise BudgetError("the device of a profile is not here to be measured: name a runtime of this machine")
    cutter, inputs = Cutter(model, space.graph), as_inputs(example_input)

    def measured(plan: Plan) -> float:
        networks = {"dense": model, "cut": shaped(cutter, space.counts(plan))}
        found = runtimes.measure(networks, inputs, [runtime], threads)
        return found[1].latency_ms / found[0].latency_ms

    return run.meet(study, measured)


def block_sparse(model: nn.Module, example_input: Example) -> nn.Module:
    """A copy of a pruned network for inference in PyTorch, faster for its blocks of zeros.

    Layers that were thinned out by blocks become `secateur.sparse.BlockSparseLinear` or `BlockSparseConv2d`, each where
    it answers sooner than the dense layer on this machine; the answers are the same but for rounding. Training, saving
    and exporting go by the dense network.

    Args:
        model: a network that `prune` or `load` gave.
        example_input: a tensor [N, ...] or a tuple of them, as many examples at a time as will be asked for.
    """
    return runtimes.block_sparse(model, as_inputs(example_input))


def export(model: nn.Module, inputs: Example, path: str | os.PathLike[str], *, runtime: str) -> float:
    """Write a network as a file of a runtime that ships it; raises what `secateur.runtimes.export` does.

    Args:
        model: any network, pruned or not.
        inputs: some real inputs [N, ...], or a tuple of them; the file takes one example at a time, and answers are
            compared with PyTorch's on all N before anything is written.
        path: the file, with the runtime's suffix.
        runtime: onnxruntime or openvino (.onnx), executorch (.pte), ncnn (.param, .bin) or litert (.tflite).

    Returns:
        The largest difference of an output, as a fraction of the outputs' root mean square.
    """
    return runtimes.export(model, as_inputs(inputs), Path(path), runtime)


def measure(
    networks: Mapping[str, nn.Module],
    inputs: Example,
    *,
    runtime: Sequence[str] | None = None,
    threads: int = 1,
    meter: str | None = None,
) -> list[Measured]:
    """Latency and file size of networks side by side, on each runtime named; by default torch and all installed.

    With a meter (rapl, nvml) also the energy that this machine uses. Raises what `secateur.runtimes.measure` does.
    """
    chosen = ("torch", *runtimes.installed()) if runtime is None else runtime
    return runtimes.measure(networks, as_inputs(inputs), chosen, threads, meter=meter)


def _header(model: nn.Module, space: SearchSpace, searcher: Strategy, settings: SearchSettings) -> dict[str, Any]:
    """What makes a study this study: resuming it with anything else would mix two."""
    metric = space.budget.metric
    return {
        "format": 1,
        "model": space.graph.fingerprint,
        "weights": _weights_digest(model),
        "budget": {metric: space.budget.value},
        "searcher": {"kind": type(searcher).__name__, **asdict(searcher)},  # type: ignore[call-overload]
        "space": asdict(settings.space),
        "prune": asdict(settings.prune),
        "workers": settings.workers,
        "race": settings.race,
        "engine": settings.engine,
        "reward": _named(settings.reward),
        "latency": settings.latency,
        "energy": settings.energy,
    }


def _named(reward: Reward) -> dict[str, Any]:
    """A reward as plain values."""
    if is_dataclass(reward) and not isinstance(reward, type):
        return {"kind": type(reward).__name__, **asdict(reward)}
    return {"kind": getattr(reward, "__qualname__", type(reward).__name__)}


def _weights_digest(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]

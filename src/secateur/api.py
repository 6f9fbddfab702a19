"""The verbs, thin: inspect, search, prune, meet, block_sparse, export, measure; finetune, save and load have floors of
their own."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from torch import nn

from secateur import run, runtimes
from secateur.checks import check_arguments, check_reward, compare_scores, try_reward
from secateur.errors import StudyError
from secateur.graph import (
    Example,
    Inputs,
    ModelGraph,
    as_inputs,
    entries_named,
    examples_of,
    follow,
    positional,
    private_copy,
    sparsities_named,
    with_entries,
    with_sparsity,
)
from secateur.plan import Budget, Outcome, Plan
from secateur.prune import Batch, Calibration, Pruner, PruneSettings, counts_of_plan, fold_norms, prove
from secateur.run import (
    Evaluate,
    Evaluator,
    InProcess,
    Loop,
    Met,
    OnTrial,
    RunFolder,
    Staged,
    Study,
    Threads,
    score_of,
    smallest_first,
)
from secateur.runtimes import Measured, engine, require_engine
from secateur.search import (
    AccuracyGuaranteed,
    Bayesian,
    Conditioned,
    SearchSpace,
    Strategy,
    resource_constrained,
)
from secateur.settings import SearchSettings, identity
from secateur.sparse import block_sparse_layers, masked_layers


def inspect(model: nn.Module, example_input: Example) -> ModelGraph:
    """Trace a model and prove, group by group, that its channels can be cut. Nothing is trained or changed.

    Args:
        model: any network that runs on the example; it is not touched.
        example_input: a tensor [N, ...], a tuple of positional arguments, a dict of keywords, or a list where the
            forward takes one list (of images); beside tensors it may hold numbers, None, and nested lists and dicts.

    Raises:
        TraceError: it does not run, cannot be followed, or nothing of it can be pruned.
    """
    return prove(follow(model, example_input))


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
        example_input: as `inspect` takes it.
        evaluate: network -> score, higher is better, on data kept for this (never the test set).
        calibration: batches of some hundreds of unlabelled inputs, or of (inputs, labels).
        budget: the most the pruned network may cost; no trial ever exceeds it, whoever proposes it.
        searcher: settings of the searcher, a frozen dataclass with `seed` and `start`; `Bayesian` by default.
        trials: how many plans to evaluate.
        folder: where the study lives; a study found there is resumed, bit for bit.
        settings: search space, pruning and workers.
        on_trial: called with the study and each new trial.

    Returns:
        The study; `study.best.plan` is what to prune by, or where the reward is `AccuracyGuaranteed`, that of
        `study.smallest(tolerance, metric)`.

    Raises:
        TraceError, BudgetError, EvaluationError, StudyError, DataError, ExportError: before the first trial where it
        can be known then; StudyError also where every trial fails.
    """
    strategy: Strategy = searcher or Bayesian()
    settings = settings or SearchSettings()
    check_arguments(budget, strategy, trials)
    if settings.race and not isinstance(evaluate, Staged):
        raise StudyError(
            "race needs an evaluate that scores by stages, as sc.agreement and sc.accuracy give; leave it out"
        )
    space = SearchSpace(inspect(model, example_input), budget, settings.space, settings.prices)
    check_reward(settings.reward, space)
    require_engine(settings.engine)
    proposer = strategy.start(space)  # what it needs, it needs now; what is known beforehand comes later
    if budget.is_range and not isinstance(proposer, Conditioned):
        raise StudyError(f"{type(strategy).__name__} serves one budget only; for a range of them use Bayesian")
    timed = run.clock(space, model, example_input) if settings.measured and not budget.is_range else None
    home = RunFolder(folder, identity(model, space, strategy, settings)) if folder is not None else None
    dense = Outcome(score_of(evaluate, private_copy(model).requires_grad_(False)), space.dense, 0.0, 0.0)
    try_reward(settings.reward, dense)
    if home is not None:
        compare_scores(home.dense_score(dense.score), dense.score)
    inputs = Calibration.gather(calibration, examples_of(model, example_input))
    pruner = Pruner(model, space.graph, inputs, settings.prune)
    space = space.informed(pruner.losses, weighed=settings.reward is not resource_constrained)
    if timed is not None:
        limit = partial(run.aim, space, timed)
        space = space.limited(limit() if home is None else home.limit(limit))
    evaluators = _evaluators(pruner, space, evaluate, as_inputs(example_input), settings, dense)
    workers = InProcess(evaluators[0]) if settings.workers == 1 else Threads(evaluators)
    proposer = strategy.start(space)
    race = settings.race and settings.reward is resource_constrained  # it compares scores, whatever is paid for them
    in_torch = engine("torch", pruner.dense, as_inputs(example_input))
    check = Evaluator(pruner.final, space, evaluate, settings.reward, in_torch, dense)
    study = Study(space, dense, check=check, pruner=pruner)
    loop = Loop(study, proposer, workers, strategy.seed, settings.ahead, race, home)
    if budget.is_range and isinstance(settings.reward, AccuracyGuaranteed):
        loop.finalists = smallest_first(settings.reward.tolerance, settings.reward.metric)
    elif budget.is_range and not space.weighed:
        loop.finalists = run.nobody
    if on_trial:
        loop.on_trial = on_trial
    return loop.run(trials, math.inf if settings.seconds is None else settings.seconds)


def _evaluators(
    pruner: Pruner,
    space: SearchSpace,
    evaluate: Evaluate,
    example: Inputs,
    settings: SearchSettings,
    dense: Outcome,
) -> list[Evaluator]:
    """One for each worker, with a candidate and an engine of its own."""
    folded, inputs = fold_norms(pruner.dense, space.graph), pruner.calibration.inputs
    pruners = [pruner, *(pruner.fork() for _ in range(settings.workers - 1))]
    return [
        Evaluator(
            each.candidate,
            space,
            evaluate,
            settings.reward,
            engine(settings.engine, folded, example, inputs),
            dense,
        )
        for each in pruners
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

    All its parameters require gradients, those that were frozen in the dense network too.

    Args:
        model: the trained network; it is not touched.
        example_input: as `inspect` takes it.
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
    inputs = Calibration.gather(calibration, examples_of(model, example_input))
    pruned = Pruner(model, graph, inputs, settings).final(counts)
    return pruned.train(model.training)


def meet(
    study: Study,
    model: nn.Module,
    example_input: Example,
    *,
    plan: Plan | None = None,
    runtime: str | None = None,
    threads: int | None = None,
) -> Met:
    """Make a latency budget hold when it is measured: on this machine, dense and pruned taking turns.

    Args:
        study: a finished search under a budget in latency_ms.
        model: the network that was searched.
        example_input: a tensor [N, ...] or a tuple of them; one example at a time is timed.
        plan: the first to be tried; by default `study.best.plan`.
        runtime: where it has to hold, torch or a runtime's name; by default where the table was made.
        threads: by default as many as the table was made with.

    Returns:
        The plan to prune by, and what it takes: the first, or what the searcher believes best under a limit
        that makes up for what the table got wrong.

    Raises:
        BudgetError: the budget is in another metric, no runtime is known, or no plan tried meets it.
        ExportError: the network cannot be exported to the runtime, or it is not installed.
    """
    measured = run.clock(study.space, model, example_input, runtime, threads)
    return run.meet(study, measured, plan or study.best.plan)


def block_sparse(model: nn.Module, example_input: Example) -> nn.Module:
    """A copy of a pruned network for inference in PyTorch, faster for its blocks of zeros.

    Layers that were thinned out by blocks become `secateur.sparse.BlockSparseLinear` or `BlockSparseConv2d`, each where
    it answers sooner than the dense layer on this machine; the answers are the same but for rounding. Training, saving
    and exporting go by the dense network.

    Args:
        model: a network that `prune` or `load` gave.
        example_input: as `inspect` takes it, of as many examples at a time as will be asked for.
    """
    return runtimes.block_sparse(model, as_inputs(example_input))


def export(model: nn.Module, inputs: Example, path: str | os.PathLike[str], *, runtime: str) -> float:
    """Write a network as a file of a runtime that ships it; raises what `secateur.runtimes.export` does.

    Zeros among the weights are written like any others, with a warning: none of these runtimes is quicker for them.

    Args:
        model: any network, pruned or not.
        inputs: some real inputs [N, ...], or a tuple of them; the file takes one example at a time, and answers are
            compared with PyTorch's on all N before anything is written.
        path: the file, with the runtime's suffix.
        runtime: onnxruntime or openvino (.onnx), executorch (.pte), ncnn (.param, .bin) or litert (.tflite).

    Returns:
        The largest difference of an output, as a fraction of the outputs' root mean square.
    """
    if block_sparse_layers(model) or any(masked_layers(model)):
        warnings.warn(f"{path} is dense: {runtime} is no faster for zeros among the weights", stacklevel=2)
    network, tensors = positional(model, as_inputs(inputs))
    return runtimes.export(network, tensors, Path(path), runtime)


def measure(
    networks: Mapping[str, nn.Module],
    inputs: Example,
    *,
    runtime: str | Sequence[str] | None = None,
    threads: int = 1,
    meter: str | None = None,
) -> list[Measured]:
    """Latency and file size of networks side by side, on each runtime named; by default torch (on the CPU, and as
    cuda on a GPU) and all installed that take the networks: the others are left out with a warning.

    With a meter (rapl, nvml) also the energy that this machine uses. Raises what `secateur.runtimes.measure` does.
    """
    chosen = (*runtimes.torch_runtimes(), *runtimes.installed()) if runtime is None else runtime
    chosen = (chosen,) if isinstance(chosen, str) else chosen
    given = as_inputs(inputs)
    flat = {name: positional(network, given) for name, network in networks.items()}
    tensors = next(iter(flat.values()))[1] if flat else ()
    return runtimes.measure(
        {name: each for name, (each, _) in flat.items()}, tensors, chosen, threads, meter=meter, skip=runtime is None
    )

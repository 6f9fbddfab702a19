"""What a run has to show for it: the rivals run at the same budget, every row measured, as one report."""

from __future__ import annotations

import datetime
import platform

import torch
from torch import nn

from secateur.api import block_sparse
from secateur.cost import kept_weights
from secateur.finish import save
from secateur.graph import count_costs
from secateur.job.claim import SEARCHED
from secateur.job.compress import Run
from secateur.plan import Plan
from secateur.report import Report, Row, write
from secateur.run import accuracy, score_of
from secateur.runtimes import latencies_ms
from secateur.search import RULES
from secateur.sparse import masked_layers
from secateur.threads import torch_threads


def report(run: Run) -> Report:
    """Run the rivals, measure every row, and write report.json and report.html into the run's folder."""
    names = [*run.job.report.rivals, SEARCHED]
    tuned = names if run.job.finetune.rivals else [SEARCHED]
    before = {name: run.pruned(name) for name in names}
    after = {name: run.small(name) for name in names if name in tuned and run.job.finetune.epochs}
    dense, example = run.materials.model, run.materials.example
    with torch_threads(1):  # as they are timed
        networks = {name: block_sparse(network, example) for name, network in before.items()}
    latencies = latencies_ms({"dense": dense, **networks}, example)
    save(dense, run.folder / "dense.safetensors")
    rows = [_row(run, "dense", dense, None, latencies)]
    rows += [_row(run, name, before[name], after.get(name), latencies) for name in names]
    front = _front(run)
    made = Report(
        title=f"{run.job.model.name} on {run.materials.dataset.name}",
        budget=str(run.job.budget),
        made=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        machine=f"{platform.machine()} {platform.system()}, torch {torch.__version__}",
        command=run.command,
        rows=tuple(rows),
        rewards={name: _rewards(run, name) for name in names if name not in RULES},
        sites=tuple(site.key for site in run.space.sites),
        layers=_layers(run),
        blocks=_blocks(run),
        left_alone=_left_alone(run),
        front=tuple((cost, score) for cost, score, _ in front),
        front_plans=tuple(plan for _, _, plan in front),
        sources={metric: price.model.told_by for metric, price in run.space.prices.items()},
        measured=run.measured,
        terms=_terms(run),
        history={name: [(epoch.loss, epoch.score) for epoch in run.row(name).history] for name in after},
        undone={name: scores for name in after if (scores := run.row(name).undone)},
    )
    made.save(run.folder / "report.json")
    write(made, run.folder)
    return made


def _row(run: Run, name: str, before: nn.Module, after: nn.Module | None, latencies: dict[str, float]) -> Row:
    dense = name == "dense"
    file = run.folder / "dense.safetensors" if dense else run.row(name).network
    return Row(
        name=name,
        plan={} if dense else _kept(run, run.plan(name)),
        score=score_of(accuracy(*run.materials.reward), before),
        before=run.test(before),
        after=None if after is None else run.test(after),
        costs=count_costs(before, run.materials.example).also(_told(run, name)),
        file_bytes=file.stat().st_size,
        latency_ms=latencies[name],
    )


def _kept(run: Run, plan: Plan) -> dict[str, float]:
    """What a plan keeps at each site, of the dense network."""
    whole = {site.key: site.width for site in run.whole.sites}
    counts = run.space.counts(plan)
    return {site.key: counts[site.key] / whole.get(site.key, site.width) for site in run.space.sites}


def _told(run: Run, name: str) -> dict[str, float]:
    """Latency and energy of a row, as far as something tells them."""
    costs = run.whole.dense if name == "dense" else run.space.costs(run.space.counts(run.plan(name)))
    return {metric: costs[metric] for metric in run.space.prices}


def _layers(run: Run) -> tuple[tuple[str, int, int], ...]:
    """Each layer with its MACs in the dense network, and those that the run's plan leaves."""
    counts = run.space.counts(run.plan())
    whole = {layer.name: layer.macs for layer in run.whole.graph.layers}
    layers = []
    for layer in run.space.graph.layers:
        sizes = layer.inputs.size(counts), layer.outputs.size(counts)
        left = float(kept_weights(layer, *sizes, layer.densities(counts)))
        layers.append((layer.name, whole[layer.name], round(layer.positions * left)))
    return tuple(layers)


def _blocks(run: Run) -> dict[str, float]:
    """Of each layer of the run's pruned network, the share of its weights in whole blocks of zeros."""
    found = {name: kind.skipped(mask.flatten(1)) / mask.numel() for name, _, mask, kind in masked_layers(run.pruned())}
    return {name: gone for name, gone in found.items() if gone}


def _left_alone(run: Run) -> tuple[tuple[str, str], ...]:
    """Groups that no plan cuts, with the reason."""
    alone = ((group.key, run.space.settings.left_alone(group)) for group in run.space.graph.groups)
    return tuple((key, reason) for key, reason in alone if reason)


def _front(run: Run) -> list[tuple[float, float, dict[str, float]]]:
    """Cost, score and what is kept, of each plan of the front of a range of budgets."""
    if not run.job.budget.is_range:
        return []
    metric, dense = run.job.budget.metric, run.space.dense
    found = [(trial.plan, trial.outcome) for trial in run.study().front if trial.outcome]
    return [(outcome.costs[metric] / dense[metric], outcome.score, _kept(run, plan)) for plan, outcome in found]


def _terms(run: Run) -> tuple[dict[str, float], ...]:
    terms = tuple(trial.outcome.terms if trial.outcome else {} for trial in run.study().trials)
    return terms if any(terms) else ()


def _rewards(run: Run, name: str) -> list[float | None]:
    return [trial.outcome.reward if trial.outcome else None for trial in run.study(name).trials]

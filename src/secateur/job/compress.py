"""One run: search -> prune -> fine-tune -> save, in one folder. Every step is kept, and taken up again.

A budget too far for one step is reached in stages, each a run of its own that begins where the one before has ended.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from secateur.api import inspect, measure, meet, search
from secateur.data import TrainBatches
from secateur.errors import JobError
from secateur.finish import load, save
from secateur.graph import ModelGraph, private_copy
from secateur.job.claim import SEARCHED, STAGE, claim, write_down
from secateur.job.materials import Materials, check_training, materials, refuse_random
from secateur.job.row_folder import RowFolder, recipe
from secateur.job.stages import before_the_last, stages
from secateur.job.words import SEARCHERS, Job, ReportJob
from secateur.plan import Budget, Plan, Trial
from secateur.prune import Cutter
from secateur.report import FineTuneProgress, SearchProgress
from secateur.run import Study, accuracy, agreement, as_json, locked, score_of, write_atomically
from secateur.runtimes import Measured, export
from secateur.search import RULES, AccuracyGuaranteed, SearchSpace, apply_rule

COMPARED = 16
"""Test images on which an exported file is compared with PyTorch."""
DELIVERED, MADE = "small.safetensors", "small.json"
"""The network that a run is for, at the top of its folder, and how it was made."""
AT = "at_"
"""What the name of a row begins with that is the network at a point of a range of budgets."""


class Run:
    """A job and its folder. Each method does its step, or finds it done."""

    def __init__(self, job: Job, command: str, label: str = SEARCHED) -> None:
        self.job = job
        self.command = command
        self.label = label
        self.folder = claim(job)
        self._studies: dict[str, Study] = {}
        if job.threads is not None:
            torch.set_num_threads(job.threads)

    @cached_property
    def materials(self) -> Materials:
        """The network and the data."""
        found = materials(self.job)
        refuse_random(self.job, found)
        write_down(self.job)  # it makes sense, and may be taken up from here
        return found

    @cached_property
    def graph(self) -> ModelGraph:
        """What the dense network is."""
        return inspect(self.materials.model, self.materials.example)

    @cached_property
    def whole(self) -> SearchSpace:
        """What could be cut of the dense network, whose costs budgets are fractions of."""
        whole = Budget.of(self.job.budget.metric, 1.0)
        return SearchSpace(self.graph, whole, self.job.space, self.job.settings.prices)

    @cached_property
    def before(self) -> Run | None:
        """The run of the stage before: a network that has lost too much at once teaches the search nothing.

        None where one step will do, or was taken already.
        """
        job, folder = self.job, self.folder / STAGE
        if self._begun and not folder.exists():
            return None
        number = stages(job, self.whole)
        if number == 1 and self._begun:
            raise JobError(f"{self.folder} was reached in stages, which are fine-tuned: give [finetune] epochs above 0")
        if number == 1:
            return None
        budget = before_the_last(job, self.whole, number)
        stage = dataclasses.replace(job, budget=budget, folder=str(folder), report=ReportJob(()))
        found = Run(stage, self.command, f"stage {number - 1}")
        found.__dict__["materials"] = self.materials  # they are the same, and many
        write_down(stage)
        return found

    @property
    def _begun(self) -> bool:
        return (self.folder / SEARCHED / "study.json").exists()

    @cached_property
    def start(self) -> nn.Module:
        """What is searched: the dense network, or what the stage before has left of it, for good once that is used."""
        if self.before is None:
            return self.materials.model
        left = self.before.folder / DELIVERED
        return load(left, self.materials.fresh()).eval() if self._begun else self.before.small()

    @cached_property
    def test(self) -> Callable[[nn.Module], float]:
        """Top-1 on the test images: for the table only, never for a decision."""
        return partial(score_of, accuracy(*self.materials.test))

    @cached_property
    def score(self) -> Callable[[nn.Module], float]:
        """What the search scores plans by."""
        images, labels = self.materials.reward
        if self.job.score == "accuracy":
            return accuracy(images, labels)
        tune = self.job.finetune
        flip = self.materials.dataset.in_channels == 3 if tune.flip is None else tune.flip
        # A network may know its training images by heart; shifted and mirrored, they tell plans apart better.
        shifted, _ = next(iter(TrainBatches(images, labels, len(images), self.job.data.seed, tune.crop_pad, flip)))
        return agreement(self.materials.model, shifted)

    @cached_property
    def space(self) -> SearchSpace:
        """What the search may choose."""
        budget, graph = self.job.budget, self.graph
        if self.before is not None:
            graph = inspect(self.start, self.materials.example)
            budget = Budget.of(budget.metric, budget.limit(self.whole.dense), absolute=True)
        return SearchSpace(graph, budget, self.job.space, self.job.settings.prices)

    def study(self, name: str = SEARCHED) -> Study:
        """The search of the job's searcher, or of a rival, from the start or from where it stopped."""
        if name not in self._studies:
            self._studies[name] = self._search(name)
        return self._studies[name]

    def _search(self, name: str) -> Study:
        if name == SEARCHED:
            self._try_what_follows()
        progress = SearchProgress(self.job.trials, self._called(name), self.job.score)
        progress.begin()
        strategy = self.job.searcher if name == SEARCHED else SEARCHERS[name](seed=self.job.searcher.seed)
        budget, settings = self.space.budget, self.job.settings
        # What one budget comes to was measured once, for all.
        if settings.measured and name != SEARCHED and not budget.is_range:
            budget = Budget.of(budget.metric, self.study().space.limit, absolute=True)
            settings = dataclasses.replace(settings, measured=False)
        with progress:
            return search(
                self.start,
                self.materials.example,
                evaluate=self.score,
                calibration=[self.materials.calibration],
                budget=budget,
                searcher=strategy,
                trials=self.job.trials,
                folder=self.folder / name,
                settings=settings,
                on_trial=progress,
            )

    def _try_what_follows(self) -> None:
        """Refuse, before the search, what would be refused after it: rivals and features that cannot be had."""
        for name in self.job.report.rivals:
            SEARCHERS[name](seed=self.job.searcher.seed).start(self.space)
        if self.job.finetune.features:
            graph, sites = self.space.graph, self.space.sites
            halves = {site.key: np.arange(site.width)[::2] for site in sites if site.key in graph.group}
            half = Cutter(private_copy(self.start), graph).cut(halves)
            check_training(half, self.materials.model, self.job.finetune, *self.materials.reward)

    def _called(self, name: str) -> str:
        return self.label if name == SEARCHED else name

    def chosen(self, name: str = SEARCHED) -> Trial:
        """The trial that is delivered: the best, or where the reward asks for it the smallest without loss."""
        reward, study = self.job.settings.reward, self.study(name)
        return study.smallest(reward.tolerance, reward.metric) if isinstance(reward, AccuracyGuaranteed) else study.best

    def plan(self, name: str = SEARCHED) -> Plan:
        """The plan of the trial that is delivered, a rule's only one, or the one at a point of a range."""
        if name in RULES:
            return apply_rule(self.study().space if self.job.measured else self.space, RULES[name])
        if name.startswith(AT):
            return self.study().plan(self._budget_at(name))
        best = self.chosen(name)
        return self._met(best.plan) if name == SEARCHED and self.job.measured else best.plan

    def _met(self, best: Plan) -> Plan:
        """The plan that meets the budget when it is measured, the best or another, kept in met.json."""
        place = self.row().home / "met.json"
        if place.exists() and (known := json.loads(place.read_text()))["best"] == best.digest:
            return Plan.from_json(known["plan"])
        met = meet(self.study(), self.start, self.materials.example, plan=best)
        known = {"best": best.digest, "plan": met.plan.to_json(), "measured": met.measured, "tries": met.tries}
        write_atomically(place, as_json(known))
        return met.plan

    @property
    def measured(self) -> float | None:
        """What a budget that has to be met by measurement came to, of the dense network."""
        self.plan()
        place = self.row().home / "met.json"
        return float(json.loads(place.read_text())["measured"]) if self.job.measured else None

    def at(self, value: float) -> str:
        """The row of any budget of the range that was searched. Raises BudgetError outside of it."""
        name = f"{AT}{value:.12g}"
        self.space.point(self._budget_at(name))
        return name

    def _budget_at(self, name: str) -> Budget:
        budget = self.job.budget
        return Budget.of(budget.metric, float(name.removeprefix(AT)), budget.absolute)

    def row(self, name: str = SEARCHED) -> RowFolder:
        """Where a row keeps what it has come to."""
        return RowFolder(self.folder / name, self.materials)

    def place(self, name: str = SEARCHED) -> Path:
        """Where a row's fine-tuned network lies."""
        return (self.folder if name == SEARCHED else self.row(name).home) / DELIVERED

    def write_plan(self) -> Path:
        """Keep the best plan as JSON beside the search."""
        place = self.row().home / "best_plan.json"
        write_atomically(place, as_json(self.plan().to_json()))
        return place

    def pruned(self, name: str = SEARCHED) -> nn.Module:
        """The network pruned by a row's plan, kept in its folder."""
        plan, row = self.plan(name), self.row(name)
        found = row.pruned(plan)
        if found is None:
            self._forget_training(name)
            found = self.study().prune(plan)  # of the job's own search: every row is cut and refitted by the same
            row.keep(found, plan)
        return found.eval()

    def small(self, name: str = SEARCHED) -> nn.Module:
        """The network fine-tuned, or as it was pruned where that scores better; kept in a row's folder, the run's own
        also at the top of the run's."""
        small, row, settings = self.pruned(name), self.row(name), self.job.finetune
        with locked(row.home):
            if row.trained_otherwise(settings):
                self._forget_training(name)
            row.train(small, settings, FineTuneProgress(settings.epochs, f"fine-tuning {self._called(name)}"))
            if settings.epochs:
                small = row.better(small, self.pruned(name), self.score)
        if name == SEARCHED:
            save(small, self.folder / DELIVERED)
            write_atomically(self.folder / MADE, self._made)  # last: it says how the network beside it was made
        return small

    def _forget_training(self, name: str) -> None:
        """A row is to be trained afresh; what was delivered stays until its successor is there, under another name."""
        self.row(name).forget_training()
        delivered = self.folder / DELIVERED
        if name == SEARCHED and delivered.exists():
            (self.folder / MADE).unlink(missing_ok=True)
            delivered.replace(self.folder / "previous.safetensors")

    def delivered(self, name: str = SEARCHED) -> nn.Module:
        """The fine-tuned network of a row, or the pruned one where no epochs were asked for or they made it worse.

        Where the run's own was made already, as the job asks for it now, nothing is searched or proven again.
        """
        network, note = self.folder / DELIVERED, self.folder / MADE
        if name == SEARCHED and network.exists() and note.exists() and note.read_bytes() == self._made:
            return load(network, self.materials.fresh()).eval()
        return self.small(name) if self.job.finetune.epochs else self.pruned(name)

    @property
    def _made(self) -> bytes:
        """How the delivered network is made, as far as the job of a run may change."""
        job = self.job
        made = {"trials": job.trials, "seconds": job.seconds, "finetune": recipe(job.finetune)}
        return as_json(made)

    @property
    def compared(self) -> int:
        """Test images on which an exported file is compared with PyTorch."""
        return min(COMPARED, len(self.materials.test[0]))

    def export(self, network: nn.Module, runtime: str, place: Path) -> float:
        """Write a network for a runtime; the largest difference of an answer."""
        return export(network, (self.materials.test[0][: self.compared],), place, runtime)

    def measure(
        self, network: nn.Module, runtimes: list[str] | None, threads: int, meter: str | None = None
    ) -> list[Measured]:
        """The dense network and another side by side on every runtime."""
        networks = {"dense": self.materials.model, "pruned": network}
        return measure(networks, self.materials.example, runtime=runtimes, threads=threads, meter=meter)

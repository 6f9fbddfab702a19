"""The paper's CIFAR-10 experiments: half the MACs by rules, by random search and by ours, before and after fine-tuning.

Every row is fine-tuned alike for as many epochs, with the dense network (of Plain-20, its teacher) as teacher, on the
training images that score no plans; the test images are looked at after every epoch, for the table alone, and last and
best epoch both stand in it. `amc_long` is the first plan of `amc`, fine-tuned for long on all training images, and only
where `--row` names it: ResNets as networks are trained from the start, for a GPU; Plain-20 by its lessons, two hours of
a core. `l1` is the peers' usual baseline: uniform widths, the largest filters, no refit. Searches score 5,000 training
images by agreement and race. Everything lies in benchmarks/runs/paper_cifar and resumes at the epoch where it stopped;
rows that are done, here or in the committed result, are shown, so the table can be made bit by bit
(`--network resnet56 --row amc --row uniform`), and `--before` leaves the hour of fine-tuning for later.
Plain-20 has no public weights: it is trained first, by the same command, and kept beside the results, so that rows
made later are of the same network. `--quick` (minutes) only shows that it works.
"""

from __future__ import annotations

import argparse
import json
import platform
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import record
import shared_assets
import torch
from torch import nn

import secateur as sc
from secateur import zoo
from secateur.data import TrainBatches, split
from secateur.graph import count_costs
from secateur.run import Journal, write_atomically
from secateur.run.score import doublings

BUDGET = sc.Budget(macs=0.5)
NETWORKS = ("resnet56", "resnet20", "plain20")
RULES: dict[str, Any] = {"uniform": sc.Uniform(), "shallow": sc.Shallow(), "deep": sc.Deep(), "l1": sc.Uniform()}
ROWS = (*RULES, "random", "amc")
SEEDED = ("random", "amc")
LONG = "amc_long"
SPENT = ("search_seconds", "search_images")
LARGEST_FILTERS = sc.PruneSettings("magnitude", refit=False, sequential=False, recalibrate=False)
TRAINING = sc.FineTune(epochs=40, lr=0.1, warmup_epochs=2, distil=0, weight_decay=5e-4)
LESSONS = sc.FineTune(epochs=30, lr=0.05, warmup_epochs=1, distil=0.7, temperature=4, weight_decay=5e-4)
"""Of Plain-20: from random weights, then with ResNet-20 as teacher; two hours of a core in all."""
TUNINGS = {"plain20": {"epochs": 30, "lr": 0.05}}
"""Fine-tuning that is not as the other networks': Plain-20's pruned networks get the lessons that it had itself."""
LONG_TRAINING = sc.FineTune(epochs=120, lr=0.1, warmup_epochs=2, distil=0.5, temperature=4, weight_decay=5e-4)
LONG_EPOCHS = {"plain20": 75}
"""Of networks whose long training is no training from the start, but that of their other rows for longer."""


@dataclass(frozen=True)
class Setting:
    """How much of it."""

    epochs: int = 15
    trials: int = 300
    reward: int = 5000
    calibration: int = 1500
    report: int | None = None
    train: int | None = None
    runs: Path = record.HERE / "runs" / "paper_cifar"
    plain20: Path = record.HERE / "results" / "plain20.safetensors"

    def tuning(self, network: str) -> sc.FineTune:
        """The same for all rows of a network."""
        return replace(sc.FineTune(epochs=self.epochs, lr=0.02, distil=0.9), **TUNINGS.get(network, {}))

    def long_tuning(self, network: str) -> sc.FineTune:
        """Of the row that is trained for long."""
        longer = LONG_EPOCHS.get(network)
        return LONG_TRAINING if longer is None else replace(self.tuning(network), epochs=longer)


BRIEF = record.HERE / "runs" / "paper_cifar_quick"
QUICK = Setting(1, 6, 200, 200, 500, 1000, BRIEF, BRIEF / "plain20.safetensors")


def main() -> None:
    """Do what is missing, print the table, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small form of some minutes; writes no result")
    parser.add_argument("--network", choices=NETWORKS, action="append", help="only this one (may be repeated)")
    parser.add_argument("--row", choices=(*ROWS, LONG), action="append", help="only this one (may be repeated)")
    parser.add_argument("--seeds", type=int, default=3, help="of the searches and of uniform's fine-tuning")
    parser.add_argument("--seed", type=int, action="append", help="only this one (may be repeated)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to train")
    parser.add_argument("--before", action="store_true", help="leave fine-tuning for later: minutes a row")
    options = parser.parse_args()
    if options.quick and LONG in (options.row or ()):
        parser.error(f"{LONG} has no small form: leave --quick out")
    torch.set_num_threads(1)
    setting = QUICK if options.quick else Setting()
    if not options.quick:
        restore(setting.runs)
    for name in ["resnet20"] if options.quick else options.network or NETWORKS:
        bench = Bench(name, setting, options.device)
        for row in options.row or (("l1", "amc") if options.quick else ROWS):
            several = row in (*SEEDED, "uniform") and not options.quick
            for seed in options.seed or range(options.seeds if several else 1):
                bench.row(row, seed, not options.before)
    places = sorted(setting.runs.glob("*/row.json"))
    found = [spent(place.parent / "search", setting.reward) | json.loads(place.read_text()) for place in places]
    shown = ("network", "row", "seed", "MACs, %", "score", "before", "last", "best", "epochs", "dense", "minutes")
    record.show(f"CIFAR-10, {BUDGET}, test top-1", [{key: row.get(key, "") for key in shown} for row in found])
    if not options.quick:
        place = record.write("paper_cifar", figures(found), found)
        print(f"written to {place.relative_to(record.HERE.parent)}, with what each row keeps as .svg")
        for network in {row["network"] for row in found if row["row"] != "l1"}:
            draw(network, found)


def restore(runs: Path) -> None:
    """Put the rows of the committed result where those lie that were done here."""
    for row in record.known("paper_cifar"):
        place = runs / f"{row['network']}_{row['row']}_{row['seed']}" / "row.json"
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(json.dumps(row))


def spent(search: Path, images: int) -> dict[str, float]:
    """What a search took: seconds of its trials, each on one core, and the images that they looked at."""
    outcomes = [trial.outcome for trial in Journal(search / "journal.jsonl").read() if trial.outcome]
    marks = doublings(images)
    looked = sum(marks[len(outcome.stages) - 1] for outcome in outcomes)
    return dict(zip(SPENT, (sum(outcome.seconds for outcome in outcomes), float(looked)), strict=True))


def figures(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Means over seeds, by network and row."""
    found = {}
    for network, row in dict.fromkeys((each["network"], each["row"]) for each in rows):
        mine = [each for each in rows if (each["network"], each["row"]) == (network, row)]
        for when in ("score", "before", "last", "best", "epochs", "minutes", *SPENT):
            if known := [each[when] for each in mine if when in each]:
                alike = when == "epochs" and row != LONG
                found[f"{network}_epochs" if alike else f"{network}_{row}_{when}"] = float(np.mean(known))
                found[f"{network}_{row}_{when}_seeds"] = float(len(known))
        found[f"{network}_dense"] = mine[0]["dense"]
        worst = max(each["MACs, %"] for each in rows if each["network"] == network)
        found[f"{network}_macs_fraction"] = worst / 100
    return found


def draw(network: str, rows: list[dict[str, Any]]) -> None:
    """A picture of the first plan of each row; what is delivered comes last."""
    again = ("l1", LONG)  # of the plans of uniform and amc
    first = [row for row in rows if row["network"] == network and not row["seed"] and row["row"] not in again]
    first.sort(key=lambda row: row["row"] == "amc")
    record.draw(f"paper_cifar_{network}", f"{network} on CIFAR-10", {row["row"]: row["plan"] for row in first})


class Bench:
    """A network and its images; each row is done once."""

    def __init__(self, name: str, setting: Setting, device: str = "cpu") -> None:
        self.name, self.setting, self.device = name, setting, device
        self.dataset = shared_assets.cifar10()
        self.parts = split(self.dataset, setting.reward, setting.calibration, seed=0)
        images, answers = shared_assets.test_images(self.dataset)
        shown = images[: setting.report].to(device), answers[: setting.report]
        self.test = sc.accuracy(*shown, batch=100 if device == "cpu" else 1000)
        self.reward, _, self.calibration, _ = (
            *shared_assets.training_images(self.dataset, self.parts.reward),
            *shared_assets.training_images(self.dataset, self.parts.calibration),
        )

    def train(self, network: nn.Module, settings: sc.FineTune, images: np.ndarray, **more: Any) -> list[sc.Epoch]:
        """Train it on these images, where networks are trained here; it ends on the CPU."""
        batches = TrainBatches(*shared_assets.training_images(self.dataset, images), 128, settings.seed)
        settings = replace(settings, replay=self.device == "cuda")
        history = sc.finetune(network.to(self.device), batches.to(self.device), settings=settings, **more)
        network.cpu()
        return history

    @cached_property
    def network(self) -> nn.Module:
        """The dense network."""
        if self.name != "plain20":
            return shared_assets.resnet(int(self.name.removeprefix("resnet")))
        torch.manual_seed(0)
        plain, place = zoo.build("plain20", 10), self.setting.plain20
        if not place.exists():
            self.teach(plain)
            sc.save(plain, place)
        return sc.load(place, plain).eval()

    @cached_property
    def teacher(self) -> nn.Module:
        """The dense network; of Plain-20, its own teacher."""
        return shared_assets.resnet(20) if self.name == "plain20" else self.network

    def teach(self, plain: nn.Module) -> None:
        """Train Plain-20, which has no public weights."""
        images, runs = self.parts.train[: self.setting.train], self.setting.runs
        runs.mkdir(parents=True, exist_ok=True)
        self.train(plain, TRAINING, images, checkpoint=runs / "plain20.pt", on_epoch=print)
        more = {"teacher": self.teacher, "checkpoint": runs / "plain20_taught.pt", "on_epoch": print}
        self.train(plain, LESSONS, images, **more)

    def row(self, name: str, seed: int, tune: bool) -> None:
        """Plan, prune, look; then fine-tune, and look after every epoch."""
        home = self.setting.runs / f"{self.name}_{name}_{seed}"
        home.mkdir(parents=True, exist_ok=True)
        place = home / "row.json"
        if not place.exists():
            planned = self.replanned(seed) if name == LONG else self.planned(name, seed, home)
            write_atomically(place, json.dumps(planned).encode())
        found = json.loads(place.read_text())
        if tune and "last" not in found:
            tuned = self.tuned(name, seed, home, sc.Plan.from_json(found["plan"]))
            write_atomically(place, json.dumps(found | tuned).encode())

    def planned(self, name: str, seed: int, home: Path) -> dict[str, Any]:
        """What is known of a row before fine-tuning."""
        study = self.searched(name, seed, home)
        small = self.pruned(name, study.best.plan)
        return {
            "network": self.name,
            "row": name,
            "seed": seed,
            "dense": 100 * self.test(self.network),
            "before": 100 * self.test(small),
            "MACs, %": 100 * count_costs(small, self.reward[:1]).macs / count_costs(self.network, self.reward[:1]).macs,
            "score": study.best.outcome.score,
            "trials": len(study.trials),
            "plan": study.best.plan.to_json(),
        }

    def replanned(self, seed: int) -> dict[str, Any]:
        """What is known of the row whose plan is trained for long."""
        self.row("amc", seed, tune=False)
        known = json.loads((self.setting.runs / f"{self.name}_amc_{seed}" / "row.json").read_text())
        same = ("network", "seed", "dense", "before", "MACs, %", "score", "trials", "plan")
        return {**{key: known[key] for key in same}, "row": LONG}

    def tuned(self, name: str, seed: int, home: Path, plan: sc.Plan) -> dict[str, Any]:
        """And after it."""
        everything, known = np.arange(len(self.dataset.train_images)), self.parts.train[: self.setting.train]
        tuning = self.setting.long_tuning(self.name) if name == LONG else self.setting.tuning(self.name)
        history = self.train(
            self.pruned(name, plan),
            replace(tuning, seed=seed),
            everything if name == LONG else known,
            teacher=self.teacher,
            evaluate=self.test,
            checkpoint=home / "tuning.pt",
            on_epoch=lambda epoch: print(f"{home.name} {epoch}", flush=True),
        )
        scores = [100 * (epoch.score or 0.0) for epoch in history]
        return {
            "trained on": torch.cuda.get_device_name() if self.device == "cuda" else platform.machine(),
            "last": scores[-1],
            "best": max(scores),
            "epochs": len(history),
            "minutes": sum(epoch.seconds for epoch in history) / 60,
            "after each epoch": scores,
        }

    def pruned(self, name: str, plan: sc.Plan) -> nn.Module:
        """The network pruned for good, as the row's rule says."""
        settings = LARGEST_FILTERS if name == "l1" else None
        return sc.prune(self.network, self.reward[:1], plan, calibration=[self.calibration], settings=settings)

    def searched(self, name: str, seed: int, home: Path) -> sc.Study:
        """The search of a row; a rule's has one trial."""
        searcher = RULES.get(name) or (sc.Random(seed) if name == "random" else sc.Bayesian(seed))
        shifted, _ = next(iter(TrainBatches(self.reward, torch.zeros(len(self.reward)), len(self.reward), seed=0)))
        return sc.search(
            self.network,
            self.reward[:1],
            evaluate=sc.agreement(self.network, shifted),
            calibration=[self.calibration],
            budget=BUDGET,
            searcher=searcher,
            trials=1 if name in RULES else self.setting.trials,
            folder=home / "search",
            settings=sc.SearchSettings(race=True),
            on_trial=lambda study, trial: print(f"\r{home.name} trial {trial.number + 1}", end="", flush=True),
        )


if __name__ == "__main__":
    main()

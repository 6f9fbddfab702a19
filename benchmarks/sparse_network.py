"""Blocks against channels, end to end: an MLP-Mixer with large layers, searched under half its latency in PyTorch.

The mixer is trained on scikit-learn's digits (16 patches of 2 x 2, 512 wide), a latency table of its layers is made on
this machine, thinned out by blocks and cut by channels; then two searches under the same budget, one by channels and
one that may choose blocks too; what each finds is pruned, held to the budget by measurement, fine-tuned and timed in
one run. Takes ten minutes; `--quick` (a minute) only shows that it still works.
"""

from __future__ import annotations

import argparse
import json
from functools import cached_property
from typing import Any

import record
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.commands.profiling import How, make_table
from secateur.data import TrainBatches, load_dataset, split
from secateur.graph import count_costs
from secateur.search import SearchSpace

BLOCK = "16x16"
BUDGET, QUICK_BUDGET = sc.Budget(latency_ms=0.5), sc.Budget(latency_ms=0.9)
SPACES = {
    "channels": sc.SpaceSettings(step=16),
    "blocks": sc.SpaceSettings(step=16, leave=("*",), sparsity={"mixers.*": BLOCK}),
    "both": sc.SpaceSettings(step=16, sparsity={"mixers.*": BLOCK}),
}


class Block(nn.Module):
    """Tolstikhin et al., 2021: an MLP over the patches, then one over the channels."""

    def __init__(self, patches: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.between = nn.Sequential(nn.Linear(patches, 64), nn.GELU(), nn.Linear(64, patches))
        self.within = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """x [N, patches, width]."""
        x = x + self.between(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        mixed: Tensor = x + self.within(self.norm2(x))
        return mixed


class Mixer(nn.Module):
    """For images [N, 1, 8, 8]."""

    def __init__(self, width: int = 512, depth: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, 2)
        self.mixers = nn.Sequential(*(Block(16, width) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, 10]."""
        x = self.mixers(self.patches(x).flatten(2).transpose(1, 2))
        logits: Tensor = self.head(self.norm(x).mean(1))
        return logits


def main() -> None:
    """Do all that is missing, print the table, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small form of about a minute; writes no result")
    experiment = Experiment(parser.parse_args().quick)
    torch.set_num_threads(1)
    rows = experiment.rows()
    record.show(f"MLP-Mixer on digits, {BUDGET} in PyTorch, one thread, one example", rows)
    if not experiment.quick:
        place = record.write("sparse_network", figures_of({x["plan"]: x for x in rows}), rows)
        print(f"written to {place.relative_to(record.HERE.parent)}")


def figures_of(rows: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Of the space that may choose both, and of each choice alone where it meets the budget."""
    names = {"both": "", "channels": "channel_only_", "blocks": "block_only_"}
    figures = {"block_sparsity": rows["both"]["BSF, %"]}
    for name, prefix in names.items():
        if name in rows:
            figures[f"{prefix}speedup"] = rows[name]["speed-up"]
            figures[f"{prefix}accuracy_change"] = rows[name]["top-1"] - rows["dense"]["top-1"]
    return figures


class Experiment:
    """The mixer, its data, and what three searches make of it."""

    def __init__(self, quick: bool) -> None:
        self.quick = quick
        self.runs = record.HERE / "runs" / ("sparse_network_quick" if quick else "sparse_network")
        self.runs.mkdir(parents=True, exist_ok=True)
        data = load_dataset("digits")
        parts = split(data, 300, 300, seed=0)
        images, labels = data.tensors(data.train_images), torch.from_numpy(data.train_labels)
        self.reward, self.calibration = images[parts.reward], images[parts.calibration]
        self.train = TrainBatches(images, labels, 64, seed=0, crop_pad=1, flip=False)
        self.test = sc.accuracy(data.tensors(data.test_images), torch.from_numpy(data.test_labels))

    def fresh(self) -> nn.Module:
        """Untrained."""
        torch.manual_seed(0)
        return Mixer(128, 2) if self.quick else Mixer()

    @cached_property
    def dense(self) -> nn.Module:
        """Trained, from its file if it is there."""
        place = self.runs / "dense.safetensors"
        if not place.exists():
            network = self.fresh()
            sc.finetune(network, self.train, settings=sc.FineTune(epochs=2 if self.quick else 40, lr=0.02))
            sc.save(network, place)
        return sc.load(place, self.fresh()).eval()

    @cached_property
    def table(self) -> str:
        """The latency table of its layers in PyTorch."""
        place = self.runs / "table.json"
        if not place.exists():
            graph = sc.inspect(self.dense, self.reward[:1])
            space = SearchSpace(graph, sc.Budget(macs=1.0), SPACES["both"])
            place.write_text(json.dumps(make_table(self.dense, self.reward[:1], space, How("torch"))))
        return str(place)

    def study(self, name: str) -> sc.Study:
        """A search in a folder of its own."""
        return sc.search(
            self.dense,
            self.reward[:1],
            evaluate=sc.agreement(self.dense, self.reward),
            calibration=self.calibration,
            budget=QUICK_BUDGET if self.quick else BUDGET,
            trials=6 if self.quick else 60,
            folder=self.runs / name,
            settings=sc.SearchSettings(SPACES[name], race=True, latency=self.table),
            on_trial=lambda study, trial: print(f"\r{name}: {len(study.trials)}", end="", flush=True),
        )

    def rows(self) -> list[dict[str, Any]]:
        """The dense network, and what each space leads to."""
        top1 = 100 * self.test(self.dense)
        networks: dict[str, nn.Module] = {"dense": self.dense}
        rows = [row("dense", (top1, top1), sc.Costs(1, 1, 1), sc.Costs(1, 1, 1), 1.0)]
        for name in SPACES:
            try:
                study = self.study(name)
                met = sc.meet(study, self.dense, self.reward[:1])
            except sc.BudgetError as error:
                print(f"{name}: {error}")
                continue
            small = sc.prune(self.dense, self.reward[:1], met.plan, calibration=self.calibration)
            before = 100 * self.test(small)
            tuning = sc.FineTune(epochs=1 if self.quick else 15, lr=0.005)
            sc.finetune(small, self.train, teacher=self.dense, settings=tuning)
            networks[name] = small
            costs, dense = count_costs(small, self.reward[:1]), study.space.dense
            predicted = dense["latency_ms"] / study.space.costs(study.space.counts(met.plan))["latency_ms"]
            rows.append(row(name, (before, 100 * self.test(small)), costs, dense, predicted))
        timed = {each.network: each.latency_ms for each in sc.measure(networks, self.reward[:1], runtime=["torch"])}
        return [{**x, "ms": timed[x["plan"]], "speed-up": timed["dense"] / timed[x["plan"]]} for x in rows]


def row(plan: str, top1: tuple[float, float], costs: sc.Costs, dense: sc.Costs, predicted: float) -> dict[str, Any]:
    """What is known of a plan before it is timed; top-1 before and after fine-tuning."""
    return {
        "plan": plan,
        "before": top1[0],
        "top-1": top1[1],
        "MACs, %": 100 * costs.macs / dense.macs,
        "BSF, %": 100 * costs.block_sparsity,
        "predicted": predicted,
    }


if __name__ == "__main__":
    main()

"""Fine-grained pruning of ResNet-56 on CIFAR-10, accuracy-guaranteed: how few parameters lose nothing?

The reward is the paper's `-Error * log(#Param)`: the default searcher chooses the density of every layer, plans are
scored by agreement on augmented training images, and the smallest network that loses little of it is delivered; then it
is fine-tuned with the dense network as teacher. The test images are looked at before and after.
Interrupted, it resumes. Takes two and a half hours on one core; `--quick` (a minute, ResNet-20) only shows that it
still works.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import record
import shared_assets
import torch
from torch import nn

import secateur as sc
from secateur.data import TrainBatches, split
from secateur.graph import count_costs
from secateur.sparse import masked_layers

RANGE = sc.Budget(params=(0.1, 0.3))
SPACE = sc.SpaceSettings(sparsity={"*": "element"}, leave=("*",), min_keep=0.03)

TUNING = sc.FineTune(epochs=40, lr=0.05, distil=0.9, precision="bfloat16")


@dataclass(frozen=True)
class Setting:
    """How much of it."""

    depth: int = 56
    trials: int = 100
    reward: int = 1000
    train: int | None = None
    tolerance: float = 0.015
    """Of agreement: what the reward counts as no loss."""
    made_up: float = 0.025
    """Of agreement: what fine-tuning is trusted to make up for."""
    tuning: sc.FineTune = field(default_factory=lambda: TUNING)
    runs: Path = record.HERE / "runs" / "fine_grained"


QUICK = Setting(20, 6, 100, 500, 0.2, 0.3, sc.FineTune(epochs=1), record.HERE / "runs" / "fine_grained_quick")


def main() -> None:
    """Search, prune, fine-tune, print the table, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small form of about a minute; writes no result")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    setting = QUICK if quick else Setting()
    setting.runs.mkdir(parents=True, exist_ok=True)
    row, plan = found(setting)
    record.show(f"ResNet-{setting.depth}, CIFAR-10, single weights, no loss", [row])
    if not quick:
        names = (
            "params_removed",
            "test_top1",
            "before_fine_tuning_test_top1",
            "dense_test_top1",
            "file_fraction",
            "epochs",
        )
        place = record.write("fine_grained", {name: row[name] for name in names}, [row | {"plan": plan}])
        record.draw("fine_grained", "ResNet-56 on CIFAR-10", {"searched": plan})
        print(f"written to {place.relative_to(record.HERE.parent)}, with the density of every layer as .svg")


def found(setting: Setting) -> tuple[dict[str, Any], dict[str, float]]:
    """The row, and the density of every layer."""
    dataset, network = shared_assets.cifar10(), shared_assets.resnet(setting.depth)
    parts = split(dataset, setting.reward, 1500, seed=0)
    images, labels = shared_assets.training_images(dataset, parts.reward)
    shifted, _ = next(iter(TrainBatches(images, labels, len(images), seed=0)))
    calibration = shared_assets.training_images(dataset, parts.calibration)[0]
    reward = sc.AccuracyGuaranteed("params", setting.tolerance)
    study = sc.search(
        network,
        images[:1],
        evaluate=sc.agreement(network, shifted),
        calibration=calibration,
        budget=RANGE,
        trials=setting.trials,
        folder=setting.runs / "search",
        settings=sc.SearchSettings(SPACE, race=True, reward=reward),
        on_trial=lambda study, trial: print(f"\rtrial {trial.number + 1}", end="", flush=True),
    )
    best = study.smallest(setting.made_up)
    test = sc.accuracy(*shared_assets.test_images(dataset))
    thin = sc.prune(network, images[:1], best.plan, calibration=calibration)
    before = 100 * test(thin)
    chosen = parts.train if setting.train is None else parts.train[: setting.train]
    batches = TrainBatches(*shared_assets.training_images(dataset, chosen), 128, seed=0)
    place = setting.runs / f"tuning_{best.plan.digest}.pt"
    history = sc.finetune(thin, batches, teacher=network, settings=setting.tuning, checkpoint=place, on_epoch=print)
    sc.save(thin, setting.runs / "thin.safetensors")
    sc.save(network, setting.runs / "dense.safetensors")
    sizes = [(setting.runs / f"{name}.safetensors").stat().st_size for name in ("thin", "dense")]
    costs, dense = count_costs(thin, images[:1]), count_costs(network, images[:1])
    row = {
        "params_removed": 100 * (1 - costs.params / dense.params),
        "before_fine_tuning_test_top1": before,
        "test_top1": 100 * test(thin),
        "dense_test_top1": 100 * test(network),
        "macs_left": 100 * costs.macs / dense.macs,
        "file_fraction": sizes[0] / sizes[1],
        "epochs": len(history),
        "agreement": best.outcome.score if best.outcome else None,
        "densest": densities(thin)[-1],
        "sparsest": densities(thin)[0],
    }
    return row, best.plan.to_json()


def densities(network: nn.Module) -> list[float]:
    """The share of weights left in each sparse layer, ascending."""
    return sorted(float(mask.float().mean()) for _, _, mask, _ in masked_layers(network))


if __name__ == "__main__":
    main()

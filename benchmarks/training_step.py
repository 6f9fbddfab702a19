"""What a step of fine-tuning costs: precision, layout, compilation and a teacher, on ResNet-20 at half its MACs.

Each way trains a copy of the same pruned network by `sc.finetune` for two short epochs, of which the second counts; the
ways take turns, on one thread or on the GPU, and a figure is the median over the turns of what a way takes beside the
default. It tells of time alone. `--quick` only shows that it works.
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import replace

import numpy as np
import record
import shared_assets
import torch

import secateur as sc
from secateur.data import TrainBatches
from secateur.search import SearchSpace

ROUNDS, STEPS, BATCH = 3, 15, 128
DEFAULT = sc.FineTune(epochs=2, distil=0.9)
WAYS = {
    "default": DEFAULT,
    "float32": replace(DEFAULT, precision="float32"),
    "float32, channels first": replace(DEFAULT, precision="float32", channels_last=False),
    "bfloat16": replace(DEFAULT, precision="bfloat16"),
    "bfloat16, channels first": replace(DEFAULT, precision="bfloat16", channels_last=False),
    "compiled": replace(DEFAULT, compile=True),
    "without a teacher": replace(DEFAULT, distil=0),
}


def main() -> None:
    """Let the ways take turns, print the table, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one turn of two steps; writes no result")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to train")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rounds, steps = (1, 2) if options.quick else (ROUNDS, STEPS)
    dense = shared_assets.resnet(20).to(options.device)
    dataset = shared_assets.cifar10()
    images, labels = shared_assets.training_images(dataset, np.arange(steps * BATCH))
    small = halved(dense, images)
    batches = TrainBatches(images, labels, BATCH, seed=0).to(options.device)
    ways = WAYS | ({"replayed": replace(DEFAULT, replay=True)} if options.device == "cuda" else {})
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name, settings in ways.items():
            history = sc.finetune(copy.deepcopy(small), batches, teacher=dense, settings=settings)
            seconds[name].append(history[-1].seconds)
        print(f"turn {number + 1} of {rounds}", flush=True)
    beside = np.array(seconds["default"])
    rows = [
        {
            "way": name,
            "device": options.device,
            "ms a step": 1000 * float(np.median(spent)) / steps,
            "beside the default": float(np.median(np.array(spent) / beside)),
        }
        for name, spent in seconds.items()
    ]
    record.show(f"a step of {BATCH} images, ResNet-20 at half its MACs", rows)
    if not options.quick:
        kept = [row for row in record.known("training_step") if row["device"] != options.device]
        figures = {key(row): row["beside the default"] for row in [*kept, *rows]}
        print(f"written to {record.write('training_step', figures, [*kept, *rows]).relative_to(record.HERE.parent)}")


def halved(dense: torch.nn.Module, images: torch.Tensor) -> torch.nn.Module:
    """The same fraction of every layer, as wide as half the MACs allow."""
    images = images[:200].to(next(dense.parameters()).device)
    graph = sc.inspect(dense, images[:1])
    plan = sc.Uniform().start(SearchSpace(graph, sc.Budget(macs=0.5))).ask()
    return sc.prune(dense, images[:1], plan, calibration=[images])


def key(row: dict[str, object]) -> str:
    """A figure's name: cpu_float32_channels_first."""
    return f"{row['device']}_{row['way']}".replace(",", "").replace(" ", "_")


if __name__ == "__main__":
    main()

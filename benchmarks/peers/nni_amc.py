"""NNI 2.10.1's AMCPruner on ResNet-56, half of the MACs asked for. Runs in NNI's own environment, without Secateur.

    python nni_amc.py FOLDER --out OUT [--episodes 400] [--seconds 3600] [--seed 0]

FOLDER is what `export.py` wrote. OUT/episodes.jsonl gets a line after every episode, OUT/result.json what NNI's best
result is worth on the test images. The settings are those of NNI's own example (400 episodes, the first 101 of them
random), its fine-tuning left out. It cannot resume: NNI keeps neither its agent nor its replay memory.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import logging
import os
import random
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

KEEP = 0.5
EXAMPLE_EPISODES, EXAMPLE_WARMUP = 400, 100
MOST_PRUNED = 0.8  # of one layer, as in NNI's example


class Block(nn.Module):
    """Secateur's residual block, every operation a module of its own, as NNI wants it."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.relu2 = nn.ReLU()
        same = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(y + self.shortcut(x))


class ResNet56(nn.Module):
    """He et al.'s ResNet-56 for CIFAR; the two option-A shortcuts are fixed 1 x 1 convolutions."""

    def __init__(self, blocks: int = 9) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.layer1 = nn.Sequential(*(Block(16, 16, 1) for _ in range(blocks)))
        self.layer2 = nn.Sequential(Block(16, 32, 2), *(Block(32, 32, 1) for _ in range(blocks - 1)))
        self.layer3 = nn.Sequential(Block(32, 64, 2), *(Block(64, 64, 1) for _ in range(blocks - 1)))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(self.flatten(self.pool(x)))


class Clock:
    """Seconds since the start, and how many of them went where."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.parts: Counter[str] = Counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.start

    def timing(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function; the time in it counts for `part`."""

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            begun = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.parts[part] += time.perf_counter() - begun

        return timed


class Top1:
    """Top-1 in percent (NNI's example counts so), over images held channels-last in batches that stay in the cache."""

    def __init__(self, folder: Path, name: str) -> None:
        images, self.labels = load(folder, name)
        self.pieces = [piece.contiguous(memory_format=torch.channels_last) for piece in images.split(100)]

    def __call__(self, network: nn.Module) -> float:
        network.eval()
        with torch.no_grad():
            answers = torch.cat([network(piece).argmax(1) for piece in self.pieces])
        return 100 * int((answers == self.labels).sum()) / len(self.labels)


def load(folder: Path, name: str) -> tuple[Tensor, Tensor]:
    """Exported images [N, 3, 32, 32] and labels [N]."""
    images, labels = (np.load(folder / f"{name}_{what}.npy") for what in ("images", "labels"))
    return torch.from_numpy(images), torch.from_numpy(labels)


def macs(network: nn.Module) -> int:
    """MACs of one image, without the shortcut convolutions: they stand for slicing and padding, which cost none."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network.eval()(torch.zeros(1, 3, 32, 32))
    counts = counter.get_flop_counts()
    shortcuts = sum(sum(ops.values()) for name, ops in counts.items() if name.endswith(".shortcut"))
    return (sum(counts["Global"].values()) - shortcuts) // 2


def recalibrate(network: nn.Module, images: Tensor) -> None:
    """Batch-norm statistics averaged over batches of 250 images, as Secateur does it."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
            module.train()
    with torch.no_grad():
        for batch in images.split(250):
            network(batch)
    network.eval()


def amc_pruner(network: nn.Module, top1: Top1, setting: argparse.Namespace, log: str, clock: Clock) -> Any:
    """NNI's pruner as its example makes it, its evaluation and its re-tracing of the model timed."""
    from nni.algorithms.compression.v2.pytorch.pruning import AMCPruner
    from nni.compression.pytorch.speedup import ModelSpeedup

    for method in ("__init__", "speedup_model"):
        setattr(ModelSpeedup, method, clock.timing("retracing", getattr(ModelSpeedup, method)))
    shortcuts = [name for name, _ in network.named_modules() if name.endswith(".0.shortcut") and "layer1" not in name]
    return AMCPruner(
        setting.episodes,
        network,
        [
            {"op_types": ["Conv2d"], "total_sparsity": 1 - KEEP, "max_sparsity_per_layer": MOST_PRUNED},
            {"op_names": shortcuts, "exclude": True},
        ],
        torch.rand(10, 3, 32, 32),
        clock.timing("evaluating", top1),
        log_dir=log,
        ddpg_params={"warmup": setting.warmup},
        target="flops",
    )


def search(pruner: Any, setting: argparse.Namespace, clock: Clock, dense: int) -> tuple[int, str, nn.Module | None]:
    """NNI's `compress` loop, with a line after every episode and a limit in seconds.

    Returns the episodes, why they ended, and the best one's network as it was before the last layer's task: that
    task prunes all layers a second time, so this network, not NNI's result, has the MACs that were asked for.
    """
    lines = setting.out / "episodes.jsonl"
    lines.write_text("")
    episode, best, once, result = 0, -1.0, None, None
    while (task := pruner.generate_task()) is not None:
        before = result and result.compact_model
        try:
            result = pruner.pruning_one_step(task)
            clock.timing("bookkeeping", pruner.record_task_result)(result)
        except Exception as error:  # a peer that breaks down is a result too, once there is something to show
            if episode == 0:
                raise
            return episode, f"{type(error).__name__}: {error}", once
        gc.collect()
        if result.score is None:
            continue
        episode += 1
        line = {
            "episode": episode,
            "seconds": clock.seconds,
            "reward_top1": result.score,
            "macs_fraction_before_last_step": 100 * macs(before) / dense,
            "macs_fraction": 100 * macs(result.compact_model) / dense,
            "seconds_by_part": dict(clock.parts),
        }
        with lines.open("a") as file:
            print(json.dumps(line), file=file)
        print(json.dumps(line), flush=True)
        if result.score > best:
            best, once = result.score, before
        if setting.seconds is not None and clock.seconds >= setting.seconds:
            return episode, "seconds", once
    return episode, "episodes", once


def delivered(best: nn.Module, folder: Path, dense: int) -> dict[str, Any]:
    """What a pruned network is worth. Looks at the test images; changes its batch-norm statistics."""
    test = Top1(folder, "test")
    found = {"macs": macs(best), "macs_fraction": 100 * macs(best) / dense, "test_top1": test(best)}
    recalibrate(best, load(folder, "calibration")[0])
    return {**found, "test_top1_recalibrated": test(best)}


def network_of(folder: Path) -> tuple[nn.Module, float]:
    """The exported network, and how far its logits are from Secateur's on 100 images."""
    network = ResNet56()
    network.load_state_dict(torch.load(folder / "network.pt", weights_only=True))
    with torch.no_grad():
        logits = network.eval()(load(folder, "reward")[0][:100])
    return network, float((logits - torch.from_numpy(np.load(folder / "first_logits.npy"))).abs().max())


def main() -> None:
    """Search, and write what came out."""
    setting = settings()
    prepare(setting.seed, setting.threads)
    network, difference = network_of(setting.folder)
    print(f"largest difference of logits from Secateur's network: {difference:.2g}", flush=True)
    if difference > 1e-3:
        raise SystemExit("this is not the same network")
    dense = macs(network)
    top1 = Top1(setting.folder, "reward")
    setting.out.mkdir(parents=True, exist_ok=True)
    clock = Clock()
    with tempfile.TemporaryDirectory() as log:
        pruner = amc_pruner(network, top1, setting, log, clock)
        episodes, ended, once = search(pruner, setting, clock, dense)
        seconds = clock.seconds
        _, best, masks, score, _ = pruner.get_best_result()
    result = {
        "peer": "NNI 2.10.1 AMCPruner",
        "episodes": episodes,
        "episodes_of_the_agent": max(0, episodes - setting.warmup - 1),
        "ended_by": ended,
        "seed": setting.seed,
        "seconds": seconds,
        "seconds_by_part": dict(clock.parts),
        "reward_top1": score,
        "masks_left": len(masks),
        "dense_macs": dense,
        "logit_difference": difference,
        **delivered(best, setting.folder, dense),
        "before_last_step": delivered(once, setting.folder, dense),
    }
    (setting.out / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


def prepare(seed: int, threads: int) -> None:
    """What NNI needs to run on today's torch, quietly, from a seed."""
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"  # it reads back whole models that it has pickled
    logging.disable(logging.WARNING)  # a line an operation, some thousands a layer
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def settings() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--episodes", type=int, default=EXAMPLE_EPISODES)
    parser.add_argument("--warmup", type=int, default=EXAMPLE_WARMUP, help="all episodes up to this one are random")
    parser.add_argument("--seconds", type=float, help="no episode begins later than this")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()

"""Where a trial's time goes, and what it is beside one pass of the dense network: ResNet-56 and MobileNet-V1.

In one run, on one thread, plans of half the MACs are evaluated without racing on the same images that the dense
network answers in eager fp32; they take turns, and the figures are medians of each turn's ratios. A trial is: cut,
refit in sequence, fold norms, prepare the engine, answer all images. Then a search of 100 trials with racing: how many
images it looks at. `--quick` (a minute) only shows that it still works.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import record
import shared_assets
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.graph import as_inputs
from secateur.prune import Calibration, Pruner, fold_norms
from secateur.run import Evaluator, InProcess, Loop
from secateur.runtimes import Engine, engine
from secateur.search import SearchSpace

IMAGES = {"resnet56": 5000, "mobilenet_v1": 1000}
"""As many as AMC's authors validate on; for MobileNet-V1 all that there are, as only time is taken here."""
ENGINES = ("torch", "openvino", "openvino-int8")
ROUNDS = 5


def main() -> None:
    """Measure both networks, print the table, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small form of about a minute; writes no result")
    parser.add_argument("--network", choices=IMAGES, action="append", help="measure only this one (may be repeated)")
    options = parser.parse_args()
    quick, wanted = options.quick, options.network or [*IMAGES]
    torch.set_num_threads(1)
    rows = [] if quick else [row for row in record.known("trial_cost") if row["network"] not in wanted]
    for name in wanted:
        rows += measure(name, 50 if quick else IMAGES[name], 1 if quick else ROUNDS)
    shown = ("network", "engine", "images", "dense pass", "trial", "forward share", "trial / dense pass")
    record.show("a trial, seconds on one thread", [{key: row[key] for key in shown} for row in rows])
    images = {"resnet56": racing("resnet56", 500 if quick else IMAGES["resnet56"], 4 if quick else 100)}
    for name, (raced, whole) in images.items():
        print(f"{name}: {raced:,} images with racing, {whole:,} without")
    if not quick:
        figures = {key: value for row in rows for key, value in figures_of(row).items()}
        figures["racing_images_ratio"] = images["resnet56"][0] / images["resnet56"][1]
        print(f"written to {record.write('trial_cost', figures, rows).relative_to(record.HERE.parent)}")


def figures_of(row: dict[str, Any]) -> dict[str, float]:
    """The figures of the quickest engine go without its name."""
    name = row["network"] if row["engine"] == ENGINES[-1] else f"{row['network']}_{row['engine'].replace('-', '_')}"
    return {
        f"{name}_forward_share": row["forward share"],
        f"{name}_trial_over_dense_pass": row["trial / dense pass"],
    }


class Timed(nn.Module):
    """Adds up the seconds that a network's forward passes take."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.seconds = 0.0

    def forward(self, x: Tensor) -> Tensor:
        """What the network answers."""
        started = time.perf_counter()
        answer: Tensor = self.network(x)
        self.seconds += time.perf_counter() - started
        return answer


def measure(name: str, images: int, rounds: int) -> list[dict[str, Any]]:
    """A row an engine: medians over the rounds, in which engines and the dense network take turns."""
    dense, graph, pruner, space, pictures = prepare(name, images)
    batch = 100 if pictures.shape[-1] < 64 else 25
    evaluate = sc.agreement(dense, pictures, batch)
    examples = as_inputs(pictures[:batch])
    engines = {kind: engine(kind, fold_norms(dense, graph), examples, pruner.calibration.inputs) for kind in ENGINES}
    searcher = sc.Random(seed=0).start(space)
    spent: dict[str, list[tuple[float, float]]] = {kind: [] for kind in ENGINES}
    passes = []
    for number in range(rounds + 1):  # the first warms up, and is not counted
        passes.append(timed(lambda: answer(dense, pictures, batch)))
        plan = searcher.ask()
        for kind, make in engines.items():
            spent[kind].append(trial(pruner, Evaluator(pruner.candidate, space, evaluate), make, plan))
        print(name, number, f"dense {passes[-1]:.2f} s", {k: f"{v[-1][0]:.2f}" for k, v in spent.items()}, flush=True)
    whole = np.array(passes[1:] or passes)
    rows = []
    for kind, pairs in spent.items():
        seconds, forward = np.array(pairs[1:] or pairs).T
        rows.append(
            {
                "network": name,
                "engine": kind,
                "images": images,
                "dense pass": float(np.median(whole)),
                "trial": float(np.median(seconds)),
                "forward share": float(np.median(forward / seconds)),
                "trial / dense pass": float(np.median(seconds / whole)),
            }
        )
    return rows


def prepare(name: str, images: int) -> tuple[nn.Module, Any, Pruner, SearchSpace, Tensor]:
    """The dense network, its graph, pruner and space, and images of the right number."""
    network, pictures, calibration, _ = shared_assets.materials(name, images, 256, 100)
    graph = sc.inspect(network, pictures[:1])
    pruner = Pruner(network, graph, Calibration(as_inputs(calibration if len(calibration) else pictures[:256])))
    return network, graph, pruner, SearchSpace(graph, sc.Budget(macs=0.5)), pictures


def trial(pruner: Pruner, evaluator: Evaluator, make: Engine, plan: sc.Plan) -> tuple[float, float]:
    """Seconds of a whole trial, and those in the candidate's forward passes: the scoring's and the refit's own."""
    made: list[Timed] = []

    def watched(network: nn.Module) -> nn.Module:
        made.append(Timed(make(network)))
        return made[-1]

    evaluator.engine = watched
    seconds = timed(lambda: evaluator(plan))
    forward, few = made[-1].seconds, pruner.trial_examples
    if few:
        refit = pruner.candidate(evaluator.space.counts(plan))
        forward += timed(lambda: answer(refit, *pruner.calibration.head(few).inputs, batch=few))
    return seconds, forward


def answer(network: nn.Module, images: Tensor, batch: int) -> None:
    """One pass over the images."""
    with torch.inference_mode():
        for piece in images.split(batch):
            network(piece)


def timed(action: Callable[[], object]) -> float:
    """Seconds that an action takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def racing(name: str, images: int, trials: int) -> tuple[int, int]:
    """Images that a raced search looks at, and what it would look at without racing."""
    dense, _, pruner, space, pictures = prepare(name, images)
    space = space.informed(pruner.losses)
    evaluator = Evaluator(pruner.candidate, space, sc.agreement(dense, pictures))
    study = sc.Study(space, sc.Outcome(1.0, space.graph.dense, 0.0, 0.0))
    loop = Loop(study, sc.Bayesian().start(space), InProcess(evaluator), 0, race=True)
    loop.run(trials)
    return sum(len(trial.outcome.values) for trial in study.trials), trials * len(pictures)


if __name__ == "__main__":
    main()

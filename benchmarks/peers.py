"""ResNet-56 on CIFAR-10 at half its MACs, before fine-tuning: Secateur beside NNI's AMC and torch-pruning.

One run, one machine, two cores, one program at a time, the same 5,000 reward images:
- NNI 2.10.1's AMCPruner, in an environment of its own, for as long as Secateur may search; its last step prunes a
  second time, so the MACs that it really delivers stand beside its accuracy;
- torch-pruning 1.6.1 by magnitude, uniform and global, with batch-norm recalibration;
- Secateur: seconds a trial with all 5,000 images scored by top-1 as NNI does, then with racing on agreement (each in 8
  bits and in torch), and the best plan of 15 minutes in all in torch, setting up and pruning included.
Takes 40 minutes. Each part is kept in benchmarks/runs/peers, and not run again. `--quick` (minutes) runs one NNI
episode and a search of some seconds, and writes no result.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import record
import shared_assets
import torch
from peers import export, nni_environment, torch_pruning_rows

import secateur as sc
from secateur.data import TrainBatches, split
from secateur.graph import count_costs

BUDGET = sc.Budget(macs=0.5)
MINUTES = 15
TRIALS = 16
"""Trials whose time is taken with every image scored."""


def main() -> None:
    """Run what is missing, print the table, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one NNI episode and a short search; writes no result")
    quick = parser.parse_args().quick
    runs = record.HERE / "runs" / ("peers_quick" if quick else "peers")
    seconds = 30.0 if quick else 60.0 * MINUTES
    torch.set_num_threads(1)
    parts: dict[str, Callable[[], Any]] = {
        "nni": lambda: nni(runs, 1.0 if quick else seconds),
        "torch_pruning": lambda: {"rows": torch_pruning_rows.rows()},
        "every_image": lambda: search(
            sc.SearchSettings(workers=2, engine="openvino-int8"), trials=TRIALS, score="top-1"
        ),
        "every_image_torch": lambda: search(sc.SearchSettings(workers=2), TRIALS, "top-1"),
        "raced_8_bits": lambda: search(
            sc.SearchSettings(workers=2, race=True, engine="openvino-int8"), trials=16 * TRIALS
        ),
        "raced": lambda: search(sc.SearchSettings(workers=2, race=True, seconds=seconds), deadline=seconds),
    }
    found = {name: kept(runs / f"{name}.json", part) for name, part in parts.items()}
    rows = table(found)
    record.show(f"ResNet-56, CIFAR-10, {BUDGET}, no fine-tuning, {MINUTES} minutes each", rows)
    if not quick:
        place = record.write("peers", figures(found), [found])
        print(f"written to {place.relative_to(record.HERE.parent)}")


def kept(place: Path, part: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A part's result, from its file if it is there."""
    if not place.exists():
        print(f"{place.stem} ...", flush=True)
        result = part()
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(result, indent=1))
    return dict(json.loads(place.read_text()))


def nni(runs: Path, seconds: float) -> dict[str, Any]:
    """NNI's own search, in its own environment."""
    python = nni_environment.environment(record.HERE / "runs" / "nni_environment")
    files, out = runs / "files", runs / "nni_out"
    export.export(files)
    script = record.HERE / "peers" / "nni_amc.py"
    subprocess.run([python, script, files, "--out", out, "--seconds", str(seconds)], check=True)
    ends = [json.loads(line)["seconds"] for line in (out / "episodes.jsonl").read_text().splitlines()]
    each = float(np.median(np.diff([0.0, *ends])))
    return {**json.loads((out / "result.json").read_text()), "seconds_an_episode": each}


def search(
    settings: sc.SearchSettings, trials: int = 100_000, score: str = "agreement", deadline: float | None = None
) -> dict[str, Any]:
    """Search with the default searcher; with a deadline, prune and look at the test images too."""
    began = time.perf_counter()
    dataset, network = shared_assets.cifar10(), shared_assets.resnet(56)
    parts = split(dataset, 5000, 1500, seed=0)
    images, labels = shared_assets.training_images(dataset, parts.reward)
    shifted, _ = next(iter(TrainBatches(images, labels, len(images), seed=0)))
    calibration = [shared_assets.training_images(dataset, parts.calibration)[0]]
    moments: list[float] = []
    if deadline is not None:  # leave time for setting up, which it has begun with, and for pruning
        settings = sc.SearchSettings(workers=2, race=True, seconds=deadline - 150, engine=settings.engine)
    study = sc.search(
        network,
        images[:1],
        evaluate=sc.agreement(network, shifted) if score == "agreement" else sc.accuracy(images, labels),
        calibration=calibration,
        budget=BUDGET,
        trials=trials,
        settings=settings,
        on_trial=lambda study, trial: moments.append(time.perf_counter()),
    )
    found = {
        "score": study.best.outcome.score,
        "trials": len(study.trials),
        "complete": sum(trial.outcome.complete for trial in study.trials),
        "images_share": sum(len(trial.outcome.values) for trial in study.trials) / len(study.trials) / len(images),
        "seconds_a_trial": (moments[-1] - moments[1]) / (len(moments) - 2),  # the first round is told at once
    }
    if deadline is not None:
        small = sc.prune(network, images[:1], study.best.plan, calibration=calibration)
        found["seconds"] = time.perf_counter() - began
        found["macs_fraction"] = 100 * count_costs(small, images[:1]).macs / count_costs(network, images[:1]).macs
        found["test_top1"] = 100 * sc.accuracy(*shared_assets.test_images(dataset))(small)
        found["plan"] = study.best.plan.to_json()
    return found


def table(found: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """What each tool delivers, and how long a trial takes it."""
    nni, raced = found["nni"], found["raced"]
    rows = [
        line("NNI 2.10.1 AMC, delivered", nni["macs_fraction"], nni["test_top1"], nni["seconds"], nni["episodes"]),
        line("  recalibrated", nni["macs_fraction"], nni["test_top1_recalibrated"], nni["seconds"], nni["episodes"]),
    ]
    before = nni["before_last_step"]
    rows.append(line("  before its last step, recalibrated", before["macs_fraction"], before["test_top1_recalibrated"]))
    for row in found["torch_pruning"]["rows"]:
        rows.append(line(row["peer"], row["macs_fraction"], row["test_top1_recalibrated"], row["seconds"], 1))
    rows.append(line("Secateur", raced["macs_fraction"], raced["test_top1"], raced["seconds"], raced["trials"]))
    return rows


def line(name: str, macs: float, top1: float, seconds: float | None = None, trials: int = 0) -> dict[str, Any]:
    """One row of the table."""
    each = "" if not trials or seconds is None else f"{seconds / trials:.2f}"
    return {"": name, "MACs, %": macs, "test top-1": top1, "trials": trials or "", "s a trial": each}


def figures(found: dict[str, dict[str, Any]]) -> dict[str, float]:
    """The figures that the README and the issue ask for."""
    nni, raced = found["nni"], found["raced"]
    torch_pruning = max(found["torch_pruning"]["rows"], key=lambda row: row["test_top1_recalibrated"])
    episode = nni["seconds_an_episode"]
    return {
        "nni_seconds_a_trial": episode,
        "nni_trials_per_minute_ratio": episode / found["every_image"]["seconds_a_trial"],
        "nni_trials_per_minute_ratio_torch_engine": episode / found["every_image_torch"]["seconds_a_trial"],
        "nni_trials_per_minute_ratio_raced": episode / found["raced_8_bits"]["seconds_a_trial"],
        "nni_trials_per_minute_ratio_raced_torch_engine": episode / raced["seconds_a_trial"],
        "seconds_a_trial": found["every_image"]["seconds_a_trial"],
        "seconds_a_trial_raced": raced["seconds_a_trial"],
        "trials_15_minutes": raced["trials"],
        "raced_images_share": raced["images_share"],
        "minutes": raced["seconds"] / 60,
        "macs_fraction": raced["macs_fraction"],
        "test_top1_15_minutes": raced["test_top1"],
        "nni_test_top1": nni["test_top1"],
        "nni_test_top1_recalibrated": nni["test_top1_recalibrated"],
        "nni_macs_fraction": nni["macs_fraction"],
        "torch_pruning_test_top1": max(row["test_top1"] for row in found["torch_pruning"]["rows"]),
        "torch_pruning_test_top1_recalibrated": torch_pruning["test_top1_recalibrated"],
        "torch_pruning_macs_fraction": torch_pruning["macs_fraction"],
    }


if __name__ == "__main__":
    main()

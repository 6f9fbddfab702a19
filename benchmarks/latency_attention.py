"""Latency of attention by a table of layers, and what half of it is worth: a sentence encoder on two runtimes.

As latency_model.py does for convolutional networks: random plans of MiniLM (48 tokens; heads, dims, MLPs) against a
table that has not seen them, on ONNX Runtime and OpenVINO, one thread. Then a search for half the latency by that
table, curves alone, held to it by measurement, and the found network timed beside the dense one. Tables and times are
kept in benchmarks/runs/latency_attention. For a machine that does nothing else; it has not been run yet. `--quick` is a
small form.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import record
import text_assets
import torch
from latency_model import compared, shown
from torch import nn

import secateur as sc
from secateur.commands.profiling import STEP

RUNTIMES = ("onnxruntime", "openvino")
PLANS, EXAMPLES = 20, 256


def main() -> None:
    """Measure what is missing, print the table, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="ONNX Runtime and four plans; writes no result")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    runs = record.HERE / "runs" / ("latency_attention_quick" if quick else "latency_attention")
    rows = [row_of(runtime, runs, 4 if quick else PLANS) for runtime in (RUNTIMES[:1] if quick else RUNTIMES)]
    record.show("MiniLM: predicted against measured, and half the time", [shown(row) for row in rows])
    if not quick:
        names = {"median error": "median_error", "rank correlation": "rank_correlation", "speed at half": "half_speed"}
        figures = {f"minilm_{row['runtime']}_{names[key]}": row[key] for row in rows for key in names}
        print(f"written to {record.write('latency_attention', figures, rows).relative_to(record.HERE.parent)}")


def row_of(runtime: str, runs: Path, plans: int) -> dict[str, Any]:
    """Of one runtime."""
    model, given = text_assets.minilm(), text_assets.news(EXAMPLES, 0)
    one = {name: x[:1] for name, x in given.items()}
    row = compared("minilm", (model, one), runtime, runs, plans)
    return row | {"speed at half": speed_at_half(model, given, runtime, runs / f"minilm_{runtime}.json")}


def speed_at_half(model: nn.Module, given: dict[str, torch.Tensor], runtime: str, table: Path) -> float:
    """How many times as fast as the dense network one is that was searched for half its time."""
    one = {name: x[:1] for name, x in given.items()}
    study = sc.search(
        model,
        one,
        evaluate=sc.agreement(model, {name: x[-32:] for name, x in given.items()}),
        calibration=[given],
        budget=sc.Budget(latency_ms=0.5),
        searcher=sc.Knapsack(learn=False),
        trials=1,
        settings=sc.SearchSettings(space=sc.SpaceSettings(step=STEP), latency=str(table), measured=True),
    )
    small = study.prune(sc.meet(study, model, one).plan)
    found = sc.measure({"dense": model, "half": small}, one, runtime=[runtime], threads=1)
    taken = {each.network: each.latency_ms for each in found}
    return taken["dense"] / taken["half"]


if __name__ == "__main__":
    main()

"""Block-sparse weights times a batch, against dense torch and torch's own block-sparse rows (BSR): one thread, fp32.

Every case is one run in which the three take turns; medians are compared. The mask is random, as a search's may be.
Takes minutes; `--quick` only shows that it still works.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from itertools import product
from typing import Any

import record
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.sparse import BlockSparseLinear, lanes

OUTPUTS, INPUTS = (1024, 4096), 1024
BLOCKS, BATCHES, SPARSITIES = (16, 32), (1, 256), (50, 75, 90)
LEAST_S, ROUNDS = 0.5, 15


def main() -> None:
    """Measure every case, print the table, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few cases; writes no result")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="Sparse .* tensor support")
    cases = [*product(OUTPUTS, BLOCKS, BATCHES, SPARSITIES)]
    rows = [measured(*case) for case in (cases[:4] if quick else cases)]
    record.show(f"speed-up over dense torch; vectors of {lanes()} floats", rows)
    if not quick:
        figures = {key: value for row in rows for key, value in figures_of(row).items()}
        print(f"written to {record.write('block_kernels', figures, rows).relative_to(record.HERE.parent)}")


def measured(outputs: int, block: int, batch: int, sparsity: int) -> dict[str, Any]:
    """A row: the speed-ups of one case."""
    layer = linear(outputs, block, sparsity / 100)
    sparse, x = BlockSparseLinear.of(layer, (block, block)), torch.randn(batch, INPUTS)
    bsr = layer.weight.detach().to_sparse_bsr((block, block))
    with torch.no_grad():
        runs: dict[str, Callable[[], Tensor]] = {
            "dense": lambda: layer(x),
            "ours": lambda: sparse(x),
            "torch BSR": lambda: F.linear(x, bsr, layer.bias),
        }
        wanted = runs["dense"]()
        for name, run in runs.items():
            torch.testing.assert_close(run(), wanted, rtol=1e-3, atol=1e-3, msg=f"{name} answers differently")
        seconds = taking_turns(runs)
    speed = 2 * outputs * INPUTS * batch / seconds["dense"] / 1e9
    return {
        "out": outputs,
        "block": block,
        "batch": batch,
        "zeros, %": sparsity,
        "ours": seconds["dense"] / seconds["ours"],
        "torch BSR": seconds["dense"] / seconds["torch BSR"],
        "dense GFLOP/s": speed,
    }


def linear(outputs: int, block: int, zeros: float) -> nn.Linear:
    """A layer of which exactly this share of the blocks is zero."""
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(INPUTS, outputs)
    down, across = outputs // block, INPUTS // block
    kept = torch.zeros(down * across)
    kept[torch.randperm(len(kept), generator=generator)[round(zeros * len(kept)) :]] = 1
    mask = kept.view(down, across).repeat_interleave(block, 0).repeat_interleave(block, 1)
    with torch.no_grad():
        layer.weight.mul_(mask)
    return layer.requires_grad_(False)


def taking_turns(runs: dict[str, Callable[[], Tensor]]) -> dict[str, float]:
    """Median seconds of each."""
    spent: dict[str, list[float]] = {name: [] for name in runs}
    began = time.perf_counter()
    while time.perf_counter() - began < LEAST_S or len(spent["dense"]) < ROUNDS:
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            spent[name].append(time.perf_counter() - started)
    return {name: statistics.median(times[2:]) for name, times in spent.items()}


def figures_of(row: dict[str, Any]) -> dict[str, float]:
    """Named by size, block, batch and sparsity."""
    name = f"{row['out']}_b{row['block']}_n{row['batch']}_s{row['zeros, %']}"
    return {f"cpu_{name}": row["ours"], f"torch_bsr_{name}": row["torch BSR"]}


if __name__ == "__main__":
    main()

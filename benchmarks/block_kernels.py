"""Block-sparse weights times a batch, against dense torch and torch's own block-sparse rows (BSR): one thread, fp32;
and, where there is a GPU, 4096 x 4096 there in fp32 and bf16 against cuBLAS and BSR.

Every case is one run in which all take turns; medians are compared. The mask is random, as a search's may be. "chosen"
is the layer that `sc.block_sparse` takes after it has timed both: where that is the dense one, its speed-up is 1.
Takes minutes; `--quick` only shows that it still works.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import record
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur.runtimes.kernels import quicker
from secateur.runtimes.sessions import median_ms
from secateur.sparse import BlockSparseLinear, lanes

OUTPUTS, INPUTS = (1024, 4096), 1024
BLOCKS, BATCHES, SPARSITIES = (16, 32), (1, 256), (10, 50, 75, 90)
ON_GPU = ((32, 64), (4096,), SPARSITIES, (torch.float32, torch.bfloat16))
"""Blocks, batches, sparsities and precisions of a square layer of 4096."""
LEAST_MS, ROUNDS = 150.0, 15


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
    on_gpu = [measured(4096, *case, device="cuda") for case in (product(*ON_GPU) if torch.cuda.is_available() else ())]
    if on_gpu:
        record.show(f"speed-up over cuBLAS; {torch.cuda.get_device_name()}", on_gpu)
    if not quick:
        figures = {key: value for row in (*rows, *on_gpu) for key, value in figures_of(row).items()}
        rows += on_gpu
        figures["chosen_slowest"] = min(row["chosen"] for row in rows)
        print(f"written to {record.write('block_kernels', figures, rows).relative_to(record.HERE.parent)}")


def measured(
    outputs: int, block: int, batch: int, sparsity: int, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> dict[str, Any]:
    """A row: the speed-ups of one case."""
    inputs = INPUTS if device == "cpu" else outputs
    layer = linear(outputs, inputs, block, sparsity / 100).to(device, dtype)
    sparse, x = BlockSparseLinear.of(layer, (block, block)), torch.randn(batch, inputs, device=device, dtype=dtype)
    chosen = quicker(layer, sparse, x)
    bsr = layer.weight.detach().to_sparse_bsr((block, block))
    with torch.no_grad():
        runs: dict[str, Callable[[], Tensor]] = {
            "dense": lambda: layer(x),
            "ours": lambda: sparse(x),
            "chosen": lambda: chosen(x),
            "torch BSR": lambda: F.linear(x, bsr, layer.bias),
        }
        wanted = runs["dense"]()
        for name, run in runs.items():
            near = 1e-3 if dtype == torch.float32 else 5e-2
            torch.testing.assert_close(run(), wanted, rtol=near, atol=near, msg=f"{name} answers differently")
        ms = median_ms({name: partial(_run, run) for name, run in runs.items()}, [], ROUNDS, LEAST_MS)
    speed = 2 * outputs * inputs * batch / ms["dense"] / 1e6
    return {
        "device": device,
        "precision": str(dtype).removeprefix("torch."),
        "out": outputs,
        "block": block,
        "batch": batch,
        "zeros, %": sparsity,
        "ours": ms["dense"] / ms["ours"],
        "torch BSR": ms["dense"] / ms["torch BSR"],
        "chosen": 1.0 if chosen is layer else ms["dense"] / ms["chosen"],
        "dense GFLOP/s": speed,
    }


def linear(outputs: int, inputs: int, block: int, zeros: float) -> nn.Linear:
    """A layer of which exactly this share of the blocks is zero."""
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(inputs, outputs)
    down, across = outputs // block, inputs // block
    kept = torch.zeros(down * across)
    kept[torch.randperm(len(kept), generator=generator)[round(zeros * len(kept)) :]] = 1
    mask = kept.view(down, across).repeat_interleave(block, 0).repeat_interleave(block, 1)
    with torch.no_grad():
        layer.weight.mul_(mask)
    return layer.requires_grad_(False)


def _run(run: Callable[[], Tensor], inputs: Any) -> list[Any]:
    """As a session; it waits for a GPU."""
    answer = run()
    if answer.is_cuda:
        torch.cuda.synchronize()
    return []


def figures_of(row: dict[str, Any]) -> dict[str, float]:
    """Named by size, block, batch and sparsity."""
    name = f"{row['out']}_b{row['block']}_n{row['batch']}_s{row['zeros, %']}"
    if row["device"] == "cpu":
        return {f"cpu_{name}": row["ours"], f"torch_bsr_{name}": row["torch BSR"]}
    name += f"_{row['precision']}"
    return {f"gpu_{name}": row["ours"], f"gpu_torch_bsr_{name}": row["torch BSR"]}


if __name__ == "__main__":
    main()

"""The GPU's kernel, by Triton's interpreter on the CPU (where Triton is installed) or on a GPU (where there is one)."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from secateur.sparse import BlockSparseConv2d, BlockSparseLinear

INTERPRETED = """
import importlib, torch
from secateur.sparse import BlockSparse

gpu = importlib.import_module("secateur.sparse.gpu")
torch.manual_seed(0)
for out, features, n, block, dtype in (
    (64, 48, 70, (16, 16), torch.float32),
    (96, 100, 33, (32, 16), torch.float32),
    (128, 64, 10, (64, 32), torch.bfloat16),
    (40, 30, 5, (16, 32), torch.float32),
):
    kept = torch.rand(-(-out // block[0]), -(-features // block[1])) < 0.4
    mask = kept.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)[:out, :features]
    weight = (torch.randn(out, features) * mask).to(dtype)
    matrix = BlockSparse.of(weight, block)
    assert gpu.takes(matrix.values)
    x, answer = torch.randn(n, features).to(dtype), torch.empty(n, out, dtype=dtype)
    for bias in (None, torch.randn(out).to(dtype)):
        gpu.times(matrix, x.t(), answer.t(), bias)
        wanted = x.float() @ weight.float().t() + (0 if bias is None else bias.float())
        near = 2e-2 if dtype == torch.bfloat16 else 1e-5
        torch.testing.assert_close(answer.float(), wanted, rtol=near, atol=4 * near)
"""


COMPILED = """
import importlib
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

gpu = importlib.import_module("secateur.sparse.gpu")
names = gpu._product.arg_names
for number in ("fp32", "bf16"):
    kinds = dict.fromkeys(names, "i32") | dict.fromkeys(("start", "column"), "*i32")
    kinds |= dict.fromkeys(("values", "bias", "x", "y"), "*" + number)
    for side in gpu.SIDES:
        sizes = {"R": side, "C": side, "N": gpu.COLUMNS, "BIASED": True}
        signature = kinds | dict.fromkeys(sizes, "constexpr")
        made = compile(ASTSource(gpu._product, signature, sizes), target=GPUTarget("cuda", 90, 32))
        assert len(made.asm["cubin"]) > 1000
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_the_kernel_compiles_for_a_gpu(tmp_path: Path) -> None:
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", COMPILED], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to run it on")
def test_the_kernel_by_the_interpreter() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layers_on_a_gpu_answer_as_dense_ones(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    for dense, kind, x in (
        (nn.Linear(96, 64), BlockSparseLinear, torch.randn(50, 96)),
        (nn.Conv2d(32, 64, 3, padding=1), BlockSparseConv2d, torch.randn(3, 32, 9, 9)),
    ):
        with torch.no_grad():
            dense.weight.flatten(1)[:32, :32] = 0
        layer, image = dense.to("cuda", dtype), x.to("cuda", dtype)
        near = 2e-2 if dtype == torch.bfloat16 else 1e-4
        with torch.no_grad():
            torch.testing.assert_close(kind.of(layer, (32, 32))(image), layer(image), rtol=near, atol=near)

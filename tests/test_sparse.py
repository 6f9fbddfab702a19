"""Block-sparse matrices and layers answer as dense ones of the same weight, whatever the blocks and sizes."""

import ctypes
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import nn

import secateur as sc
from secateur.runtimes import quicker
from secateur.sparse import (
    BlockSparse,
    BlockSparseConv2d,
    BlockSparseLinear,
    block_sparsity,
    dense_again,
    lanes,
    layers,
    library,
    masked_layers,
    native,
)

SIDES = st.integers(1, 40)
BLOCKS = st.sampled_from([(1, 1), (1, 4), (2, 3), (4, 4), (8, 1), (8, 8), (16, 16), (16, 4), (32, 32), (5, 7)])

SHARES = st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0])
"""Of the blocks: none and all of them too."""


def sparse_weight(rows: int, columns: int, block: tuple[int, int], kept: float, seed: int) -> torch.Tensor:
    """A matrix of which about a share `kept` of the blocks is not zero."""
    rng = np.random.default_rng(seed)
    high, wide = -(-rows // block[0]), -(-columns // block[1])
    mask = np.kron(rng.random((high, wide)) < kept, np.ones(block))[:rows, :columns]
    return torch.from_numpy((rng.standard_normal((rows, columns)) * mask).astype(np.float32))


def test_the_kernel_is_there() -> None:
    """CI has a compiler: without this, all below would compare dense with dense."""
    assert library() is not None
    assert lanes() in (4, 8, 16)


@settings(deadline=None, max_examples=150)
@given(
    rows=SIDES,
    columns=SIDES,
    n=st.integers(1, 230),
    block=BLOCKS,
    kept=st.floats(0, 1),
    seed=st.integers(0, 99),
    whole=st.booleans(),
    width=st.sampled_from([0, 4, 8]),
)
def test_a_product_is_that_of_the_dense_matrix(
    rows: int, columns: int, n: int, block: tuple[int, int], kept: float, seed: int, whole: bool, width: int
) -> None:
    if whole:  # blocks of outputs that fill their vectors take another way through
        rows = -(-rows // block[0]) * block[0]
    weight = sparse_weight(rows, columns, block, kept, seed)
    matrix = BlockSparse.of(weight, block)
    assert torch.equal(matrix.dense(), weight)
    x, bias = torch.randn(columns, n), torch.randn(rows)
    wanted = weight.double() @ x.double() + bias.double()[:, None]
    for given_, out in (
        (x, torch.full((rows, n), torch.nan)),
        (x.t().contiguous().t(), torch.full((n, rows), torch.nan).t()),
    ):
        matrix.times(given_, out, bias, width)
        torch.testing.assert_close(out.double(), wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("width", [4, 8, 16])
def test_every_width_of_vectors_gives_the_same(width: int) -> None:
    """What this processor does not have falls back on what it has."""
    weight = sparse_weight(64, 48, (16, 16), 0.5, 1)
    matrix, x, out = BlockSparse.of(weight, (16, 16)), torch.randn(48, 100), torch.empty(64, 100)
    matrix.times(x, out, None, width)
    torch.testing.assert_close(out, weight @ x, rtol=1e-5, atol=1e-4)


@given(rows=SIDES, columns=SIDES, block=BLOCKS, kept=st.floats(0, 1), seed=st.integers(0, 99))
@settings(deadline=None)
def test_block_sparsity_is_what_counting_finds(
    rows: int, columns: int, block: tuple[int, int], kept: float, seed: int
) -> None:
    weight = sparse_weight(rows, columns, block, kept, seed)
    gone = 0
    for i in range(0, rows, block[0]):
        for j in range(0, columns, block[1]):
            piece = weight[i : i + block[0], j : j + block[1]]
            gone += piece.numel() * bool((piece == 0).all())
    assert block_sparsity(weight, block) == pytest.approx(gone / weight.numel())


@settings(deadline=None, max_examples=100)
@given(
    geometry=st.fixed_dictionaries(
        {
            "in_channels": st.integers(1, 12),
            "out_channels": SIDES,
            "kernel_size": st.sampled_from([(1, 1), (3, 3), (1, 3), (2, 2)]),
            "stride": st.sampled_from([1, 2, (2, 1)]),
            "padding": st.sampled_from([0, 1, (1, 0)]),
            "dilation": st.sampled_from([1, 2]),
            "bias": st.booleans(),
        }
    ),
    shape=st.tuples(st.integers(0, 3), st.integers(5, 11), st.integers(5, 11)),
    block=BLOCKS,
    kept=SHARES,
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_a_convolution_answers_as_the_dense_one(
    geometry: dict[str, Any], shape: tuple[int, ...], block: tuple[int, int], kept: float, dtype: torch.dtype
) -> None:
    dense, out = nn.Conv2d(**geometry), geometry["out_channels"]
    with torch.no_grad():
        matrix = sparse_weight(out, dense.weight[0].numel(), block, kept, out)
        dense.weight.copy_(matrix.view_as(dense.weight))
    dense = dense.to(dtype)
    sparse = BlockSparseConv2d.of(dense, block)
    x = torch.randn(shape[0], geometry["in_channels"], *shape[1:]).to(dtype)
    near = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 3e-2}
    with torch.no_grad():
        wanted = dense(x)
        for laid_out in (x, x.to(memory_format=torch.channels_last)):
            answer = sparse(laid_out)
            assert answer.dtype == dtype
            torch.testing.assert_close(answer, wanted, **near)
    back = sparse.to_dense()
    assert torch.equal(back.weight, dense.weight)
    assert str(back) == str(dense)
    assert len([*masked_layers(back)]) == 1


@settings(deadline=None, max_examples=60)
@given(
    out=SIDES,
    inside=SIDES,
    batch=st.lists(st.integers(0, 7), max_size=2),
    block=BLOCKS,
    kept=SHARES,
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    bias=st.booleans(),
)
def test_any_linear_layer_answers_as_the_dense_one_and_survives_a_file(
    out: int, inside: int, batch: list[int], block: tuple[int, int], kept: float, dtype: torch.dtype, bias: bool
) -> None:
    dense = nn.Linear(inside, out, bias)
    with torch.no_grad():
        dense.weight.copy_(sparse_weight(out, inside, block, kept, inside))
    dense = dense.to(dtype)
    sparse, x = BlockSparseLinear.of(dense, block), torch.randn(*batch, inside).to(dtype)
    near = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 3e-2}
    with torch.no_grad():
        torch.testing.assert_close(sparse(x), dense(x), **near)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "sparse.safetensors"
        sc.save(nn.Sequential(sparse), place)
        again = sc.load(place, nn.Sequential(nn.Linear(inside, out, bias, dtype=dtype)))
    assert torch.equal(again[0].weight, dense.weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(48,), (1, 48), (5, 48), (2, 7, 48), (0, 48)])
def test_a_linear_layer_answers_as_the_dense_one(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    dense = nn.Linear(48, 33)
    with torch.no_grad():
        dense.weight.copy_(sparse_weight(33, 48, (16, 16), 0.4, 0))
    dense = dense.to(dtype)
    sparse = BlockSparseLinear.of(dense, (16, 16))
    assert sparse.values.dtype == dtype
    x = torch.randn(shape, dtype=dtype)
    with torch.no_grad():
        answer = sparse(x)
        torch.testing.assert_close(answer, dense(x), rtol=2e-2 if dtype == torch.bfloat16 else 1e-4, atol=1e-2)
    assert answer.dtype == dtype
    assert torch.equal(sparse.to_dense().weight, dense.weight)


def test_threads_share_a_layer() -> None:
    dense = nn.Linear(512, 512)
    with torch.no_grad():
        dense.weight.copy_(sparse_weight(512, 512, (16, 16), 0.5, 3))
    sparse, x = BlockSparseLinear.of(dense, (16, 16)), torch.randn(64, 512)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with torch.no_grad():
            torch.testing.assert_close(sparse(x), dense(x), rtol=1e-4, atol=1e-4)
    finally:
        torch.set_num_threads(before)


def test_only_blocks_are_saved_and_what_is_loaded_is_the_same() -> None:
    dense = nn.Linear(256, 256)
    with torch.no_grad():
        dense.weight.copy_(sparse_weight(256, 256, (16, 16), 0.1, 0))
    sparse = BlockSparseLinear.of(dense, (16, 16))
    raw = save(sparse.state_dict())
    assert len(raw) < 0.25 * dense.weight.nbytes
    other = BlockSparseLinear.of(nn.Linear(256, 256), (16, 16))
    other.load_state_dict(load(raw))
    x = torch.randn(3, 256)
    assert torch.equal(other(x), sparse(x))


def test_weights_that_are_loaded_are_used_at_once() -> None:
    dense = nn.Linear(32, 32)
    sparse, x = BlockSparseLinear.of(dense, (8, 8)), torch.randn(5, 32)
    before = sparse(x)
    sparse.load_state_dict({**sparse.state_dict(), "values": 2 * sparse.values, "bias": 2 * sparse.bias})
    torch.testing.assert_close(sparse(x), 2 * before)


def test_without_a_compiler_layers_stay_dense(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", "/nowhere/cc")
    assert native.library.__wrapped__() is None
    monkeypatch.setenv("CC", "cc -m64")
    assert native.library.__wrapped__() is not None
    monkeypatch.setattr(layers, "library", lambda: None)
    dense = nn.Linear(32, 16)
    x = torch.randn(4, 32)
    assert torch.equal(BlockSparseLinear.of(dense, (8, 8))(x), dense(x))
    convolution = nn.Conv2d(3, 8, 3, padding=1)
    image = torch.randn(2, 3, 6, 6)
    assert torch.equal(BlockSparseConv2d.of(convolution, (8, 8))(image), convolution(image))


def test_the_kernel_is_compiled_once(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert isinstance(native.library.__wrapped__(), ctypes.CDLL)
    monkeypatch.setenv("CC", "/nowhere/cc")
    assert isinstance(native.library.__wrapped__(), ctypes.CDLL)


def test_the_quicker_of_two_is_taken() -> None:
    passes = {"slow": 0, "quick": 0}

    class Slow(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            passes["slow"] += 1
            return torch.stack([x @ x for _ in range(200)]).sum(0)

    class Quick(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            passes["quick"] += 1
            return x

    quick = Quick()
    assert quicker(Slow(), quick, torch.randn(64, 64)) is quick
    assert passes["quick"] >= passes["slow"] > 0, "in turns; a slow one is warm after fewer"


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 2, padding="same"),  # one zero more behind than before
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
    ],
)
def test_what_cannot_be_is_refused(layer: nn.Conv2d) -> None:
    with pytest.raises(ValueError, match="block-sparse convolution"):
        BlockSparseConv2d.of(layer, (4, 4))
    with pytest.raises(TypeError, match="float64"):
        BlockSparseLinear.of(nn.Linear(4, 4).double(), (2, 2))


def both_layers() -> list[tuple[nn.Module, nn.Module, torch.Tensor]]:
    """A linear layer and a convolution, dense and block-sparse, with an input."""
    linear, convolution = nn.Linear(32, 16), nn.Conv2d(8, 16, 3, padding="same")
    with torch.no_grad():
        linear.weight.copy_(sparse_weight(16, 32, (8, 8), 0.5, 0))
        convolution.weight.copy_(sparse_weight(16, 72, (8, 8), 0.5, 1).view(16, 8, 3, 3))
    return [
        (linear, BlockSparseLinear.of(linear, (8, 8)), torch.randn(4, 32)),
        (convolution, BlockSparseConv2d.of(convolution, (8, 8)), torch.randn(2, 8, 6, 6)),
    ]


@pytest.mark.parametrize("number", [0, 1])
def test_an_input_that_does_not_fit_is_refused_as_by_the_dense_layer(number: int) -> None:
    """The kernel would read beyond the input's end, or leave a part of it out."""
    dense, sparse, x = both_layers()[number]
    for wrong in (torch.cat([x, x], 1), x[:, :4], x[:, :0]):
        for layer in (dense, sparse):
            with pytest.raises(RuntimeError):
                layer(wrong)
    matrix = BlockSparse.of(torch.ones(4, 6), (2, 2))
    for rows, out in ((5, (4, 3)), (6, (4, 2)), (6, (5, 3))):
        with pytest.raises(ValueError, match="does not multiply so"):
            matrix.times(torch.ones(rows, 3), torch.empty(out))


@pytest.mark.parametrize("number", [0, 1])
def test_where_no_kernel_may_run_the_dense_weight_answers(number: int) -> None:
    dense, sparse, x = both_layers()[number]
    one = x[0]
    torch.testing.assert_close(sparse(one), dense(one), rtol=1e-4, atol=1e-4)  # without a batch
    wanted = x.clone().requires_grad_()
    sparse(wanted).square().sum().backward()
    assert wanted.grad is not None
    expected = x.clone().requires_grad_()
    dense(expected).square().sum().backward()
    torch.testing.assert_close(wanted.grad, expected.grad, rtol=1e-4, atol=1e-4)
    with pytest.raises(RuntimeError, match="dense_again"), pytest.warns(DeprecationWarning, match="trace"):
        torch.jit.trace(sparse, x)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert sparse(x).dtype == dense(x).dtype == torch.bfloat16


def test_a_network_is_dense_again_with_its_masks() -> None:
    pairs = both_layers()
    network = nn.Sequential(pairs[1][1], nn.Flatten(), nn.Linear(576, 32), pairs[0][1])
    again = dense_again(network)
    assert {name: str(kind) for name, _, _, kind in masked_layers(again)} == {"0": "8x8", "3": "8x8"}
    assert torch.equal(again[0].weight, pairs[1][0].weight)
    assert isinstance(network[0], BlockSparseConv2d), "the other one stays as it is"
    assert dense_again(again) is again


@pytest.mark.parametrize("part", ["start", "column", "values"])
def test_blocks_that_lie_outside_are_refused_before_the_kernel_sees_them(part: str) -> None:
    layer = BlockSparseLinear.of(nn.Linear(32, 32), (8, 8))
    hostile = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    hostile[part] = {
        "start": hostile["start"] * 1000,
        "column": hostile["column"] + 100,
        "values": hostile["values"][:-1],
    }[part]
    layer.load_state_dict(hostile)
    with pytest.raises(ValueError, match="not the blocks"):
        layer(torch.randn(4, 32))


def test_blocks_whose_places_wrap_around_or_are_no_numbers_of_the_kernel_are_refused() -> None:
    good = BlockSparse.of(torch.randn(24, 24), (8, 8))
    wrapping = torch.tensor([0, 2**31 - 1, -2, 9], dtype=torch.int32)
    for start, values in ((wrapping, good.values), (good.start.float(), good.values), (good.start, good.values.mT)):
        with pytest.raises(ValueError, match="blocks"):
            BlockSparse(start, good.column, values, (24, 24))

"""Moments of wide layers: in single precision, and in blocks."""

from importlib import import_module

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.graph import as_inputs
from secateur.prune import Calibration, wide
from secateur.prune.moments import Moments, collect
from secateur.prune.order import eliminate
from secateur.prune.refit import Refitter
from secateur.prune.sensitivity import Sensitivity, sense
from secateur.prune.wide import blocks_of, in_blocks, precision


def mlp() -> nn.Sequential:
    """6 -> 16 -> 5, whose hidden units are what is cut."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 5)).eval()


def block_moments() -> tuple[Moments, Moments]:
    """Of 16 features that have to do with others of their half alone: as one matrix, and as two."""
    one, other = (torch.randn(40, 8, dtype=torch.float64) for _ in range(2))
    squares = torch.stack([x.T @ x / x.square().sum() for x in (one, other)])  # of one ridge
    mean = torch.randn(2, 8, dtype=torch.float64)
    return Moments(torch.block_diag(*squares)[None], mean.view(1, 16), True), Moments(squares, mean, True)


def test_a_width_is_split_into_the_fewest_equal_blocks_that_are_small_enough() -> None:
    assert [blocks_of(width) for width in (1, 3072, 8192, 14336, 50257, 128256)] == [1, 1, 1, 4, 1733, 256]
    assert blocks_of(50021) is None, "a prime number"
    assert blocks_of(25088, whole=lambda size: size % 49 == 0) == 16
    for width in (14336, 128256):
        assert width**2 / (blocks_of(width) or 1) <= wide.MOST
    assert [precision(width) for width in (2048, 2049)] == [torch.float64, torch.float32]
    rows = torch.arange(24).view(1, 2, 12)
    assert in_blocks(rows, 3).tolist()[1] == [[4, 5, 6, 7], [16, 17, 18, 19]]


def test_what_is_apart_is_solved_in_blocks_as_it_is_whole() -> None:
    model = mlp()
    graph = sc.inspect(model, torch.zeros(1, 6))
    whole, blocks = (Refitter(model, graph, {"2": each}) for each in block_moments())
    for kept in (np.array([1, 2, 7, 8, 11]), np.arange(8), np.array([15]), np.array([], dtype=np.int64)):
        for found, wanted in zip(
            blocks.solve(graph.layer["2"], kept), whole.solve(graph.layer["2"], kept), strict=True
        ):
            torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("weighed", [None, (1, 5), (5, 1)])
def test_what_is_apart_is_ranked_in_blocks_as_it_is_whole(weighed: tuple[int, int] | None) -> None:
    model = mlp()
    graph = sc.inspect(model, torch.zeros(1, 6))
    sensed = Sensitivity()
    if weighed:  # a diagonal, as one matrix and as five
        square = torch.rand(5, dtype=torch.float64)
        held = square.diag()[None] if weighed[0] == 1 else square.view(5, 1, 1)
        sensed = Sensitivity({"2": held}, {}, {})
    whole, blocks = (eliminate(model, graph, graph.group["0"], {"2": each}, sensed) for each in block_moments())
    assert (blocks.units == whole.units).all()
    np.testing.assert_allclose(blocks.loss, whole.loss, rtol=1e-6)


def test_a_pruner_in_blocks_does_all_that_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = mlp(), torch.randn(64, 6)
    graph, calibration = sc.inspect(model, x[:1]), Calibration(as_inputs(x))
    whole = collect(model, graph, calibration)["2"], sense(model, graph, calibration).square["2"]
    monkeypatch.setattr(wide, "MOST", 64)
    moments, square = collect(model, graph, calibration)["2"], sense(model, graph, calibration).square["2"]
    assert (moments.square.shape, square.shape) == ((4, 4, 4), (1, 5, 5))
    torch.testing.assert_close(moments.square.diagonal(dim1=1, dim2=2).flatten(), whole[0].square[0].diagonal())
    torch.testing.assert_close(moments.mean.flatten(), whole[0].mean[0])
    small = sc.prune(model, x[:1], sc.Plan({"0": 0.5}), calibration=[x])
    dense, raw = model(x), sc.prune(model, x[:1], sc.Plan({"0": 0.5}), calibration=[x], settings=UNFITTED)(x)
    assert (small(x) - dense).square().mean() < (raw - dense).square().mean()


UNFITTED = sc.PruneSettings(refit=False, sequential=False, recalibrate=False)


def test_no_unit_lies_in_two_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 5)).eval()
    x = torch.randn(32, 3, 4, 4)
    monkeypatch.setattr(wide, "MOST", 24 * 24 // 4)
    moments = collect(model, sc.inspect(model, x[:1]), Calibration(as_inputs(x)))
    assert moments["3"].square.shape == (6, 4, 4), "four blocks would split units of four pixels"


def test_layers_that_are_wide_together_pass_back_a_few_examples_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, seen = mlp(), torch.randn(64, 6), list[int]()

    def look(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen.append(len(args[0]))

    graph = sc.inspect(model, x[:1])
    model[0].register_forward_pre_hook(look)
    sense(model, graph, Calibration(as_inputs(x)))
    monkeypatch.setattr(import_module("secateur.prune.sensitivity"), "HELD", 10 * (16 + 5))
    sense(model, graph, Calibration(as_inputs(x)))
    assert seen == [32, 32, 10, 10, 10, 10, 10, 10, 4]

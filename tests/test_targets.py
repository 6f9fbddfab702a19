"""What the dense network gives to refits: remembered, or told by it while it runs beside the pruned one."""

from __future__ import annotations

import copy
import threading
import warnings

import pytest
import torch
from networks import build, image, settled
from torch import Tensor, nn

import secateur as sc
from secateur.graph import as_inputs
from secateur.prune import Calibration, Cutter, SequentialRefit, rows
from secateur.prune.fit import Effort, Fitted, Rows, fit

NAMES = ("residual", "plain", "grouped")


@pytest.mark.parametrize("name", NAMES)
def test_told_beside_or_remembered_is_the_same(name: str) -> None:
    model, example = build(name)
    graph = sc.inspect(model, example)
    data = Calibration(as_inputs(torch.randn(40, *as_inputs(example).tensors[0].shape[1:])))
    kept = {group.key: torch.arange(max(group.width // 2, 1)).numpy() for group in graph.prunable}
    answers = []
    for many in (False, True):
        cut = copy.deepcopy(Cutter(model, graph).cut(kept)).eval()
        SequentialRefit(model, graph, data, many=many).apply(cut, kept)
        answers.append(data.inputs.run(cut))
    torch.testing.assert_close(answers[0], answers[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_rows_in_pieces_give_the_same_weights(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, example = build(name)
    graph = sc.inspect(model, example)
    data = Calibration(as_inputs(torch.randn(40, *as_inputs(example).tensors[0].shape[1:])))
    kept = {group.key: torch.arange(max(group.width // 2, 1)).numpy() for group in graph.prunable}
    answers = []
    for most in (rows.MOST_AT_ONCE, 2000):
        monkeypatch.setattr(rows, "MOST_AT_ONCE", most)
        cut = copy.deepcopy(Cutter(model, graph).cut(kept)).eval()
        # Chance is judged about the mean of the first piece alone, so without it.
        SequentialRefit(model, graph, data, Effort(shrink=False)).apply(cut, kept)
        answers.append(data.inputs.run(cut))
    torch.testing.assert_close(answers[0], answers[1], rtol=1e-3, atol=1e-3)


def test_a_fit_of_pieces_is_least_squares_on_all_rows() -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    graph = sc.inspect(model, torch.randn(2, 5))
    x, wanted = torch.randn(60, 4) + 2, torch.randn(60, 3)
    pieces = [Rows(x[part, None], wanted[part], 20) for part in (slice(20), slice(20, 40), slice(40, 60))]
    with torch.no_grad():
        fit(Fitted(model, graph.layer["2"], {}), pieces, Effort(ridge=0.0, shrink=False))
        found = model[2](x)
    with_ones = torch.cat([x, torch.ones(60, 1)], 1)
    expected = with_ones @ torch.linalg.lstsq(with_ones, wanted).solution
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


class Failing(nn.Module):
    """Fails behind its first layer when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.fails = False

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.second(torch.relu(self.first(x))))
        if self.fails:
            raise RuntimeError("no more of this")
        return self.third(x)


@pytest.mark.parametrize("dense", [True, False])
def test_an_error_in_either_network_ends_both(dense: bool) -> None:
    model = settled(Failing())
    graph, x = sc.inspect(model, torch.randn(2, 6)), torch.randn(30, 6)
    kept = {group.key: torch.arange(group.width // 2).numpy() for group in graph.prunable}
    cut = copy.deepcopy(Cutter(model, graph).cut(kept)).eval()
    refit = SequentialRefit(model, graph, Calibration(as_inputs(x)))
    (model if dense else cut).fails = True
    before = threading.active_count()
    with pytest.raises(RuntimeError, match="no more of this"):
        refit.apply(cut, kept)
    assert threading.active_count() == before


def test_a_shortcut_that_two_layers_share_is_found_by_both() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Conv2d(3, 8, 3), nn.Linear(16, 3)
            self.one, self.other = (nn.Sequential(nn.Conv2d(8, 12, 1), nn.ReLU(), nn.Conv2d(12, 8, 1)) for _ in "ab")

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x).relu()
            return self.head(torch.cat([x + self.one(x), x + self.other(x)], 1).mean((2, 3)))

    model, x = settled(Shared()), image(30)
    graph = sc.inspect(model, x[:2])
    remembered = SequentialRefit(model, graph, Calibration(as_inputs(x)), many=True)._remembered
    assert remembered is not None
    joined = {name for name, target in remembered.items() if target.shortcut is not None}
    assert joined == {"one.2", "other.2"}


def test_a_shortcut_that_runs_behind_its_branch_is_left_alone() -> None:
    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 16), nn.Linear(16, 8)

        def forward(self, x: Tensor) -> Tensor:
            y = self.down(torch.relu(self.up(self.stem(x))))
            z = torch.tanh(self.stem(x))
            return z + y

    model, x = settled(Late()), torch.randn(32, 6)
    graph = sc.inspect(model, x[:2])
    assert graph.layer["down"].shortcut is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        late = SequentialRefit(model, graph, Calibration(as_inputs(x)), many=True)._remembered
    assert late is not None
    assert all(target.shortcut is None for target in late.values()), "it runs behind the branch"

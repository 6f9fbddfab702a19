"""The rivals of post-training pruning do what their papers say: what can be made up for is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from compensation import RIVALS, Block, Task
from compensation.kwon import rearranged
from torch import Tensor, nn

import secateur as sc
from secateur.graph import as_inputs
from secateur.search import SearchSpace

BLOCK = Block("up", "down", "query", "key", "value", "out", heads=4)


class Transformer(nn.Module):
    """One block after an embedding of numbers; half of the MLP's features follow from the other half."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 16)
        self.query, self.key, self.value, self.out = (nn.Linear(16, 16) for _ in range(4))
        self.up, self.down, self.head = nn.Linear(16, 24), nn.Linear(24, 16), nn.Linear(16, 5)
        with torch.no_grad():
            self.up.weight[12:], self.up.bias[12:] = self.up.weight[:12], self.up.bias[:12]
            self.up.weight[12:].mul_(2), self.up.bias[12:].mul_(2)

    def forward(self, x: Tensor) -> Tensor:
        """x [N, T, 6]."""
        x = self.first(x)
        q, k, v = (y.unflatten(-1, (4, 4)).transpose(1, 2) for y in (self.query(x), self.key(x), self.value(x)))
        x = x + self.out((torch.softmax(q @ k.mT / 2, -1) @ v).transpose(1, 2).flatten(2))
        return self.head(x + self.down(torch.relu(self.up(x)))).mean(1)


def task(share: float) -> Task:
    """At this share of the MACs."""
    torch.manual_seed(0)
    model, x = Transformer().eval().requires_grad_(False), torch.randn(200, 7, 6)
    space = SearchSpace(sc.inspect(model, x[:1]), sc.Budget(macs=share))
    return Task(model, space, (BLOCK,), as_inputs(x), None)


def apart(given: Task, pruned: nn.Module) -> float:
    """The error of other answers, as a share of their variance."""
    x = torch.randn(300, 7, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = given.model(x)
        return float((pruned(x) - wanted).square().mean() / wanted.var())


@pytest.mark.parametrize("method", [*RIVALS])
def test_every_rival_keeps_to_the_budget_and_leaves_the_dense_network_alone(method: str) -> None:
    given = task(0.7)
    before = {name: value.clone() for name, value in given.model.state_dict().items()}
    pruned = RIVALS[method](given)
    macs = sc.inspect(pruned, given.inputs.args[0][:1]).dense.macs
    assert 0.5 < macs / given.space.dense.macs <= 0.7
    assert all(torch.equal(value, before[name]) for name, value in given.model.state_dict().items())


def test_corp_makes_up_for_features_that_follow_from_others() -> None:
    given = task(0.7)
    assert apart(given, RIVALS["corp"](given)) < 0.3 * apart(given, RIVALS["wanda"](given))


def test_kwon_scales_what_stays() -> None:
    """And exchanges units whose losses add up."""
    given = task(0.7)
    scaled = apart(given, RIVALS["kwon"](given))
    assert scaled < apart(given, RIVALS["uniform"](given))
    fisher = torch.tensor([[2.0, 1.9, 0.0], [1.9, 2.0, 0.0], [0.0, 0.0, 1.9]])
    kept = rearranged(fisher, np.array([0]))
    assert kept.tolist() != [2], "two that go together lose most"
    opposed = torch.tensor([[2.0, -1.9, 0.0], [-1.9, 2.0, 0.0], [0.0, 0.0, 1.9]])
    assert rearranged(opposed, np.array([0])).tolist() == [2], "what two lose evens out"


def test_vbp_takes_what_never_changes_and_keeps_its_mean() -> None:
    given = task(0.83)
    with torch.no_grad():
        given.model.up.weight[::2], given.model.up.bias[::2] = 0.0, 3.0
    assert apart(given, RIVALS["vbp"](given)) < 1e-6
    assert apart(given, RIVALS["wanda"](given)) > 0.01


@pytest.mark.parametrize("method", [*RIVALS])
def test_every_rival_takes_mlps_alone(method: str) -> None:
    """Where attention is none that it knows, or the layers have no biases."""
    given = task(0.8)
    given.model.down.bias = None
    alone = replace(given, blocks=(Block("up", "down"),))
    pruned = RIVALS[method](alone)
    assert pruned.query.out_features == 16
    assert pruned.up.out_features < 24

"""Wrong networks that were once delivered: each kind of them is found, or refitted as it should be."""

import copy
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import conv_bn, pooled, settled
from torch import Tensor, nn

import secateur as sc
from secateur.graph import as_inputs, trace
from secateur.prune import Calibration, Cutter, SequentialRefit
from secateur.prune.alike import same
from secateur.prune.fold import without_norms

# ---- what the proof compares -----------------------------------------------------------------------------------------


class Scales(nn.Module):
    """Boxes in pixels beside class scores, whose branch mixes its channels in a way that no coupling tells."""

    def __init__(self, mix: str, joined: bool) -> None:
        super().__init__()
        self.stem, self.branch = conv_bn(3, 8), nn.Conv2d(8, 12, 3, padding=1)
        self.boxes, self.scores = nn.Linear(8, 4), nn.Linear(12, 3)
        self.mix, self.joined = mix, joined

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.stem(x)
        y = F.relu(self.branch(x))
        if self.mix == "shuffle":
            y = y.unflatten(1, (4, 3)).transpose(1, 2).flatten(1, 2)
        elif self.mix == "norm":
            y = F.normalize(y, dim=1)
        else:
            y = y.roll(1, 1) if self.mix == "roll" else y.flip(1)
        boxes, scores = self.boxes(pooled(x)) * 100, self.scores(pooled(y))
        return torch.cat((boxes, scores), 1) if self.joined else (boxes, scores)


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("mix", ["shuffle", "roll", "flip", "norm"])
def test_what_is_cut_beside_large_outputs_is_right(mix: str, joined: bool) -> None:
    model, x = settled(Scales(mix, joined)).double(), torch.randn(4, 3, 8, 8, dtype=torch.float64)
    graph = sc.inspect(model, x)
    sites = [group for group in graph.prunable if group.producers == ("branch",)]
    if mix in ("roll", "flip"):
        assert not sites, "its channels change places"
        return
    widths = {"shuffle": [4, 3], "norm": [12]}[mix]
    assert [group.width for group in sites] == widths, "of a shuffle rows and columns go; a norm is of what stays"
    kept = {site.key: np.arange(0, site.width, 2) for site in sites}
    cut = Cutter(model, graph).cut(kept)
    zeroed = copy.deepcopy(model)
    left = torch.from_numpy(graph.tensor["branch.weight"].extents[0].alive(kept))
    gone = torch.ones(12, dtype=torch.bool).index_fill_(0, left, False)
    zeroed.branch.weight.data[gone], zeroed.branch.bias.data[gone] = 0, 0  # relu(0) = 0, in whatever place it ends
    wanted, found = (y if joined else torch.cat(y, 1) for y in (zeroed(x), cut(x)))
    assert torch.allclose(wanted, found, rtol=1e-9, atol=1e-12)


def test_outputs_are_compared_each_at_its_own_scale() -> None:
    boxes, scores = torch.randn(8, 4, dtype=torch.float64) * 100, torch.randn(8, 3, dtype=torch.float64)
    assert same([boxes, scores], [boxes + 1e-9, scores + 1e-12])
    assert not same([boxes, scores], [boxes, scores + 1e-4])
    joint, other = torch.cat((boxes, scores), 1), torch.cat((boxes, scores + 1e-4), 1)
    assert not same([joint], [other])
    assert not same([joint], [joint[:4]])


# ---- which values a refit finds again --------------------------------------------------------------------------------


class Excite(nn.Module):
    """A residual block with squeeze-and-excitation by convolutions on pictures of one pixel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.last = conv_bn(width, 12), nn.Conv2d(12, width, 1, bias=False)
        self.norm, self.down, self.up = nn.BatchNorm2d(width), nn.Conv2d(12, 4, 1), nn.Conv2d(4, 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        y = y * torch.sigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(y, 1)))))
        return F.relu(x + self.norm(self.last(y)))


class Excited(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks = conv_bn(3, 8), nn.Sequential(Excite(8), Excite(8), Excite(8))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(pooled(self.blocks(self.stem(x))))


@pytest.mark.parametrize("folded", [False, True])
def test_what_is_not_cut_drifts_nowhere(folded: bool) -> None:
    model, x = settled(Excited()), torch.randn(64, 3, 8, 8)
    graph = sc.inspect(model, x[:2])
    network, plain = without_norms(model, graph, as_inputs(x[:2])) if folded else (model, graph)
    refit = SequentialRefit(network, plain, Calibration(as_inputs(x)))
    remembered = SequentialRefit(network, plain, Calibration(as_inputs(x)), many=True)._remembered
    joined = {name for name, target in remembered.items() if target.shortcut is not None}
    assert joined == {f"blocks.{number}.last" for number in range(3)}
    cut = copy.deepcopy(Cutter(network, plain).cut({"blocks.2.first.0": torch.arange(6).numpy()}))
    refit.apply(cut, {"blocks.2.first.0": torch.arange(6).numpy()})
    for number in range(2):  # nothing before the cut has anything to make up for
        before, after = (each.get_parameter(f"blocks.{number}.last.weight") for each in (network, cut))
        assert torch.allclose(before, after, atol=1e-4)


class Masked(nn.Module):
    """Takes another path where its second input is all ones, as masks of transformers are left out there."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.up, self.down, self.head = (nn.Linear(*s) for s in ((6, 8), (8, 16), (16, 8), (8, 3)))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.embed(x)
        if not bool((mask == 1).all()):
            x = x + (x * (mask[..., None] - 1)).mean() * 1.0
        return self.head((x + self.down(F.relu(self.up(x)))).mean(1))


def test_a_path_that_depends_on_the_data_is_refitted_right() -> None:
    model, x = settled(Masked()), torch.randn(64, 5, 6)
    ones, some = torch.ones(64, 5), (torch.rand(64, 5) > 0.3).float()
    plans = {"up": 0.5}
    for example in (ones, some):
        for given in (ones, some):
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "on the calibration inputs")
                pruned = sc.prune(model, (x[:2], example[:2]), plans, calibration=[(x, given)])
            apart = (pruned(x, given) - model(x, given)).square().mean() / model(x, given).var()
            assert apart < 0.2, "a refit to another value would be far off"


def test_a_shortcut_that_is_not_there_is_said() -> None:
    class Skipping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 16), nn.Linear(16, 8)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            shortcut = F.relu(x) if bool((x.abs() < 50).all()) else torch.tanh(x)
            return shortcut + self.down(F.relu(self.up(x)))

    model, x = settled(Skipping()), torch.randn(32, 6)
    with pytest.warns(UserWarning, match="down is not added to what it is added to on the example"):
        sc.prune(model, x[:2], {"up": 0.5}, calibration=[x * 1000])


# ---- hooks that belong to the network --------------------------------------------------------------------------------


def test_hooks_of_the_networks_own_library_stay() -> None:
    model = settled(Excited())
    kept: list[int] = []

    def note(module: nn.Module, args: object, output: Tensor) -> Tensor:
        kept.append(1)
        return output * 2

    note.__module__ = type(model).__module__
    model.stem.register_forward_hook(note)
    x = torch.randn(2, 3, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graph = trace(model, x)
    pruned = sc.prune(model, x, {"blocks.0.first.0": 1.0}, calibration=[torch.randn(32, 3, 8, 8)])
    assert kept
    assert graph.prunable
    assert len(pruned.stem._forward_hooks) == 1
    assert as_inputs(x).args[0].shape == x.shape

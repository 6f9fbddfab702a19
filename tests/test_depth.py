"""Residual branches that keep nothing: their block becomes its shortcut."""

import json
from pathlib import Path

import networks
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

import secateur as sc
from secateur.bundle import Writer, bundle_of
from secateur.cost import EnergyEstimate, NetworkCost, latency_model
from secateur.cost.analytic import Macs
from secateur.errors import CheckpointError, PlanError
from secateur.graph import bypassed, count_costs
from secateur.plan import Site
from secateur.prune import Bypassed
from secateur.search import SearchSpace, SpaceSettings
from secateur.search.episode import Episode
from secateur.search.knapsack import Solver
from secateur.settings import identity

RAW = sc.PruneSettings(refit=False, sequential=False, recalibrate=False)
DEEP = SpaceSettings(depth=True, step=1)
NAMES = ("residual", "hand_made_attention", "layer_scale")


def network(name: str) -> tuple[nn.Module, Tensor]:
    """In eval mode, with inputs of several examples."""
    model, x = networks.build(name, 16)
    assert isinstance(x, Tensor)
    return model, x


def branches(model: nn.Module, x: Tensor) -> list[str]:
    """The sites that may keep nothing."""
    return [group.key for group in sc.inspect(model, x[:2]).prunable if group.bypass]


@pytest.mark.parametrize("name", NAMES)
def test_a_branch_that_keeps_nothing_gives_what_its_biases_give(name: str) -> None:
    model, x = network(name)
    graph = sc.inspect(model, x[:2])
    keys = branches(model, x)
    assert keys
    for key in keys:
        small = sc.prune(model, x[:2], sc.Plan({key: 0}), calibration=[x], settings=RAW)
        for layer in graph.group[key].consumers:
            model.get_submodule(layer).weight.data.zero_()
        torch.testing.assert_close(small(x), model(x), atol=1e-5, rtol=1e-4)
        model, x = network(name)


@pytest.mark.parametrize("name", NAMES)
def test_what_goes_on_average_is_made_up_for(name: str) -> None:
    model, x = network(name)
    key = branches(model, x)[0]
    wanted = model(x)
    with torch.no_grad():
        raw, refitted = (
            sc.prune(model, x[:2], sc.Plan({key: 0}), calibration=[x], settings=each)(x)
            for each in (RAW, sc.PruneSettings())
        )
    assert (refitted - wanted).square().mean() < (raw - wanted).square().mean()


@pytest.mark.parametrize("name", NAMES)
def test_what_is_priced_is_what_is_counted(name: str) -> None:
    model, x = network(name)
    graph, chance = sc.inspect(model, x[:2]), np.random.default_rng(0)
    space = SearchSpace(graph, sc.Budget(macs=0.99), DEEP)
    for _ in range(4):
        counts = {site.key: int(chance.choice(site.counts)) for site in space.sites}
        counts |= dict.fromkeys(branches(model, x)[:1], 0)
        small = sc.prune(model, x[:2], space.plan(counts), calibration=[x], settings=RAW)
        found, wanted = count_costs(small, x[:1]), space.costs(counts)
        assert (found.macs, found.params, found.bytes) == (wanted.macs, wanted.params, wanted.bytes)


def test_several_sites_of_one_branch_leave_it_out_once() -> None:
    model, x = network("hand_made_attention")
    graph = sc.inspect(model, x[:2])
    (heads, _) = branches(model, x)
    assert graph.group[heads].role == "heads", "and not the dims of their values"
    assert {layer.name for layer in bypassed(graph, {heads: 0})} == {"q", "k", "v", "out"}


def test_layers_that_are_left_out_take_no_time() -> None:
    model, x = network("residual")
    graph = sc.inspect(model, x[:2])
    key = branches(model, x)[0]
    gone = {layer.name: layer for layer in bypassed(graph, {key: 0})}
    for price in (Macs(), latency_model("pixel1"), EnergyEstimate()):
        cost = NetworkCost(graph, price)
        taken = sum(float(price.layer_cost(x, x.in_channels, x.out_channels)) for x in gone.values())
        assert cost({key: 0}) == pytest.approx(cost.dense - taken)
        curve = cost.curve({}, key)
        assert curve[-1] - curve[0] == pytest.approx(taken)
        assert curve[0] < curve[1]


def test_it_is_saved_loaded_trained_and_pruned_again(tmp_path: Path) -> None:
    model, x = network("residual")
    first, *others = branches(model, x)
    small = sc.prune(model, x[:2], sc.Plan({first: 0, others[0]: 0.5}), calibration=[x])
    sc.save(small, tmp_path / "small.safetensors")
    loaded = sc.load(tmp_path / "small.safetensors", model)
    assert torch.equal(loaded(x), small(x))
    assert sum(isinstance(module, Bypassed) for module in loaded.modules()) == 2
    before = loaded(x)
    sc.finetune(loaded, [(x, torch.arange(len(x)) % 5)] * 4, settings=sc.FineTune(epochs=1))
    assert not torch.equal(loaded(x), before)
    again = sc.prune(loaded.eval(), x[:2], sc.Plan({others[-1]: 0}), calibration=[x])
    assert sum(isinstance(module, Bypassed) for module in again.modules()) == 4
    sc.save(again, tmp_path / "again.safetensors")
    assert torch.equal(sc.load(tmp_path / "again.safetensors", model)(x), again(x))


def test_a_file_that_leaves_out_what_cannot_be_is_refused(tmp_path: Path) -> None:
    model, x = network("residual")
    place = tmp_path / "small.safetensors"
    sc.save(sc.prune(model, x[:2], sc.Plan({branches(model, x)[0]: 0}), calibration=[x]), place)
    tensors = load_file(place)
    note = {"format": "secateur-2", "widths": "{}", "shared": "{}", "bypassed": json.dumps(["stem.1"])}
    save_file(tensors, place, metadata=note)
    with pytest.raises(CheckpointError, match=r"stem\.1 is no layer that can be left out"):
        sc.load(place, model)


@pytest.mark.parametrize("name", NAMES)
def test_a_runtime_leaves_out_what_leads_to_it(name: str, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model, x = network(name)
    key = branches(model, x)[0]
    products = []
    for keep in (1.0, 0.0):
        small = sc.prune(model, x[:2], sc.Plan({key: keep}), calibration=[x])
        sc.export(small, (x[:1],), tmp_path / "small.onnx", runtime="onnxruntime")
        nodes = onnx.load(tmp_path / "small.onnx").graph.node
        products.append(sum(node.op_type in ("Conv", "MatMul", "Gemm") for node in nodes))
    assert products[1] <= products[0] - 2


def test_a_search_leaves_out_the_branch_that_does_nothing() -> None:
    model, x = network("residual")
    graph = sc.inspect(model, x[:2])
    idle = branches(model, x)[1]
    with torch.no_grad():  # what it adds is all but nothing
        for layer in graph.group[idle].consumers:
            norm = graph.layer[layer].norm
            assert norm is not None
            model.get_submodule(norm).weight.mul_(1e-3)
    study = sc.search(
        model,
        x[:2],
        evaluate=sc.agreement(model, x),
        calibration=[x],
        budget=sc.Budget(macs=0.6),
        trials=6,
        settings=sc.SearchSettings(space=DEEP),
    )
    assert study.best.plan[idle] == 0
    assert study.best.outcome is not None
    assert study.best.outcome.score > 0.8
    assert count_costs(study.prune(study.best.plan), x[:1]).macs == study.best.outcome.costs.macs


@pytest.mark.parametrize("searcher", ["Bayesian", "DDPG", "Evolution", "Random", "Knapsack"])
def test_every_searcher_may_leave_branches_out(searcher: str) -> None:
    model, x = network("residual")
    space = SearchSpace(sc.inspect(model, x[:2]), sc.Budget(macs=0.3), DEEP)
    proposer = getattr(sc, searcher)(seed=1).start(space)
    for _ in range(30):
        plan = space.check(proposer.ask())
        assert all(space.counts(plan)[site.key] in site.counts for site in space.sites)
        proposer.tell(plan, -sum(plan[site.key] for site in space.sites if site.bypass))
    assert any(
        plan[site.key] == 0 for site in space.sites if site.bypass for plan in [proposer.ask() for _ in range(5)]
    )


def test_the_agent_and_the_solver_count_with_nothing() -> None:
    model, x = network("residual")
    space = SearchSpace(sc.inspect(model, x[:2]), sc.Budget(macs=0.9), DEEP)
    least = {site.key: site.fewest for site in space.sites}
    assert Solver(space).solve([np.zeros(site.width + 1) for site in space.sites], space.cost(least)) == least
    walk = Episode(space, space.cost(least))
    while not walk.done:
        walk.step(1.0)
    assert walk.keeps == [site.keep(site.fewest) for site in space.sites]


def test_a_fraction_is_rounded_to_nothing_where_that_is_nearer() -> None:
    site = Site("a", 64, 8, 16, bypass=True)
    assert site.counts == (0, 16, 24, 32, 40, 48, 56, 64)
    assert [site.count(keep / 64) for keep in (0, 7, 8, 12, 21)] == [0, 0, 16, 16, 24]
    assert Site("a", 64, 8, 16).count(0) == 16


def test_only_branches_may_keep_nothing() -> None:
    model, x = network("residual")
    graph = sc.inspect(model, x[:2])
    stream = next(group.key for group in graph.prunable if group.stream)
    with pytest.raises(PlanError, match="has to keep something"):
        sc.prune(model, x[:2], sc.Plan({stream: 0}), calibration=[x])
    key = branches(model, x)[0]
    with pytest.raises(PlanError, match="set depth = true"):
        SearchSpace(graph, sc.Budget(macs=0.9)).check(sc.Plan({key: 0}))
    with pytest.raises(PlanError, match="fraction in"):
        sc.Plan({key: -0.1})


class Gated(nn.Module):
    """A branch through an activation that is a layer's own product: torch's layers, but read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 12), nn.Linear(12, 8)
        self.other, self.head = nn.Linear(12, 4), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = F.relu(self.up(x))
        return self.head(torch.cat([x + self.down(y), self.other(y)], -1))


def test_what_is_read_elsewhere_too_is_made_up_for_there() -> None:
    torch.manual_seed(0)
    model, x = Gated().eval(), torch.randn(32, 6)
    small = sc.prune(model, x[:2], sc.Plan({"up": 0}), calibration=[x], settings=RAW)
    for layer in (model.down, model.other):
        layer.weight.data.zero_()
    torch.testing.assert_close(small(x), model(x))


def test_a_table_measures_layers_that_are_there() -> None:
    model, x = network("residual")
    space = SearchSpace(
        sc.inspect(model, x[:1]),
        sc.Budget(macs=0.99),
        SpaceSettings(depth=True, min_keep=0.5),
        [latency_model("pixel1")],
    )
    bundle = bundle_of(model, x[:1], space, Writer(lambda network, example, name: name))
    assert all(count > 0 for facts in bundle["layers"] for count in (*facts["in_channels"], *facts["out_channels"]))
    assert all(min(sizes[1:3]) > 0 for each in bundle["networks"] for sizes in each["layers"])


def test_studies_of_before_go_on_where_depth_is_not_searched() -> None:
    model, x = network("residual")
    space = SearchSpace(sc.inspect(model, x[:1]), sc.Budget(macs=0.9))
    said = [
        identity(model, space, sc.Bayesian(), sc.SearchSettings(space=SpaceSettings(depth=depth)))["space"]
        for depth in (False, True)
    ]
    assert "depth" not in said[0]
    assert said[1]["depth"]

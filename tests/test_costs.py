"""What a plan costs by arithmetic is what the built network is counted to cost, exactly."""

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from networks import NETWORKS, build, image, random_network
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import secateur as sc
from secateur import zoo
from secateur.cost import Bytes, CountedCosts, Macs, NetworkCost, Params, model_for
from secateur.graph import ModelGraph, count_costs, trace
from secateur.prune import Cutter

SMALL = [name for name in zoo.NETWORKS if name != "vgg16_imagenet"]
"""VGG-16 for ImageNet is counted dense only: half a gigabyte is much to copy and cut."""


def random_counts(graph: ModelGraph, rng: random.Random) -> dict[str, int]:
    """Any number of units of some of the groups; at times the least and the most."""
    chosen = [group for group in graph.prunable if rng.random() < 0.8]
    return {group.key: rng.choice([1, group.width, rng.randint(1, group.width)]) for group in chosen}


def assert_exact(model: nn.Module, example: object, graph: ModelGraph, plans: int) -> None:
    rng = random.Random(0)
    cutter = Cutter(model, graph)
    for _ in range(plans):
        counts = random_counts(graph, rng)
        kept = {
            key: np.sort(np.array(rng.sample(range(graph.group[key].width), count))) for key, count in counts.items()
        }
        built = count_costs(cutter.cut(kept), example)  # type: ignore[arg-type]
        assert CountedCosts(graph)(counts) == built, f"arithmetic and count differ for {counts}"


@pytest.mark.parametrize("name", NETWORKS)
def test_any_plan_of_any_test_network(name: str) -> None:
    model, example = build(name)
    assert_exact(model, example, sc.inspect(model, example), 12)


@pytest.mark.parametrize("name", SMALL)
def test_any_plan_of_the_zoo(name: str) -> None:
    model = zoo.build(name).eval()
    example = torch.randn(1, 3, 32, 32)
    assert_exact(model, example, sc.inspect(model, example), 3)


@pytest.mark.parametrize("seed", range(12))
def test_any_plan_of_random_networks(seed: int) -> None:
    model = random_network(seed)
    assert_exact(model, image(), sc.inspect(model, image()), 6)


@pytest.mark.parametrize("examples", [1, 2, 5])
@pytest.mark.parametrize("name", ["plain", "reshaped", "shared", "frames", "two_inputs", "attention"])
def test_costs_are_for_one_example_whatever_the_batch(name: str, examples: int) -> None:
    model, example = build(name, examples)
    assert CountedCosts(trace(model, example))({}) == CountedCosts(trace(*build(name, 3)))({})


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_bytes_follow_the_type(dtype: torch.dtype) -> None:
    model, _ = build("residual")
    model, example = model.to(dtype), image().to(dtype)
    graph = trace(model, example)
    assert_exact(model, example, graph, 4)
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    floats = sum(tensor.numel() for tensor in model.state_dict().values()) - norms  # one counter of batches a norm
    assert graph.dense.bytes == floats * dtype.itemsize + norms * 8


PUBLISHED = [
    ("resnet20", 32, 40.55),
    ("resnet32", 32, 68.86),
    ("resnet44", 32, 97.17),
    ("resnet56", 32, 125.49),
    ("plain20", 32, 40.55),
    ("vgg16", 32, 313.20),
    ("vgg16_imagenet", 224, 15470.26),
    ("mobilenet_v1", 224, 568.74),
    ("mobilenet_v2", 224, 300.77),
]


@pytest.mark.parametrize(("name", "side", "millions"), PUBLISHED)
def test_published_macs(name: str, side: int, millions: float) -> None:
    with torch.device("meta"):
        counted = count_costs(zoo.build(name), torch.empty(1, 3, side, side))
    assert counted.macs / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2"])
def test_the_dense_costs_agree_with_a_count_on_real_tensors(name: str) -> None:
    model, example = zoo.build(name).eval(), torch.randn(2, 3, 32, 32)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(example)
    graph = trace(model, example)
    assert graph.dense.macs == counter.get_total_flops() // 4
    assert graph.dense.macs == sum(layer.macs for layer in graph.layers)
    assert graph.dense.params == sum(parameter.numel() for parameter in model.parameters())


def test_layers_by_hand() -> None:
    model, example = build("plain")
    layer = trace(model, example).layer
    assert layer["conv1"].macs == 64 * 8 * 3 * 9
    assert layer["conv2"].macs == 16 * 12 * 8 * 9
    assert layer["fc1"].macs == 12 * 16 * 20
    assert layer["fc2"].macs == 20 * 5
    depthwise = trace(*build("depthwise")).layer["1.0"]
    assert (depthwise.kind, depthwise.macs) == ("depthwise", 64 * 8 * 9)
    grouped = trace(*build("grouped")).layer["1.0"]
    assert (grouped.kind, grouped.macs) == ("conv", 64 * 16 * 12 * 9 // 4)
    one = trace(*build("one_channel")).layer
    assert (one["map"].kind, one["map"].macs) == ("conv", 64 * 8 * 9)
    assert (one["after"].kind, one["after"].macs) == ("conv", 64 * 6 * 9)
    assert trace(*build("shared")).layer["twice"].macs == (64 + 16) * 8 * 8 * 9
    assert trace(*build("frames")).layer["conv.0"].macs == 4 * 64 * 8 * 12 * 9
    assert trace(*build("frames")).layer["token"].macs == 4 * 12 * 10
    assert trace(*build("reshaped")).layer["mix"].macs == 16 * 12 * 10


@pytest.mark.parametrize("metric", ["macs", "params", "bytes"])
@pytest.mark.parametrize("name", ["residual", "dense", "depthwise", "grouped", "squeeze_excite", "shared"])
def test_one_step_changes_the_cost_by_what_it_says(name: str, metric: str) -> None:
    graph = sc.inspect(*build(name))
    cost = NetworkCost(graph, model_for(metric))
    rng = random.Random(1)
    for _ in range(30):
        counts = random_counts(graph, rng)
        group = rng.choice(graph.prunable)
        count = rng.randint(1, group.width)
        after = cost({**counts, group.key: count})
        assert cost(counts) + cost.step(counts, group.key, count) == after
        assert cost.dense >= after > 0


@pytest.mark.parametrize("model", [Macs, Params, Bytes])
def test_cost_models_never_fall_as_more_is_kept(model: Callable[[], Macs]) -> None:
    price = model()
    graph = trace(*build("depthwise"))
    for layer in graph.layers:
        for keep in range(1, 5):
            here = price.layer_cost(layer, keep, keep)
            assert price.layer_cost(layer, keep + 1, keep) >= here
            assert price.layer_cost(layer, keep, keep + 1) >= here
    assert all(price.held_cost(held) >= 0 for held in graph.tensors)


def test_what_a_unit_holds_beside_weights() -> None:
    def saved(name: str, key: str, metric: str) -> float:
        """By one unit of a group that no layer reads or makes."""
        graph = trace(*build(name))
        model = model_for(metric)
        assert model is not None
        vectors = [held for held in graph.tensors if not held.layer and key in held.groups]
        return sum(model.held_cost(held) * (held.size({}) - held.size({key: graph.width(key) - 1})) for held in vectors)

    assert (saved("plain", "conv1", "params"), saved("plain", "conv1", "bytes")) == (2, 16)  # norm, statistics
    assert (saved("plain", "conv2", "params"), saved("plain", "conv2", "bytes")) == (1, 4)  # bias
    assert saved("prelu", "0", "params") == 3  # norm and slope
    assert saved("prelu", "3", "params") == 1  # its PReLU has one slope for all
    assert saved("plain", "conv1", "macs") == 0


def test_a_tied_weight_is_one_weight() -> None:
    model, example = build("tied")
    counted = count_costs(model, example)
    assert counted.bytes == sum(x.numel() * x.element_size() for x in {*model.parameters()} | {*model.buffers()})

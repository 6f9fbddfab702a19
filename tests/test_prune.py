"""Cutting, refitting, recalibrating: what is taken out, and that nothing else changes."""

import copy
import random
from collections.abc import Iterator
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from networks import MIXING_NORMS, NETWORKS, Example, Named, Residual, build, image, random_network, settled
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import secateur as sc
from secateur import zoo
from secateur.cost import CountedCosts
from secateur.graph import Kept, ModelGraph, as_inputs, count_costs
from secateur.prune import (
    Calibration,
    Cutter,
    Pruner,
    PruneSettings,
    SequentialRefit,
    disagreement,
    fold_norms,
    recalibrate,
)
from secateur.prune.fit import Effort
from secateur.prune.fold import without_norms
from secateur.prune.moments import collect
from secateur.prune.order import PUT_OFF, rank
from secateur.prune.recalibrate import nearer, recalibrated
from secateur.prune.refit import RIDGE
from secateur.prune.shrink import own_moments, own_products, shrink

PLAIN = PruneSettings(refit=False, sequential=False, recalibrate=False)
REFIT = PruneSettings(sequential=False, recalibrate=False)


def inputs_of(example: Example) -> tuple[Tensor, ...]:
    return (example,) if isinstance(example, Tensor) else example


def calibration(name: str, examples: int = 160) -> Calibration:
    return Calibration(as_inputs(NETWORKS[name][1](examples)))


def run(model: nn.Module, inputs: Any) -> Tensor:
    with torch.no_grad():
        return torch.cat([leaf.flatten(1) for leaf in tree_leaves(as_inputs(inputs).run(model))], 1)


def assert_same(one: Tensor, other: Tensor, tolerance: float = 1e-5) -> None:
    apart = (one - other).abs().max() / other.abs().max()
    assert apart <= tolerance, f"outputs differ by {apart:.2e} of the largest"


def halves(graph: ModelGraph) -> dict[str, int]:
    return {group.key: max(1, group.width // 2) for group in graph.prunable}


def plan_of(graph: ModelGraph, counts: dict[str, int]) -> sc.Plan:
    return sc.Plan({key: count / graph.group[key].width for key, count in counts.items()})


def random_kept(graph: ModelGraph, seed: int) -> Kept:
    rng = random.Random(seed)
    return {
        group.key: np.sort(np.array(rng.sample(range(group.width), rng.randint(1, group.width))))
        for group in graph.prunable
    }


def deafened(model: nn.Module, graph: ModelGraph, kept: Kept) -> nn.Module:
    """The dense network in which all that would be cut is zero: weights that make it, and those that read it."""
    deaf = copy.deepcopy(model)
    for name, held in graph.tensor.items() if kept else ():
        tensor = deaf.state_dict()[name]
        for dim, extent in enumerate(held.extents):
            gone = np.setdiff1d(np.arange(extent.length), extent.alive(kept))
            if held.trained:
                tensor.index_fill_(dim, torch.from_numpy(gone), 0)
    return deaf


ZOO: dict[str, dict[str, Any]] = {
    "resnet20": {"width": 8},
    "resnet32": {"width": 8},
    "resnet44": {"width": 8},
    "resnet56": {"width": 8},
    "plain20": {"width": 8},
    "vgg16": {},
    "mobilenet_v1": {"width": 0.25, "stem_stride": 1},
    "mobilenet_v2": {"width": 0.35, "stem_stride": 1},
    "mobilenet_v1_folded": {},
}
"""All of the zoo but VGG-16 for ImageNet, which is the same features at half a gigabyte; narrow where that can be."""
WIDE = {"vgg16", "mobilenet_v1_folded", "mobilenet_v2"}
"""Too wide to order by elimination in a test."""


MIXES = MIXING_NORMS | {"own_forwards", "layer_scale"}
"""Norms over channels, or over the inputs of a weight, give what is left other values."""


@cache
def zoo_case(name: str) -> tuple[nn.Module, Tensor, ModelGraph]:
    model = settled(zoo.build(name, num_classes=10, **ZOO[name]))
    example = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return model, example, sc.inspect(model, example)


# ---- cutting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in MIXES])
def test_cutting_is_the_same_as_being_ignored_by_the_layers_that_follow(name: str, seed: int) -> None:
    model, example = build(name, 4)
    graph = sc.inspect(model, example)
    kept = random_kept(graph, seed)
    cut = Cutter(model, graph).cut(kept)
    assert_same(run(cut, inputs_of(example)), run(deafened(model, graph, kept), inputs_of(example)))


@pytest.mark.parametrize("seed", range(10))
def test_cutting_random_networks(seed: int) -> None:
    model = random_network(100 + seed)
    graph = sc.inspect(model, image())
    kept = random_kept(graph, seed)
    cut = Cutter(model, graph).cut(kept)
    assert_same(run(cut, (image(4),)), run(deafened(model, graph, kept), (image(4),)))


@pytest.mark.parametrize("name", sorted(MIXING_NORMS))
def test_norms_over_channels_are_cut_with_them(name: str) -> None:
    model, example = build(name)
    graph = sc.inspect(model, example)
    cut = Cutter(model, graph).cut(random_kept(graph, 1))
    assert run(cut, inputs_of(example)).shape == run(model, inputs_of(example)).shape
    for module in cut.modules():
        if isinstance(module, (nn.LayerNorm, nn.GroupNorm)):
            length = module.normalized_shape[-1] if isinstance(module, nn.LayerNorm) else module.num_channels
            assert module.weight.shape == module.bias.shape == (length,)


def test_a_cut_network_says_how_many_channels_it_has() -> None:
    model, example = build("depthwise")
    graph = sc.inspect(model, example)
    cut = Cutter(model, graph).cut({"0.0": np.array([1, 2, 5]), "2.0": np.arange(4)})
    assert "Conv2d(3, 3, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), groups=3" in repr(cut)
    assert "Conv2d(3, 4, kernel_size=(1, 1)" in repr(cut)
    assert "BatchNorm2d(3" in repr(cut)
    assert "BatchNorm2d(4" in repr(cut)
    assert "Linear(in_features=12" in repr(cut)


def test_units_of_a_flattened_picture_are_cut_as_whole_channels() -> None:
    model, example = build("plain")
    graph = sc.inspect(model, example)
    cut = Cutter(model, graph).cut({"conv2": np.array([0, 7])})
    weight = model.get_parameter("fc1.weight")
    expected = torch.cat([weight[:, 0:16], weight[:, 112:128]], 1)
    assert torch.equal(cut.get_parameter("fc1.weight"), expected)


def test_a_plan_that_does_not_fit_is_refused() -> None:
    model, example = build("residual")
    for keeps, message in [
        ({"layer9": 0.5}, "layer9.*does not have.*stem"),
        ({"head": 0.5}, "head cannot be cut: the network's output"),
    ]:
        with pytest.raises(sc.PlanError, match=message):
            sc.prune(model, example, sc.Plan(keeps), calibration=[image(8)])


# ---- candidates and surgery ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ZOO)
def test_slicing_a_candidate_and_surgery_agree_on_the_zoo(name: str) -> None:
    model, example, graph = zoo_case(name)
    chosen = PruneSettings("magnitude", False, False, recalibrate=False) if name in WIDE else REFIT
    data = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    counts = {group.key: max(1, round(group.width * 0.6)) for group in graph.prunable}
    pruner = Pruner(model, graph, Calibration(as_inputs(data)), chosen)
    other = {group.key: 1 + group.width // 3 for group in graph.prunable}
    for counts_before in (other, {}):
        pruner.candidate(counts_before)
    candidate = run(pruner.candidate(counts), (example,))
    afresh = sc.prune(model, example, plan_of(graph, counts), calibration=[data], settings=chosen)
    assert_same(run(afresh.eval(), (example,)), candidate)
    assert count_costs(afresh, example) == CountedCosts(graph)(counts)
    if not chosen.refit:
        cut = Cutter(model, graph).cut(pruner.kept(counts))
        assert_same(run(cut, (example,)), candidate)


@pytest.mark.parametrize("chosen", [PLAIN, REFIT, PruneSettings()], ids=["cut", "refit", "in sequence"])
@pytest.mark.parametrize("name", ["plain", "residual", "padded", "dense", "depthwise", "grouped", "prelu", "conv1d"])
def test_a_candidate_leaves_nothing_behind(name: str, chosen: PruneSettings) -> None:
    model, example = build(name)
    graph = sc.inspect(model, example)
    pruner = Pruner(model, graph, calibration(name, 40), chosen)
    one = halves(graph)
    others = [{}, {group.key: 1 for group in graph.prunable}, dict(list(one.items())[1:])]
    first = {key: value.clone() for key, value in pruner.candidate(one).state_dict().items()}
    for other in others:
        pruner.candidate(other)
        again = pruner.candidate(one).state_dict()
        assert again.keys() == first.keys()
        for key, value in first.items():
            assert torch.equal(again[key], value), f"{key} differs after a candidate of {other}"


def test_forks_do_not_disturb_each_other() -> None:
    model, example = build("residual")
    graph = sc.inspect(model, example)
    pruner = Pruner(model, graph, calibration("residual", 40))
    twin = pruner.fork()
    mine = pruner.candidate(halves(graph))
    before = run(mine, inputs_of(example))
    other = twin.candidate({group.key: 1 for group in graph.prunable})
    assert torch.equal(run(mine, inputs_of(example)), before)
    twin.candidate(halves(graph))
    assert torch.equal(run(other, inputs_of(example)), before)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_candidate_that_keeps_all_is_the_dense_network(name: str) -> None:
    model, example = build(name)
    graph, data = sc.inspect(model, example), calibration(name, 40)
    whole = {group.key: group.width for group in graph.prunable}
    for settings, tolerance in ((PLAIN, 1e-5), (sc.PruneSettings(), 1e-2)):
        candidate = Pruner(model, graph, data, settings).candidate(whole)
        assert_same(run(candidate, data.inputs), run(model, data.inputs), tolerance)


def test_layers_called_by_keyword_and_answers_that_are_no_tensors() -> None:
    model, example = settled(Named()), image(2)
    graph = sc.inspect(model, example)
    assert {group.key for group in graph.prunable} == {"conv1", "conv2"}
    data = image(60)
    small = sc.prune(model, example, plan_of(graph, halves(graph)), calibration=[data])
    assert small(data)[0].shape == (60, 4)
    assert small.conv1.out_channels == 4  # type: ignore[union-attr]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_is_pruned_for_good(name: str) -> None:
    model, example = build(name)
    graph = sc.inspect(model, example)
    counts = halves(graph)
    data = calibration(name)
    small = sc.prune(model, example, plan_of(graph, counts), calibration=data.batches(50))
    assert isinstance(small, type(model))
    assert not small.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in small.parameters())
    assert count_costs(small, example).params == CountedCosts(graph)(counts).params < graph.dense.params
    assert sum(parameter.numel() for parameter in small.parameters()) == CountedCosts(graph)(counts).params
    dense, pruned = run(model, data.inputs), run(small, data.inputs)
    centred = dense - dense.mean(0)
    share = float((pruned - dense).square().sum() / centred.square().sum())
    most = 1.0 if name == "own_forwards" else 0.9  # it is not refitted
    assert share < most, f"{share:.0%} of what the answers tell is lost: the mean answer alone would do as well"


# ---- least squares ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plain", "residual", "dense", "depthwise", "grouped", "conv1d", "split"])
def test_an_order_is_a_permutation_and_its_losses_fall(name: str) -> None:
    model, example = build(name)
    graph = sc.inspect(model, example)
    orders = rank(model, graph, collect(model, graph, calibration(name)))
    assert orders.keys() == {group.key for group in graph.prunable}
    for group in graph.prunable:
        order = orders[group.key]
        assert sorted(order.units) == list(range(group.width))
        assert len(order.loss) == group.width + 1
        assert order.loss[-1] == 0
        assert order.loss[0] == pytest.approx(1)
        assert (np.diff(order.loss) <= 1e-9).all(), f"{group.key}: more channels lose more: {order.loss}"
        assert (order.keep(2) == np.sort(order.units[:2])).all()


def test_the_loss_curve_is_what_the_best_refit_loses() -> None:
    """Checked by solving each least-squares problem from the data itself."""
    model = settled(nn.Sequential(nn.Linear(10, 12), nn.ReLU(), nn.Linear(12, 5, bias=True)))
    x = torch.randn(4000, 10, generator=torch.Generator().manual_seed(4))
    graph = sc.inspect(model, x[:2])
    order = rank(model, graph, collect(model, graph, Calibration(as_inputs(x))))["0"]
    with torch.no_grad():
        hidden, y = model[1](model[0](x)).double(), model(x).double()
    y = y - y.mean(0)
    hidden = hidden - hidden.mean(0)
    for count in range(1, 12):
        kept = hidden[:, torch.from_numpy(order.keep(count))]
        missed = y - kept @ torch.linalg.lstsq(kept, y).solution
        expected = float(missed.square().sum() / y.square().sum())
        assert order.loss[count] == pytest.approx(expected, rel=0.05, abs=1e-3), f"with {count} of 12"


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_elimination_always_takes_the_unit_that_costs_least(kind: str) -> None:
    """Checked by the loss of the whole set that has left so far, with far more updates than are put off at a time."""
    if kind == "linear":
        model, x = settled(nn.Sequential(nn.Linear(20, 100), nn.ReLU(), nn.Linear(100, 30))), torch.randn(2000, 20)
    else:
        layers = nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3)
        model, x = settled(nn.Sequential(*layers)), torch.randn(60, 3, 12, 12)
    graph = sc.inspect(model, x[:2])
    moments = collect(model, graph, Calibration(as_inputs(x)))
    order = rank(model, graph, moments)["0"]
    square = moments["2"].square[0].clone()
    weight = model.get_parameter("2.weight").detach().flatten(1).double()
    energy = float(((weight @ square) * weight).sum())
    square.diagonal().add_(RIDGE * square.diagonal().mean())
    inverse, each = torch.linalg.inv(square), weight.shape[1] // len(order.units)
    assert weight.shape[1] > 1.5 * PUT_OFF

    def lost(units: list[int]) -> float:
        gone = torch.cat([torch.arange(unit * each, (unit + 1) * each) for unit in units])
        slab = weight[:, gone]
        return float((torch.linalg.solve(inverse[gone][:, gone], slab.T) * slab.T).sum()) / energy

    gone: list[int] = []
    for unit in order.units[:0:-1]:
        least = min(lost([*gone, other]) for other in range(len(order.units)) if other not in gone)
        gone.append(int(unit))
        assert order.loss[-1 - len(gone)] == pytest.approx(lost(gone), rel=1e-6)
        assert lost(gone) == pytest.approx(least, rel=1e-6), f"{unit} is not the least of those left"


def test_magnitude_keeps_the_largest_filters() -> None:
    model, example = build("plain")
    graph = sc.inspect(model, example)
    order = rank(model, graph, {}, "magnitude")["conv1"]
    norms = model.get_parameter("conv1.weight").abs().flatten(1).sum(1)
    assert list(order.units) == norms.argsort(descending=True).tolist()


def twins(consumer: nn.Module, producer: nn.Module | None = None) -> nn.Module:
    """A network whose first layer makes every channel twice, then a consumer with weights of its own for both."""
    producer = producer or nn.Conv2d(3, 8, 3, padding=1)
    model = settled(nn.Sequential(producer, nn.ReLU(), consumer))
    half = len(producer.weight) // 2  # type: ignore[arg-type]
    for parameter in producer.parameters():
        parameter.data[half:] = parameter.data[:half]
    return model


class Head(nn.Module):
    """Reads an [N, 8, 8, 8] picture flattened, so that a channel is 64 features."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8 * 64, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1))


@pytest.mark.parametrize(
    ("consumer", "producer", "shape"),
    [
        (nn.Conv2d(8, 5, 1), None, (3, 8, 8)),
        (nn.Conv2d(8, 5, 3, stride=2, padding=1, bias=False), None, (3, 8, 8)),
        (nn.Conv2d(8, 6, 3, groups=2), None, (3, 8, 8)),
        (Head(), None, (3, 8, 8)),
        (nn.Linear(8, 5), nn.Linear(6, 8), (6,)),
        (nn.Linear(8, 5, bias=False), nn.Linear(6, 8), (7, 6)),
        (nn.Conv1d(8, 5, 3, padding=1), nn.Conv1d(3, 8, 3), (3, 12)),
    ],
    ids=["1x1", "3x3 without bias", "grouped", "flattened", "linear", "tokens", "conv1d"],
)
def test_redundant_channels_cost_next_to_nothing(
    consumer: nn.Module, producer: nn.Module | None, shape: tuple[int, ...]
) -> None:
    model = twins(copy.deepcopy(consumer), copy.deepcopy(producer))
    x = torch.randn(2000, *shape, generator=torch.Generator().manual_seed(5))
    if isinstance(consumer, nn.Conv2d) and consumer.groups > 1:  # a unit is channels c and c + 4: make c + 1 the twin
        for parameter in model[0].parameters():
            parameter.data[1::2] = parameter.data[0::2]
    graph = sc.inspect(model, x[:2])
    group = graph.prunable[0]
    small = sc.prune(model, x[:2], sc.Plan({group.key: 0.5}), calibration=[x], settings=REFIT)
    crude = sc.prune(model, x[:2], sc.Plan({group.key: 0.5}), calibration=[x], settings=PLAIN)
    loss, crude_loss = ((run(network, (x[:50],)) - run(model, (x[:50],))).abs().max() for network in (small, crude))
    assert crude_loss > 0.05, "the refit had nothing to make up for: nothing is tested"
    assert loss < 0.15 * crude_loss


def test_fewer_examples_than_features_make_up_for_nothing_by_chance() -> None:
    """An exact fit of 80 examples by 200 features would ruin all other examples."""
    model = settled(nn.Sequential(nn.Linear(20, 400), nn.ReLU(), nn.Linear(400, 10)))
    x = torch.randn(580, 20, generator=torch.Generator().manual_seed(6))
    group = sc.inspect(model, x[:2]).prunable[0]
    plan, few, unseen = sc.Plan({group.key: 0.5}), [x[:80]], Calibration(as_inputs(x[80:]))
    crude, refitted, in_sequence = (
        disagreement(sc.prune(model, x[:2], plan, calibration=few, settings=settings), model, unseen)
        for settings in (PLAIN, REFIT, PruneSettings())
    )
    assert refitted < crude
    assert in_sequence < crude


def test_what_two_features_have_in_common_is_shrunk_by_chance_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    related = torch.randn(1, 4000, 1, 4, generator=generator) @ torch.randn(4, 4, generator=generator)
    alone = torch.randn(1, 50, 1, 30, generator=generator)
    alike = torch.randn(1, 50, 1, 30, generator=generator).expand(1, 50, 9, 30)  # nine rows that tell what one tells
    shares = []
    for rows in (related, alone, alike):
        flat = rows.flatten(1, 2)
        square = flat.transpose(1, 2) @ flat / flat.shape[1]
        before = float(square[0, 0, 1])
        shrink(square, own_moments(rows), rows.shape[1])
        shares.append(float(square[0, 0, 1]) / before)
        assert float(square[0, 0, 0]) == pytest.approx(float(flat[0, :, 0].square().mean()), rel=1e-4)
    assert shares[0] > 0.99, "many examples, and features that go together"
    assert shares[1] < 0.2, "nothing in common"
    assert shares[2] < 0.2, "rows of one example count once"


@pytest.mark.parametrize("shape", [(2, 7, 3, 5, 4), (2, 7, 6, 2, 3)], ids=["wide", "narrow"])
def test_each_examples_own_products_are_what_they_say(shape: tuple[int, ...]) -> None:
    groups, examples, each, width, other = shape
    rows, others = torch.randn(groups, examples, each, width), torch.randn(groups, examples, each, other)
    expected = torch.zeros(groups)
    for group, example in product(range(groups), range(examples)):
        expected[group] += (rows[group, example].T @ others[group, example] / each).square().sum()
    torch.testing.assert_close(own_products(rows, others).float(), expected)


def test_a_refit_in_sequence_keeps_the_offset_of_one_at_once() -> None:
    """The first refit has moved the norm's mean already; the second may not do so once more."""
    first, second = nn.Conv2d(3, 12, 3, bias=False), nn.Conv2d(12, 4, 3, bias=False)
    model = settled(nn.Sequential(first, nn.BatchNorm2d(12), nn.ReLU(), second, nn.BatchNorm2d(4)))
    graph, data = sc.inspect(model, image(2)), Calibration(as_inputs(image(400)))
    pruner = Pruner(model, graph, data, REFIT)
    counts = {group.key: group.width // 3 for group in graph.prunable}
    small = pruner.final(counts)
    wrong = []
    for _ in range(2):
        with torch.no_grad():
            missed = (data.inputs.run(small.eval()) - data.inputs.run(model)).mean((0, 2, 3))
        wrong.append(float(missed.abs().max()))
        SequentialRefit(pruner.dense, graph, data).apply(small, pruner.kept(counts))
    assert max(wrong) < 0.02, f"the mean answers are off by {wrong}"


REFITTED = ["plain", "residual", "padded", "dense", "depthwise", "grouped", "prelu", "conv1d", "reshaped"]


@pytest.mark.parametrize("name", REFITTED)
def test_each_step_brings_the_answers_nearer(name: str) -> None:
    """Magnitude alone, then elimination with refit, then the sequential refit, on inputs not calibrated on."""
    model, example = build(name)
    graph = sc.inspect(model, example)
    data = calibration(name, 1700)
    seen, unseen = data.head(1500), data.tail(200)
    counts = {group.key: max(1, round(group.width * 0.4)) for group in graph.prunable}
    steps = [
        PruneSettings("magnitude", refit=False, sequential=False, recalibrate=False),
        PruneSettings(sequential=False, recalibrate=False),
        PruneSettings(recalibrate=False),
    ]
    small = [sc.prune(model, example, plan_of(graph, counts), calibration=[seen.inputs], settings=s) for s in steps]
    crude, refitted, in_sequence = (disagreement(each, model, unseen) for each in small)
    assert refitted < 0.5 * crude, f"refit {refitted:.4f}, magnitude {crude:.4f}"
    assert in_sequence <= refitted, f"in sequence {in_sequence:.4f}, at once {refitted:.4f}"


def test_a_sum_written_in_place_is_refitted_as_one_written_anew() -> None:
    """`y += x` writes over the branch that the refit has to remember."""
    model, example = build("residual")
    anew = copy.deepcopy(model)
    for module in anew.modules():
        if hasattr(module, "in_place"):
            module.in_place = False
    plan = plan_of(graph := sc.inspect(model, example), halves(graph))
    one, other = (sc.prune(each, example, plan, calibration=[image(200)]) for each in (model, anew))
    assert_same(run(one, (image(20),)), run(other, (image(20),)), 1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_batch_size_of_the_example_does_not_matter(name: str) -> None:
    """A forward pass over one example may take other steps (views instead of copies) than one over many."""
    model, example = build(name, 1)
    plan = plan_of(graph := sc.inspect(model, example), halves(graph))
    data = calibration(name, 60)
    one = sc.prune(model, example, plan, calibration=[data.inputs])
    other = sc.prune(model, build(name, 3)[1], plan, calibration=[data.inputs])
    assert_same(run(one, data.inputs), run(other, data.inputs))


def test_calibration_comes_in_many_forms() -> None:
    x, labels = image(30), torch.zeros(30)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, labels), batch_size=7)
    for given in (x, [x], [(x, labels)], [x[:10], x[10:]], loader, iter([x])):
        assert torch.equal(Calibration.gather(given, as_inputs(x)).inputs.args[0], x)
    assert len(Calibration.gather([x, x, x], as_inputs(x), most=50)) == 50
    both = Calibration.gather([(x, labels, labels)], as_inputs((x, labels)))
    assert [tuple(part.shape) for part in both.inputs.args] == [(30, 3, 8, 8), (30,)]
    named = Calibration.gather(
        [{"x": x[:10], "y": x[:10], "label": labels}, {"x": x, "y": x}], as_inputs({"y": x, "x": x})
    )
    assert [*named.inputs.kwargs] == ["y", "x"]
    assert len(named) == 40
    wrong: dict[str, tuple[Any, Any]] = {
        r"a Tensor that does not begin .* takes \(2\)": ([x], (x, labels)),
        "a dict that does not begin": ([{"image": x}], x),
        "a dict without x, which the example input has": ([{"y": x}], {"x": x}),
        "not finite": ([x, x.log()], x),
        "is empty": ([], x),
        r"are \[3, 8, 8\] each, and the example input is \[3, 8, 4\]": ([x], x[..., :4]),
    }
    for says, (given, example) in wrong.items():
        with pytest.raises(sc.DataError, match=says):
            Calibration.gather(given, as_inputs(example))


def test_calibration_inputs_that_the_network_does_not_take_are_refused() -> None:
    model, example = build("plain")
    graph = sc.inspect(model, example)
    for wrong in (torch.randn(4, 2, 8, 8), torch.randn(4, 3, 8, 8).double(), torch.randn(4, 3)):
        with pytest.raises(sc.DataError, match="does not run on the calibration inputs"):
            collect(model, graph, Calibration(as_inputs(wrong)))


def test_layers_that_see_nothing_at_all_are_no_error() -> None:
    model = settled(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)))
    with torch.no_grad():
        model.get_parameter("0.bias").fill_(-1e6)  # whatever comes in, no unit answers
    x = torch.randn(20, 6)
    small = sc.prune(model, x[:2], sc.Plan({"0": 0.5}), calibration=[x])
    torch.testing.assert_close(small(x), model(x))


# ---- batch norms -----------------------------------------------------------------------------------------------------


def test_recalibration_takes_the_statistics_of_the_data_and_restores_the_norm() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4, momentum=0.37), nn.Dropout(0.5)).eval()
    x = torch.randn(100, 3, 5, 5) + 1
    recalibrate(model, Calibration(as_inputs(x)))
    with torch.no_grad():
        y = model[0](x)
    torch.testing.assert_close(model[1].running_mean, y.mean((0, 2, 3)))
    torch.testing.assert_close(model[1].running_var, y.var((0, 2, 3)))
    assert model[1].momentum == 0.37
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("examples", [2, 249, 250, 251, 501])
def test_recalibration_gives_every_example_the_same_weight(examples: int) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).eval()
    x = torch.randn(examples, 3)
    x[-1] += 100
    recalibrate(model, Calibration(as_inputs(x)))
    with torch.no_grad():
        torch.testing.assert_close(model[1].running_mean, model[0](x).mean(0), rtol=0.02, atol=1e-2)


def test_recalibration_is_taken_only_where_it_helps() -> None:
    model, _ = build("residual")
    data = calibration("residual", 200)
    settled_on_data = copy.deepcopy(model)
    recalibrate(settled_on_data, data)
    assert nearer(recalibrated(settled_on_data, data), settled_on_data, settled_on_data, data) is settled_on_data
    spoilt = copy.deepcopy(settled_on_data)
    for module in spoilt.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean += 1  # type: ignore[operator]
    worse = disagreement(spoilt, settled_on_data, data)
    mended = nearer(recalibrated(spoilt, data), spoilt, settled_on_data, data)
    assert mended is not spoilt
    assert disagreement(mended, settled_on_data, data) < 0.1 * worse


@pytest.mark.parametrize("name", NETWORKS)
def test_folded_norms_answer_the_same(name: str) -> None:
    model, example = build(name)
    graph = sc.inspect(model, example)
    before = copy.deepcopy(model.state_dict())
    cut = Pruner(model, graph, calibration(name, 20)).final(halves(graph))
    for network in (model, cut):
        folded = fold_norms(network, graph)
        assert_same(run(folded, inputs_of(example)), run(network, inputs_of(example)), 2e-5)
        norms = sum(isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)) for module in folded.modules())
        left = {"dense": 3, "own_forwards": 2}  # behind a concatenation, or part of what only torch's own layers do
        assert norms == left.get(name, 0), "norms that could be folded are left"
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["plain", "residual", "padded", "dense", "depthwise", "grouped", "conv1d"])
def test_a_refit_in_sequence_does_not_see_whether_norms_are_folded(name: str) -> None:
    model, example = build(name)
    graph, data = sc.inspect(model, example), calibration(name, 40)
    folded, plain = without_norms(model.eval(), graph, data.head(1).inputs)
    assert all(layer.norm is None for layer in plain.layers) or name == "dense"
    answers = []
    for network, known in ((model, graph), (folded, plain)):
        kept = random_kept(graph, 0)
        cut = Cutter(network, known).cut(kept)
        raw = run(cut, inputs_of(example))
        # Chance is judged over all outputs together, which the gains of norms weigh: so without it.
        SequentialRefit(network, known, data, Effort(shrink=False)).apply(cut, kept)
        answers.append(run(cut, inputs_of(example)))
        assert not torch.allclose(raw, answers[-1], atol=1e-3)
    assert_same(answers[1], answers[0], 1e-3)


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v1", "mobilenet_v2", "vgg16"])
def test_folded_norms_answer_the_same_on_the_zoo(name: str) -> None:
    model, example, graph = zoo_case(name)
    folded = fold_norms(model, graph)
    assert_same(run(folded, (example,)), run(model, (example,)), 2e-5)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())


class Returned(nn.Module):
    """Also returns what the norm reads."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.conv = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 5, 1, bias=False)
        self.norm = nn.BatchNorm2d(5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.conv(torch.relu(self.first(x)))
        return y, self.norm(y)


class TokenNorm(nn.Module):
    """A batch norm over tokens, not over features, as many of both."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Linear(6, 9), nn.Linear(9, 7), nn.BatchNorm1d(7)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.second(torch.relu(self.first(x))))


@pytest.mark.parametrize(("factory", "shape"), [(Returned, (3, 8, 8)), (TokenNorm, (7, 6))])
def test_a_norm_that_is_not_alone_the_layers_own_is_not_folded(
    factory: type[nn.Module], shape: tuple[int, ...]
) -> None:
    model = settled(factory())
    x = torch.randn(80, *shape, generator=torch.Generator().manual_seed(7))
    graph = sc.inspect(model, x[:2])
    assert_same(run(fold_norms(model, graph), (x,)), run(model, (x,)))
    assert [layer.norm for layer in graph.layers] == [None, None]
    small = sc.prune(model, x[:2], sc.Plan({"first": 0.5}), calibration=[x])
    assert float((run(small, (x,)) - run(model, (x,))).square().mean() / run(model, (x,)).var()) < 0.5


def test_disagreement_is_nothing_for_the_same_and_grows_with_noise() -> None:
    for name in ("plain", "two_outputs", "returned"):
        model = settled(Returned()) if name == "returned" else build(name)[0]
        data = Calibration(as_inputs(image(40)))
        found = [0.0]
        for scale in (0.01, 0.1):
            noisy = copy.deepcopy(model)
            generator = torch.Generator().manual_seed(0)
            for parameter in noisy.parameters():
                parameter.data += scale * torch.randn(parameter.shape, generator=generator)
            found.append(disagreement(noisy, model, data))
        assert disagreement(model, model, data) == pytest.approx(0, abs=1e-6)
        assert found == sorted(found)
        assert found[1] > 1e-7


# ---- the caller's things ---------------------------------------------------------------------------------------------


def hooked_model() -> nn.Module:
    """In train mode in part, partly frozen, with hooks, as a caller may have it."""
    model = settled(NETWORKS["residual"][0]()).train()
    model.get_submodule("stem.1").eval()
    model.get_parameter("stem.0.weight").requires_grad_(False)
    model.register_forward_hook(lambda *_: None)
    model.get_submodule("head").register_forward_pre_hook(lambda *_: None)
    return model


def described(model: nn.Module) -> dict[str, Any]:
    return {
        "tensors": {
            key: (id(value), value.clone()) for key, value in [*model.named_parameters(), *model.named_buffers()]
        },
        "grads": {key: value.grad for key, value in model.named_parameters()},
        "requires_grad": {key: value.requires_grad for key, value in model.named_parameters()},
        "training": {key: module.training for key, module in model.named_modules()},
        "hooks": {
            key: (list(module._forward_hooks), list(module._forward_pre_hooks), list(module._backward_hooks))
            for key, module in model.named_modules()
        },
        "modules": {key: id(module) for key, module in model.named_modules()},
    }


def assert_untouched(before: dict[str, Any], after: dict[str, Any]) -> None:
    tensors = before.pop("tensors"), after.pop("tensors")
    assert before == after
    for key, (identity, value) in tensors[0].items():
        assert tensors[1][key][0] == identity, f"{key} was replaced"
        assert torch.equal(tensors[1][key][1], value), f"{key} was changed"


@pytest.mark.filterwarnings("ignore:.*forward hooks")
def test_search_and_prune_touch_nothing_of_the_callers() -> None:
    model = hooked_model()
    before = described(model)
    data = image(30)
    copied = data.clone()
    torch.manual_seed(11)
    random_state = torch.get_rng_state()
    study = sc.search(
        model,
        image(),
        evaluate=lambda m: float(m(data).mean()),
        calibration=[data],
        budget=sc.Budget(macs=0.6),
        trials=3,
    )
    small = sc.prune(model, image(), study.best.plan, calibration=[data])
    assert_untouched(before, described(model))
    assert torch.equal(data, copied)
    assert torch.equal(torch.get_rng_state(), random_state), "the caller's random numbers were drawn from"
    assert torch.is_grad_enabled()
    assert small.training
    shared = {value.data_ptr() for value in model.state_dict().values()}
    assert not any(value.data_ptr() in shared for value in small.state_dict().values()), "memory is shared"


def test_pruning_again_gives_the_same() -> None:
    model, example = build("dense")

    def weights() -> Iterator[Tensor]:
        yield from sc.prune(model, example, sc.Plan({"stem": 0.5}), calibration=[image(50)]).state_dict().values()

    assert all(torch.equal(one, other) for one, other in zip(weights(), weights(), strict=True))


@pytest.mark.parametrize("precision", [torch.float64, torch.bfloat16])
def test_networks_of_other_precisions_are_pruned_in_theirs(precision: torch.dtype) -> None:
    model = settled(Residual()).to(precision)
    inputs = image(24).to(precision)
    graph = sc.inspect(model, inputs[:2])
    plan = sc.Plan({group.key: 0.5 for group in graph.prunable})
    pruned = sc.prune(model, inputs[:2], plan, calibration=[inputs])
    assert {parameter.dtype for parameter in pruned.parameters()} == {precision}
    assert pruned(inputs).isfinite().all()

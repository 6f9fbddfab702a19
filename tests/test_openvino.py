"""The engines: the same answers at other widths, batches and layouts, and what happens where there are none."""

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from networks import NETWORKS, Example, build, settled
from torch import Tensor, nn

import secateur as sc
from secateur import zoo
from secateur.errors import JobError
from secateur.graph import ModelGraph, as_inputs
from secateur.prune import Cutter, fold_norms
from secateur.prune.order import keep, rank
from secateur.run.loop import FINALISTS
from secateur.runtimes import ENGINES, engine

pytest.importorskip("openvino")
from secateur.runtimes import openvino
from secateur.runtimes.openvino import Compiled, OpenVino
from secateur.runtimes.ranges import input_ranges

ZOO: dict[str, Callable[[], nn.Module]] = {
    "resnet20": lambda: zoo.resnet20(width=8),
    "plain20": lambda: zoo.plain20(width=8),
    "vgg16": zoo.vgg16,
    "mobilenet_v1": lambda: zoo.mobilenet_v1(10, width=0.25, stem_stride=1),
    "mobilenet_v2": lambda: zoo.mobilenet_v2(10, width=0.25, stem_stride=1),
    "mobilenet_v1_folded": lambda: zoo.mobilenet_v1_folded(10),
}
SMALL = (
    "plain",
    "dense",
    "grouped",
    "layer_norm_mlp",
    "prelu",
    "shared",
    "two_inputs",
    "shuffled",
    "attention",
    "tied",
)


def inputs_of(example: Example) -> tuple[Tensor, ...]:
    return (example,) if isinstance(example, Tensor) else example


def dense_and_inputs(name: str) -> tuple[nn.Module, Callable[[int], tuple[Tensor, ...]]]:
    if name in ZOO:
        return settled(ZOO[name]()), lambda n: (torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(n)),)
    return build(name)[0], lambda n: inputs_of(NETWORKS[name][1](n))


def candidates(dense: nn.Module, graph: ModelGraph, shares: tuple[float, ...]) -> Iterator[nn.Module]:
    """The network cut to each share of its channels, valid until the next; of those that its forward states no size of:
    a conversion holds what is stated."""
    said = [*graph.sizes, *(each for each in graph.attributes if each.guessed)]
    stated = {key for each in said for extent in each.extents for key in extent.groups}
    orders, cutter = rank(dense, graph, {}, "magnitude"), Cutter(dense, graph)
    for share in shares:
        counts = {group.key: max(2, round(group.width * share)) for group in graph.prunable if group.key not in stated}
        counts = {key: min(count, graph.group[key].width) for key, count in counts.items()}
        yield fold_norms(cutter.cut(keep(orders, counts)), graph)


def error(quick: nn.Module, network: nn.Module, inputs: tuple[Tensor, ...]) -> float:
    with torch.inference_mode():
        answers, expected = quick(*inputs), network(*inputs)
    assert answers.shape == expected.shape
    return float((answers - expected).norm() / expected.norm())


@pytest.mark.parametrize("name", [*ZOO, *SMALL])
def test_one_conversion_serves_all_widths(name: str) -> None:
    dense, inputs = dense_and_inputs(name)
    graph = sc.inspect(dense, inputs(2))
    made = OpenVino(dense, inputs(2), inputs(8))
    for network in candidates(dense, graph, (0.7, 0.4, 1.0)):
        quick = made(network)
        assert isinstance(quick, Compiled), made.fallback
        assert max(error(quick, network, inputs(n)) for n in (5, 1)) < 1e-5
    assert made.conversions == 1 or name == "attention"  # it works its heads out in Python, which a conversion holds


@pytest.mark.parametrize(
    "name", ["resnet20", "mobilenet_v2", "mobilenet_v1_folded", "dense", "layer_norm_mlp", "conv1d"]
)
def test_8_bits_come_near(name: str) -> None:
    dense, inputs = dense_and_inputs(name)
    graph = sc.inspect(dense, inputs(2))
    made = OpenVino(dense, inputs(2), inputs(32), int8=True)
    for network in candidates(dense, graph, (0.7, 0.4)):
        quick = made(network)
        assert isinstance(quick, Compiled), made.fallback
        assert 1e-4 < error(quick, network, inputs(6)) < 0.2, "neither exact, which would not be 8 bits, nor far off"
    assert made.conversions == 1


def test_convolutions_really_run_in_8_bits() -> None:
    dense, inputs = dense_and_inputs("mobilenet_v1_folded")
    template = openvino._Template(dense, inputs(2))
    model = template.filled(dense, input_ranges(dense, inputs(8)))
    compiled = openvino.ov.Core().compile_model(model, "CPU", openvino.SETTINGS)
    kinds = [
        (info["layerType"].astype(str), info["runtimePrecision"].astype(str))
        for info in (node.get_rt_info() for node in compiled.get_runtime_model().get_ops())
    ]
    weighted = [precision for kind, precision in kinds if "Convolution" in kind]
    assert len(weighted) == 28
    assert weighted.count("f32") == 2, "the first and the last"
    assert "Pad" not in [kind for kind, _ in kinds], "padding is part of the convolution behind it"


def test_layouts_and_sizes() -> None:
    dense, inputs = dense_and_inputs("residual")
    network = fold_norms(dense, sc.inspect(dense, inputs(2))).to(memory_format=torch.channels_last)
    quick = OpenVino(dense, inputs(2), inputs(4))(network)
    (x,) = inputs(6)
    other = torch.randn(2, 3, 11, 11)
    for y in (
        x.contiguous(memory_format=torch.channels_last),
        x.flip(3)[:, :, :, ::1],
        x[::2],
        x.expand(6, -1, -1, -1),
    ):
        assert error(quick, network, (y,)) < 1e-5
    assert error(quick, network, (other,)) == 0, "pictures of another size go to torch"
    grey = settled(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten()))
    z = torch.randn(5, 1, 8, 8).contiguous(memory_format=torch.channels_last)
    assert error(OpenVino(grey, (z,), (z,))(grey), grey, (z,)) < 1e-5


def test_answers_are_kept_when_the_next_batch_runs() -> None:
    dense, inputs = dense_and_inputs("plain")
    quick = OpenVino(dense, inputs(2), ())(dense)
    (x,) = inputs(4)
    first = quick(x)
    copy = first.clone()
    quick(-x)
    assert torch.equal(first, copy)


class Rigid(nn.Module):
    """Its code holds numbers that have to change with the widths: `pairs` is a plain number to the tracer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, width, 3, padding=1), nn.Linear(width // 2, 5)
        self.unused = nn.Linear(2, 2)
        self.pairs = width // 2

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.conv(x)).mean((2, 3)).view(-1, self.pairs, 2).amax(2))


def test_numbers_in_the_code_cost_a_conversion_each() -> None:
    x = torch.randn(6, 3, 8, 8)
    made = OpenVino(Rigid(8), (x,), (x,))
    for conversions, width in ((1, 8), (2, 4), (3, 6), (3, 6)):
        network = settled(Rigid(width), width)
        quick = made(network)
        assert isinstance(quick, Compiled)
        assert error(quick, network, (x,)) < 1e-5
        assert made.conversions == conversions


def test_biases_that_were_zero_are_not_forgotten() -> None:
    x = torch.randn(6, 3, 8, 8)
    plain, moved = (settled(Rigid(8)) for _ in range(2))
    nn.init.zeros_(plain.conv.bias)
    made = OpenVino(plain, (x,), (x,))
    made(plain)
    assert error(made(moved), moved, (x,)) < 1e-5
    assert made.conversions == 1


class FixedBatch(nn.Module):
    """Written for the number of examples that it was traced with."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :5] + torch.arange(5.0).repeat(int(x.shape[0]), 1)


class Sampled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.rand(())


@pytest.mark.parametrize(
    ("network", "said"), [(FixedBatch(), ""), (build("two_outputs")[0], "dict"), (Sampled(8, 5), "")]
)
def test_what_openvino_cannot_answer_for_stays_in_torch(network: nn.Module, said: str) -> None:
    network.register_buffer("held", torch.zeros(1))
    x = torch.randn(6, 3, 8, 8)
    made = OpenVino(network, (x,), (x,))
    assert made(network) is network
    assert made.fallback
    assert said in made.fallback


def test_no_finite_answers_are_left_to_the_caller() -> None:
    dense, inputs = dense_and_inputs("plain")
    made = OpenVino(dense, inputs(2), inputs(4))
    broken = build("plain")[0]
    nn.init.constant_(broken.get_parameter("fc2.bias"), torch.nan)
    assert made(broken) is broken
    assert isinstance(made(dense), Compiled)


def test_8_bits_that_are_too_few_become_32(monkeypatch: pytest.MonkeyPatch) -> None:
    dense, inputs = dense_and_inputs("residual")
    monkeypatch.setattr(openvino, "ROUGH", 0.0)
    monkeypatch.setattr(openvino, "PROOFS", 1)
    made = OpenVino(dense, inputs(2), inputs(8), int8=True)
    for _ in range(2):
        assert error(made(dense), dense, inputs(6)) < 1e-5


def test_ranges_are_of_inner_layers_and_leave_no_hooks() -> None:
    dense, inputs = dense_and_inputs("plain")
    (x,) = inputs(40)  # more than go through at once
    with torch.inference_mode():
        first = torch.relu(dense.bn1(dense.conv1(x)))
        second = torch.relu(dense.conv2(first))
    ranges = input_ranges(dense, (x,))
    assert list(ranges) == ["conv2", "fc1"]
    assert ranges["conv2"] == pytest.approx((0, float(first.max())))
    assert ranges["fc1"] == pytest.approx((0, float(second.max())))
    assert not any(module._forward_pre_hooks for module in dense.modules())


def test_engines_by_name() -> None:
    dense, inputs = dense_and_inputs("plain")
    (x,) = inputs(4)
    for name in ENGINES:
        quick = engine(name, dense, as_inputs(x), as_inputs(x))(dense)
        assert error(quick, dense, (x,)) < (0.1 if name == "openvino-int8" else 1e-5)
    with pytest.raises(JobError, match="'tensorrt'; choose one of torch, openvino, openvino-int8"):
        engine("tensorrt", dense, as_inputs(x), as_inputs(x))


def test_openvino_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    dense, inputs = dense_and_inputs("plain")
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.delitem(sys.modules, "secateur.runtimes.openvino")
    with pytest.raises(JobError, match=r"pip install openvino onnx onnxscript"):
        engine("openvino", dense, as_inputs(inputs(2)), as_inputs(inputs(2)))
    assert engine("torch", dense, as_inputs(inputs(2)), as_inputs(inputs(2)))(dense) is dense


def test_engines_side_by_side() -> None:
    dense, inputs = dense_and_inputs("resnet20")
    graph = sc.inspect(dense, inputs(2))

    def trials(share: float) -> float:
        made = OpenVino(dense, inputs(2), inputs(8))
        return max(error(made(network), network, inputs(7)) for network in candidates(dense, graph, (share, share / 2)))

    with ThreadPoolExecutor(2) as pool:
        assert max(pool.map(trials, (0.9, 0.6))) < 1e-5


def test_what_a_quick_engine_found_is_scored_again_by_torch() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 1))
    images = torch.randn(120, 3, 8, 8)
    score = sc.agreement(network.eval(), images)
    study = sc.search(
        network,
        images[:2],
        evaluate=score,
        calibration=[images],
        budget=sc.Budget(macs=0.5),
        trials=8,
        settings=sc.SearchSettings(engine="openvino-int8", race=True),
    )
    assert 1 <= len(study.checked) <= FINALISTS
    assert study.best.number in study.checked
    assert study.smallest(1.0).outcome.costs.macs == min(outcome.costs.macs for outcome in study.checked.values())
    assert study.best.outcome.reward == max(outcome.reward for outcome in study.checked.values())
    exact = {trial.number: trial.outcome.score for trial in study.trials}
    assert any(outcome.score != exact[number] for number, outcome in study.checked.items()), "int8 is not exact"

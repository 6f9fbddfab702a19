"""What is read from a model: layers, groups, reasons; and that the model stays as it was."""

import copy
import re
import threading
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import NETWORKS, Example, build, conv_bn, image, pooled, random_network, settled, tokens
from torch import Tensor, nn

import secateur as sc
from secateur import zoo
from secateur.graph import ModelGraph, as_inputs, count_costs, trace
from secateur.prune import Cutter

# ---- what is looked at -----------------------------------------------------------------------------------------------


class Squeezing(nn.Module):
    """Drops the batch where it is one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).relu().mean((2, 3), keepdim=True).squeeze())


def test_one_example_tells_as_much_as_two() -> None:
    model, x = settled(Squeezing()), torch.randn(2, 3, 8, 8)
    one, two = trace(model, x[:1]), trace(model, x)
    assert one.layers == two.layers
    assert all(layer.once for layer in one.layers)


def test_hooks_are_told_of_and_torchscript_is_refused() -> None:
    model, example = build("plain")
    model.get_submodule("conv1").register_forward_hook(lambda module, args, out: out * 3)
    with pytest.warns(UserWarning, match="conv1 has forward hooks"):
        trace(model, example)
    with pytest.raises(sc.TraceError, match=r"compiled by torch\.jit"):
        trace(torch.jit.trace(build("plain")[0], example), example)
    with pytest.raises(sc.TraceError, match=r"compiled by torch\.compile"):
        trace(torch.compile(build("plain")[0]), example)


def test_broken_weights_are_named() -> None:
    model, example = build("plain")
    model.get_parameter("fc1.weight").data[0, 0] = torch.nan
    with pytest.raises(sc.TraceError, match=r"fc1\.weight of Plain is not finite"):
        trace(model, example)


# ---- layers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("plain", "conv1 conv2 fc1 fc2"),
        (
            "residual",
            "stem.0 blocks.0.conv1 blocks.0.conv2 blocks.1.conv1 blocks.1.conv2 blocks.1.shortcut blocks.2.conv1 "
            "blocks.2.conv2 head",
        ),
        ("dense", "stem conv1 conv2 head"),
        ("squeeze_excite", "stem.0 conv squeeze excite head"),
        ("shared", "stem twice last head"),
        ("split", "stem left right gated head"),
        ("two_inputs", "image.0 vector joint head"),
    ],
)
def test_layers_come_in_the_order_of_the_forward_pass(name: str, layers: str) -> None:
    assert [layer.name for layer in trace(*build(name)).layers] == layers.split()


def test_the_order_is_that_of_running_not_of_defining() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.middle, self.stem = nn.Linear(6, 5), nn.Linear(8, 6), nn.Conv2d(3, 8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.middle(pooled(self.stem(x))))

    graph = trace(Backwards(), image())
    assert [layer.name for layer in graph.layers] == ["stem", "middle", "head"]
    assert [group.key for group in graph.groups] == ["stem", "middle", "head"]


def test_the_facts_of_a_layer() -> None:
    graph = trace(*build("plain"))
    conv = graph.layer["conv2"]
    assert (conv.kind, conv.in_channels, conv.out_channels, conv.kernel) == ("conv", 8, 12, (3, 3))
    assert (conv.stride, conv.groups, conv.in_hw, conv.out_hw) == (2, 1, (8, 8), (4, 4))
    assert (conv.positions, conv.itemsize, conv.norm, conv.once) == (16, 4, None, True)
    assert graph.layer["conv1"].norm == "bn1"
    linear = graph.layer["fc1"]
    assert (linear.kind, linear.in_channels, linear.out_channels, linear.kernel) == ("linear", 192, 20, ())
    assert linear.inputs.size({"conv2": 5}) == 5 * 16
    assert linear.outputs.size({"fc1": 7}) == 7
    assert not trace(*build("shared")).layer["twice"].once
    assert not trace(*build("frames")).layer["token"].once


def test_norms_and_sums_that_follow_a_layer() -> None:
    layer = trace(*build("residual")).layer
    assert {name: found.norm for name, found in layer.items()} == {
        "stem.0": "stem.1",
        "blocks.0.conv1": "blocks.0.bn1",
        "blocks.0.conv2": "blocks.0.bn2",
        "blocks.1.conv1": "blocks.1.bn1",
        "blocks.1.conv2": "blocks.1.bn2",
        "blocks.1.shortcut": None,
        "blocks.2.conv1": "blocks.2.bn1",
        "blocks.2.conv2": "blocks.2.bn2",
        "head": None,
    }
    joined = {name for name, found in layer.items() if found.shortcut is not None}
    assert joined == {"blocks.0.conv2", "blocks.1.conv2", "blocks.1.shortcut", "blocks.2.conv2"}
    assert all(found.norm is None for found in trace(*build("dense")).layers)


# ---- groups ----------------------------------------------------------------------------------------------------------


def test_a_residual_stream_is_one_group() -> None:
    graph = sc.inspect(*build("residual"))
    assert [group.key for group in graph.prunable] == [
        "stem.0", "blocks.0.conv1", "blocks.1.conv1", "blocks.1.conv2", "blocks.2.conv1",
    ]  # fmt: skip
    stream = graph.group["blocks.1.conv2"]
    assert stream.stream
    assert set(stream.producers) == {"blocks.1.conv2", "blocks.1.shortcut", "blocks.2.conv2"}
    assert set(stream.consumers) == {"blocks.2.conv1", "head"}
    assert [group.key for group in graph.prunable if group.stream] == ["stem.0", "blocks.1.conv2"]


def test_a_depthwise_layer_goes_with_the_one_before() -> None:
    graph = sc.inspect(*build("depthwise"))
    group = graph.group["0.0"]
    assert group.producers == ("0.0",)
    held = {name.rpartition(".")[0] for name, each in graph.tensor.items() if "0.0" in each.groups}
    assert held == {"0.0", "0.1", "1.0", "1.1", "2.0"}
    assert group.consumers == ("2.0",)
    assert group.width == 8


def test_grouped_layers_lose_whole_groups_or_as_many_from_every_group() -> None:
    """Twelve channels are read by four groups, sixteen made by them and read by two."""
    graph = sc.inspect(*build("grouped"))
    assert {group.key: group.width for group in graph.prunable} == {
        "0.0": 2, "0.0#2": 2, "0.0#3": 3, "1.0": 4, "2.0": 4,
    }  # fmt: skip
    made = graph.layer["1.0"].outputs
    assert all(sorted(row // 4) == [0, 1, 2, 3] for row in made.index("1.0"))
    assert [sorted(set(row // 4)) for row in made.index("0.0")] == [[0, 1], [2, 3]]
    cut = Cutter(build("grouped")[0], graph).cut({"0.0": np.array([1]), "1.0": np.array([0, 2, 3])})
    conv, after = cut.get_submodule("1.0"), cut.get_submodule("2.0")
    assert (conv.groups, conv.in_channels, conv.out_channels) == (2, 6, 6)
    assert (after.groups, after.in_channels, after.weight.shape[1]) == (1, 6, 6)


def test_a_concatenation_shifts_positions() -> None:
    graph = sc.inspect(*build("dense"))
    at = {(name, dim): extent.index("conv1").ravel().tolist() for name, held in graph.tensor.items()
          for dim, extent in enumerate(held.extents)}  # fmt: skip
    assert at["conv1.weight", 0] == list(range(6))
    for place in (("conv2.weight", 1), ("norm2.weight", 0), ("head.weight", 1), ("norm3.weight", 0)):
        assert at[place] == list(range(8, 14))


def test_flattened_channels_are_many_features() -> None:
    part = next(part for part in sc.inspect(*build("plain")).group["conv2"].slices if part.side == "in")
    assert (part.module, part.index.shape) == ("fc1", (12, 16))
    assert part.index[3].tolist() == list(range(48, 64))


def test_one_output_channel_is_not_depthwise() -> None:
    graph = sc.inspect(*build("one_channel"))
    assert graph.layer["map"].kind == graph.layer["after"].kind == "conv"
    assert graph.group["map"].fixed == "a single channel"
    assert {"stem.0", "after"} <= {group.key for group in graph.prunable}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_dimension_of_every_tensor_is_told(name: str) -> None:
    model, example = build(name)
    graph = sc.inspect(model, example)
    assert len({group.key for group in graph.groups}) == len(graph.groups)
    for group in graph.groups:
        for part in group.slices:
            assert group.fixed or len(part.index) == group.width
            assert len(set(part.index.ravel().tolist())) == part.index.size, f"{group.key}: a channel twice"
    for layer in graph.layers:
        assert layer.inputs.size({}) == layer.in_channels
        assert layer.outputs.size({}) == layer.out_channels
    for key, tensor in (*model.named_parameters(), *model.named_buffers()):
        assert [extent.length for extent in graph.tensor[key].extents] == list(tensor.shape)


# ---- what is left alone ----------------------------------------------------------------------------------------------


def test_what_cannot_be_cut_says_why() -> None:
    def reasons(name: str) -> dict[str, str]:
        return {group.key: group.fixed for group in sc.inspect(*build(name)).groups if group.fixed}

    assert reasons("plain") == {"fc2": "the network's output"}
    for name in ("padded", "attention", "hand_made_attention", "shuffled"):
        assert set(reasons(name).values()) == {"the network's output"}
    assert reasons("one_channel")["map"] == "a single channel"
    assert reasons("two_outputs") == {"hidden": "the network's output", "head": "the network's output"}
    indexed = sc.inspect(settled(ReadsChannels("sort")), image()).group["conv"].fixed
    assert re.fullmatch(r"aten\.sort orders them by their values in the network \(test_graph\.py:\d+\)", indexed)


def test_a_regrouping_of_places_names_its_operator() -> None:
    class Regrouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.rows = nn.Conv2d(3, 12, 3), nn.Linear(8, 4)
            self.free, self.after = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.rows(self.conv(x).view(len(x), -1, 8)), self.after(self.free(x))

    graph = sc.inspect(settled(Regrouped()), torch.randn(2, 3, 12, 12))
    said = r"12 x 10 x 10 indices are regrouped as 150 x 8 by aten\.view in the network \(test_graph\.py:\d+\)"
    assert re.fullmatch(said, graph.group["conv"].fixed)
    assert [group.key for group in graph.prunable] == ["free"]


def test_a_shuffle_is_followed_through_any_norm() -> None:
    """A group norm gives other values to what stays, so it is compared over what stays."""

    class Shuffling(nn.Module):
        def __init__(self, norm: nn.Module) -> None:
            super().__init__()
            self.first, self.norm = nn.Conv2d(3, 16, 3, padding=1), norm
            self.second, self.head = nn.Conv2d(16, 12, 3, padding=1), nn.Linear(12, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.norm(self.first(x)))
            n, c, h, w = x.shape
            x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
            return self.head(pooled(F.relu(self.second(x))))

    for norm, widths in ((nn.BatchNorm2d(16), [8]), (nn.GroupNorm(1, 16), [8]), (nn.GroupNorm(4, 16), [2, 4])):
        graph = sc.inspect(settled(Shuffling(norm)), image())
        sites = [group for group in graph.prunable if group.producers == ("first",)]
        assert [group.width for group in sites] in (widths, [2, *widths]), f"{norm}: {sites}"
        assert not graph.group["second"].fixed


def test_answers_at_random_are_told_of() -> None:
    class Dropping(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(super().forward(x), 0.5)

    layers = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)
    with pytest.warns(UserWarning, match="answers otherwise each time, even in eval mode"):
        graph = sc.inspect(settled(Dropping(*layers)), image())
    assert [group.key for group in graph.prunable] == ["0"]


@pytest.mark.parametrize("name", NETWORKS)
def test_whatever_is_fixed_has_a_reason_in_words(name: str) -> None:
    for group in sc.inspect(*build(name)).groups:
        assert group.fixed == "" or len(group.fixed) > 8
        assert "\n" not in group.fixed


class ReadsChannels(nn.Module):
    """Something beside layers reads the channels of `conv`, so that cutting them would change the answer."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.stem, self.conv, self.after = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 5)
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 8).view(1, 8, 1, 1))
        self.register_buffer("mask", torch.linspace(0.5, 1.5, 8).view(1, 8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(F.relu(self.stem(x)))
        if self.how == "softmax":
            y = torch.softmax(y, 1)
        elif self.how == "mean":
            y = y - y.mean(1, keepdim=True)
        elif self.how == "normalise":
            y = F.normalize(y, dim=1)
        elif self.how == "flip":
            y = y.flip(1) + y
        elif self.how == "parameter":
            y = y * self.scale
        elif self.how == "buffer":
            y = y * self.mask
        elif self.how == "sort":
            y = y.sort(1)[0]
        elif self.how == "index":
            y = y[:, [7, 6, 5, 4, 3, 2, 1, 0]] * y
        return self.head(pooled(F.relu(self.after(y))))


@pytest.mark.parametrize("how", ["softmax", "flip", "index", "sort"])
def test_channels_that_something_else_reads_are_left_alone(how: str) -> None:
    model = settled(ReadsChannels(how))
    graph = sc.inspect(model, image())
    assert graph.group["conv"].fixed, f"{how} reads these channels"
    assert not graph.group["stem"].fixed
    assert not graph.group["after"].fixed
    assert not sc.inspect(settled(ReadsChannels("nothing")), image()).group["conv"].fixed


@pytest.mark.parametrize("how", ["mean", "normalise", "parameter", "buffer"])
def test_what_is_of_the_channels_is_cut_with_them(how: str) -> None:
    model = settled(ReadsChannels(how))
    graph = sc.inspect(model, image())
    group = graph.group["conv"]
    assert not group.fixed
    assert bool(group.mixed) == (how in ("mean", "normalise"))
    held = {"parameter": "scale", "buffer": "mask"}.get(how, "conv.bias")
    cut = Cutter(model, graph).cut({"conv": np.arange(3)})
    assert 3 in (cut.state_dict()[held]).shape
    assert cut(image()).shape == (2, 5)


@pytest.mark.parametrize(
    "model",
    [
        nn.Linear(6, 5),
        nn.Sequential(nn.Flatten(), nn.ReLU()),
        nn.Sequential(nn.Conv2d(3, 1, 1), nn.Conv2d(1, 2, 1)),
        nn.Sequential(nn.LSTM(6, 4, batch_first=True)),
    ],
    ids=["one layer", "no layer", "single channels", "lstm"],
)
def test_nothing_to_prune_is_an_error(model: nn.Module) -> None:
    example = image() if isinstance(model[0] if isinstance(model, nn.Sequential) else model, nn.Conv2d) else tokens()
    with pytest.raises(sc.TraceError, match=r"nothing of (Linear|Sequential) can be pruned|cannot follow"):
        sc.inspect(model, example)


class Unpadded(nn.Module):
    """Tensors made on the way, without a device: they cannot be made on meta by moving the model there."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.head = conv_bn(3, 8), conv_bn(9, 8), nn.Linear(8, 5)
        self.shift = torch.linspace(0, 1, 64).view(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([x, torch.zeros(len(x), 1, *x.shape[2:])], 1)
        return self.head(pooled(self.conv(x + self.shift)))


class InPlace(nn.Module):
    """Writes into a part of a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.head = conv_bn(3, 8), conv_bn(8, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = x.clone()
        y[:, :4, 1:] = x[:, :4, :-1]
        return self.head(pooled(self.conv(y)))


class Conditional(nn.Module):
    """What is done depends on the numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.head = conv_bn(3, 8), conv_bn(8, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(pooled(self.conv(x if x.sum() > 0 else -x)))


@pytest.mark.parametrize("factory", [Unpadded, InPlace, Conditional])
def test_odd_models_are_pruned_or_refused_in_so_many_words(factory: type[nn.Module]) -> None:
    model = settled(factory())
    try:
        graph = sc.inspect(model, image())
    except sc.TraceError as error:
        assert type(model).__name__ in str(error)  # noqa: PT017
    else:
        small = sc.prune(model, image(), sc.Plan({graph.prunable[0].key: 0.5}), calibration=[image(20)])
        assert small(image()).shape == (2, 5)


class FlattenedTwice(nn.Module):
    """Two flattened pictures side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 6, 3, padding=1)
        self.joint, self.head = nn.Linear(14 * 64, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([F.relu(self.one(x)).flatten(1), F.relu(self.other(x)).flatten(1)], 1)
        return self.head(F.relu(self.joint(both)))


def test_flattened_pictures_side_by_side_are_followed() -> None:
    graph = sc.inspect(settled(FlattenedTwice()), image())
    assert [group.key for group in graph.prunable] == ["one", "other", "joint"]
    assert graph.layer["joint"].inputs.index("other")[2].tolist() == list(range(8 * 64 + 128, 8 * 64 + 192))


def test_a_weight_of_given_norms_is_cut_through_what_it_is_worked_out_from() -> None:
    model, example = build("plain")
    nn.utils.parametrizations.weight_norm(model.conv2)
    dense = model.conv2.weight.detach()
    graph = sc.inspect(model, example)
    assert {"conv1", "fc1"} <= {group.key for group in graph.prunable}
    kept = {"conv1": np.array([0, 3, 5])}
    assert torch.allclose(Cutter(model, graph).cut(kept).conv2.weight, dense[:, kept["conv1"]], atol=1e-6)


@pytest.mark.parametrize("wrap", [nn.utils.spectral_norm, nn.utils.parametrizations.spectral_norm])
@pytest.mark.parametrize("name", ["conv1", "conv2"])
def test_a_weight_under_a_spectral_norm_is_what_it_was_where_it_is_left(wrap: Any, name: str) -> None:
    model, example = build("plain")
    wrap(model.get_submodule(name))
    model.train()(example)
    model.eval()(example)  # the old form works its weight out in a call alone
    dense = model.get_submodule(name).weight.detach()
    graph = sc.inspect(model, example)
    kept = np.array([0, 3, 5])
    small = Cutter(model, graph).cut({"conv1": kept})
    small(example)
    left = dense[kept] if name == "conv1" else dense[:, kept]
    assert torch.allclose(small.get_submodule(name).weight, left, atol=1e-6)
    small.train()(example).sum().backward()


def test_both_inputs_of_a_bilinear_layer_are_cut() -> None:
    class Bilinear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(6, 10), nn.Linear(6, 8)
            self.join, self.head = nn.Bilinear(10, 8, 12), nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.relu(self.join(F.relu(self.left(x)), F.relu(self.right(x)))))

    model, x = settled(Bilinear()), torch.randn(4, 6)
    graph = sc.inspect(model, x)
    assert [(group.key, group.width) for group in graph.prunable] == [("left", 10), ("right", 8), ("join", 12)]
    assert graph.layer["join"].macs == 10 * 8 * 12
    small = Cutter(model, graph).cut({"left": np.arange(5), "right": np.arange(2), "join": np.arange(4)})
    assert small(x).shape == (4, 3)
    assert count_costs(small, x).macs == 6 * 5 + 6 * 2 + 5 * 2 * 4 + 4 * 3


def test_layers_that_share_a_weight_stay_tied() -> None:
    model, example = build("tied")
    graph = sc.inspect(model, example)
    assert {group.key for group in graph.prunable} == {"stem.0", "last"}
    small = sc.prune(model, example, sc.Plan({"stem.0": 0.5}), calibration=[image(20)])
    assert small.get_parameter("one.weight") is small.get_submodule("other").weight
    assert small.get_parameter("one.weight").shape[:2] == (4, 4)


# ---- examples --------------------------------------------------------------------------------------------------------


def test_an_example_without_a_batch_dimension_is_named() -> None:
    model = settled(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(-3), nn.Linear(8, 2))
    )
    with pytest.raises(sc.TraceError, match=r"\[3, 8, 8\] has no batch dimension: .* \[1, 3, 8, 8\]"):
        sc.inspect(model, torch.randn(3, 8, 8))


@pytest.mark.parametrize("shape", [(2, 4, 8, 8), (2, 3), (2, 3, 20, 20)])
def test_an_example_of_the_wrong_shape_is_named(shape: tuple[int, ...]) -> None:
    model, _ = build("plain")
    with pytest.raises(
        sc.TraceError, match=r"Plain does not run on the example input of shape \(" + ", ".join(map(str, shape))
    ):
        trace(model, torch.zeros(shape))


@pytest.mark.parametrize("example", [(), [], "image", (1, 2), torch.tensor(3.0), torch.zeros(0, 3, 8, 8), None])
def test_what_is_no_example_is_refused(example: Any) -> None:
    with pytest.raises(sc.TraceError, match="example input is a tensor with a batch dimension"):
        as_inputs(example)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("examples", [1, 3])
def test_the_batch_size_of_the_example_changes_nothing(name: str, examples: int) -> None:
    assert sc.inspect(*build(name, examples)).fingerprint == sc.inspect(*build(name, 2)).fingerprint


def test_a_model_that_cannot_be_copied_is_refused() -> None:
    model, example = build("plain")
    model.lock = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(sc.TraceError, match="cannot be copied"):
        trace(model, example)


# ---- the caller's model ----------------------------------------------------------------------------------------------


def same(one: ModelGraph, other: ModelGraph) -> bool:
    return one.fingerprint == other.fingerprint


@pytest.mark.parametrize("name", NETWORKS)
def test_a_frozen_model_gives_the_same_graph(name: str) -> None:
    model, example = build(name)
    frozen = copy.deepcopy(model).requires_grad_(False)
    assert same(sc.inspect(frozen, example), sc.inspect(model, example))
    with torch.no_grad():
        assert same(sc.inspect(model, example), sc.inspect(frozen, example))
    with torch.inference_mode():
        assert same(trace(frozen, example), trace(model, example))


@pytest.mark.parametrize("name", ["residual", "dense", "attention"])
def test_a_model_in_train_mode_gives_the_same_graph_and_keeps_its_statistics(name: str) -> None:
    model, example = build(name)
    training = copy.deepcopy(model).train()
    assert same(sc.inspect(training, example), sc.inspect(model, example))
    assert all(module.training for module in training.modules())
    assert all(torch.equal(one, other) for one, other in zip(training.buffers(), model.buffers(), strict=True))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_callers_model_is_left_as_it_was(name: str) -> None:
    model, example = build(name)
    calls: list[int] = []
    for number, module in enumerate(model.modules()):
        module.training = number % 2 == 0
    for number, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(number % 3 > 0)
    last = list(model.modules())[-1]
    last.register_forward_hook(lambda *_: calls.append(1))
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    tensors = {key: value.clone() for key, value in model.state_dict().items()}
    inputs = as_inputs(example).tensors
    copies = [x.clone() for x in inputs]
    for x in inputs:
        x.requires_grad_(False)

    sc.inspect(model, example)

    assert all(module.training == (number % 2 == 0) for number, module in enumerate(model.modules()))
    assert all(parameter.requires_grad == (number % 3 > 0) for number, parameter in enumerate(model.parameters()))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert len(last._forward_hooks) == len(model._forward_pre_hooks) == 1
    assert not calls, "the caller's hooks were run"
    assert model.state_dict().keys() == tensors.keys()
    assert all(torch.equal(value, tensors[key]) for key, value in model.state_dict().items())
    assert all(torch.equal(x, before) for x, before in zip(inputs, copies, strict=True))


def test_tracing_draws_no_random_numbers() -> None:
    model, example = build("plain")
    torch.manual_seed(5)
    before = torch.get_rng_state()
    sc.inspect(model, example)
    assert torch.equal(torch.get_rng_state(), before)


# ---- fingerprints ----------------------------------------------------------------------------------------------------


def test_fingerprints_name_the_architecture_not_the_weights() -> None:
    def fingerprint(model: nn.Module, example: Example) -> str:
        return sc.inspect(model, example).fingerprint

    model, example = build("residual")
    assert fingerprint(model, example) == fingerprint(copy.deepcopy(model), example)
    assert fingerprint(model, example) == fingerprint(settled(NETWORKS["residual"][0](), seed=9), example)
    found = [fingerprint(*build(name)) for name in NETWORKS]
    found += [fingerprint(random_network(seed), image()) for seed in range(6)]
    found += [fingerprint(zoo.resnet20(width=width), torch.zeros(1, 3, 32, 32)) for width in (4, 8)]
    found += [fingerprint(zoo.resnet20(width=4), torch.zeros(1, 3, 16, 16))]
    assert len(set(found)) == len(found), "two architectures have one fingerprint"


def test_the_layout_of_the_weights_does_not_matter() -> None:
    model, example = build("plain")
    plain = sc.inspect(model, example)
    turned = sc.inspect(
        model.to(memory_format=torch.channels_last), example.contiguous(memory_format=torch.channels_last)
    )
    assert turned.fingerprint == plain.fingerprint

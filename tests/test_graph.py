"""What is read from a model: layers, groups, reasons; and that the model stays as it was."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import NETWORKS, Example, build, conv_bn, image, pooled, random_network, settled, tokens
from torch import Tensor, nn

import secateur as sc
from secateur import zoo
from secateur.graph import ModelGraph, as_inputs, trace

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
    group = sc.inspect(*build("depthwise")).group["0.0"]
    assert group.producers == ("0.0",)
    assert {part.module for part in group.slices} == {"0.0", "0.1", "1.0", "1.1", "2.0"}
    assert group.consumers == ("2.0",)
    assert group.width == 8


def test_grouped_layers_lose_as_many_from_every_group() -> None:
    graph = sc.inspect(*build("grouped"))
    group = graph.group["1.0"]
    assert group.width == 4
    for part in group.slices:
        if (part.module, part.side) == ("1.0", "out"):
            assert sorted((part.index // 4).ravel().tolist()) == sorted([0, 1, 2, 3] * 4)
            assert all(sorted(row // 4) == [0, 1, 2, 3] for row in part.index)


def test_a_concatenation_shifts_positions() -> None:
    graph = sc.inspect(*build("dense"))
    at = {(part.module, part.side): part.index.ravel().tolist() for part in graph.group["conv1"].slices}
    assert at["conv1", "out"] == list(range(6))
    assert at["conv2", "in"] == at["norm2", "out"] == at["head", "in"] == at["norm3", "out"] == list(range(8, 14))


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
def test_every_channel_of_every_layer_is_in_one_group_at_most(name: str) -> None:
    graph = sc.inspect(*build(name))
    seen: set[tuple[str, str, int]] = set()
    for group in graph.groups:
        assert group.width == len(group.slices[0].index)
        for part in group.slices:
            places = {(part.module, part.side, int(at)) for at in part.index.ravel()}
            assert len(places) == part.index.size, f"{group.key} names a channel of {part.module} twice"
            assert not places & seen, f"channels of {part.module} are in two groups"
            seen |= places
    assert len({group.key for group in graph.groups}) == len(graph.groups)
    for layer in graph.layers:
        assert layer.inputs.size({}) == layer.in_channels
        assert layer.outputs.size({}) == layer.out_channels
        covered = {at for module, side, at in seen if (module, side) == (layer.name, "out")}
        assert covered == set(range(layer.out_channels)), f"some channels of {layer.name} are in no group"


# ---- what is left alone ----------------------------------------------------------------------------------------------


def test_what_cannot_be_cut_says_why() -> None:
    def reasons(name: str) -> dict[str, str]:
        return {group.key: group.fixed for group in sc.inspect(*build(name)).groups if group.fixed}

    assert reasons("plain") == {"fc2": "the network's output"}
    assert "shifted" in reasons("padded")["blocks.1.conv2"]
    assert "MultiheadAttention" in reasons("attention")["embed"]
    assert reasons("hand_made_attention").keys() == {"q", "head"}
    assert "reads its channels" in reasons("shuffled")["grouped1"]
    assert reasons("two_outputs") == {"hidden": "the network's output", "head": "the network's output"}


def test_norms_over_channels_do_not_hide_a_coupling_that_was_followed_wrongly() -> None:
    """A group norm gives other values to what stays, so its channels are compared without what it mixes."""

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

    for norm in (nn.BatchNorm2d(16), nn.GroupNorm(1, 16), nn.GroupNorm(4, 16)):
        graph = sc.inspect(settled(Shuffling(norm)), image())
        assert "reads its channels" in graph.group["first"].fixed, f"{norm} hid the shuffle"
        assert not graph.group["second"].fixed


def test_answers_at_random_are_refused() -> None:
    class Dropping(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(super().forward(x), 0.5)

    layers = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)
    with pytest.raises(sc.TraceError, match="answers otherwise each time, even in eval mode"):
        sc.inspect(settled(Dropping(*layers)), image())


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
        elif self.how == "index":
            y = y[:, [7, 6, 5, 4, 3, 2, 1, 0]] * y
        return self.head(pooled(F.relu(self.after(y))))


@pytest.mark.parametrize("how", ["softmax", "mean", "normalise", "flip", "parameter", "buffer", "index"])
def test_channels_that_something_else_reads_are_left_alone(how: str) -> None:
    model = settled(ReadsChannels(how))
    graph = sc.inspect(model, image())
    assert graph.group["conv"].fixed, f"{how} reads these channels"
    assert not graph.group["stem"].fixed
    assert not graph.group["after"].fixed
    assert not sc.inspect(settled(ReadsChannels("nothing")), image()).group["conv"].fixed


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
    """Two flattened pictures side by side: which feature is which channel's cannot be followed."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 6, 3, padding=1)
        self.joint, self.head = nn.Linear(14 * 64, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([F.relu(self.one(x)).flatten(1), F.relu(self.other(x)).flatten(1)], 1)
        return self.head(F.relu(self.joint(both)))


def test_a_network_that_would_be_followed_for_ever_is_refused() -> None:
    with pytest.raises(sc.TraceError, match=r"FlattenedTwice: .*circles"):
        trace(FlattenedTwice(), image())


@pytest.mark.parametrize("computed", [nn.utils.spectral_norm, nn.utils.parametrizations.weight_norm])
def test_weights_that_are_computed_are_refused_by_name(computed: Callable[[nn.Module], nn.Module]) -> None:
    model, example = build("plain")
    computed(model.conv2)
    with pytest.raises(sc.TraceError, match=r"conv2 computes its weight.*torch\.nn\.utils.*remove_parametrizations"):
        trace(model, example)


def test_layers_that_share_a_weight_are_left_alone_and_stay_tied() -> None:
    model, example = build("tied")
    graph = sc.inspect(model, example)
    assert {group.key for group in graph.prunable} == {"last"}
    assert graph.group["one"].fixed == "one shares its weights with other"
    small = sc.prune(model, example, sc.Plan({"last": 0.5}), calibration=[image(20)])
    assert small.get_parameter("one.weight") is small.get_submodule("other").weight


# ---- examples --------------------------------------------------------------------------------------------------------


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
    model.weights = model.conv1.weight * 2  # type: ignore[union-attr, assignment]
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
    inputs: tuple[Tensor, ...] = as_inputs(example)
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

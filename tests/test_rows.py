"""What ranking and refits see of layers: the rows of any operator, times its weights, are its outputs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.utils.prune
from torch import Tensor, nn

import secateur as sc
from secateur.graph import ModelGraph, Products, Run, as_inputs, bias_of, weight_of
from secateur.prune import Calibration, Pruner, PruneSettings
from secateur.prune.offset import bias_behind
from secateur.prune.rows import operand_rows, output_rows, outputs


class Between(nn.Module):
    """A layer between two that are read by it and read it."""

    def __init__(self, first: nn.Module, layer: nn.Module, elements: int) -> None:
        super().__init__()
        self.first, self.layer, self.head = first, layer, nn.Linear(elements, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Any x [N, ...]."""
        return self.head(torch.relu(self.layer(self.first(x))).flatten(1))


def between(layer: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """With a layer before it that leaves the shape as it is."""
    convolutions = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
    channels = shape[1]
    first = nn.Linear(shape[-1], shape[-1]) if isinstance(layer, nn.Linear) else None
    first = first or convolutions[len(shape)](channels, channels, 1)
    with torch.no_grad():
        return Between(first, layer, layer(first(torch.randn(shape)))[0].numel()).eval()


def runs_of(model: nn.Module, graph: ModelGraph, *inputs: Tensor) -> dict[str, list[tuple[Run, Tensor]]]:
    """Every product by a layer's weight, and what it gave."""
    found: dict[str, list[tuple[Run, Tensor]]] = {}
    with (
        torch.no_grad(),
        Products(model, graph.layers, after=lambda run, y: found.setdefault(run.layer.name, []).append((run, y))),
    ):
        model(*inputs)
    return found


def times_weights(model: nn.Module, run: Run, rows: Tensor) -> Tensor:
    """Rows [R, groups, D] times the weights, [R, out]."""
    found = torch.einsum("ngd,god->ngo", rows, weight_of(model, run.layer).flatten(2)).flatten(1)
    bias = bias_of(model, run.layer)
    return found + bias if run.biased and bias is not None else found


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(4, 6, 3, stride=2, padding=1), (3, 4, 7, 6)),
        (nn.Conv2d(4, 6, 2, padding="same"), (3, 4, 6, 6)),
        (nn.Conv2d(4, 8, 3, padding=1, groups=2, padding_mode="reflect"), (3, 4, 6, 6)),
        (nn.Conv2d(4, 8, 3, padding=1, groups=4), (3, 4, 6, 6)),
        (nn.Conv2d(3, 4, 3, padding=2, padding_mode="circular"), (3, 3, 6, 6)),
        (nn.Conv1d(4, 6, 3, stride=2, dilation=2, padding=1), (3, 4, 11)),
        (nn.Conv3d(4, 6, (3, 1, 2), stride=(2, 1, 1), padding=(1, 0, 1)), (3, 4, 5, 4, 3)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1), (3, 4, 5, 4)),
        (nn.ConvTranspose2d(4, 8, 2, stride=2, groups=2, bias=False), (3, 4, 5, 4)),
        (nn.ConvTranspose1d(4, 6, 5, stride=3, dilation=2), (3, 4, 7)),
        (nn.ConvTranspose3d(4, 6, 2, stride=2), (3, 4, 2, 3, 4)),
        (nn.Linear(7, 3), (4, 7)),
        (nn.Linear(7, 3), (4, 5, 7)),
        (nn.Linear(7, 3), (4, 2, 5, 7)),
    ],
    ids=str,
)
def test_rows_times_weights_are_outputs(layer: nn.Module, shape: tuple[int, ...]) -> None:
    model, x = between(layer, shape), torch.randn(shape)
    graph = sc.inspect(model, x)
    inputs = [x] if x.dim() != 4 else [x, x.contiguous(memory_format=torch.channels_last)]
    for given in inputs:
        ((run, y),) = runs_of(model, graph, given)["layer"]
        positions = torch.randint(outputs(run, y).shape[1], (len(x), 20))
        found = times_weights(model, run, operand_rows(run, positions))
        torch.testing.assert_close(found, output_rows(run, y, positions), rtol=1e-4, atol=1e-5)


class Transposed(nn.Module):
    """A weight [in, out], as GPT-2 has them."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(8, 10) / 3), nn.Parameter(torch.randn(10))

    def forward(self, x: Tensor) -> Tensor:
        """x [N, T, 8]."""
        return torch.addmm(self.bias, x.view(-1, 8), self.weight).view(*x.shape[:2], 10)


class Left(nn.Module):
    """A weight that stands before what it multiplies: channels are rows."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(10, 8) / 3)

    def forward(self, x: Tensor) -> Tensor:
        """x [N, T, 8]."""
        return (self.weight @ x.mT).mT


class TimeFirst(nn.Module):
    """Tokens before examples, as `nn.Transformer` has them by default."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        """x [N, T, 8]."""
        return self.linear(x.transpose(0, 1)).transpose(0, 1)


class Frames(nn.Module):
    """A convolution on the frames of films."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 10, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """x [N, T, 8], each token a picture of one row."""
        pictures = x.unflatten(1, (2, -1)).flatten(0, 1).mT[:, :, None]
        return self.conv(pictures)[:, :, 0].mT.unflatten(0, (len(x), 2)).flatten(1, 2)


@pytest.mark.parametrize("inner", [Transposed, Left, TimeFirst, Frames])
def test_any_operator_is_seen_row_by_row_examples_first(inner: Callable[[], nn.Module]) -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.inner, self.head = nn.Linear(5, 8), inner(), nn.Linear(10, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(self.inner(self.first(x))).mean(1))

    model, x = Tokens().eval(), torch.randn(7, 6, 5)
    graph = sc.inspect(model, x[:1])
    (name,) = [layer.name for layer in graph.layers if layer.name.startswith("inner")]
    ((run, y),) = runs_of(model, graph, x)[name]
    with torch.no_grad():
        wanted = model.inner(model.first(x))
    torch.testing.assert_close(outputs(run, y) + bias_behind(model, run), wanted, rtol=1e-4, atol=1e-5)
    positions = torch.randint(6, (7, 9))
    found = times_weights(model, run, operand_rows(run, positions))
    torch.testing.assert_close(found, output_rows(run, y, positions), rtol=1e-4, atol=1e-5)


class Encoder(nn.Module):
    """torch's own encoder, whose attention has one weight for queries, keys and values, and is called by no module."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(10, 24), nn.Linear(24, 5)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(24, 4, 48, batch_first=True), 2)

    def forward(self, x: Tensor) -> Tensor:
        """x [N, T, 10]."""
        return self.head(self.encoder(self.first(x)).mean(1))


class Recurrent(nn.Module):
    """Gates that read what they gave one step before."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(10, 24, batch_first=True), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        """x [N, T, 10]."""
        return self.head(self.lstm(x)[0][:, -1])


class Films(nn.Module):
    """3-D convolutions down, a transposed one up."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv3d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv3d(16, 24, 2, stride=2), nn.ReLU())
        self.up = nn.ConvTranspose3d(24, 12, 2, stride=2)
        self.last = nn.Conv3d(12, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x [N, 6, 10], the tokens as pixels of a film."""
        film = x.unflatten(2, (5, 2)).unflatten(1, (3, 2)).flatten(2, 3)[:, None, :, :, :].repeat(1, 1, 2, 1, 1)
        return self.last(torch.relu(self.up(self.down(film[:, :, :, :4])))).mean((2, 3, 4))


class TiedLanguage(nn.Module):
    """The embedding is what makes the answers, too."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.norm = nn.Embedding(30, 16), nn.LayerNorm(16)
        self.up, self.down = Transposed(), nn.Linear(10, 16)
        self.project = nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        """Token numbers [N, T]."""
        tokens = self.table(x)
        tokens = tokens + self.down(torch.relu(self.up(self.project(tokens))))
        return nn.functional.linear(self.norm(tokens), self.table.weight)


def examples(number: int, seed: int = 0) -> Tensor:
    """Tokens [N, 6, 10] whose features have much in common."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(10, 10, generator=generator) * 0.6 ** torch.arange(10.0)
    return torch.randn(number, 6, 10, generator=generator) @ mix


@pytest.mark.parametrize("build", [Encoder, Recurrent, Films])
def test_what_refits_make_up_for_in_networks_of_any_operators(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model, x = build().eval(), examples(300)
    graph = sc.inspect(model, x[:2])
    assert all(layer.matrix is not None for layer in graph.layers if layer.weight)
    data = Calibration(as_inputs(x))
    halves = {group.key: group.width // 2 for group in graph.prunable}
    found = {}
    for settings in (PruneSettings(criterion="magnitude", refit=False, sequential=False), PruneSettings()):
        small = Pruner(model, graph, data, settings).final(halves)
        with torch.no_grad():
            found[settings.refit] = float((small(examples(200, 1)) - model(examples(200, 1))).square().mean())
    assert found[True] < 0.5 * found[False]


def test_residual_sums_of_transformers_are_found() -> None:
    layers = sc.inspect(Encoder().eval(), examples(2)).layer
    into = {name for name, layer in layers.items() if layer.shortcut is not None}
    assert into == {f"encoder.layers.{n}.{part}" for n in (0, 1) for part in ("self_attn.out_proj", "linear2")}


def test_a_weight_that_something_else_uses_is_not_fitted() -> None:
    model, x = TiedLanguage().eval(), torch.randint(0, 30, (40, 6))
    graph = sc.inspect(model, x[:2])
    matrices = {layer.name: layer.matrix for layer in graph.layers}
    assert not matrices["table"].alone
    assert matrices["up"].alone
    assert matrices["up"].bias == "up.bias"
    assert not matrices["up"].out_first
    pruner = Pruner(model, graph, Calibration(as_inputs(x)))
    whole = pruner.final({"up": 5})
    assert torch.equal(whole.table.weight, model.table.weight)
    assert whole.up.weight.shape == (8, 5)


def test_parts_of_one_weight_lie_one_behind_the_other() -> None:
    model = Encoder().eval()
    graph = sc.inspect(model, examples(2))
    own = [layer for layer in graph.layers if layer.weight == "encoder.layers.0.self_attn.in_proj_weight"]
    pruner = Pruner(model, graph, Calibration(as_inputs(examples(64))))
    values = own[2].outputs.groups[1]
    small = pruner.final({values: 2, own[0].outputs.groups[1]: 3})
    attention = small.encoder.layers[0].self_attn
    assert attention.in_proj_weight.shape == (4 * (3 + 3 + 2), 24)
    counts = {values: 2, own[0].outputs.groups[1]: 3}
    parts = [weight_of(small, layer, counts)[0] for layer in own]
    assert [len(part) for part in parts] == [12, 12, 8]
    assert torch.equal(torch.cat(parts), attention.in_proj_weight)


class Odd(nn.Module):
    """Three layers, the second run in a way of its own."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.first, self.last, self.way = nn.Linear(10, 24), nn.Linear(24, 5), way
        self.second = torch.jit.script(nn.Sequential(nn.Linear(24, 24))) if way == "scripted" else nn.Linear(24, 24)
        self.norm = nn.BatchNorm1d(6)
        if way == "masked":
            torch.nn.utils.prune.l1_unstructured(self.second, "weight", 0.3)

    def forward(self, x: Tensor) -> Tensor:
        """x [N, 6, 10]."""
        y = torch.relu(self.first(x))
        weight = self.second.weight if isinstance(self.second, nn.Linear) else None
        match self.way:
            case "autocast":
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    y = torch.relu(self.second(y)).float()
            case "residual" if weight is not None:  # what is added is no bias
                rows = y.flatten(0, 1)
                y = torch.addmm(rows, rows, weight.t()).view_as(y)
            case "norm":  # by token, not by feature
                y = torch.relu(self.norm(self.second(y)))
            case _:
                y = torch.relu(self.second(y))
        return self.last(y).mean(1)


@pytest.mark.parametrize("way", ["autocast", "residual", "norm", "scripted", "masked"])
def test_refits_help_whatever_runs_a_layer(way: str) -> None:
    torch.manual_seed(0)
    model, x = Odd(way).eval(), examples(300)
    graph = sc.inspect(model, x[:2])
    assert all(layer.norm is None for layer in graph.layers)
    known = [layer.matrix for layer in graph.layers if layer.name.startswith("second")]
    assert all((matrix is None) == (way in ("residual", "masked")) for matrix in known)
    plan = {group.key: 0.5 for group in graph.prunable}
    plain = PruneSettings(refit=False, sequential=False)
    apart = []
    for settings in (plain, PruneSettings()):
        small = sc.prune(model, x[:2], plan, calibration=[x], settings=settings)
        with torch.no_grad():
            apart.append(float((small(examples(200, 1)) - model(examples(200, 1))).square().mean()))
    assert apart[1] < 0.6 * apart[0]


class Affine(nn.Module):
    """A product of whose outputs something becomes before a parameter is added, or that is not along them."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(10, 24), nn.Linear(24, 24, bias=False), nn.Linear(24, 5)
        self.gain, self.bias, self.way = nn.Parameter(torch.rand(24) + 2), nn.Parameter(torch.randn(24)), way
        self.column, self.times = nn.Parameter(torch.randn(24, 1) / 5), nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        """x [N, 6, 10]."""
        y = self.second(torch.relu(self.first(x)))
        match self.way:
            case "in place":
                y = y.mul_(self.gain).add_(self.bias)
            case "read twice":
                y = y.sigmoid() * (y + self.bias)
            case "reordered":
                y = y + self.bias.view(4, 6).t().reshape(-1)
            case "along tokens":
                y = (y.mT + self.times).mT
            case "copied":
                y = nn.functional.linear(torch.relu(self.first(x)), self.second.weight.clone())
            case "einsum":
                y = torch.einsum("ntd,ed->nte", torch.relu(self.first(x)), self.second.weight)
            case "column":
                y = y + torch.relu(self.first(x)) @ self.column
            case _:
                y = y + self.bias
        return self.last(torch.relu(y)).mean(1)


@pytest.mark.parametrize("way", ["plain", "in place", "read twice", "reordered", "along tokens", "einsum", "column"])
def test_only_what_is_added_to_outputs_alone_is_a_bias(way: str) -> None:
    torch.manual_seed(0)
    model, x = Affine(way).eval(), examples(300)
    graph = sc.inspect(model, x[:2])
    (second,) = [layer for layer in graph.layers if layer.weight == "second.weight"]
    assert second.matrix is not None
    assert second.matrix.bias == ("bias" if way == "plain" else "")
    if way == "column":
        assert graph.layer["column"].matrix is not None
        assert not graph.layer["column"].matrix.out_first
    plan = {group.key: 0.5 for group in graph.prunable}
    apart = []
    for settings in (PruneSettings(refit=False, sequential=False), PruneSettings(sequential=False)):
        small = sc.prune(model, x[:2], plan, calibration=[x], settings=settings)
        with torch.no_grad():
            apart.append(float((small(examples(200, 1)) - model(examples(200, 1))).square().mean()))
    assert apart[1] < 0.6 * apart[0]


def test_a_copy_of_a_weight_is_that_weight() -> None:
    model, x = Affine("copied").eval(), examples(64)
    graph = sc.inspect(model, x[:2])
    small = sc.prune(model, x[:2], {group.key: 0.5 for group in graph.prunable}, calibration=[x])
    assert small(x).shape == (64, 5)


def test_a_forward_may_write_into_its_inputs() -> None:
    class Writes(Encoder):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.mul_(2).add_(0.1))

    model, x = Writes().eval(), examples(120)
    before, score = x.clone(), sc.agreement(model, x)
    assert score(model) == pytest.approx(1, abs=1e-6)
    graph = sc.inspect(model, x[:2])
    sc.prune(model, x[:2], {group.key: 0.5 for group in graph.prunable}, calibration=[x])
    assert torch.equal(x, before)


def test_answers_may_be_infinite() -> None:
    class Masked(Encoder):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).index_fill(1, torch.tensor([2]), -torch.inf)

    assert len(sc.inspect(Masked().eval(), examples(2)).prunable) == len(
        sc.inspect(Encoder().eval(), examples(2)).prunable
    )

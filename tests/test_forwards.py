"""Forwards as people write them: each is followed, cut, and does afterwards what it did before."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import MethodType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import settled
from torch import Tensor, nn

import secateur as sc
from secateur.graph import Inputs, tensors_in
from secateur.graph.inputs import as_inputs
from secateur.prune import Cutter

PLAIN = sc.PruneSettings(refit=False, sequential=False, recalibrate=False)

# ---- networks --------------------------------------------------------------------------------------------------------


class Causal(nn.Module):
    """What a convolution pads too much is sliced off, from the end."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Conv1d(4, 16, 3, padding=2), nn.Conv1d(16, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.other(self.one(x)[:, :, :-2].relu())


class Attention(nn.Module):
    """The head's width is worked out from the stream's."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.qkv, self.out, self.heads = nn.Linear(6, 16), nn.Linear(16, 48), nn.Linear(16, 3), 4

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        n, t, c = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        y = ((q @ k.mT) * (c // self.heads) ** -0.5).softmax(-1) @ v
        return self.out(y.transpose(1, 2).flatten(2))


class OneLine(nn.Module):
    """Three calls on one line, of which the third states another size."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = nn.Linear(6, 20), nn.Linear(6, 20), nn.Linear(6, 20), nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (5, 4)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Masked(nn.Module):
    """A causal mask of infinities, and heads by literals."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.qkv, self.out = nn.Linear(6, 24), nn.Linear(24, 72), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = self.qkv(self.stem(x)).view(n, t, 3, 4, 6).permute(2, 0, 3, 1, 4)
        mask = torch.triu(torch.ones(t, t) * float("-inf"), diagonal=1)
        y = ((q @ k.mT) * q.size(-1) ** -0.5 + mask).softmax(-1) @ v
        return self.out(y.transpose(1, 2).reshape(n, t, 24))


class Halves(nn.Module):
    """Two halves are read differently."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(6, 24), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        one, other = self.into(x).chunk(2, -1)
        return self.out(torch.cat((one.relu(), other), -1))


class Crossed(nn.Module):
    """Channels attend to channels: the head's width stays, and is worked out from the stream's, which does not."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.qkv, self.out, self.heads = nn.Linear(6, 16), nn.Linear(16, 48), nn.Linear(16, 3), 4

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        n, t, c = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 4, 1)
        return self.out(((q @ k.mT).softmax(-1) @ v).permute(0, 3, 1, 2).flatten(2))


class Gated(nn.Module):
    """A loop over time; sizes and numbers are stated in each round."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.gates, self.out = nn.Linear(4, 12), nn.Linear(12, 24), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        h: Any = 0
        for step in range(x.shape[2]):
            z = self.into(x[:, :, step]).relu()
            a, b = self.gates(z).split(12, -1)
            h = h + z * z.size(-1) ** -0.5 + a.relu() * b
        return self.out(h)


class Rotary(nn.Module):
    """Queries and keys are rotated pair by pair, each of neighbours, by a table of the module's own."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = nn.Linear(6, 32), nn.Linear(6, 32), nn.Linear(6, 32), nn.Linear(32, 3)
        self.register_buffer("turns", 100.0 ** (-torch.arange(0, 8, 2) / 8))

    def forward(self, x: Tensor) -> Tensor:
        angles = torch.outer(torch.arange(x.shape[1]).float(), self.turns).repeat_interleave(2, -1)
        q, k, v = (layer(x).unflatten(-1, (4, 8)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        q, k = (y * angles.cos() + self.turned(y) * angles.sin() for y in (q, k))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def turned(self, x: Tensor) -> Tensor:
        return torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)


class Rounds(nn.Module):
    """Two halves by a width of its own, in as many rounds as there are steps."""

    def __init__(self) -> None:
        super().__init__()
        self.width, self.gates, self.out = 12, nn.Linear(6, 24), nn.Linear(1, 3)

    def forward(self, x: Tensor) -> Tensor:
        steps = (self.gates(x[:, t]) for t in range(x.shape[1]))
        parts = [g[:, : self.width].tanh().sum(1) * g[:, self.width :].sin().sum(1) for g in steps]
        return self.out(torch.stack(parts, 1).sum(1, keepdim=True))


class Routed(nn.Module):
    """Each of three experts is cut otherwise, and those without an example are passed over."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.ModuleList(nn.Linear(6, 16) for _ in range(3))
        self.out = nn.ModuleList(nn.Linear(8, 2) for _ in range(3))

    def forward(self, x: Tensor, expert: Tensor, width: int = 8) -> Tensor:
        y = torch.zeros(len(x), 2)
        for number, (into, out) in enumerate(zip(self.into, self.out, strict=True)):
            if (expert == number).any():
                g = into(x[expert == number])
                y = y.index_add(0, torch.where(expert == number)[0], out(g[:, :width] * g[:, width:].sigmoid()))
        return y


class Mixer(nn.Module):
    """Layers over tokens read each channel alone."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.head = nn.Linear(6, 16), nn.LayerNorm(16), nn.Linear(16, 3)
        self.tokens = nn.Sequential(nn.Linear(5, 20), nn.GELU(), nn.Linear(20, 5))
        self.channels = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.tokens(self.norm(x).mT).mT
        return self.head((x + self.channels(x)).mean(1))


class Experts(nn.Module):
    """Rows go to experts, whose answers are added where they came from."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate, self.out = nn.Linear(6, 16), nn.Linear(16, 4), nn.Linear(16, 3)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 16)) for _ in range(4)
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x.flatten(0, 1))
        shares, chosen = self.gate(x).softmax(-1).topk(2, -1)
        y = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            rows, place = torch.where(chosen == number)
            y.index_add_(0, rows, expert(x[rows]) * shares[rows, place, None])
        return self.out(x + y)


class Scripted(nn.Module):
    """A part that torch.jit has compiled."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(6, 12), nn.Linear(12, 3)
        self.part = torch.jit.script(nn.Sequential(nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 12)))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.part(self.into(x)).relu())


class SetForward(nn.Module):
    """Its forward is set when it is made."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(6, 12), nn.Linear(12, 3)
        self.forward = MethodType(SetForward.split, self)  # type: ignore[method-assign]

    def split(self, x: Tensor) -> Tensor:
        a, b = self.into(x).split([4, 8], -1)
        return self.out(torch.cat((a.relu(), b), -1))


class Blurred(nn.Module):
    """A fixed kernel on each channel: as many groups as a number of the module says."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.channels = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3), 8
        self.register_buffer("kernel", torch.ones(8, 1, 2, 2) / 4, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.other(F.conv2d(self.one(x), self.kernel, groups=self.channels)).mean((2, 3))


class Encoder(nn.Module):
    """torch's own encoder, which makes nested tensors of what is padded."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        self.stem, self.encoder, self.out = nn.Linear(6, 16), nn.TransformerEncoder(layer, 2), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        padded = torch.arange(x.shape[1]) >= x.shape[1] - 2
        return self.out(self.encoder(self.stem(x), src_key_padding_mask=padded.expand(x.shape[:2])))


class Projected(nn.Module):
    """What a recurrent layer hands on is narrower than its hidden state."""

    def __init__(self) -> None:
        super().__init__()
        self.over, self.out = nn.LSTM(6, 16, proj_size=8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.over(x)[0])


def over(what: Callable[[Tensor], Tensor]) -> Callable[[], nn.Module]:
    """A network that takes channels together in the middle."""

    class Over(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other, self.head = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 10, 3), nn.Linear(10, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.other(what(self.one(x))).relu().mean((2, 3)))

    return Over


PICTURES, TOKENS = (4, 3, 10, 10), (4, 5, 6)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], list[tuple[int, ...]], list[int]]] = {
    "slices from the end": (Causal, (4, 4, 20), [(1, 4, 50), (2, 4, 10)], [16]),
    "widths of others": (Attention, TOKENS, [(2, 9, 6)], [16, 4, 4]),
    "infinities": (Masked, TOKENS, [(2, 9, 6)], [24, 4, 6]),
    "halves": (Halves, (4, 6), [(2, 6)], [12, 12]),
    "one line": (OneLine, TOKENS, [(2, 9, 6)], [5, 4, 4]),
    "channels attend": (Crossed, TOKENS, [(2, 9, 6)], [16, 4]),
    "loop": (Gated, (4, 4, 6), [(2, 4, 12), (2, 4, 3)], [12]),
    "rotary": (Rotary, TOKENS, [(2, 9, 6)], [4, 4, 8]),
    "pairs of channels": (
        over(lambda x: torch.stack((x[:, 1::2], x[:, ::2]), 2).flatten(1, 2)), PICTURES, [(2, 3, 12, 12)], [6, 10],
    ),
    "rounds": (Rounds, TOKENS, [(2, 9, 6), (3, 1, 6)], [12, 12]),
    "one round": (Rounds, (4, 1, 6), [(2, 9, 6)], [12, 12]),
    "every token": (
        lambda: nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Conv1d(5, 5, 1), nn.Linear(12, 3)),
        TOKENS, [(2, 5, 6)], [12],
    ),
    "split where it ends": (
        over(lambda x: torch.cat([part.relu() for part in torch.tensor_split(x, [7], 1)], 1)),
        PICTURES, [(2, 3, 12, 12)], [7, 5, 10],
    ),
    "numbers that are added": (over(lambda x: (x + 1 / x.shape[1]) * 2), PICTURES, [(2, 3, 12, 12)], [12, 10]),
    "unpooled": (
        over(lambda x: F.max_unpool2d(*F.max_pool2d(F.rrelu(x), 2, return_indices=True), 2)),
        PICTURES, [(2, 3, 12, 12)], [12, 10],
    ),
    "projected": (Projected, TOKENS, [(2, 9, 6)], [8]),
    "mixer": (Mixer, TOKENS, [(2, 5, 6)], [16, 20, 32]),
    "experts": (Experts, (8, 5, 6), [(16, 7, 6)], [16, 24, 24, 24, 24]),
    "scripted": (Scripted, (4, 6), [(2, 6)], [12, 10, 12]),
    "set forward": (SetForward, (4, 6), [(2, 6)], [4, 8]),
    "fixed kernels": (Blurred, PICTURES, [(2, 3, 12, 12)], [8]),
    "padded encoder": (Encoder, TOKENS, [(2, 9, 6)], [16, 4, 4, 4, 32, 4, 4, 4, 32]),
    "normalised": (over(lambda x: F.normalize(x, dim=1)), PICTURES, [(2, 3, 12, 12)], [12, 10]),
    "standardised": (over(lambda x: x / x.std(1, keepdim=True)), PICTURES, [(2, 3, 12, 12)], [12, 10]),
    "largest": (over(lambda x: x * x.max(1, keepdim=True)[0]), PICTURES, [(2, 3, 12, 12)], [12, 10]),
    "logsumexp": (over(lambda x: x - x.logsumexp(1, keepdim=True)), PICTURES, [(2, 3, 12, 12)], [12, 10]),
    "a number as a tensor": (
        over(lambda x: x / torch.sqrt(torch.tensor(x.shape[1]))), PICTURES, [(2, 3, 12, 12)], [12, 10],
    ),
    "numbers of the data": (
        over(lambda x: x / (1 + int(x.abs().sum((0, 1)).argmax()))), PICTURES, [(2, 3, 12, 12)], [12, 10],
    ),
    "frequencies": (
        over(lambda x: torch.fft.irfft2(torch.fft.rfft2(x), s=x.shape[-2:])), PICTURES, [(2, 3, 12, 12)], [12, 10],
    ),
}  # fmt: skip
"""By what is special: what builds it, the shape of an example, shapes of others, and the widths of its sites."""


@pytest.mark.parametrize("name", NETWORKS)
def test_the_cut_network_does_what_the_dense_one_did(name: str, tmp_path: Path) -> None:
    make, shape, others, widths = NETWORKS[name]
    model, example = settled(make()), torch.randn(shape)
    graph = sc.inspect(model, example)
    assert [group.width for group in graph.prunable] == widths, [group.fixed for group in graph.groups]
    for keys in ([group.key for group in graph.prunable], [graph.prunable[0].key]):
        small = sc.prune(model, example, sc.Plan(dict.fromkeys(keys, 0.5)), calibration=[torch.randn(40, *shape[1:])])
        for other in others:
            assert small.eval()(torch.randn(other)).shape == model(torch.randn(other)).shape
        answer = small(example)
        assert torch.equal(small(example), answer)
        sc.save(small, tmp_path / "small.safetensors")
        assert torch.equal(sc.load(tmp_path / "small.safetensors", make()).eval()(example), answer)
        small.train()(example).sum().backward()


@pytest.mark.parametrize("make", [Masked, Halves, Gated, Mixer])
def test_a_pruned_network_is_pruned_once_more(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    shape = next(shape for kind, shape, *_ in NETWORKS.values() if kind is make)
    settings = sc.PruneSettings(refit=False, sequential=False, recalibrate=False)
    model, x, data = settled(make()), torch.randn(shape), [torch.randn(40, *shape[1:])]
    for _ in range(2):
        plan = sc.Plan({group.key: 0.5 for group in sc.inspect(model, x).prunable})
        model = sc.prune(model, x, plan, calibration=data, settings=settings).eval()
    answer = model(x)
    assert answer.isfinite().all()
    whole = sc.prune(model, x, sc.Plan({}), calibration=data, settings=settings).eval()
    assert torch.allclose(whole(x), answer, atol=1e-6), "what was stated is stated still"
    sc.save(model, tmp_path / "small.safetensors")
    assert torch.equal(sc.load(tmp_path / "small.safetensors", make()).eval()(x), answer)


# ---- answers ---------------------------------------------------------------------------------------------------------


@dataclass
class Answer:
    scores: Tensor
    features: Tensor


class Answering(nn.Module):
    def __init__(self, answer: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.into, self.between, self.out = nn.Linear(6, 12), nn.Linear(12, 8), nn.Linear(8, 3)
        self.answer = answer

    def forward(self, x: Tensor) -> Any:
        x = self.into(x).relu()
        return self.answer(self.out(self.between(x).relu()), x)


@pytest.mark.parametrize(
    "answer",
    [
        Answer,
        lambda scores, features: {"all": [Answer(scores, features), None]},
        lambda scores, features: torch.distributions.Normal(scores[:, :1], features.exp()),
    ],
    ids=["dataclass", "in a list in a dict", "distribution"],
)
def test_whatever_is_answered_stays_as_wide_as_it_is(answer: Callable[[Tensor, Tensor], Any]) -> None:
    graph = sc.inspect(settled(Answering(answer)), torch.randn(4, 6))
    assert [group.key for group in graph.prunable] == ["between"]
    assert graph.group["into"].fixed == "the network's output"


def test_a_cache_beside_an_answer_is_none() -> None:
    class Cache:
        def __init__(self, held: Tensor) -> None:
            self.held = held

    model = settled(Answering(lambda scores, features: (scores, Cache(features))))
    assert [group.key for group in sc.inspect(model, torch.randn(4, 6)).prunable] == ["into", "between"]


def test_tensors_are_found_in_objects_once() -> None:
    answer = Answer(torch.ones(1), torch.zeros(2))
    answer.itself = answer  # type: ignore[attr-defined]
    assert [len(x) for x in tensors_in([answer, (torch.ones(3), "no")])] == [1, 2, 3]


# ---- what a proof has to see -----------------------------------------------------------------------------------------


def test_a_branch_that_begins_at_zero_hides_nothing() -> None:
    class Zeroed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.branch, self.out = nn.Linear(6, 12), nn.Linear(12, 12), nn.Linear(12, 3)
            self.scale = nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            x = self.into(x).relu()
            return self.out(x + self.scale * self.branch(x ** (2 / x.shape[-1])))

    with pytest.raises(sc.TraceError, match="into: something else than the layers that follow reads its channels"):
        sc.inspect(Zeroed(), torch.randn(4, 6))


def test_what_training_alone_needs_is_left_alone() -> None:
    class Sampling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.mean, self.spread = nn.Linear(6, 16), nn.Linear(16, 5), nn.Linear(16, 5)
            self.out = nn.Linear(5, 6)

        def forward(self, x: Tensor) -> Tensor:
            x = self.into(x).relu()
            mean, spread = self.mean(x), self.spread(x)
            return self.out(mean + torch.randn_like(mean) * (0.5 * spread).exp() if self.training else mean)

    graph = sc.inspect(settled(Sampling()), torch.randn(4, 6))
    assert [group.key for group in graph.prunable] == ["into"]
    assert graph.group["mean"].fixed.startswith("without some of its units the network does not run in training (Sampl")


# ---- nodes and edges -------------------------------------------------------------------------------------------------


class Messages(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        x = self.into(x).relu()
        return self.out(torch.zeros_like(x).index_add(0, edges[1], x[edges[0]]))


def test_nodes_and_edges_stay_together() -> None:
    model = settled(Messages())
    example = torch.randn(5, 6), torch.randint(0, 5, (2, 14))
    data = [(torch.randn(40, 6), torch.randint(0, 40, (2, 90)))]
    small = sc.prune(model, example, sc.Plan({"into": 0.5}), calibration=data).eval()
    assert small(*data[0]).shape == (40, 3)
    assert small.get_parameter("into.weight").shape == (8, 6)


def test_inputs_that_hang_together_are_one_example() -> None:
    apart = as_inputs((torch.ones(5, 3), torch.ones(2, 7)))
    together = Inputs(apart.args, whole=True)
    assert (len(apart), len(together)) == (5, 1)
    assert together.part(0, 1).map(torch.neg).whole
    assert [len(x) for x in together.part(0, 1).tensors] == [5, 2]


# ---- weights of given norms ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [nn.utils.weight_norm, nn.utils.parametrizations.spectral_norm])
def test_a_normed_weight_comes_back_into_a_fresh_network(
    wrap: Callable[[nn.Module], nn.Module], tmp_path: Path
) -> None:
    def fresh() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), wrap(nn.Conv2d(8, 12, 3)), nn.Flatten(), nn.Linear(192, 3))

    model, x = settled(fresh()), torch.randn(4, 3, 8, 8)
    model(x)
    small = sc.prune(model, x, sc.Plan({"0": 0.5, "2": 0.5}), calibration=[torch.randn(30, 3, 8, 8)]).eval()
    sc.save(small, tmp_path / "small.safetensors")
    assert torch.equal(sc.load(tmp_path / "small.safetensors", fresh()).eval()(x), small(x))


def test_a_part_of_a_plan_states_every_size() -> None:
    model, x = settled(Attention()), torch.randn(2, 7, 6)
    graph = sc.inspect(model, x)
    cut = Cutter(model, graph).cut({"stem": np.arange(0, 16, 2)})
    zeroed = settled(Attention())
    zeroed.load_state_dict(model.state_dict())
    zeroed.get_parameter("qkv.weight").data[:, 1::2] = 0
    assert torch.allclose(cut(x), zeroed(x), atol=1e-5)


@pytest.mark.parametrize("divided", [lambda x, n: x * (1 / n), lambda x, n: x / torch.tensor(n)])
def test_numbers_follow_other_sizes_once_a_network_is_finished(
    divided: Callable[[Tensor, int], Tensor], tmp_path: Path
) -> None:
    class Gram(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.out = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 6, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.into(x)
            c, h, w = x.shape[1:]
            return self.out(divided(x, c * h * w)).sum((2, 3))

    model, x = settled(Gram()), torch.randn(4, 3, 8, 8)
    small = sc.prune(model, x, sc.Plan({"into": 0.5}), calibration=[torch.randn(30, 3, 8, 8)], settings=PLAIN).eval()
    sc.save(small, tmp_path / "small.safetensors")
    back = sc.load(tmp_path / "small.safetensors", Gram()).eval()
    for pixels in (8, 16):
        x = torch.randn(2, 3, pixels, pixels)
        wide = small.get_submodule("out")(small.get_submodule("into")(x) / (12 * pixels**2)).sum((2, 3))
        assert torch.allclose(small(x), wide, rtol=1e-4, atol=1e-6)
        assert torch.equal(back(x), small(x))


def test_the_stream_of_a_transformer_between_embeddings_is_cut() -> None:
    class Translator(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.source, self.target, self.words = nn.Embedding(20, 16), nn.Embedding(20, 16), nn.Linear(16, 20)
            self.between = nn.Transformer(16, 4, 1, 1, 32, batch_first=True)

        def forward(self, source: Tensor, target: Tensor) -> Tensor:
            mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
            return self.words(self.between(self.source(source), self.target(target), tgt_mask=mask))

    def sentences(length: int) -> Tensor:
        return torch.randint(0, 20, (3, length))

    model, pair = settled(Translator()), (sentences(7), sentences(5))
    stream = next(group for group in sc.inspect(model, pair).prunable if group.width == 16)
    small = sc.prune(model, pair, sc.Plan({stream.key: 0.5}), calibration=[pair]).eval()
    assert (small.get_submodule("source").weight.shape, small.get_submodule("between").d_model) == ((20, 8), 8)
    assert small(sentences(9), sentences(4)).shape == (3, 4, 20)


def test_rounds_that_the_example_has_not_state_the_same_sizes() -> None:
    model, x = settled(Rounds()), torch.randn(4, 2, 6)
    small = sc.prune(model, x, sc.Plan({"gates": 0.5}), calibration=[torch.randn(40, 2, 6)], settings=PLAIN).eval()
    gates, out = small.get_submodule("gates"), small.get_submodule("out")
    assert gates.weight.shape == (18, 6)
    x = torch.randn(3, 7, 6)
    halves = [(gates(step)[:, :6], gates(step)[:, 6:]) for step in x.unbind(1)]
    parts = [one.tanh().sum(1) * other.sin().sum(1) for one, other in halves]
    assert torch.allclose(small(x), out(torch.stack(parts, 1).sum(1, keepdim=True)), atol=1e-6)


def test_experts_that_are_passed_over_shift_no_sizes(tmp_path: Path) -> None:
    model, example = settled(Routed()), (torch.randn(6, 6), torch.arange(6) % 3)
    plan = sc.Plan({"into.0": 0.25, "into.1": 0.5})
    small = sc.prune(model, example, plan, calibration=[(example,)], settings=PLAIN).eval()
    sc.save(small, tmp_path / "small.safetensors")
    for network in (small, sc.load(tmp_path / "small.safetensors", Routed()).eval()):
        x, expert = torch.randn(4, 6), torch.tensor([1, 2, 2, 1])
        for number, width in ((1, 4), (2, 8)):
            g = network.get_submodule(f"into.{number}")(x[expert == number])
            wanted = network.get_submodule(f"out.{number}")(g[:, :width] * g[:, width:].sigmoid())
            assert torch.allclose(network(x, expert)[expert == number], wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("compares", "left"),
    [
        (lambda x, y: x.shape == y.shape, ["one"]),
        (lambda x, y: x.size(1) == y.size(1), ["one"]),
        (lambda x, y: y.shape[1] <= 10, ["one"]),
        (lambda x, y: y.shape[1] // 2 == 5, ["one"]),
        (lambda x, y: y.shape[1] == 99 or y.shape[0] > 99, ["one", "other"]),
    ],
)
def test_what_a_forward_compares_the_width_of_stays(
    compares: Callable[[Tensor, Tensor], bool], left: list[str]
) -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other, self.out = nn.Linear(6, 8), nn.Linear(8, 16), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.one(x)
            y = self.other(x)
            return self.out(y * 2 if compares(x, y) else y)

    graph = sc.inspect(settled(Branching()), torch.randn(4, 6))
    assert [group.key for group in graph.prunable] == left
    said = graph.group["other"].fixed
    assert said.startswith("a comparison of its width decides what runs in the network") or "other" in left


@pytest.mark.parametrize("numbers", ["own", "of layers"])
def test_a_number_that_decides_what_runs_stays(numbers: str) -> None:
    class Deciding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.in_dim, self.out_dim = 8, 16
            self.one, self.other, self.out = nn.Linear(6, 8), nn.Linear(8, 16), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.one(x).view(-1, self.in_dim)
            y = self.other(x).view(-1, self.out_dim)
            same = self.in_dim == self.out_dim if numbers == "own" else self.one.out_features == self.other.out_features
            return self.out(y + x if same else y)

    graph = sc.inspect(settled(Deciding()), torch.randn(4, 6))
    assert [group.key for group in graph.prunable] == ["one"]
    assert graph.group["other"].fixed.startswith("a comparison of its width decides what runs")


def test_code_that_asks_for_plain_numbers_is_followed() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.out = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.one(x)
            if type(x.shape[1]) is not int:
                raise TypeError("a whole number, please")
            return self.out(x)

    assert [group.key for group in sc.inspect(settled(Plain()), torch.randn(4, 6)).prunable] == ["one"]


@pytest.mark.parametrize("checks", ["assert", "raise", "torch"])
def test_a_width_that_a_module_checks_is_set(checks: str) -> None:
    class Checking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed_dim, self.into, self.out = 12, nn.Linear(6, 12), nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.into(x)
            if checks == "assert":
                assert x.shape[1:] == (self.embed_dim,)
            if checks == "raise" and x.size(-1) != self.embed_dim:
                raise ValueError(x.shape)
            if checks == "torch":
                torch._assert(x.shape[-1] == self.embed_dim, "the width")
            return self.out(x)

    model, x = settled(Checking()), torch.randn(4, 6)
    small = sc.prune(model, x, sc.Plan({"into": 0.5}), calibration=[x]).eval()
    assert small.embed_dim == 6
    assert small(x).shape == (4, 3)


def test_what_a_forward_raises_is_told_in_its_words() -> None:
    class Refusing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.least, self.one, self.other = 12, nn.Linear(6, 12), nn.Linear(6, 8)
            self.out, self.beside = nn.Linear(12, 3), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.one(x)
            if y.shape[1] < self.least:
                raise ValueError("too narrow")
            return self.out(y) + self.beside(self.other(x))

    graph = sc.inspect(settled(Refusing()), torch.randn(4, 6))
    assert graph.group["one"].fixed.startswith("without some of its units the network does not run (Refusing, test_")
    assert graph.group["one"].fixed.endswith(": ValueError too narrow)")
    assert [group.key for group in graph.prunable] == ["other"]


def test_the_hooks_that_a_network_sets_up_are_a_part_of_it() -> None:
    class Hooked(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Linear(6, 12), nn.Linear(12, 3))
            self[0].register_forward_hook(self.rectified)
            self[1].register_forward_pre_hook(lambda module, given: (given[0] * 2,))

        @staticmethod
        def rectified(module: nn.Module, given: tuple[Tensor], answer: Tensor) -> Tensor:
            return answer.relu()

    Hooked.__module__ = Hooked.rectified.__module__ = "__main__"  # as a script's
    model, x = settled(Hooked()), torch.randn(4, 6)
    for hooks in (model[0]._forward_hooks, model[1]._forward_pre_hooks):
        for hook in hooks.values():
            hook.__module__ = "__main__"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small = sc.prune(model, x, sc.Plan({}), calibration=[x], settings=PLAIN)
    assert torch.allclose(small.eval()(x), model(x), atol=1e-6)


def test_sequences_that_are_packed_are_followed() -> None:
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.over = nn.Embedding(20, 12), nn.LSTM(12, 8, batch_first=True)
            self.out = nn.Linear(8, 3)

        def forward(self, words: Tensor) -> Tensor:
            lengths = (words > 0).sum(1)
            pack = nn.utils.rnn.pack_padded_sequence(self.words(words), lengths, True, enforce_sorted=False)
            return self.out(self.over(pack)[1][0][-1])

    graph = sc.inspect(settled(Packed()), torch.randint(1, 20, (4, 7)))
    assert sorted(group.width for group in graph.prunable) == [8, 12]


# ---- what is no network, or no data ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (None, "the network is a NoneType: give an nn.Module"),
        (nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 2)).to("meta"), "0.weight of Sequential is on the meta device"),
        (nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 2)), "0.weight of Sequential has no shape yet: run the network"),
    ],
    ids=["none", "meta", "lazy"],
)
def test_what_has_no_weights_is_refused(model: nn.Module, said: str) -> None:
    with pytest.raises(sc.TraceError, match=said):
        sc.inspect(model, torch.randn(4, 6))


def test_a_plan_and_data_of_other_types_are_refused() -> None:
    model, x = settled(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))), torch.randn(4, 6)
    with pytest.raises(sc.PlanError, match="a plan is a dict of names and fractions kept, not a list"):
        sc.Plan(["0"])  # type: ignore[arg-type]
    with pytest.raises(sc.DataError, match="calibration is None: give batches"):
        sc.prune(model, x, sc.Plan({"0": 0.5}), calibration=None)  # type: ignore[arg-type]


def test_a_forward_that_works_out_gradients_is_followed() -> None:
    class Force(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.out = nn.Linear(6, 12), nn.Linear(12, 1)

        def forward(self, x: Tensor) -> Tensor:
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                return torch.autograd.grad(self.out(self.into(x).tanh()).sum(), x, create_graph=True)[0]

    graph = sc.inspect(settled(Force()), torch.randn(4, 6))
    assert [group.key for group in graph.prunable] == ["into"]


class EqualHalves(nn.Module):
    """Few channels in two halves, of which one goes on through a bottleneck (YOLOv8's C2f)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.into = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 16, 1)
        self.inner = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))
        self.out, self.head = nn.Conv2d(32, 20, 1), nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, 3, H, W]."""
        y = list(torch.relu(self.into(torch.relu(self.stem(x)))).chunk(2, 1))
        for inner in self.inner:
            y.append(y[-1] + torch.relu(inner(y[-1])))
        return self.head(torch.relu(self.out(torch.cat(y, 1))).mean((2, 3)))


@pytest.mark.parametrize("half", ["into", "into#2"])
def test_one_half_alone_may_go(half: str) -> None:
    model, x = EqualHalves().eval(), torch.randn(8, 3, 8, 8)
    small = sc.prune(model, x[:2], {half: 0.5}, calibration=[x])
    assert small.into.out_channels == 12
    assert small(x).shape == (8, 5)

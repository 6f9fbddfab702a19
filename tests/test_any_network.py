"""What a pruned network of whatever kind can do: be saved, exported, compiled, trained, pruned again, and called as
its users call it."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import build, pooled, settled
from torch import Tensor, nn

import secateur as sc
from secateur.graph import Inputs, as_inputs, count_costs, joined
from secateur.graph.attention import OpenAttention, open_attention
from secateur.prune import Cutter

STATED = ["hand_made_attention", "attention", "shuffled", "split", "padded", "grouped", "frames"]
"""Networks whose forwards write sizes down, or whose modules know their own."""


def halved(name: str) -> tuple[nn.Module, nn.Module, Tensor]:
    """Dense, pruned, and an example."""
    dense, example = build(name)
    assert isinstance(example, Tensor)
    graph = sc.inspect(dense, example)
    plan = sc.Plan({group.key: 0.5 for group in graph.prunable})
    data = torch.randn(64, *example.shape[1:])
    return dense, sc.prune(dense, example, plan, calibration=[data]).eval(), torch.randn(3, *example.shape[1:])


# ---- pruned networks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STATED)
def test_a_pruned_network_is_a_network_like_any_other(name: str, tmp_path: Path) -> None:
    dense, small, x = halved(name)
    assert isinstance(small, type(dense))
    answer = small(x)
    sc.save(small, tmp_path / "small.safetensors")
    back = sc.load(tmp_path / "small.safetensors", build(name)[0]).eval()
    assert torch.equal(back(x), answer)
    assert count_costs(back, x) == count_costs(small, x)
    exported = torch.export.export(small, (x,)).module()
    torch.testing.assert_close(exported(x), answer)
    compiled = torch.compile(small, backend="eager", fullgraph=name != "padded")
    torch.testing.assert_close(compiled(x), answer)
    copy.deepcopy(small).train()(x).sum().backward()
    again = sc.inspect(small, x)
    assert again.prunable
    assert again.dense.macs < count_costs(dense, x).macs


@pytest.mark.parametrize("name", ["hand_made_attention", "attention"])
def test_other_numbers_of_tokens_and_examples_are_taken(name: str) -> None:
    _, small, x = halved(name)
    longer = torch.randn(5, x.shape[1] + 4, x.shape[2])
    assert small(longer).shape == (5, 5)
    torch.testing.assert_close(small(longer)[:2], small(longer[:2]))


def test_what_children_call_does_not_shift_what_a_forward_states() -> None:
    _, small, x = halved("hand_made_attention")
    answer = small(x)

    def busy(forward: Callable[[Tensor], Tensor], given: Tensor) -> Tensor:
        output = forward(given)
        shape = output.shape
        return (output.view(*shape[:2], 1, shape[2]).view(*shape[:2], shape[2], 1) * 1.0).reshape(shape)

    for name in ("q", "k", "v"):
        module = small.get_submodule(name)
        module.forward = partial(busy, module.forward)  # type: ignore[method-assign, assignment]
    torch.testing.assert_close(small(x), answer)


def test_heads_and_dims_are_sites_of_their_own() -> None:
    for name in ("attention", "hand_made_attention"):
        graph = sc.inspect(*build(name))
        roles = {group.role for group in graph.prunable}
        assert {"heads", "query and key dims", "value dims"} <= roles
        assert not any(group.stream for group in graph.prunable if group.role == "heads")


def test_attentions_two_products_count() -> None:
    """Eight tokens, four heads of four dims: for each of 64 pairs, a product of 16 numbers, twice."""
    model, example = build("hand_made_attention")
    graph = sc.inspect(model, example)
    products = [layer for layer in graph.layers if layer.kind == "product"]
    tokens = example.shape[1]  # type: ignore[union-attr]
    assert [layer.macs for layer in products] == [tokens**2 * 16] * 2
    assert sum(layer.macs for layer in graph.layers) == graph.dense.macs


def test_the_scale_of_attention_stays_when_dims_go() -> None:
    class Scaled(nn.Module):
        """By the default scale of torch's function, which follows from the size."""

        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.out = nn.Linear(6, 3 * 24), nn.Linear(24, 5)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (y.unflatten(-1, (3, 8)).transpose(1, 2) for y in self.qkv(x).chunk(3, -1))
            return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    model, x = settled(Scaled()).double(), torch.randn(2, 7, 6, dtype=torch.float64)
    graph = sc.inspect(model, x)
    dims = next(group for group in graph.prunable if group.role == "query and key dims")
    kept = {dims.key: np.array([0, 2, 5])}
    cut = Cutter(model, graph).cut(kept)
    zeroed, gone = copy.deepcopy(model), torch.tensor([1, 3, 4, 6, 7])
    for tensor in (zeroed.qkv.weight.data, zeroed.qkv.bias.data):
        tensor.unflatten(0, (3, 3, 8))[:2, :, gone] = 0
    torch.testing.assert_close(cut(x), zeroed(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("masks", ["none", "padding", "boolean", "float", "three"])
@pytest.mark.parametrize("more", [(), ("add_bias_kv",), ("add_bias_kv", "add_zero_attn")])
def test_open_attention_answers_as_torchs_own(batch_first: bool, masks: str, more: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(
        12, 3, batch_first=batch_first, kdim=8, vdim=6, **dict.fromkeys(more, True)
    ).eval()  # fmt: skip
    mine = copy.deepcopy(theirs)
    open_attention(mine)
    assert isinstance(mine, OpenAttention)
    n, t, s = 2, 5, 4
    inputs = torch.randn(n, t, 12), torch.randn(n, s, 8), torch.randn(n, s, 6)
    inputs = inputs if batch_first else tuple(x.transpose(0, 1) for x in inputs)
    given: dict[str, Any] = {
        "none": {},
        "padding": {"key_padding_mask": torch.tensor([[False] * 4, [False, False, True, True]])},
        "boolean": {"attn_mask": torch.rand(t, s) > 0.7},
        "float": {"attn_mask": torch.randn(t, s), "average_attn_weights": False},
        "three": {"attn_mask": torch.randn(n * 3, t, s)},
    }[masks]
    for one, other in zip(theirs(*inputs, **given), mine(*inputs, **given), strict=True):
        torch.testing.assert_close(one, other)


def test_attention_with_keys_of_its_own_is_cut() -> None:
    class Kept(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.out = nn.Linear(5, 16), nn.Linear(16, 3)
            self.attend = nn.MultiheadAttention(16, 2, batch_first=True, add_bias_kv=True, add_zero_attn=True)

        def forward(self, x: Tensor) -> Tensor:
            x = self.into(x)
            return self.out(x + self.attend(x, x, x, need_weights=False)[0])

    graph = sc.inspect(settled(Kept()), torch.randn(3, 5, 5))
    assert [group.width for group in graph.prunable] == [16, 2, 8, 8]


@pytest.mark.parametrize(
    "recurrent", [lambda: nn.LSTM(6, 8, batch_first=True), lambda: nn.GRU(6, 8, 2, batch_first=True),
                  lambda: nn.RNN(6, 8, batch_first=True, bidirectional=True)]
)  # fmt: skip
def test_hidden_units_of_recurrent_layers_go(recurrent: Callable[[], nn.Module], tmp_path: Path) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.recurrent = recurrent()
            self.head = nn.Linear(16 if self.recurrent.bidirectional else 8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.recurrent(x)[0][:, -1])

    model, x = settled(Recurrent()), torch.randn(2, 5, 6)
    graph = sc.inspect(model, x)
    (units,) = (group for group in graph.prunable if group.role == "hidden units")
    cut = Cutter(model, graph).cut({units.key: np.array([0, 3, 4])})
    assert cut.recurrent.hidden_size == 3  # type: ignore[union-attr]
    assert cut(x).shape == (2, 3)
    sc.save(cut, tmp_path / "cut.safetensors")
    assert torch.equal(sc.load(tmp_path / "cut.safetensors", Recurrent()).eval()(x), cut.eval()(x))


def test_layers_of_every_dimension_go() -> None:
    class Generator(nn.Module):
        """From numbers to a picture, and to a clip of it."""

        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Linear(6, 24 * 4 * 4)
            self.up, self.norm = nn.ConvTranspose2d(24, 12, 4, 2, 1), nn.BatchNorm2d(12)
            self.clip, self.flat = nn.Conv3d(12, 10, 3, padding=1), nn.Conv1d(10, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x).view(-1, 24, 4, 4)
            x = F.relu(self.norm(self.up(x)))
            x = self.clip(x.unsqueeze(2).expand(-1, -1, 3, -1, -1))
            return self.flat(x.relu().flatten(2))

    model, x = settled(Generator()), torch.randn(2, 6)
    graph = sc.inspect(model, x)
    assert {group.key: group.width for group in graph.prunable} == {"stem": 24, "up": 12, "clip": 10}
    assert graph.layer["up"].kind == "transposed"
    assert graph.layer["clip"].macs == 3 * 64 * 27 * 10 * 12
    small = sc.prune(model, x, sc.Plan({"stem": 0.5, "up": 0.5, "clip": 0.5}), calibration=[torch.randn(40, 6)])
    assert small.eval()(x).shape == model(x).shape
    assert count_costs(small, x).macs < 0.5 * graph.dense.macs


# ---- what networks are called with -----------------------------------------------------------------------------------


@dataclass
class Answer:
    logits: Tensor
    hidden: Tensor


class ByName(nn.Module):
    """Takes keywords, one of them a mask and one a number, and answers by a dataclass."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.up, self.head = nn.Embedding(20, 12), nn.Linear(12, 16), nn.Linear(16, 4)

    def forward(self, *, ids: Tensor, mask: Tensor | None = None, scale: float = 1.0) -> Answer:
        x = self.embed(ids) * scale
        hidden = F.gelu(self.up(x))
        mask = torch.ones(ids.shape) if mask is None else mask
        return Answer(self.head((hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)), hidden.mean(1))


def tokens(examples: int) -> dict[str, Any]:
    return {"ids": torch.randint(20, (examples, 7)), "mask": (torch.rand(examples, 7) > 0.2).float(), "scale": 0.5}


def test_a_network_called_by_name_goes_all_the_way(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, example, data = settled(ByName()), tokens(2), tokens(80)
    data["mask"][:, 0] = 1
    torch.utils._pytree.register_dataclass(Answer)
    graph = sc.inspect(model, example)
    assert [(group.key, group.width) for group in graph.prunable] == [("embed.weight", 12)]
    study = sc.search(
        model, example, evaluate=sc.agreement(model, data), calibration=[data, {**tokens(30), "labels": 1}],
        budget=sc.Budget(macs=0.9), trials=4,
    )  # fmt: skip
    small = sc.prune(model, example, study.best.plan, calibration=[data])
    pairs = [({key: tokens(6)[key] for key in ("ids", "mask")}, torch.randint(4, (6,))) for _ in range(3)]
    history = sc.finetune(
        small, pairs, loss=lambda answer, labels: F.cross_entropy(answer.logits, labels), settings=sc.FineTune(epochs=1)
    )
    assert [epoch.number for epoch in history] == [0]
    assert history[0].loss > 0
    small.eval()
    assert sc.export(small, {**example, "scale": 0.5}, tmp_path / "small.onnx", runtime="onnxruntime") < 1e-3
    assert sc.measure({"dense": model, "small": small}, example, runtime="torch")[1].latency_ms > 0


class Detector(nn.Module):
    """Takes a list of images of any size, and answers by a list of dicts."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1)
        self.boxes, self.scores = nn.Linear(12, 4), nn.Linear(12, 3)

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        found = []
        for image in images:
            x = pooled(F.relu(self.body(F.relu(self.stem(image[None])))))
            found.append({"boxes": self.boxes(x) * 100, "scores": self.scores(x)})
        return found


def test_a_list_of_images_is_one_argument() -> None:
    model = settled(Detector())
    example = [torch.randn(3, 8, 8), torch.randn(3, 10, 12)]
    graph = sc.inspect(model, example)
    assert [group.key for group in graph.prunable] == ["stem", "body"]
    data = [[torch.randn(3, 8, 8) for _ in range(5)] for _ in range(4)]
    small = sc.prune(model, example, sc.Plan({"body": 0.5}), calibration=data)
    assert small.eval()(example)[1]["boxes"].shape == (1, 4)


def test_the_examples_of_inputs() -> None:
    inputs = Inputs((torch.randn(4, 3), 7), {"mask": torch.ones(4), "names": {"x": torch.randn(4, 2)}, "table": None})
    assert len(inputs) == 4
    assert [tuple(x.shape) for x in inputs.part(1, 3).tensors] == [(2, 3), (2,), (2, 2)]
    assert len(joined([inputs, inputs])) == 8
    assert joined([inputs, inputs]).args[1] == 7
    listed = as_inputs([torch.randn(3, 8, 8)] * 5)
    assert len(listed) == 5
    assert len(listed.part(0, 2).args[0]) == 2
    assert not listed.plain
    assert as_inputs((torch.ones(2), torch.ones(2))).plain


# ---- what is left alone ----------------------------------------------------------------------------------------------


class Heads(nn.Module):
    """An auxiliary head in training alone, and another that only a flag brings."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.flagged = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 12, 3), False
        self.head, self.training_head, self.other = nn.Linear(12, 4), nn.Linear(8, 4), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.stem(x))
        aside = self.training_head(pooled(x)) if self.training else None
        x = pooled(F.relu(self.body(x)))
        return (self.head(x), aside) if aside is not None else self.other(x) if self.flagged else self.head(x)


def test_layers_that_do_not_run_are_cut_too_or_their_inputs_are_left_alone() -> None:
    model, x = settled(Heads()), torch.randn(2, 3, 8, 8)
    graph = sc.inspect(model, x)
    assert [group.key for group in graph.prunable] == ["stem"]
    assert graph.group["body"].fixed == "other.weight may hang on it, which the example does not reach"
    small = sc.prune(model, x, sc.Plan({"stem": 0.5}), calibration=[torch.randn(30, 3, 8, 8)])
    _, aside = small.train()(x)
    assert aside.shape == (2, 4)
    small.flagged = True  # type: ignore[assignment]
    assert small.eval()(x).shape == (2, 2)


class Asides(nn.Module):
    """A head behind a flag reads the stem; `reconstruct` reads what the body's first half gives."""

    def __init__(self, reconstructs: bool) -> None:
        super().__init__()
        self.stem, self.flagged = nn.Conv2d(3, 12, 3), False
        self.body = nn.Sequential(nn.Conv2d(12, 12, 3), nn.ReLU(), nn.Conv2d(12, 10, 3))
        self.head, self.other, self.decoder = nn.Linear(10, 4), nn.Linear(12, 2), nn.Linear(12, 3)
        if reconstructs:
            self.__class__ = Reconstructing

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.other(pooled(x)) if self.flagged else self.head(pooled(self.body(x)))


class Reconstructing(Asides):
    def reconstruct(self, x: Tensor) -> Tensor:
        return self.decoder(pooled(self.body[0](self.stem(x))))


def test_what_is_not_reached_costs_what_it_can_see() -> None:
    left = {"stem": "decoder.weight may hang on it, which the example does not reach"}
    x = torch.randn(2, 3, 12, 12)
    graph = sc.inspect(settled(Asides(reconstructs=False)), x)
    assert {group.key for group in graph.prunable} == {"body.0", "body.2"}
    assert graph.group["stem"].fixed in (left["stem"], left["stem"].replace("decoder", "other"))
    graph = sc.inspect(settled(Asides(reconstructs=True)), x)
    assert {group.key for group in graph.prunable} == {"body.2"}


class Cached(nn.Module):
    """Attention whose table of positions is made in the first call alone, and lies there afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out, self.head = nn.Linear(6, 24), nn.Linear(8, 12), nn.Linear(12, 3)
        self.table: dict[int, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, _ = x.shape
        if tokens not in self.table:
            places = torch.arange(tokens).view(1, tokens, 1, 1) * 0.5
            self.table[tokens] = places.view(1, 1, tokens, 1) * 0.1
        q, k, v = self.qkv(x).view(n, tokens, 3, 2, 4).permute(2, 0, 3, 1, 4)
        weights = ((q @ k.transpose(-2, -1)) * 0.5 + self.table[tokens]).softmax(-1)
        y = (weights @ v).transpose(1, 2)
        return self.head(self.out(y.reshape(n, tokens, 8)).relu().view(n, tokens * 12).view(n, tokens, 12).mean(1))


def test_sizes_are_found_whatever_a_forward_did_before() -> None:
    model, x = settled(Cached()), torch.randn(2, 5, 6)
    graph = sc.inspect(model, x)
    assert [group.key for group in graph.prunable] == ["qkv", "qkv#2", "out"]
    kept = {group.key: np.arange(group.width // 2) for group in graph.prunable}
    small = copy.deepcopy(Cutter(model, graph).cut(kept))
    first = small(x)
    assert torch.equal(small(x), first)
    assert small(torch.randn(3, 7, 6)).shape == (3, 3)


def test_one_place_that_cannot_be_followed_costs_what_touches_it_alone() -> None:
    class Sorted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other, self.head = nn.Linear(6, 8), nn.Linear(6, 12), nn.Linear(20, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.cat((torch.linalg.qr(self.one(x))[0].abs(), self.other(x)), -1))

    graph = sc.inspect(settled(Sorted()), torch.randn(16, 6))
    assert [group.key for group in graph.prunable] == ["other"]
    assert graph.group["one"].fixed.startswith("aten.linalg_qr over the channels of the network (test_any_network.py:")


def test_what_a_forward_keeps_does_not_hinder() -> None:
    class Keeping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head, self.seen = nn.Linear(6, 8), nn.Linear(8, 3), []

        def forward(self, x: Tensor) -> Tensor:
            self.feature = self.stem(x)
            self.seen.append(self.feature)
            return self.head(F.relu(self.feature))

    model, x = settled(Keeping()), torch.randn(4, 6)
    model(x)
    assert [group.key for group in sc.inspect(model, x).prunable] == ["stem"]
    assert sc.prune(model, x, sc.Plan({"stem": 0.5}), calibration=[torch.randn(20, 6)])(x).shape == (4, 3)


def test_a_rule_of_ones_own() -> None:
    from secateur.graph.rules import Call, rule
    from secateur.graph.rules.table import _RULES, Axes

    library = torch.library.Library("secateur_test", "DEF")
    library.define("twice(Tensor x) -> Tensor")
    library.impl("twice", lambda x: x * 2, "CPU")

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.ops.secateur_test.twice(self.stem(x)))

    model, x = settled(Own()), torch.randn(4, 6)
    with pytest.raises(sc.TraceError, match=r"secateur_test\.twice over the channels"):
        sc.inspect(model, x)

    @rule("secateur_test::twice")
    def same(call: Call) -> Axes:
        return call.axes("x")

    try:
        assert [group.key for group in sc.inspect(model, x).prunable] == ["stem"]
    finally:
        del _RULES["secateur_test::twice"]


def test_scores_that_are_no_fractions_are_refused_where_they_would_turn_the_sign() -> None:
    model, x = settled(Heads()), torch.randn(2, 3, 8, 8)
    with pytest.raises(sc.StudyError, match="divide percents by 100"):
        sc.search(
            model, x, evaluate=lambda network: 93.5, calibration=[torch.randn(30, 3, 8, 8)], budget=sc.Budget(macs=0.9),
            trials=2, settings=sc.SearchSettings(reward=sc.AccuracyGuaranteed()),
        )  # fmt: skip

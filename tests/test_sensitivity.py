"""What a change of a layer's output does to the answers, and heads' dims in a basis of their own."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import settled
from torch import Tensor, nn

import secateur as sc
from secateur.graph import as_inputs, private_copy
from secateur.prune import Calibration, Pruner
from secateur.prune.measured import EXAMPLES, measured
from secateur.prune.moments import collect
from secateur.prune.order import rank
from secateur.prune.rotate import rotate
from secateur.prune.sensitivity import Sensitivity, sense

sensitivity, rotation = (import_module(f"secateur.prune.{name}") for name in ("sensitivity", "rotate"))


class Attention(nn.Module):
    """Masked attention of 4 heads of 8, over tokens of 12 features; fused, or of fewer keys than queries."""

    def __init__(self, fused: bool = False, keys: int = 4, rotary: bool = False) -> None:
        super().__init__()
        self.keys, self.rotary = keys, rotary
        self.qkv = nn.Linear(12, 96) if fused else None
        if not fused:
            self.q, self.k, self.v = nn.Linear(12, 32), nn.Linear(12, 8 * keys), nn.Linear(12, 8 * keys)
        self.out = nn.Linear(32, 12)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        if self.qkv is not None:
            q, k, v = (y.unflatten(-1, (4, 8)).transpose(1, 2) for y in self.qkv(x).chunk(3, -1))
        else:
            heads = (4, self.keys, self.keys)
            layers = (self.q, self.k, self.v)
            q, k, v = (layer(x).unflatten(-1, (n, 8)).transpose(1, 2) for layer, n in zip(layers, heads, strict=True))
            k, v = (y.repeat_interleave(4 // self.keys, 1) for y in (k, v))
        if self.rotary:
            turn = torch.outer(torch.arange(x.shape[1]), 0.3 * torch.arange(1, 5)).repeat(1, 2).to(x)
            q, k = (y * turn.cos() + torch.cat((-y[..., 4:], y[..., :4]), -1) * turn.sin() for y in (q, k))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :] > 0)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return self.head((x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))


KINDS: dict[str, Callable[[], nn.Module]] = {
    "plain": Attention,
    "fused": lambda: Attention(fused=True),
    "fewer keys": lambda: Attention(keys=2),
}


def tokens(examples: int = 200) -> tuple[Tensor, Tensor]:
    """Some tokens at the end of each example are none; features have much in common."""
    generator = torch.Generator().manual_seed(1)
    mix = torch.randn(12, 12, generator=generator) * 0.7 ** torch.arange(12.0)
    lengths = torch.randint(2, 7, (examples, 1), generator=generator)
    return torch.randn(examples, 6, 12, generator=generator) @ mix, (torch.arange(6) < lengths).float()


def change(one: Tensor, other: Tensor) -> float:
    """Of answers, as a share of their variance."""
    return float((one - other).square().mean() / one.var())


def test_it_foretells_what_noise_on_an_output_does() -> None:
    model = settled(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 7), nn.ReLU(inplace=True), nn.Linear(7, 4)))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4000, 6, generator=generator)
    known = sense(model.requires_grad_(False), sc.inspect(model, x[:1]), Calibration(as_inputs(x)))
    assert known.square.keys() == {"2", "4"}, "the first reads nothing that can be cut"
    assert not known.matters
    for place in (2, 4):
        noise = 1e-3 * torch.randn(4000, len(known.square[str(place)][0]), generator=generator)
        with torch.no_grad():
            seen = change(model(x), model[place + 1 :](model[: place + 1](x).clone() + noise))
        told = 1e-6 * float(known.square[str(place)].diagonal(dim1=1, dim2=2).sum())
        assert told == pytest.approx(seen, rel=0.15), model[place]


def test_padded_tokens_do_not_matter_and_are_not_looked_at() -> None:
    x, mask = tokens()
    model = settled(Attention())
    graph = sc.inspect(model, (x[:1], mask[:1]))
    known = sense(model, graph, Calibration(as_inputs((x, mask))))
    for layer in ("k", "v", "out"):
        assert torch.equal(known.matters[layer], mask > 0), layer
    garbage = torch.where(mask[..., None] > 0, x, 1e4)
    one, other = (
        collect(model, graph, data, sense(model, graph, data))["out"]
        for data in (Calibration(as_inputs((each, mask))) for each in (x, garbage))
    )
    torch.testing.assert_close(one.square, other.square, rtol=1e-4, atol=1e-6)


class Hard(nn.Module):
    """Answers that have no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.b(self.a(x).relu())


def test_without_gradients_losses_are_shares_of_energy() -> None:
    x = torch.randn(300, 6, generator=torch.Generator().manual_seed(0))
    model = settled(Hard())
    pruner = Pruner(model, sc.inspect(model, x[:1]), Calibration(as_inputs(x)))
    assert pruner.orders["a"].loss[0] == pytest.approx(1)


def test_what_the_answers_do_not_depend_on_goes_first() -> None:
    """A channel that is read loudly by an output that hardly counts, and softly by one that does."""
    model = settled(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2, bias=False), nn.Linear(2, 3)))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(4))
        model[2].weight.copy_(torch.tensor([[9.0, 9.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]]))
        model[3].weight.copy_(torch.tensor([[1e-3, 1.0]] * 3))
    x = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    graph, data = sc.inspect(model, x[:1]), Calibration(as_inputs(x))
    moments = collect(model, graph, data)
    assert {*rank(model, graph, moments)["0"].keep(2)} == {0, 1}
    assert {*rank(model, graph, moments, sensed=sense(model, graph, data))["0"].keep(2)} == {2, 3}


@pytest.mark.parametrize("kind", KINDS)
def test_turned_heads_answer_alike_and_their_last_dims_matter_least(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensitivity, "shrink", lambda *args: None)  # it depends on the basis
    monkeypatch.setattr(rotation, "EXAMPLES", sensitivity.EXAMPLES)
    x, mask = tokens()
    model = settled(KINDS[kind]())
    graph, data = sc.inspect(model, (x[:1], mask[:1])), Calibration(as_inputs((x, mask)))
    turned = private_copy(model).requires_grad_(False)
    known = rotate(turned, graph, data, sense(turned, graph, data))
    with torch.no_grad():
        torch.testing.assert_close(turned(x, mask), model(x, mask), rtol=1e-3, atol=1e-4)
    changed = {name for name, value in turned.named_parameters() if not torch.equal(value, model.get_parameter(name))}
    wanted = {"qkv.weight", "qkv.bias"} if kind == "fused" else {f"{n}.{w}" for n in "qkv" for w in ("weight", "bias")}
    assert changed == wanted | {"out.weight"}
    again = sense(turned, graph, data)
    for layer, square in known.square.items():
        torch.testing.assert_close(square, again.square[layer], rtol=1e-2, atol=1e-4 * float(square.abs().max()))
        torch.testing.assert_close(known.energy[layer], again.energy[layer], rtol=1e-2, atol=1e-4)
    dims = next(group for group in graph.prunable if group.role == "query and key dims")
    assert (rank(turned, graph, {}, sensed=known)[dims.key].units[:4] == np.arange(4)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_fewer_query_and_key_dims_change_the_answers_as_foretold(kind: str) -> None:
    x, mask = tokens()
    model = settled(KINDS[kind]())
    graph = sc.inspect(model, (x[:1], mask[:1]))
    dims = next(group for group in graph.prunable if group.role == "query and key dims")
    pruner = Pruner(model, graph, Calibration(as_inputs((x, mask))))
    curve = pruner.orders[dims.key].loss
    assert (np.diff(curve) <= 0).all()
    counts = {group.key: group.width for group in graph.prunable}
    for count in (4, 6):
        with torch.no_grad():
            seen = change(model(x, mask), pruner._for_good(pruner.kept({**counts, dims.key: count}), {})(x, mask))
        assert 0.3 * curve[count] < seen < 3 * curve[count], (count, seen, curve)


def test_rotary_queries_stay_as_they_are() -> None:
    x, mask = tokens()
    model = settled(Attention(rotary=True))
    graph, data = sc.inspect(model, (x[:1], mask[:1])), Calibration(as_inputs((x, mask)))
    known = sense(model, graph, data)
    rotate(model.requires_grad_(False), graph, data, known)
    fresh = settled(Attention(rotary=True))
    assert torch.equal(model.q.weight, fresh.q.weight)
    assert not torch.equal(model.v.weight, fresh.v.weight), "values are turned all the same"


def test_nothing_is_turned_without_gradients() -> None:
    x, mask = tokens(20)
    model = settled(Attention())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rotate(model, sc.inspect(model, (x[:1], mask[:1])), Calibration(as_inputs((x, mask))), Sensitivity())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("network", [Attention, Hard])
def test_each_curve_is_at_half_what_half_a_site_does_to_the_answers(network: Callable[[], nn.Module]) -> None:
    """Where gradients tell, and where they do not, so that the curve of a layer was a share of its energy."""
    given: tuple[Tensor, ...] = tokens() if network is Attention else (torch.randn(200, 6),)
    model = settled(network())
    graph = sc.inspect(model, tuple(x[:1] for x in given))
    pruner = Pruner(model, graph, Calibration(as_inputs(given)))
    last = tuple(x[-EXAMPLES:] for x in given)
    for group in graph.prunable:
        half = group.width // 2
        with torch.no_grad():
            seen = change(model(*last), pruner._cut(pruner._for_good, {group.key: half})[0](*last))
        told, before = pruner.losses[group.key][half], pruner.orders[group.key].loss[half]
        if network is Hard or seen > before:
            assert told == pytest.approx(seen, rel=1e-3), group.key
        else:
            assert told == before, "a refit on these examples flatters what is cut"
        assert np.argsort(pruner.losses[group.key]).tolist() == np.argsort(pruner.orders[group.key].loss).tolist()


def test_a_site_that_nothing_is_known_of_gets_a_curve() -> None:
    """Of magnitudes alone it is the square of what goes, scaled."""
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    model = settled(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))).requires_grad_(False)
    cut = settled(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)), seed=1).requires_grad_(False)
    curves = {"0": np.full(9, np.nan)}
    found = measured(curves, lambda counts: cut, model, Calibration(as_inputs(x)), sensed=("0",))["0"]
    seen = np.mean([change(model(x[i : i + 32]), cut(x[i : i + 32])) for i in (0, 32)])
    assert found[4] == pytest.approx(seen, rel=1e-4)
    assert found[8] == 0
    assert found[0] == pytest.approx(4 * found[4])


class Tied(Attention):
    """Queries, keys and values are one tensor of three, as in timm: their dims go together."""

    def __init__(self) -> None:
        super().__init__(fused=True)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        assert self.qkv is not None
        q, k, v = self.qkv(x).unflatten(-1, (3, 4, 8)).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :] > 0)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return self.head((x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))


def test_dims_that_queries_keys_and_values_share_are_ranked_by_what_all_do() -> None:
    x, mask = tokens()
    model = settled(Tied())
    with torch.no_grad():
        model.qkv.weight.view(3, 4, 8, 12)[:, :, 2:5] *= 0.01
        model.qkv.bias.view(3, 4, 8)[:, :, 2:5] *= 0.01
    graph = sc.inspect(model, (x[:1], mask[:1]))
    dims = next(group for group in graph.prunable if group.width == 8)
    order = Pruner(model, graph, Calibration(as_inputs((x, mask)))).orders[dims.key]
    assert {*order.units[-3:]} == {2, 3, 4}
    assert np.isfinite(order.loss).all()

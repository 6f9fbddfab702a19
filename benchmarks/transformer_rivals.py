"""Post-training pruning of transformers by others, written from their papers: which units stay, and with what weights.

All cut as Secateur cuts, so that the same plan costs the same, and take the same calibration inputs.

- `uniform`: the same share of heads and of MLP features everywhere, of the largest weights; nothing makes up for them.
- `corp`: CORP (Zhang and Yang, 2026): the same share of MLP features and of query and key dims of each head everywhere;
  what leaves is an affine function of what stays, told by ridge regression: folded into the next layer of the MLP, and
  for the logits into the queries.
- `kwon`: Kwon et al. (2022): heads and MLP features by their empirical Fisher information under the budget, rearranged
  block by block, and those that stay scaled by least squares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from secateur.graph import Inputs, Kept, copied
from secateur.prune import Cutter
from secateur.search import SearchSpace

RIDGE = 1e-3
SWAPS = 50
"""At most, in a layer, when units are rearranged."""


@dataclass(frozen=True)
class Block:
    """A transformer block, by the names of its linear layers."""

    query: str
    key: str
    value: str
    out: str
    up: str
    down: str
    heads: int


@dataclass(frozen=True)
class Task:
    """What all get. `inputs` are calibration inputs; `mask` [N, tokens] says which tokens are some."""

    model: nn.Module
    space: SearchSpace
    blocks: tuple[Block, ...]
    inputs: Inputs
    mask: Tensor

    def batches(self, size: int = 32) -> Iterator[tuple[Inputs, Tensor]]:
        """The calibration inputs, and which tokens are some, in pieces."""
        for start in range(0, len(self.inputs), size):
            yield self.inputs.part(start, start + size), self.mask[start : start + size] > 0

    def site(self, layer: str, role: str) -> str:
        """The key of the units of this role that a layer makes."""
        groups = self.space.graph.prunable
        return next(group.key for group in groups if layer in group.producers and group.role == role)

    def affordable(self, kept: Kept) -> bool:
        """Whether the budget allows it."""
        return self.space.cost({key: len(units) for key, units in kept.items()}) <= self.space.limit

    def cut(self, model: nn.Module, kept: Kept) -> nn.Module:
        """A network of its own with these units."""
        return copied(Cutter(model, self.space.graph).cut(kept)).eval()


@contextmanager
def watching(model: nn.Module, layers: Sequence[str], see: Callable[[str, Tensor, Tensor], None]) -> Iterator[None]:
    """Call `see(layer, input, output)` whenever one of these layers runs."""
    handles = [
        model.get_submodule(name).register_forward_hook(lambda m, args, y, name=name: see(name, args[0], y))
        for name in layers
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def largest(task: Task, kept_at: Callable[[float], Kept]) -> Kept:
    """The plan of the largest share that the budget allows."""
    low, high = 0.0, 1.0
    for _ in range(12):
        share = (low + high) / 2
        low, high = (share, high) if task.affordable(kept_at(share)) else (low, share)
    return kept_at(low)


def first(score: Tensor, share: float) -> npt.NDArray[np.int64]:
    """The units of the highest scores, ascending; one at least."""
    count = max(round(share * len(score)), 1)
    return np.sort(torch.argsort(-score)[:count].numpy())


def uniform(task: Task) -> nn.Module:
    """Heads and features of the largest weights, the same share everywhere."""
    size = {name: value.detach().square() for name, value in task.model.named_parameters()}
    score = {}
    for block in task.blocks:
        score[task.site(block.value, "heads")] = size[f"{block.out}.weight"].sum(0).view(block.heads, -1).sum(1)
        score[task.site(block.up, "features")] = size[f"{block.up}.weight"].sum(1)
    kept = largest(task, lambda share: {key: first(each, share) for key, each in score.items()})
    return task.cut(task.model, kept)


def corp(task: Task) -> nn.Module:
    """Features and query and key dims, and what makes up for them."""
    moments = _moments(task)
    score, dims = {}, {}
    for block in task.blocks:
        hidden, weight = moments[block.down], task.model.get_parameter(f"{block.down}.weight").detach().double()
        score[task.site(block.up, "features")] = hidden.diagonal()[:-1] * weight.square().sum(0)
        q, k = (_heads(moments[name], block.heads) for name in (block.query, block.key))
        dims[block] = torch.argsort(-(q.diagonal(dim1=1, dim2=2) * k.diagonal(dim1=1, dim2=2)), dim=1)

    def kept_at(share: float) -> Kept:
        count = max(round(share * next(iter(dims.values())).shape[1]), 1)
        features = {key: first(each, share) for key, each in score.items()}
        return features | {task.site(block.query, "query and key dims"): np.arange(count) for block in task.blocks}

    kept = largest(task, kept_at)
    model = copied(task.model)
    for block in task.blocks:
        features = torch.from_numpy(kept[task.site(block.up, "features")])
        _fold_features(model, block, moments[block.down], features)
        count = len(kept[task.site(block.query, "query and key dims")])
        _fold_logits(model, block, moments, dims[block], count)
    return task.cut(model, kept)


def _moments(task: Task) -> dict[str, Tensor]:
    """Of inputs of `down`, with a 1 behind them, and of outputs of queries and keys."""
    found: dict[str, Tensor] = {}
    down = {block.down for block in task.blocks}

    def see(name: str, x: Tensor, y: Tensor) -> None:
        rows = (x if name in down else y)[mask].double()
        rows = torch.cat((rows, torch.ones(len(rows), 1)), 1) if name in down else rows
        found[name] = found.get(name, 0) + rows.T @ rows

    names = [name for block in task.blocks for name in (block.query, block.key, block.down)]
    with torch.no_grad(), watching(task.model, names, see):
        for batch, mask in task.batches():  # noqa: B007  # `see` reads the mask
            batch.run(task.model)
    return {name: square / task.mask.sum() for name, square in found.items()}


def _heads(square: Tensor, heads: int) -> Tensor:
    """Of moments [heads * dims, heads * dims] those within each head."""
    parts = square.view(heads, len(square) // heads, heads, -1)
    return torch.stack([parts[head, :, head] for head in range(heads)])


def _ridged(square: Tensor) -> Tensor:
    return square + RIDGE * square.diagonal().mean() * torch.eye(len(square))


def _fold_features(model: nn.Module, block: Block, square: Tensor, kept: Tensor) -> None:
    """a_gone = B a_kept + c, into the layer that reads them."""
    down = model.get_submodule(block.down)
    gone = torch.ones(len(square) - 1, dtype=torch.bool).index_fill(0, kept, False).nonzero()[:, 0]
    known = torch.cat((kept, torch.tensor([len(square) - 1])))
    affine = torch.linalg.solve(_ridged(square[known][:, known]), square[known][:, gone]).T
    weight = down.weight.data.double()
    moved = weight[:, gone] @ affine
    down.weight.data[:, kept] = (weight[:, kept] + moved[:, :-1]).float()
    down.bias.data += moved[:, -1].float()


def _fold_logits(model: nn.Module, block: Block, moments: Mapping[str, Tensor], dims: Tensor, count: int) -> None:
    """q_gone k_gone = q_kept M k_kept, into the queries; the dims that stay come first."""
    query, key = model.get_submodule(block.query), model.get_submodule(block.key)
    q, k = (_heads(moments[name], block.heads) for name in (block.query, block.key))
    for head, order in enumerate(dims):
        stay, gone = order[:count], order[count:]
        across = q[head][stay][:, gone] @ k[head][gone][:, stay]
        left = torch.linalg.solve(_ridged(q[head][stay][:, stay]), across)
        middle = torch.linalg.solve(_ridged(k[head][stay][:, stay]), left.T).T
        start, rows = head * len(order), head * len(order) + order
        for layer in (query, key):
            for value in (layer.weight.data, layer.bias.data):
                value[start : start + len(order)] = value[rows].clone()
        for value in (query.weight.data, query.bias.data):
            mine = value[start : start + count].double()
            value[start : start + count] = (mine + middle.T @ mine).float()


def kwon(task: Task) -> nn.Module:
    """Heads and features by Fisher information, rearranged and scaled."""
    fisher = _fisher(task)
    heads, features = ({block: fisher[name(block)] for block in task.blocks} for name in (_out, _down))
    best: tuple[float, Kept] | None = None
    for count in range(1, sum(map(len, heads.values())) + 1):
        kept = _within(task, heads, features, count)
        if kept is None:
            break
        lost = sum(float(fisher[name].diagonal().sum() - fisher[name].diagonal()[kept[key]].sum())
                   for block in task.blocks for name, key in _units(task, block))  # fmt: skip
        best = (lost, kept) if best is None or lost < best[0] else best
    assert best is not None
    kept = {key: _rearranged(fisher[name], best[1][key]) for block in task.blocks for name, key in _units(task, block)}
    pruned = task.cut(task.model, kept)
    for block in task.blocks:
        for name, key in _units(task, block):
            _scale(task, pruned, block, name, len(kept[key]))
    return pruned


def _out(block: Block) -> str:
    return block.out


def _down(block: Block) -> str:
    return block.down


def _units(task: Task, block: Block) -> list[tuple[str, str]]:
    """What reads heads and features, and their keys."""
    return [(block.out, task.site(block.value, "heads")), (block.down, task.site(block.up, "features"))]


def _fisher(task: Task) -> dict[str, Tensor]:
    """E[g g^T] of the gradients by factors 1 on the units; of a random sum of the answers, as there are no labels."""
    model, found = task.model, {}
    inputs: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(0)

    def see(name: str, x: Tensor, y: Tensor) -> None:
        inputs[name] = x

    names = [name for block in task.blocks for name in (block.out, block.down)]
    width = {block.out: block.heads for block in task.blocks}
    model.requires_grad_(True)
    with torch.enable_grad(), watching(model, names, see):
        for batch, _ in task.batches():
            answers = batch.run(model)
            noise = torch.randn(answers.shape, generator=generator)
            gradients = torch.autograd.grad(answers, [inputs[name] for name in names], noise)
            for name, gradient in zip(names, gradients, strict=True):
                own = (inputs[name].detach() * gradient).sum(1).double()
                own = own.view(len(own), width[name], -1).sum(2) if name in width else own
                found[name] = found.get(name, 0) + own.T @ own
    model.requires_grad_(False)
    return found


def _within(
    task: Task, heads: Mapping[Block, Tensor], features: Mapping[Block, Tensor], count: int
) -> dict[str, npt.NDArray[np.int64]] | None:
    """The best `count` heads of all blocks, and as many of the best features as the budget then allows."""
    kept = _best(task, heads, count, "heads")
    low, high = 0, sum(map(len, features.values()))
    if not task.affordable(kept | _best(task, features, low, "features")):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        fits = task.affordable(kept | _best(task, features, middle, "features"))
        low, high = (middle, high) if fits else (low, middle)
    return kept | _best(task, features, low, "features")


def _best(task: Task, fisher: Mapping[Block, Tensor], count: int, role: str) -> dict[str, npt.NDArray[np.int64]]:
    """By the diagonal, over all blocks together; one of each block stays."""
    everywhere = torch.cat([each.diagonal() for each in fisher.values()])
    least = everywhere.sort(descending=True).values[max(count, 1) - 1] if count else torch.inf
    found = {}
    for block, each in fisher.items():
        chosen = (each.diagonal() >= least).nonzero()[:, 0]
        chosen = chosen if len(chosen) else each.diagonal().argmax()[None]
        found[task.site(block.value if role == "heads" else block.up, role)] = chosen.numpy()
    return found


def _rearranged(fisher: Tensor, kept: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Units of one layer exchanged while that lowers the loss of those that are gone, by the whole matrix."""
    gone = torch.ones(len(fisher), dtype=torch.bool)
    gone[torch.from_numpy(kept)] = False
    for _ in range(SWAPS if gone.any() else 0):
        reach = fisher[:, gone].sum(1)
        back, out = gone.nonzero()[:, 0], (~gone).nonzero()[:, 0]
        own = fisher.diagonal()
        change = (own[out] + 2 * reach[out])[None] + (own[back] - 2 * reach[back])[:, None]
        change = change - 2 * fisher[back][:, out]
        place = int(change.argmin())
        if change.flatten()[place] >= 0:
            break
        gone[back[place // len(out)]], gone[out[place % len(out)]] = False, True
    return (~gone).nonzero()[:, 0].numpy()


def _scale(task: Task, pruned: nn.Module, block: Block, name: str, units: int) -> None:
    """Factors on the units of one layer, by least squares on the block's sum with its residual, in place."""
    residual = block.query if name == block.out else block.up
    seen: dict[tuple[bool, str], Tensor] = {}
    module = pruned.get_submodule(name)
    square, right = torch.zeros(units, units, dtype=torch.float64), torch.zeros(units, dtype=torch.float64)
    by_unit = module.weight.data.T.reshape(units, -1, module.out_features).double()
    for batch, mask in task.batches():
        for dense, model in ((True, task.model), (False, pruned)):

            def see(layer: str, x: Tensor, y: Tensor, dense: bool = dense, mask: Tensor = mask) -> None:
                seen[dense, layer] = (y if layer == name and dense else x)[mask].double()

            with torch.no_grad(), watching(model, (residual, name), see):
                batch.run(model)
        bias = module.bias.data.double()
        wanted = seen[True, name] - bias + seen[True, residual] - seen[False, residual]
        x = seen[False, name].view(len(wanted), units, -1)
        if units <= 64:
            parts = torch.einsum("nud,udo->nuo", x, by_unit)
            square += torch.einsum("nuo,nvo->uv", parts, parts)
        else:
            square += (x[..., 0].T @ x[..., 0]) * (by_unit[:, 0] @ by_unit[:, 0].T)
        right += (
            torch.einsum("nud,udo,no->u", x, by_unit, wanted)
            if units <= 64
            else ((wanted.T @ x[..., 0]) * by_unit[:, 0].T).sum(0)
        )
    factors = torch.linalg.solve(_ridged(square), right + RIDGE * square.diagonal().mean())
    if factors.abs().max() <= 10:  # as in the paper: what lies beyond is left as it was
        module.weight.data *= factors.repeat_interleave(module.in_features // units).float()


RIVALS: dict[str, Callable[[Task], nn.Module]] = {"uniform": uniform, "corp": corp, "kwon": kwon}

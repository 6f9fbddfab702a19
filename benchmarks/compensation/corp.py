"""CORP (Zhang and Yang, 2026): the same share of MLP features, and of query and key dims of each head, everywhere; what
leaves is an affine function of what stays, told by ridge regression: folded into the next layer of the MLP, and for the
logits into the queries. Rotary embeddings leave no place for the latter: there, of MLP features alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from compensation.task import Block, Task, first, largest, ridged, watching
from secateur.graph import Kept, copied

DIMS = "query and key dims"


def corp(task: Task) -> nn.Module:
    """Features and query and key dims, and what makes up for them."""
    moments = _moments(task)
    score, dims = {}, {}
    for block in task.blocks:
        hidden, weight = moments[block.down], task.model.get_parameter(f"{block.down}.weight").detach().double()
        score[task.site(block.up, "features")] = hidden.diagonal()[:-1] * weight.square().sum(0)
        if block.query:
            q, k = (_heads(moments[name], block.heads).diagonal(dim1=1, dim2=2) for name in (block.query, block.key))
            dims[block] = torch.argsort(-(q * k), dim=1)

    def kept_at(share: float) -> Kept:
        features = {key: first(each, share) for key, each in score.items()}
        counts = {block: max(round(share * order.shape[1]), 1) for block, order in dims.items()}
        return features | {task.site(block.query, DIMS): np.arange(count) for block, count in counts.items()}

    kept = largest(task, kept_at)
    model = copied(task.model)
    for block in task.blocks:
        features = torch.from_numpy(kept[task.site(block.up, "features")])
        _fold_features(model, block, moments[block.down], features)
        if block.query:
            _fold_logits(model, block, moments, dims[block], len(kept[task.site(block.query, DIMS)]))
    return task.cut(model, kept)


def _moments(task: Task) -> dict[str, Tensor]:
    """Of inputs of `down`, with a 1 behind them, and of outputs of queries and keys."""
    found: dict[str, Tensor] = {}
    seen: dict[str, int] = {}
    down = {block.down for block in task.blocks}

    def see(name: str, x: Tensor, y: Tensor) -> None:
        rows = (x if name in down else y)[mask].double()
        rows = torch.cat((rows, torch.ones(len(rows), 1)), 1) if name in down else rows
        found[name] = found.get(name, 0) + rows.T @ rows
        seen[name] = seen.get(name, 0) + len(rows)

    names = [name for block in task.blocks for name in (block.query, block.key, block.down) if name]
    with torch.no_grad(), watching(task.model, names, see):
        for batch, mask in task.batches():  # noqa: B007  # `see` reads the mask
            batch.run(task.model)
    return {name: square / seen[name] for name, square in found.items()}


def _heads(square: Tensor, heads: int) -> Tensor:
    """Of moments [heads * dims, heads * dims] those within each head."""
    parts = square.view(heads, len(square) // heads, heads, -1)
    return torch.stack([parts[head, :, head] for head in range(heads)])


def _fold_features(model: nn.Module, block: Block, square: Tensor, kept: Tensor) -> None:
    """a_gone = B a_kept + c, into the layer that reads them."""
    down = model.get_submodule(block.down)
    gone = torch.ones(len(square) - 1, dtype=torch.bool).index_fill(0, kept, False).nonzero()[:, 0]
    known = kept if down.bias is None else torch.cat((kept, torch.tensor([len(square) - 1])))
    affine = torch.linalg.solve(ridged(square[known][:, known]), square[known][:, gone]).T
    weight = down.weight.data.double()
    moved = weight[:, gone] @ affine
    down.weight.data[:, kept] = (weight[:, kept] + moved[:, : len(kept)]).float()
    if down.bias is not None:
        down.bias.data += moved[:, -1].float()


def _fold_logits(model: nn.Module, block: Block, moments: Mapping[str, Tensor], dims: Tensor, count: int) -> None:
    """q_gone k_gone = q_kept M k_kept, into the queries; the dims that stay come first."""
    query, key = model.get_submodule(block.query), model.get_submodule(block.key)
    q, k = (_heads(moments[name], block.heads) for name in (block.query, block.key))
    for head, order in enumerate(dims):
        stay, gone = order[:count], order[count:]
        across = q[head][stay][:, gone] @ k[head][gone][:, stay]
        left = torch.linalg.solve(ridged(q[head][stay][:, stay]), across)
        middle = torch.linalg.solve(ridged(k[head][stay][:, stay]), left.T).T
        start, rows = head * len(order), head * len(order) + order
        for layer in (query, key):
            for value in (layer.weight.data, layer.bias.data):
                value[start : start + len(order)] = value[rows].clone()
        for value in (query.weight.data, query.bias.data):
            mine = value[start : start + count].double()
            value[start : start + count] = (mine + middle.T @ mine).float()

"""Kwon et al. (2022): heads and MLP features by their empirical Fisher information under the budget, rearranged block
by block, and those that stay scaled by least squares.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from compensation.task import RIDGE, Block, Task, ridged, watching
from secateur.graph import Kept

SWAPS = 50
"""At most, in a layer, when units are rearranged."""


def kwon(task: Task) -> nn.Module:
    """Heads and features by Fisher information, rearranged and scaled."""
    fisher = _fisher(task)
    heads = {block: fisher[block.out] for block in task.blocks if block.out}
    features = {block: fisher[block.down] for block in task.blocks}
    best: tuple[float, Kept] | None = None
    for count in range(1, sum(map(len, heads.values())) + 1) if heads else (0,):
        kept = _within(task, heads, features, count)
        if kept is None:
            break
        lost = sum(float(fisher[name].diagonal().sum() - fisher[name].diagonal()[kept[key]].sum())
                   for block in task.blocks for name, key in _units(task, block))  # fmt: skip
        best = (lost, kept) if best is None or lost < best[0] else best
    assert best is not None
    kept = {key: rearranged(fisher[name], best[1][key]) for block in task.blocks for name, key in _units(task, block)}
    pruned = task.cut(task.model, kept)
    for block in task.blocks:
        for name, key in _units(task, block):
            _scale(task, pruned, block, name, len(kept[key]))
    return pruned


def _units(task: Task, block: Block) -> list[tuple[str, str]]:
    """What reads heads and features, and their keys."""
    heads = [(block.out, task.site(block.value, "heads"))] if block.out else []
    return [*heads, (block.down, task.site(block.up, "features"))]


def _fisher(task: Task) -> dict[str, Tensor]:
    """E[g g^T] of the gradients by factors 1 on the units; of a random sum of the answers, as there are no labels."""
    model, found = task.model, {}
    inputs: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(0)

    def see(name: str, x: Tensor, y: Tensor) -> None:
        inputs[name] = x

    names = [name for block in task.blocks for name in (block.out, block.down) if name]
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
    if not fisher:
        return {}
    everywhere = torch.cat([each.diagonal() for each in fisher.values()])
    least = everywhere.sort(descending=True).values[max(count, 1) - 1] if count else torch.inf
    found = {}
    for block, each in fisher.items():
        chosen = (each.diagonal() >= least).nonzero()[:, 0]
        chosen = chosen if len(chosen) else each.diagonal().argmax()[None]
        found[task.site(block.value if role == "heads" else block.up, role)] = chosen.numpy()
    return found


def rearranged(fisher: Tensor, kept: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
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
    residual = block.query if name == block.out else block.stream or block.up
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
        bias = 0.0 if module.bias is None else module.bias.data.double()
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
    factors = torch.linalg.solve(ridged(square), right + RIDGE * square.diagonal().mean())
    if factors.abs().max() <= 10:  # as in the paper: what lies beyond is left as it was
        module.weight.data *= factors.repeat_interleave(module.in_features // units).float()

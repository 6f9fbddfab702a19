"""VBP (Berisha, Mehnert and Condurache, ICCV 2025): of all MLP features, those whose activations vary least leave; what
they were on average goes into the bias of the layer that reads them, where it has one.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from compensation.task import Task, largest, watching
from secateur.graph import Kept, copied


def vbp(task: Task) -> nn.Module:
    """MLP features by their variance, compared across layers."""
    mean, variance = _statistics(task)
    keys = {block.down: task.site(block.up, "features") for block in task.blocks}
    ranked = torch.cat([*variance.values()]).sort(descending=True).values

    def kept_at(share: float) -> Kept:
        least = ranked[min(int(share * len(ranked)), len(ranked) - 1)]
        stays = {name: (each >= torch.minimum(least, each.max())).numpy() for name, each in variance.items()}
        return {keys[name]: np.flatnonzero(each) for name, each in stays.items()}

    kept = largest(task, kept_at)
    model = copied(task.model)
    for name, key in keys.items():
        down = model.get_submodule(name)
        gone = torch.ones(len(mean[name]), dtype=torch.bool).index_fill(0, torch.from_numpy(kept[key]), False)
        if down.bias is not None:
            down.bias.data += (down.weight.data[:, gone].double() @ mean[name][gone]).float()
    return task.cut(model, kept)


def _statistics(task: Task) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Means and variances of the inputs of each layer that reads features."""
    sums: dict[str, Tensor] = {}
    squares: dict[str, Tensor] = {}
    rows: dict[str, int] = {}

    def see(name: str, x: Tensor, y: Tensor) -> None:
        found = x[mask].double()
        sums[name] = sums.get(name, 0) + found.sum(0)
        squares[name] = squares.get(name, 0) + found.square().sum(0)
        rows[name] = rows.get(name, 0) + len(found)

    names = [block.down for block in task.blocks]
    with torch.no_grad(), watching(task.model, names, see):
        for batch, mask in task.batches():  # noqa: B007  # `see` reads the mask
            batch.run(task.model)
    mean = {name: sums[name] / rows[name] for name in names}
    return mean, {name: squares[name] / rows[name] - mean[name].square() for name in names}

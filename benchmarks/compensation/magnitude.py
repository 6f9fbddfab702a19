"""Without anything that makes up for what leaves: the same share everywhere, of the largest weights (`uniform`), or of
the largest weights times inputs (`wanda`: Sun et al., 2024, whose score is summed over the weights that read a unit).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compensation.task import Task, first, largest, watching


def uniform(task: Task) -> nn.Module:
    """Heads and features of the largest weights, the same share everywhere."""
    size = {name: value.detach().square() for name, value in task.model.named_parameters()}
    score = {}
    for block in task.blocks:
        if block.out:
            score[task.site(block.value, "heads")] = size[f"{block.out}.weight"].sum(0).view(block.heads, -1).sum(1)
        score[task.site(block.up, "features")] = size[f"{block.up}.weight"].sum(1)
    kept = largest(task, lambda share: {key: first(each, share) for key, each in score.items()})
    return task.cut(task.model, kept)


def wanda(task: Task) -> nn.Module:
    """MLP features by their norm and by the weights that read them, the same share everywhere."""
    found: dict[str, Tensor] = {}

    def see(name: str, x: Tensor, y: Tensor) -> None:
        found[name] = found.get(name, 0) + x[mask].double().square().sum(0)

    names = {block.down: block for block in task.blocks}
    with torch.no_grad(), watching(task.model, [*names], see):
        for batch, mask in task.batches():  # noqa: B007  # `see` reads the mask
            batch.run(task.model)
    score = {
        task.site(block.up, "features"): found[name].sqrt() * task.model.get_parameter(f"{name}.weight").abs().sum(0)
        for name, block in names.items()
    }
    return task.cut(task.model, largest(task, lambda share: {key: first(each, share) for key, each in score.items()}))

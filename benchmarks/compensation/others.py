"""The baselines of networks that are no transformers: the largest filters, and torch-pruning as it comes."""

from __future__ import annotations

import torch_pruning as peer
from peers.torch_pruning_rows import STEPS, Macs
from torch import nn

import secateur as sc
from compensation.task import Task
from secateur.graph import copied
from secateur.prune import Calibration, recalibrate


def uniform_plain(task: Task) -> nn.Module:
    """The same share of every site, of the largest weights; batch norms recalibrated."""
    settings = sc.PruneSettings(criterion="magnitude", refit=False, sequential=False, recalibrate=False)
    example = task.inputs.part(0, 1).args[0]
    pruned = sc.prune(task.model, example, task.uniform_plan(), calibration=[task.inputs], settings=settings)
    recalibrate(pruned, Calibration(task.inputs))
    return pruned


def torch_pruning(task: Task) -> nn.Module:
    """By magnitude, the same share of every layer, streams too; batch norms recalibrated."""
    network = copied(task.model).requires_grad_(True).eval()
    example = task.inputs.part(0, 1).args[0]
    macs = Macs(network, example)
    last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    pruner = peer.pruner.MagnitudePruner(
        network, example, importance=peer.importance.MagnitudeImportance(p=2), global_pruning=False, pruning_ratio=1.0,
        iterative_steps=STEPS, ignored_layers=[last],
    )  # fmt: skip
    for _ in range(STEPS):
        for group in pruner.step(interactive=True):
            group.prune()
            if macs() <= task.space.limit:
                recalibrate(network.eval(), Calibration(task.inputs))
                return network
    raise RuntimeError("torch-pruning went through all its steps without coming down to the budget")

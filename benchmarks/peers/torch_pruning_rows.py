"""torch-pruning 1.6.1 on ResNet-56 at half the MACs: by magnitude, uniformly or over all layers at once (global).

In all layers, as it does by default (the channels that blocks add up included); with the two shortcut convolutions
left alone, and so whatever is added to them; and inside the residual blocks only, which is what Secateur prunes.
No fine-tuning; with and without batch-norm recalibration.
"""

from __future__ import annotations

import importlib.metadata
import json
import time
from functools import partial
from typing import Any

import shared_assets
import torch
import torch_pruning
from torch import Tensor, nn

import secateur as sc
from peers.export import CALIBRATION, REWARD
from secateur import zoo
from secateur.data import split
from secateur.graph import count_costs
from secateur.prune import recalibrate
from secateur.prune.calibration import Calibration

KEEP_MACS = 0.5
STEPS = 400  # as in torch-pruning's own CIFAR benchmark: importances are renewed after each
SCOPES = ("all layers", "shortcuts left alone", "inside blocks")


def rows(depth: int = 56) -> list[dict[str, Any]]:
    """One row a scope and a way of ranking. Accuracies and `macs_fraction` in percent, of option A's MACs.

    `seconds` are the pruning's alone. Prints each row as it comes.
    """
    dataset = shared_assets.cifar10()
    test = sc.accuracy(*shared_assets.test_images(dataset))
    index = split(dataset, REWARD, CALIBRATION, seed=0).calibration
    images = shared_assets.training_images(dataset, index)[0]
    calibration = Calibration.gather(images, [images])
    version = importlib.metadata.version("torch-pruning")  # its own `__version__` was not raised with it
    found = []
    for scope in SCOPES:
        for everywhere in (False, True):
            network, macs_fraction, seconds = pruned(depth, scope, everywhere)
            raw = test(network)
            recalibrate(network, calibration)
            row = {
                "peer": f"torch-pruning {version} {'global' if everywhere else 'uniform'}, {scope}",
                "macs_fraction": 100 * macs_fraction,
                "test_top1": 100 * raw,
                "test_top1_recalibrated": 100 * test(network),
                "seconds": seconds,
            }
            print(json.dumps(row), flush=True)
            found.append(row)
    return found


def pruned(depth: int, scope: str, everywhere: bool) -> tuple[nn.Module, float, float]:
    """A network cut channel by channel until the budget is met, its fraction of the MACs, and the seconds it took."""
    example = torch.zeros(1, 3, 32, 32)
    dense = count_costs(shared_assets.resnet(depth), example).macs
    network: nn.Module = zoo.with_copying_shortcuts(shared_assets.resnet(depth))  # it loses count of padded ones
    macs = Macs(network, example)
    begun = time.perf_counter()
    pruner = torch_pruning.pruner.MagnitudePruner(
        network,
        example,
        importance=torch_pruning.importance.MagnitudeImportance(p=2),
        global_pruning=everywhere,
        pruning_ratio=1.0,
        iterative_steps=STEPS,
        ignored_layers=_ignored(network, scope),
    )
    _cut(pruner, macs, KEEP_MACS * dense)
    seconds = time.perf_counter() - begun
    if macs() + macs(of_shortcuts=True) != count_costs(network, example).macs:
        raise RuntimeError("the MACs of the cut network are not what was counted while it was cut")
    return network.eval(), macs() / dense, seconds


def _cut(pruner: Any, macs: Macs, most: float) -> None:
    """Stops within a step: a whole uniform one can take a channel from every layer, and overshoot by 4 %."""
    for _ in range(STEPS):
        for group in pruner.step(interactive=True):
            group.prune()
            if macs() <= most:
                return
    raise RuntimeError("torch-pruning went through all its steps without coming down to the budget")


class Macs:
    """The MACs of one image, from the shapes of the weights: often asked for, so without a forward pass."""

    def __init__(self, network: nn.Module, example: Tensor) -> None:
        self.network = network
        self.pixels: dict[str, int] = {}
        weighted = [(name, m) for name, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        hooks = [module.register_forward_hook(partial(self._note, name)) for name, module in weighted]
        with torch.no_grad():
            network(example)
        for hook in hooks:
            hook.remove()

    def _note(self, name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.pixels[name] = output[0, 0].numel()

    def __call__(self, of_shortcuts: bool = False) -> int:
        """Of the shortcut convolutions, or of all else: they stand for slicing and padding, which cost none."""
        names = [name for name in self.pixels if name.endswith("shortcut") == of_shortcuts]
        return sum(self.network.get_parameter(f"{name}.weight").numel() * self.pixels[name] for name in names)


def _ignored(network: nn.Module, scope: str) -> list[nn.Module]:
    """The answers always; else the convolutions that a scope leaves alone, and with them all that they are added to."""
    endings = {"all layers": (), "shortcuts left alone": ("shortcut",), "inside blocks": ("shortcut", "conv2")}[scope]
    ignored = [network.get_submodule("linear")]
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d) and (name.endswith(endings) or (name, scope) == ("conv1", "inside blocks")):
            ignored.append(module)
    return ignored


if __name__ == "__main__":
    torch.set_num_threads(1)
    rows()

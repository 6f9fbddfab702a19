"""How much the network's answers change with what each of its layers gives.

To the first order the answers change by `J d` where a layer's output changes by `d`. With random signs or normal noise
`v` on the answers, the gradient `g = J^T v` has `E[(g d)^2] = |J d|^2`: one backward pass tells of all layers at once
by which matrix `E[g g^T]` a change of each output is weighed (the factor of the outputs in K-FAC, Martens and Grosse,
2015). So losses of all layers have one unit: the change of the answers, as a share of their variance.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from secateur.graph import Inputs, Layer, ModelGraph, tensors_in
from secateur.prune.calibration import Calibration
from secateur.prune.shrink import own_moments, shrink

EXAMPLES = 128
"""Examples that gradients are taken of: twice as many change no order that matters."""
BATCH = 32
WIDEST = 8192
"""Outputs beyond which a layer's gradients are not collected (0.5 GB each in double precision)."""


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """What a change of each layer's output weighs, and at which positions it weighs anything; all by layer names.

    A layer is not there where nothing tells: where the network has no gradients, or no answer depends on it.
    """

    square: Mapping[str, Tensor] = field(default_factory=dict)
    """E[g g^T], summed over the positions of an example, [groups, out, out], double precision."""
    energy: Mapping[str, Tensor] = field(default_factory=dict)
    """The mean square of the outputs themselves, [groups, out]."""
    matters: Mapping[str, Tensor] = field(default_factory=dict)
    """[examples, positions], false where no answer depends on the output (padded tokens); only where there are such."""


def sense(model: nn.Module, graph: ModelGraph, calibration: Calibration) -> Sensitivity:
    """Passes forward and back over calibration inputs; empty where the network has no gradients.

    Of all inputs where some positions do not matter, so that it is known of each; else of `EXAMPLES`.
    """
    weighed = _weighed(graph)
    sums = {layer.name: _Sums(layer, layer.name in weighed) for layer in graph.layers if layer.once and layer.weight}
    generator = torch.Generator().manual_seed(0)
    seen = 0
    try:
        for batch in calibration.batches(BATCH):
            if seen >= EXAMPLES and all(mine.everywhere for mine in sums.values()):
                break
            for name, (output, gradient) in _gradients(model, sums, batch, generator).items():
                sums[name].add(output, gradient, len(batch), squares=seen < EXAMPLES)
            seen += len(batch)
    except (RuntimeError, NotImplementedError):  # an operation without a gradient
        return Sensitivity()
    known = {name: mine for name, mine in sums.items() if mine.known}
    return Sensitivity(
        {name: mine.square() for name, mine in known.items()},
        {name: mine.energy() for name, mine in known.items()},
        {name: torch.cat(mine.matters) for name, mine in sums.items() if not mine.everywhere},
    )


def _weighed(graph: ModelGraph) -> set[str]:
    """Layers whose outputs' changes are weighed: those that read what can be cut, those that make what is not read by
    weights alone (queries and keys), and those that may be sparse."""
    found = {layer.name for layer in graph.sparse.values()}
    for group in graph.prunable:
        read = {part.module for part in group.slices if part.side == "in"}
        found |= read
        if not read or not read.issuperset(group.consumers):
            found.update(group.producers)
    return {name for name in found if name in graph.layer and graph.layer[name].out_channels <= WIDEST}


def _gradients(
    model: nn.Module, layers: Mapping[str, object], batch: Inputs, generator: torch.Generator
) -> dict[str, tuple[Tensor, Tensor]]:
    """The output of each layer that answers depend on, and the gradient of a random sum of the answers by it."""
    outputs: dict[str, Tensor] = {}
    with torch.enable_grad(), _watched(model, layers, outputs):
        answers = [x for x in tensors_in(batch.run(model)) if x.is_floating_point() and x.requires_grad]
        if not answers:
            return {}
        noise = [torch.randn(x.shape, generator=generator).to(x) / _scale(x.detach(), len(batch)) for x in answers]
        found = torch.autograd.grad(answers, [*outputs.values()], noise, allow_unused=True)
    return {
        name: (output.detach(), gradient.float())
        for (name, output), gradient in zip(outputs.items(), found, strict=True)
        if gradient is not None
    }


def _scale(answer: Tensor, examples: int) -> Tensor:
    """What makes the answers of an example, all together, of variance 1."""
    spread = answer.float().std() if answer.numel() > 1 else answer.new_ones(())
    scale: Tensor = spread.clamp_min(1e-12) * max(answer.numel() / examples, 1.0) ** 0.5
    return scale


@contextmanager
def _watched(model: nn.Module, names: Mapping[str, object], outputs: dict[str, Tensor]) -> Iterator[None]:
    """Keep what layers give, each before anything is done to it in place."""

    def keep(name: str, module: nn.Module, args: object, output: Tensor) -> Tensor:
        if not output.requires_grad:
            output.requires_grad_(True)
        outputs[name] = output
        return output.clone()

    handles = [model.get_submodule(name).register_forward_hook(partial(keep, name)) for name in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Sums:
    """What is added up of one layer's gradients and outputs."""

    def __init__(self, layer: Layer, weighed: bool) -> None:
        self._layer, self._weighed = layer, weighed
        width = layer.out_channels // layer.groups if weighed else 0
        self._square = torch.zeros(layer.groups, width, width, dtype=torch.float64)
        self._energy = torch.zeros(layer.groups, width, dtype=torch.float64)
        self._own = torch.zeros(layer.groups, dtype=torch.float64)
        self._examples, self._rows = 0, 0
        self.matters: list[Tensor] = []

    @property
    def everywhere(self) -> bool:
        """Whether all positions matter, as far as is known."""
        return all(bool(each.all()) for each in self.matters) or not any(bool(each.any()) for each in self.matters)

    @property
    def known(self) -> bool:
        """Whether it is known what a change weighs."""
        return bool(self._square.any())

    def add(self, output: Tensor, gradient: Tensor, examples: int, squares: bool) -> None:
        """Those of a batch, shaped as the layer's output; without `squares`, only where they matter."""
        g = self._by_example(gradient, examples)
        matters = (g != 0).any(-1).any(1)
        if self._layer.kind == "linear":  # all gradients of a pixel may be zero by chance: its rectifiers are off
            self.matters.append(matters.cpu())
        if not squares or not self._weighed:
            return
        rows = g.transpose(0, 1).flatten(1, 2)
        self._square += (rows.transpose(1, 2) @ rows).to(self._square)
        self._own += (own_moments(g.transpose(0, 1)) * g.shape[2] ** 2).to(self._own)
        y = self._by_example(output, examples) * matters[:, None, :, None]
        self._energy += y.square().sum((0, 2)).to(self._energy)
        self._rows += int(matters.sum())
        self._examples += examples

    def _by_example(self, x: Tensor, examples: int) -> Tensor:
        """[examples, groups, positions, out channels of a group]."""
        if self._layer.kind == "linear":
            rows = x.reshape(examples, -1, x.shape[-1])
        else:
            rows = x.reshape(examples, x.shape[1], -1).transpose(1, 2)
        found: Tensor = rows.float().unflatten(2, (self._layer.groups, -1)).transpose(1, 2)
        return found

    def square(self) -> Tensor:
        """The mean over examples; what two outputs have in common, shrunk by how few examples tell of it."""
        square = self._square / self._examples
        shrink(square, self._own, self._examples)
        return square

    def energy(self) -> Tensor:
        """The mean over positions."""
        return self._energy / max(self._rows, 1)

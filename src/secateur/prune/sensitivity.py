"""How much the network's answers change with what each of its layers gives.

To the first order the answers change by `J d` where a layer's output changes by `d`. With random signs or normal noise
`v` on the answers, the gradient `g = J^T v` has `E[(g d)^2] = |J d|^2`: one backward pass tells of all layers at once
by which matrix `E[g g^T]` a change of each output is weighed (the factor of the outputs in K-FAC, Martens and Grosse,
2015). So losses of all layers have one unit: the change of the answers, as a share of their variance.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from secateur.graph import (
    Inputs,
    Layer,
    ModelGraph,
    Products,
    Run,
    as_operators,
    matrix_of,
    nodes,
    tensors_in,
    with_matrix,
)
from secateur.prune.calibration import Calibration
from secateur.prune.offset import bias_behind
from secateur.prune.rows import outputs
from secateur.prune.shrink import own_moments, shrink
from secateur.prune.wide import blocks_of, precision

EXAMPLES = 128
"""Examples that gradients are taken of: twice as many change no order that matters."""
BATCH, HELD = 32, 2**27
"""Examples that pass forward and back at once; fewer where all layers' outputs would have more elements than that."""


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """What a change of each layer's output weighs, and at which positions it weighs anything; all by layer names.

    A layer is not there where nothing tells: where the network has no gradients, or no answer depends on it.
    """

    square: Mapping[str, Tensor] = field(default_factory=dict)
    """E[g g^T], summed over an example's positions, [groups * blocks, out, out]: in double precision unless they
    are wide, and those of a very wide layer in blocks of its outputs (`prune.wide`)."""
    energy: Mapping[str, Tensor] = field(default_factory=dict)
    """The mean square of the outputs themselves, [groups * blocks, out]."""
    matters: Mapping[str, Tensor] = field(default_factory=dict)
    """[examples, positions], false where no answer depends on the output (padded tokens); only where there are such."""

    def tells_of(self, graph: ModelGraph, key: str) -> bool:
        """Whether losses of this site, or sparsity, are told as changes of the answers."""
        if key in graph.sparse:
            return graph.sparse[key].name in self.square
        parts = graph.group[key].slices
        read = [part.module for part in parts if part.side == "in"] or [part.module for part in parts]
        return bool(read) and all(name in self.square for name in read)


def sense(model: nn.Module, graph: ModelGraph, calibration: Calibration) -> Sensitivity:
    """Passes forward and back over calibration inputs; empty where the network has no gradients.

    Of all inputs where some positions do not matter, so that it is known of each; else of `EXAMPLES`.
    """
    weighed = _weighed(graph)
    layers = with_matrix(graph.layers)
    sums = {layer.name: _Sums(layer, layer.name in weighed) for layer in layers}
    generator = torch.Generator().manual_seed(0)
    seen = 0
    try:
        for batch in calibration.batches(_at_once(graph)):
            if seen >= EXAMPLES and all(mine.everywhere for mine in sums.values()):
                break
            with _by_gradients(model):
                for run, output, gradient in _gradients(model, layers, batch, generator):
                    sums[run.layer.name].add(output, gradient, squares=seen < EXAMPLES)
            seen += len(batch)
    except (RuntimeError, NotImplementedError):  # an operation without a gradient
        return Sensitivity()
    known = {name: mine for name, mine in sums.items() if mine.known}
    return Sensitivity(
        {name: mine.square() for name, mine in known.items()},
        {name: mine.energy() for name, mine in known.items()},
        {name: torch.cat(mine.matters) for name, mine in sums.items() if not mine.everywhere},
    )


def _at_once(graph: ModelGraph) -> int:
    """Examples of a batch: what all layers give is held until the pass back."""
    each = sum(layer.out_channels * layer.positions for layer in graph.layers)
    return min(max(HELD // max(each, 1), 1), BATCH)


def _weighed(graph: ModelGraph) -> set[str]:
    """Layers whose outputs' changes are weighed: those that read what can be cut, those that make what is not read by
    weights alone (queries and keys), and those that may be sparse."""
    found = {layer.name for layer in graph.sparse.values()}
    for group in graph.prunable:
        read = {part.module for part in group.slices if part.side == "in"}
        found |= read
        if not read or not read.issuperset(group.consumers):
            found.update(group.producers)
    return {name for name in found if name in graph.layer and blocks_of(_width(graph.layer[name]))}


def _width(layer: Layer) -> int:
    return layer.out_channels // layer.groups


def _gradients(
    model: nn.Module, layers: Sequence[Layer], batch: Inputs, generator: torch.Generator
) -> Iterator[tuple[Run, Tensor, Tensor]]:
    """The outputs [N, positions, out] of each layer that answers depend on, run by run, and the gradient of a random
    sum of the answers by them."""
    given: dict[str, list[tuple[Run, Tensor]]] = {layer.name: [] for layer in layers}

    def keep(run: Run, y: Tensor) -> None:
        given[run.layer.name].append((replace(run, x=run.x.new_empty(0)), y.detach()))

    with torch.enable_grad(), Products(model, layers, after=keep) as products:
        # Of a product, autograd keeps the weight only where what it multiplies has a gradient.
        batch = batch.map(lambda x: x.detach().requires_grad_().clone() if x.is_floating_point() else x)
        answers = [x for x in tensors_in(batch.run(model)) if x.is_floating_point() and x.requires_grad]
    found = nodes(answers, products.layers)
    runs = [
        (*each, node)
        for name, mine in found.items()
        if len(mine) == len(given[name])
        for each, node in zip(given[name], mine, strict=True)
    ]
    if not runs:
        return
    noise = [torch.randn(x.shape, generator=generator).to(x) / _scale(x.detach(), len(batch)) for x in answers]
    edges = [GradientEdge(node, 0) for _, _, node in runs]
    gradients = torch.autograd.grad(answers, edges, noise, allow_unused=True)
    for (run, output, _), gradient in zip(runs, gradients, strict=True):
        if gradient is not None:
            yield run, outputs(run, output.float()) + bias_behind(model, run), outputs(run, gradient.float())


@contextmanager
def _by_gradients(model: nn.Module) -> Iterator[None]:
    """For a while, all that a network has takes part in gradients."""
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for parameter, _ in before:
            parameter.requires_grad_(parameter.is_floating_point())
        with as_operators(model):
            yield
    finally:
        for parameter, needed in before:
            parameter.requires_grad_(needed)


def _scale(answer: Tensor, examples: int) -> Tensor:
    """What makes the answers of an example, all together, of variance 1."""
    spread = answer.float().std() if answer.numel() > 1 else answer.new_ones(())
    scale: Tensor = spread.clamp_min(1e-12) * max(answer.numel() / examples, 1.0) ** 0.5
    return scale


class _Sums:
    """What is added up of one layer's gradients and outputs."""

    def __init__(self, layer: Layer, weighed: bool) -> None:
        self._layer, self._weighed = layer, weighed
        self._once = matrix_of(layer).runs == 1
        blocks = blocks_of(_width(layer)) or 1
        self._parts, width = layer.groups * blocks, _width(layer) // blocks if weighed else 0
        self._square = torch.zeros(self._parts, width, width, dtype=precision(width))
        self._energy = torch.zeros(self._parts, width, dtype=torch.float64)
        self._own = torch.zeros(self._parts, dtype=torch.float64)
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

    def add(self, output: Tensor, gradient: Tensor, squares: bool) -> None:
        """Those of a run, [N, positions, out]; without `squares`, only where they matter."""
        g = self._by_part(gradient)
        matters = (g != 0).any(-1).any(1)
        if (
            self._layer.kind == "linear" and self._once
        ):  # all gradients of a pixel may be zero by chance: its rectifiers are off
            self.matters.append(matters.cpu())
        if not squares or not self._weighed:
            return
        rows = g.transpose(0, 1).flatten(1, 2)
        self._square += (rows.transpose(1, 2) @ rows).to(self._square)
        self._own += (own_moments(g.transpose(0, 1)) * g.shape[2] ** 2).to(self._own)
        y = self._by_part(output) * matters[:, None, :, None]
        self._energy += y.square().sum((0, 2)).to(self._energy)
        self._rows += int(matters.sum())
        self._examples += len(g)

    def _by_part(self, y: Tensor) -> Tensor:
        """[examples, groups * blocks, positions, outputs of each]."""
        found: Tensor = y.unflatten(2, (self._parts, -1)).transpose(1, 2)
        return found

    def square(self) -> Tensor:
        """The mean over examples of what all runs add up to; what two outputs have in common, shrunk by how few
        examples tell of it."""
        square = self._square.div_(self._examples).mul_(matrix_of(self._layer).runs)
        shrink(square, self._own * matrix_of(self._layer).runs ** 2, self._examples)
        return square

    def energy(self) -> Tensor:
        """The mean over positions."""
        return self._energy / max(self._rows, 1)

"""Prove, group by group, that cutting channels does exactly what it should; leave alone what fails.

Taking a group's channels out must change the output exactly as if the consumers ignored them. A coupling that
was followed wrongly (attention heads, channel shuffles, padded shortcuts) cannot pass.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from secateur.errors import TraceError
from secateur.graph import ChannelGroup, Example, ModelGraph, as_inputs, computes_more, private_copy
from secateur.prune.cut import Cutter

MIXING = (nn.LayerNorm, nn.GroupNorm)
"""Norms that give a channel what it is among others."""
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}
"""Largest difference allowed, by how precisely the network computes, as a fraction of the spread of what differs: of
each output, and of each column of it. Right cuts differ by 1e-14 in double precision, and wrong ones by 4e-5 or more.
"""


def prove(model: nn.Module, graph: ModelGraph, example_input: Example) -> ModelGraph:
    """The same graph, in which every group that fails the proof is fixed with the reason.

    Costs two forward passes a group, or three. Raises TraceError where no group is left to prune, or where the network
    answers otherwise each time.
    """
    generator = torch.Generator().manual_seed(0)  # the caller's random numbers are not touched
    example = as_inputs(example_input)
    inputs = tuple(torch.randn(x.shape, generator=generator).to(x) if x.is_floating_point() else x for x in example)
    with torch.no_grad():
        private, inputs, example = _precise(private_copy(model), inputs, example)
        cutter = Cutter(private, graph)
        dense = _outputs(private, inputs)
        if not _finite(dense):  # it takes what lies in some range alone, as a logarithm does
            inputs = example
            dense = _outputs(private, inputs)
        if _finite(dense) and not _same(dense, _outputs(private, inputs)):
            raise TraceError(
                f"{type(model).__name__} answers otherwise each time, even in eval mode: it cannot be followed"
            )
        groups = tuple(
            group if group.fixed else replace(group, fixed=_fault(group, private, cutter, inputs, dense))
            for group in graph.groups
        )
    proven = replace(graph, groups=groups)
    if not proven.prunable:
        reasons = "; ".join(f"{group.key}: {group.fixed}" for group in groups[:5])
        raise TraceError(f"nothing of {type(model).__name__} can be pruned ({reasons})")
    return proven


def _precise(
    model: nn.Module, inputs: tuple[Tensor, ...], example: tuple[Tensor, ...]
) -> tuple[nn.Module, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The model and what it is given in double precision, where it runs so: a forward may make tensors of its own."""
    double = copy.deepcopy(model).double()
    converted = [tuple(x.double() if x.is_floating_point() else x for x in given) for given in (inputs, example)]
    try:
        if _finite(_outputs(double, converted[1])):
            return double, converted[0], converted[1]
    except (RuntimeError, TypeError):
        pass
    return model, inputs, example


def _fault(
    group: ChannelGroup, model: nn.Module, cutter: Cutter, inputs: tuple[Tensor, ...], dense: Sequence[Tensor]
) -> str:
    """Why the group cannot be cut; empty if it can."""
    units = np.arange(group.width)[::2] if group.width > 2 else np.arange(1)
    try:
        cut = _outputs(cutter.cut({group.key: units}), inputs)
    except Exception as error:
        return f"the network does not run without its channels ({str(error).splitlines()[0][:90]})"
    if [x.shape for x in cut] != [x.shape for x in dense]:
        return "the network's output"
    mixing = {part.module for part in group.slices if isinstance(model.get_submodule(part.module), MIXING)}
    if any(computes_more(model.get_submodule(name)) for name in mixing):
        return ""  # what such a norm does with each channel is not known, so only the shapes can be compared
    with _unmixed(model, mixing), _unmixed(cutter.model, mixing):
        cut = _outputs(cutter.model, inputs) if mixing else cut
        with _deaf(model, group, np.setdiff1d(np.arange(group.width), units)):
            ignored = _outputs(model, inputs)
    return "" if _same(cut, ignored) else "something else than the layers that follow reads its channels"


def _affine(norm: nn.Module) -> Callable[[Tensor], Tensor]:
    """What a norm over channels does to each of them by itself."""
    weight, bias = (getattr(norm, name, None) for name in ("weight", "bias"))

    def affine(x: Tensor) -> Tensor:
        behind = 0 if isinstance(norm, nn.LayerNorm) else x.dim() - 2  # dimensions that follow that of the channels
        gain, offset = (None if each is None else each.view(*each.shape, *[1] * behind) for each in (weight, bias))
        x = x if gain is None else x * gain
        return x if offset is None else x + offset

    return affine


@contextmanager
def _unmixed(model: nn.Module, names: Iterable[str]) -> Iterator[None]:
    """For a while, norms over channels scale and shift each channel, and nothing else: then values can be compared."""
    norms = [model.get_submodule(name) for name in names]
    try:
        for norm in norms:
            norm.forward = _affine(norm)
        yield
    finally:
        for norm in norms:
            norm.__dict__.pop("forward", None)


@contextmanager
def _deaf(model: nn.Module, group: ChannelGroup, units: npt.NDArray[np.int64]) -> Iterator[None]:
    """For a while, the group's consumers give no weight to some units."""
    saved: list[tuple[Tensor, Tensor]] = []
    for part in group.slices:
        if part.side == "in":
            weight = model.get_parameter(f"{part.module}.weight").data
            saved.append((weight, weight.clone()))
            weight[:, torch.from_numpy(part.index[units].ravel() % weight.shape[1])] = 0
    try:
        yield
    finally:
        for weight, original in saved:
            weight.copy_(original)


def _outputs(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """All tensors a model returns."""
    return [leaf for leaf in tree_leaves(model(*inputs)) if isinstance(leaf, Tensor)]


def _finite(outputs: Sequence[Tensor]) -> bool:
    return all(bool(x.isfinite().all()) for x in outputs)


def _same(ones: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    """Whether two networks' outputs are equal but for rounding, each at its own scale."""
    return len(ones) == len(others) and all(_equal(*pair) for pair in zip(ones, others, strict=True))


def _equal(one: Tensor, other: Tensor) -> bool:
    """Every element within the tolerance at the scale of its column, along each dimension: beside boxes in pixels,
    class scores are small."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if not one.is_floating_point() or one.numel() == 0:
        return torch.equal(one, other)
    one, other = (x.unsqueeze(0) if x.dim() == 0 else x for x in (one, other))
    apart, tolerance = (one - other).abs(), TOLERANCE[one.dtype if one.dtype in TOLERANCE else torch.float32]
    floor = torch.finfo(one.dtype).eps * 64 * float(one.abs().max())  # of rounding, where a column is all but zero
    for dimension in range(one.dim()):
        columns = one.transpose(0, dimension).flatten(1)
        spread = (columns - columns.mean(1, keepdim=True)).square().mean(1).sqrt()
        spread = spread if columns.shape[1] > 1 else columns.abs().amax(1)
        worst = apart.transpose(0, dimension).flatten(1).amax(1)
        if not bool((worst <= tolerance * spread + floor).all()):
            return False
    return True

"""Prove, group by group, that cutting channels does exactly what it should; leave alone what fails.

Taking a group's channels out must change the output exactly as if the consumers ignored them. A coupling that
was followed wrongly (attention heads, channel shuffles, padded shortcuts) cannot pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
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
TOLERANCE = 1e-3
"""Largest difference allowed, as a fraction of the output's own spread (float32 rounding stays near 1e-6)."""


def prove(model: nn.Module, graph: ModelGraph, example_input: Example) -> ModelGraph:
    """The same graph, in which every group that fails the proof is fixed with the reason.

    Costs two forward passes a group, or three. Raises TraceError where no group is left to prune, or where the network
    answers otherwise each time.
    """
    generator = torch.Generator().manual_seed(0)  # the caller's random numbers are not touched
    inputs = tuple(
        torch.randn(x.shape, generator=generator).to(x) if x.is_floating_point() else x
        for x in as_inputs(example_input)
    )
    private = private_copy(model)
    cutter = Cutter(private, graph)
    with torch.no_grad():
        dense = _output(private, inputs)
        if not dense.isfinite().all():  # it takes what lies in some range alone, as a logarithm does
            inputs = as_inputs(example_input)
            dense = _output(private, inputs)
        if dense.isfinite().all() and not _same(dense, _output(private, inputs)):
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


def _fault(group: ChannelGroup, model: nn.Module, cutter: Cutter, inputs: tuple[Tensor, ...], dense: Tensor) -> str:
    """Why the group cannot be cut; empty if it can."""
    units = np.arange(group.width)[::2] if group.width > 2 else np.arange(1)
    try:
        cut = _output(cutter.cut({group.key: units}), inputs)
    except Exception as error:
        return f"the network does not run without its channels ({str(error).splitlines()[0][:90]})"
    if cut.shape != dense.shape:
        return "the network's output"
    mixing = {part.module for part in group.slices if isinstance(model.get_submodule(part.module), MIXING)}
    if any(computes_more(model.get_submodule(name)) for name in mixing):
        return ""  # what such a norm does with each channel is not known, so only the shapes can be compared
    with _unmixed(model, mixing), _unmixed(cutter.model, mixing):
        cut = _output(cutter.model, inputs) if mixing else cut
        with _deaf(model, group, np.setdiff1d(np.arange(group.width), units)):
            ignored = _output(model, inputs)
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


def _output(model: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    """All tensors a model returns, end to end."""
    leaves = [leaf for leaf in tree_leaves(model(*inputs)) if isinstance(leaf, Tensor)]
    return torch.cat([leaf.flatten().float() for leaf in leaves])


def _same(one: Tensor, other: Tensor) -> bool:
    spread = float(one.std()) if one.numel() > 1 else float(one.abs().max())
    return bool((one - other).abs().max() <= TOLERANCE * max(spread, 1e-6))

"""Model + example input -> layers with shapes, and coupled channel groups. The model itself is never touched."""

from __future__ import annotations

import copy
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from secateur.errors import TraceError
from secateur.graph.coupling import (
    PRODUCERS,
    Coupling,
    Place,
    couple,
    is_depthwise,
    side_length,
)
from secateur.graph.graph import ChannelGroup, Extent, Join, Layer, ModelGraph, Side, Slice
from secateur.graph.operations import OperationLog
from secateur.plan import Costs

Example = Tensor | Sequence[Tensor]


def trace(model: nn.Module, example_input: Example) -> ModelGraph:
    """Read the layers and the channel groups of `model` from one forward pass over `example_input`.

    Works on a private copy: weights, mode, `requires_grad` and hooks of the caller's model stay as they are.
    Raises TraceError where the model does not run, cannot be followed, or has nothing that can be pruned.
    """
    with torch.inference_mode(False):
        inputs = tuple(x.clone() for x in as_inputs(example_input))
        private = private_copy(model)
        _refuse_computed_weights(private)
        calls = _run(private, inputs)
        coupling = couple(private, inputs)
    shared = _shared(private)
    for place in (place for unit in coupling.units for place in unit if place[0] in shared):
        coupling.blocked[place] = f"{place[0]} shares its weights with {shared[place[0]]}"
    groups, owners = _groups(private, coupling, calls)
    layers = tuple(_layer(name, private, calls, owners, len(inputs[0])) for name in calls.order)
    layers = tuple(replace(layer, once=layer.once and layer.name not in shared) for layer in layers)
    graph = ModelGraph(layers, groups, count_costs(private, inputs), tuple(tuple(x.shape) for x in inputs))
    if not graph.prunable:
        reasons = "; ".join(f"{group.key}: {group.fixed}" for group in groups[:5]) or "it has no such layers"
        raise TraceError(f"nothing of {type(model).__name__} can be pruned ({reasons})")
    return graph


def _refuse_computed_weights(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, PRODUCERS) and "weight" not in module._parameters and not is_parametrized(module):
            raise TraceError(
                f"{name} computes its weight in a hook (spectral_norm, weight_norm, a pruning mask); make it a "
                "plain parameter first, with the function of torch.nn.utils that removes what it added"
            )


def _shared(model: nn.Module) -> dict[str, str]:
    """Modules that share a parameter with another module, and the name of that one."""
    owner: dict[Tensor, str] = {}
    shared: dict[str, str] = {}
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            other = owner.setdefault(parameter, name)
            if other != name:
                shared |= {name: other, other: name}
    return shared


def as_inputs(example_input: Example) -> tuple[Tensor, ...]:
    """The positional arguments of the model's forward pass."""
    inputs = (example_input,) if isinstance(example_input, Tensor) else example_input
    if (
        not isinstance(inputs, Sequence)
        or not inputs
        or not all(isinstance(x, Tensor) and x.dim() > 0 and len(x) > 0 for x in inputs)
    ):
        raise TraceError("the example input is a tensor with a batch dimension, or a tuple of such tensors")
    return tuple(x.detach() for x in inputs)


def private_copy(model: nn.Module) -> nn.Module:
    """A deep copy in eval mode, without hooks, whose floating-point parameters all require gradients."""
    try:
        private = copy.deepcopy(model).eval()
    except Exception as error:
        raise TraceError(f"{type(model).__name__} cannot be copied: {type(error).__name__}: {error}") from error
    for module in private.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
        module._backward_hooks.clear()
    for parameter in private.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return private


def count_costs(model: nn.Module, example_input: Example) -> Costs:
    """Count one example's costs on a built network, independently of any graph.

    MACs are half of what `torch.utils.flop_counter` counts on the meta device (it also sees attention); a model
    that does not run there (what it does depends on numbers, or it holds tensors that are no buffers) is counted
    on its own device.
    """
    inputs = as_inputs(example_input)
    private = copy.deepcopy(model).eval()
    try:
        with torch.device("meta"):
            flops = _flops(private.to("meta"), tuple(x.to("meta") for x in inputs))
    except Exception:
        flops = _flops(copy.deepcopy(model).eval(), inputs)
    state = model.state_dict().values()
    return Costs(
        macs=flops // 2 // len(inputs[0]),
        params=sum(parameter.numel() for parameter in model.parameters()),
        bytes=sum(tensor.numel() * tensor.element_size() for tensor in state),
    )


def _flops(model: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model(*inputs)
    return counter.get_total_flops()


@dataclass
class _Calls:
    """What one forward pass showed: input and output shapes of each layer, norms and sums that follow."""

    order: list[str] = field(default_factory=list)
    shapes: defaultdict[str, list[tuple[tuple[int, ...], tuple[int, ...]]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    norms: dict[str, str] = field(default_factory=dict)
    joins: dict[str, Join] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    """Linear layers with [N, tokens, features] outputs: a batch norm on them goes by token, not by feature."""


def _run(model: nn.Module, inputs: tuple[Tensor, ...]) -> _Calls:
    calls = _Calls()
    log = OperationLog(keep_sums=True)
    outputs: dict[str, int] = {}
    norms: dict[str, list[tuple[int, int]]] = defaultdict(list)

    def hook(name: str, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if isinstance(module, PRODUCERS):
            if name not in calls.shapes:
                calls.order.append(name)
            calls.shapes[name].append((tuple(args[0].shape), tuple(output.shape)))
            outputs[name] = log.ordinal(output)
            if isinstance(module, nn.Linear) and output.dim() > 2:
                calls.tokens.add(name)
        else:
            norms[name].append((log.ordinal(args[0]), log.ordinal(output)))

    with torch.no_grad(), _hooked(model, hook):
        try:
            with log:
                for leaf in tree_leaves(model(*inputs)):
                    log.readers[log.ordinal(leaf)] += 1
        except Exception as error:
            shapes = ", ".join(str(tuple(x.shape)) for x in inputs)
            raise TraceError(
                f"{type(model).__name__} does not run on the example input of shape {shapes}: "
                f"{type(error).__name__}: {error}"
            ) from error
    _follow(calls, log, outputs, norms)
    return calls


def _follow(calls: _Calls, log: OperationLog, outputs: dict[str, int], norms: dict[str, list[tuple[int, int]]]) -> None:
    """Find the norm that alone reads a layer's output, and the sum that the branch then runs into."""
    for name, ordinal in outputs.items():
        if len(calls.shapes[name]) != 1:
            continue
        for norm, uses in norms.items() if name not in calls.tokens else ():
            if len(uses) == 1 and uses[0][0] == ordinal and log.readers[ordinal] == 1:
                calls.norms[name], ordinal = norm, uses[0][1]
                break
        for add, terms in log.sums.items():
            if ordinal in terms and log.readers[ordinal] == 1:
                other = terms[0] if terms[1] == ordinal else terms[1]
                if other > 0:
                    calls.joins[name] = Join(add, other)


@contextmanager
def _hooked(model: nn.Module, hook: Any) -> Iterator[None]:
    """Call `hook(name, module, args, output)` after every layer and batch norm."""
    watched = (*PRODUCERS, nn.BatchNorm1d, nn.BatchNorm2d)
    handles = [
        module.register_forward_hook(lambda m, args, out, name=name: hook(name, m, args, out))
        for name, module in model.named_modules()
        if isinstance(module, watched)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _groups(
    model: nn.Module, coupling: Coupling, calls: _Calls
) -> tuple[tuple[ChannelGroup, ...], dict[tuple[str, Side], list[tuple[ChannelGroup, Slice]]]]:
    """Units that touch the same sides of the same modules form one group, keyed by its first producer."""
    alike: defaultdict[tuple[tuple[str, Side], ...], list[list[Place]]] = defaultdict(list)
    for unit in coupling.units:
        counted: defaultdict[tuple[str, Side], int] = defaultdict(int)
        for name, side, _ in unit:
            counted[name, side] += 1
        signature = tuple(sorted((name, side, count) for (name, side), count in counted.items()))
        alike[signature].append(sorted(unit))  # type: ignore[index]
    rank = {name: number for number, name in enumerate(calls.order)}
    groups = [_group(units, model, coupling, rank) for units in alike.values()]
    groups.sort(key=lambda group: (rank[group.producers[0]], int(group.slices[0].index.min())))
    named = _named(groups)
    owners: defaultdict[tuple[str, Side], list[tuple[ChannelGroup, Slice]]] = defaultdict(list)
    for group in named:
        for part in group.slices:
            owners[part.module, part.side].append((group, part))
    return named, owners


def _group(units: list[list[Place]], model: nn.Module, coupling: Coupling, rank: dict[str, int]) -> ChannelGroup:
    sides = sorted({(name, side) for name, side, _ in units[0]}, key=lambda s: (rank.get(s[0], len(rank)), s))
    producers = [n for n, side in sides if side == "out" and n in rank and not is_depthwise(model.get_submodule(n))]
    first = producers[0]
    units.sort(key=lambda unit: min(p for name, side, p in unit if (name, side) == (first, "out")))
    slices = tuple(
        Slice(name, side, np.array([[p for n, s, p in unit if (n, s) == (name, side)] for unit in units]))
        for name, side in sides
    )
    slices = tuple(sorted(slices, key=lambda part: (part.module, part.side) != (first, "out")))
    places = [place for unit in units for place in unit]
    fixed = next((coupling.blocked[place] for place in places if place in coupling.blocked), "")
    if len(units) == 1 and not fixed:
        fixed = "a single channel"
    consumers = tuple(name for name, side in sides if side == "in")
    if not consumers and not fixed:
        fixed = "the network's output"
    params, size = _vectors(model, slices)
    stream = len(producers) > 1 and any(place in coupling.added for place in places)
    return ChannelGroup(first, len(units), slices, tuple(producers), consumers, params, size, stream, fixed)


def _named(groups: list[ChannelGroup]) -> tuple[ChannelGroup, ...]:
    """Give a key of its own to each of several groups that share a first producer (branches cut in part)."""
    seen: defaultdict[str, int] = defaultdict(int)
    named = []
    for group in groups:
        seen[group.key] += 1
        suffix = f"#{seen[group.key]}" if seen[group.key] > 1 else ""
        named.append(replace(group, key=group.key + suffix))
    return tuple(named)


def _vectors(model: nn.Module, slices: tuple[Slice, ...]) -> tuple[int, int]:
    """Parameters and bytes that one unit holds in biases, norms and norm statistics."""
    params = size = 0
    for part in slices:
        if part.side == "in":
            continue
        module = model.get_submodule(part.module)
        length, per_unit = side_length(module, "out"), part.index.shape[1]
        trained = {name for name, _ in module.named_parameters(recurse=False)}
        for name, tensor in module.state_dict().items():
            if tensor.shape == (length,):
                params += per_unit * (name in trained)
                size += per_unit * tensor.element_size()
    return params, size


def _layer(
    name: str,
    model: nn.Module,
    calls: _Calls,
    owners: dict[tuple[str, Side], list[tuple[ChannelGroup, Slice]]],
    batch: int,
) -> Layer:
    module = model.get_submodule(name)
    assert isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear))
    shapes = calls.shapes[name]
    x_shape, y_shape = shapes[0]
    convolution = not isinstance(module, nn.Linear)
    positions = sum(int(np.prod(y)) for _, y in shapes) // side_length(module, "out") // batch
    depthwise = is_depthwise(module)

    def extent(side: Side) -> Extent:
        parts = owners.get((name, "out" if depthwise else side), [])
        owned = sum(part.index.size for _, part in parts)
        coupled = tuple((group.key, part.index.shape[1], group.width) for group, part in parts)
        return Extent(side_length(module, side) - owned, coupled)

    return Layer(
        name=name,
        kind="depthwise" if depthwise else "conv" if convolution else "linear",
        in_channels=side_length(module, "in"),
        out_channels=side_length(module, "out"),
        kernel=module.kernel_size if convolution else (),  # type: ignore[arg-type]
        stride=int(module.stride[0]) if convolution else 1,  # type: ignore[index]
        groups=int(module.groups) if convolution else 1,  # type: ignore[arg-type]
        in_hw=_hw(x_shape) if convolution else (1, 1),
        out_hw=_hw(y_shape) if convolution else (1, 1),
        positions=positions,
        itemsize=module.weight.element_size(),
        inputs=extent("in"),
        outputs=extent("out"),
        once=len(shapes) == 1 and x_shape[0] == batch,
        norm=calls.norms.get(name),
        join=calls.joins.get(name),
    )


def _hw(shape: tuple[int, ...]) -> tuple[int, int]:
    return (shape[2], shape[3]) if len(shape) == 4 else (1, shape[-1])

"""Model + example input -> layers with shapes, and coupled channel groups. The model itself is never touched."""

from __future__ import annotations

import warnings
from dataclasses import replace

import torch
from torch import Tensor, nn

from secateur.errors import TraceError
from secateur.graph.count import count_costs
from secateur.graph.coupling import PRODUCERS, couple
from secateur.graph.forward import watch
from secateur.graph.graph import ModelGraph
from secateur.graph.grouping import describe_layer, group_channels
from secateur.graph.private import Example, as_inputs, hooked_by_caller, private_copy
from secateur.sparse import masked_layers


def trace(model: nn.Module, example_input: Example) -> ModelGraph:
    """Read the layers and the channel groups of `model` from one forward pass over `example_input`.

    Works on a private copy: weights, mode, `requires_grad` and hooks of the caller's model stay as they are.
    Raises TraceError where the model does not run, cannot be followed, or has nothing that can be pruned.
    """
    with torch.inference_mode(False):
        # In plain order: other layouts turn views into copies, and the channels could not be followed through them.
        inputs = tuple(x.clone(memory_format=torch.contiguous_format) for x in as_inputs(example_input))
        private = private_copy(model)
        private.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        _refuse_broken_weights(private)
        _refuse_computed_weights(private)
        _refuse_sparse_weights(private)
        _tell_of_hooks(model)
        inputs = _several(private, inputs)
        calls = watch(private, inputs)
        coupling = couple(private, inputs)
    shared = _shared(private)
    for place in (place for unit in coupling.units for place in unit if place[0] in shared):
        coupling.blocked[place] = f"{place[0]} shares its weights with {shared[place[0]]}"
    groups, owners = group_channels(private, coupling, calls)
    layers = tuple(describe_layer(name, private, calls, owners, len(inputs[0])) for name in calls.order)
    layers = tuple(replace(layer, once=layer.once and layer.name not in shared) for layer in layers)
    graph = ModelGraph(layers, groups, count_costs(private, inputs))
    if not graph.prunable:
        reasons = "; ".join(f"{group.key}: {group.fixed}" for group in groups[:5]) or "it has no such layers"
        raise TraceError(f"nothing of {type(model).__name__} can be pruned ({reasons})")
    return graph


def _tell_of_hooks(model: nn.Module) -> None:
    hooked = hooked_by_caller(model)
    if hooked is not None:
        name = next(name for name, module in model.named_modules() if module is hooked)
        warnings.warn(
            f"{name or type(model).__name__} has forward hooks, which a pruned network does not have: if they "
            "change what it answers, let its forward do that",
            stacklevel=4,
        )


def _several(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """One example twice, where the network takes two: `squeeze` takes the batch away from one alone."""
    if any(len(x) != 1 for x in inputs):
        return inputs
    twice = tuple(torch.cat((x, x)) for x in inputs)
    try:
        with torch.no_grad():
            model(*twice)
    except Exception:  # it is made for one at a time
        return inputs
    return twice


def _refuse_broken_weights(model: nn.Module) -> None:
    """Such a network answers nothing, and every proof on it would fail."""
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise TraceError(f"{name} of {type(model).__name__} is not finite (NaN or infinity): give whole weights")


def _refuse_computed_weights(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, PRODUCERS) and "weight" not in module._parameters:
            raise TraceError(
                f"{name} computes its weight (spectral_norm, weight_norm, a pruning mask); make it a plain parameter "
                "first, with the function of torch.nn.utils that removes what it added, such as "
                "parametrize.remove_parametrizations"
            )


def _refuse_sparse_weights(model: nn.Module) -> None:
    names = [name for name, *_ in masked_layers(model)]
    if names:
        raise TraceError(
            f"{names[0]} is sparse already, as {len(names)} layers are, and cannot be pruned once more: take the "
            "network from before, and let one search choose channels and weights together"
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

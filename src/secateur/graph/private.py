"""A model made ready to be looked at without touching what the caller owns."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from secateur.errors import TraceError
from secateur.graph.attention import opened


def private_copy(model: nn.Module) -> nn.Module:
    """A deep copy in eval mode, without the caller's hooks, whose floating-point parameters all require gradients."""
    _refuse(model)
    try:
        private = forgetful(copied(model))
    except Exception as error:
        raise TraceError(f"{type(model).__name__} cannot be copied: {type(error).__name__}: {error}") from error
    for _, hooks, key in _callers_hooks(private):
        del hooks[key]
    for module in private.modules():
        module._backward_hooks.clear()
    for parameter in private.parameters():
        parameter.detach_()  # of scripted modules, copies are no leaves
        parameter.requires_grad_(parameter.is_floating_point())
    return opened(private)


def _refuse(model: nn.Module) -> None:
    """Raises TraceError on what is no network of ordinary modules with weights."""
    if isinstance(model, torch.jit.ScriptModule):
        raise TraceError(f"{type(model).__name__} is compiled by torch.jit: give the nn.Module that it was made from")
    if not isinstance(model, nn.Module):
        raise TraceError(f"the network is a {type(model).__name__}: give an nn.Module")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if torch.nn.parameter.is_lazy(tensor):
            raise TraceError(f"{name} of {type(model).__name__} has no shape yet: run the network once")
        if tensor.is_meta:
            raise TraceError(f"{name} of {type(model).__name__} is on the meta device: give weights that are numbers")
    if hasattr(model, "_orig_mod"):
        raise TraceError("the network is compiled by torch.compile: give the nn.Module that it was made from")
    if type(model).__name__ in ("DistributedDataParallel", "DataParallel", "FullyShardedDataParallel"):
        raise TraceError(f"the network is wrapped for several devices ({type(model).__name__}): give its .module")


def copied(model: nn.Module, share: bool = False) -> nn.Module:
    """A deep copy; results that a forward keeps (`self.feature = y`) are copied without what they were made from.

    With `share`, its parameters and buffers are the model's own: for what replaces tensors and never writes into them.
    """
    kept = [x for module in model.modules() for x in tree_leaves(_plain(module)) if isinstance(x, Tensor)]
    memo: dict[int, Any] = {id(x): x.detach().clone() for x in kept if not x.is_leaf}
    if share:
        memo |= {id(x): x for x in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, memo)


def _plain(module: nn.Module) -> list[Any]:
    """What a module holds beside parameters, buffers and modules."""
    own = ("_parameters", "_buffers", "_modules")
    return [value for name, value in vars(module).items() if name not in own]


def forgetful(model: nn.Module) -> nn.Module:
    """The model in eval mode, without what its forward may keep from one pass to the next (tables of biases): networks
    that keep such things forget them when they are trained."""
    return model.train().eval()


def _callers_hooks(model: nn.Module) -> list[tuple[nn.Module, dict[int, Any], int]]:
    """The forward hooks that do not belong to the network: (module, its hooks, the key of one of them).

    Those of torch (`weight_norm`) and of the library that a module's class is of (transformers collects outputs by
    hooks that it installs at the first call) are a part of what the network computes.
    """
    libraries = {type(module).__module__.partition(".")[0] for module in model.modules()} - {"__main__"}
    return [
        (module, hooks, key)
        for module in model.modules()
        for hooks in (module._forward_pre_hooks, module._forward_hooks)
        for key, hook in hooks.items()
        if _library(hook) not in libraries | {"torch", "secateur"} and not _own(hook, model)
    ]


def _own(hook: object, model: nn.Module) -> bool:
    """Whether a hook is a method of one of the modules, or was made in one: what a script sets up in a constructor."""
    while isinstance(hook, partial):
        hook = hook.func
    if isinstance(getattr(hook, "__self__", None), nn.Module):
        return any(module is hook.__self__ for module in model.modules())  # type: ignore[attr-defined]
    where = (getattr(hook, "__module__", ""), getattr(hook, "__qualname__", ""))
    kinds = {kind for module in model.modules() for kind in type(module).__mro__ if kind.__module__ == where[0]}
    return any(where[1].startswith(f"{kind.__qualname__}.") for kind in kinds)


def _library(hook: object) -> str:
    while isinstance(hook, partial):
        hook = hook.func
    where = hook if hasattr(hook, "__qualname__") else type(hook)
    return str(where.__module__).partition(".")[0]


def hooked_by_caller(model: nn.Module) -> nn.Module | None:
    """The first module that has a forward hook of the caller's."""
    return next((module for module, *_ in _callers_hooks(model)), None)

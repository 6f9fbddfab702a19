"""How a cut network is judged, whoever cut it.

Before it is cut, every value of a network is replaced by its own position (`numbered`): what is left afterwards tells
which values stayed, so no contestant's records have to be understood. `restored` puts the real values back, and the
cut network must answer as the dense one does in which all that went is zero (`ignoring`).
"""

from __future__ import annotations

import contextlib
import copy
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any
from unittest import mock

import torch
from architectures.case import Case, Inputs
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import FlopCounterMode, flop_registry

# Fused attention hides its parts from all that watches or stands in for them.
torch.backends.mha.set_fastpath_enabled(False)

HALF = 0.5
RESHAPED = "the answers have other shapes"
TOLERANCES = {torch.float64: 1e-5, torch.float32: 1e-3}
"""The most that outputs may differ, as a fraction of the largest of them."""


@dataclass
class Found:
    """What `look` found; a line of the result."""

    followed: bool = False
    """Some sites are offered, and the network cut at all of them at once runs."""
    refusal: str = ""
    share_macs: float = 0.0
    exact: bool | None = None
    reaches_half: bool = False
    round_trip: bool | None = None
    other_batch: bool | None = None
    sites: int = 0
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def told(error: BaseException) -> str:
    """An error in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"


# ---- running ---------------------------------------------------------------------------------------------------------


def answers(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    """All tensors that a network answers with; where it draws at random, always the same."""
    torch.manual_seed(0)
    with torch.no_grad():
        found = model(*inputs.args, **inputs.kwargs)
    return [leaf for leaf in tree_leaves(found) if isinstance(leaf, Tensor)]


def runs(model: nn.Module, inputs: Inputs | None) -> bool | None:
    """Whether it runs; None where there is nothing to run it on."""
    if inputs is None:
        return None
    try:
        answers(model, inputs)
    except Exception:
        return False
    return True


def precise(case: Case) -> Case:
    """The case in double precision, or as it is where it does not run so."""

    def double(value: Any) -> Any:
        return tree_map(lambda x: x.double() if isinstance(x, Tensor) and x.is_floating_point() else x, value)

    more = case.smaller and Inputs(double(case.smaller.args), double(case.smaller.kwargs))
    found = Case(copy.deepcopy(case.model).double(), double(case.args), double(case.kwargs), more, case.task)
    return found if runs(found.model, found.inputs) else case


def alike(one: list[Tensor], other: list[Tensor]) -> bool:
    """Whether answers are the same but for rounding."""
    if [x.shape for x in one] != [x.shape for x in other]:
        return False
    return all(_near(x, y) for x, y in zip(one, other, strict=True))


def _near(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same but for rounding."""
    if not one.is_floating_point():
        return torch.equal(one, other)
    if not one.numel():
        return True
    one, other = one.nan_to_num(), other.nan_to_num()
    return bool((one - other).abs().max() <= TOLERANCES.get(one.dtype, 1e-2) * one.abs().max())


# ---- counting --------------------------------------------------------------------------------------------------------


def macs(model: nn.Module, inputs: Inputs) -> float:
    """All multiply-adds of one pass."""
    frozen = copy.deepcopy(model).requires_grad_(False)  # the counter asks for gradients of what requires them
    with FlopCounterMode(display=False) as counter:
        answers(frozen, inputs)
    return counter.get_total_flops() / 2


class _Weighed(TorchDispatchMode):
    """Counts the multiply-adds of each weight, by the memory that an operation reads."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        weights = {name: parameter for name, parameter in model.named_parameters() if parameter.ndim > 1}
        self.names = {weight.untyped_storage().data_ptr(): name for name, weight in weights.items()}
        self.macs: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            places = [value.untyped_storage().data_ptr() for value in args if isinstance(value, Tensor)]
            for name in {self.names[place] for place in places if place in self.names}:
                self.macs[name] += count(*args, **kwargs, out_val=out) / 2
        return out


def macs_by_weight(model: nn.Module, inputs: Inputs) -> Counter[str]:
    """The multiply-adds in which each weight takes part."""
    with _Weighed(model) as weighed:
        answers(model, inputs)
    return weighed.macs


def share(by_weight: Counter[str], cut: set[str]) -> float:
    """The fraction of weight layers' multiply-adds that these weights take part in."""
    return sum(count for name, count in by_weight.items() if name in cut) / max(1.0, by_weight.total())


# ---- what was cut ----------------------------------------------------------------------------------------------------


def _values(model: nn.Module) -> dict[str, Tensor]:
    """All floating-point parameters and buffers, also those that have two names."""
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {name: value for name, value in named if value.is_floating_point()}


def number(model: nn.Module) -> None:
    """Replace every value by its position in its tensor."""
    for value in _values(model).values():
        if value.numel() > 2 ** (53 if value.dtype == torch.float64 else 24):
            raise ValueError("a tensor has more values than its numbers can count")
        value.data = torch.arange(value.numel(), dtype=value.dtype).reshape(value.shape)


def restore(model: nn.Module, dense: nn.Module) -> dict[str, Tensor]:
    """Put the dense network's values back, in place: name -> which of the dense values stayed.

    Of what norms are scaled by when weights are cut, nothing can be told.
    """
    originals = {name: value.detach().clone() for name, value in _values(dense).items()}
    kept, done = {}, set()
    for name, value in _values(model).items():
        kept[name] = kept.get(name, value.detach().round().long())
        if id(value) not in done:
            done.add(id(value))
            value.data = originals[name].flatten()[kept[name].clamp(0, originals[name].numel() - 1)]
        else:
            kept.pop(name)
    return kept


def ignoring(dense: nn.Module, kept: dict[str, Tensor]) -> nn.Module:
    """A copy of the dense network in which every value of a parameter that is not kept is zero."""
    found = copy.deepcopy(dense)
    for name, parameter in found.named_parameters(remove_duplicate=False):
        if name in kept:
            stays = torch.zeros(parameter.numel(), dtype=torch.bool)
            stays[kept[name].flatten().clamp(0, parameter.numel() - 1)] = True
            parameter.data = parameter.data * stays.reshape(parameter.shape)
    return found


def changed(dense: nn.Module, kept: dict[str, Tensor]) -> set[str]:
    """The parameters of which something went."""
    return {name for name, value in dense.named_parameters() if name in kept and kept[name].numel() < value.numel()}


# ---- norms over channels ---------------------------------------------------------------------------------------------


def _channelwise(x: Tensor, weight: Tensor | None, bias: Tensor | None, dim: int) -> Tensor:
    """Stands in for a norm: each channel alone, bounded, zero where it is zero."""
    if weight is not None and x.shape[dim] != weight.numel():
        dim = next((other for other, size in enumerate(x.shape) if other and size == weight.numel()), dim)
    shape = [1] * x.ndim
    shape[dim] = -1
    x = torch.tanh(x)
    x = x if weight is None else x * weight.reshape(shape)
    return x if bias is None else x + bias.reshape(shape)


def _norms(model: nn.Module) -> Iterator[nn.Module]:
    """The modules that are norms over channels by the name of their class alone: torch's own call `functional`."""
    for module in model.modules():
        name = type(module).__name__.lower()
        named = name.endswith(("norm", "norm2d", "normact", "norm2dfp32", "normgated", "grn"))
        named = named and not any(other in name for other in ("batch", "weight", "spectral"))
        if named and not isinstance(module, nn.LayerNorm | nn.GroupNorm) and not list(module.children()):
            yield module


def _stand_in(module: nn.Module) -> Callable[..., Tensor]:
    """What runs in a norm's place."""
    about = type(module).__name__.lower() + getattr(module, "data_format", "")
    dim = 1 if "2d" in about or "first" in about else -1
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    return lambda x, *args, **kwargs: _channelwise(x, weight, bias, dim)


_batch_norm = functional.batch_norm


def _by_statistics_kept(x: Tensor, mean: Tensor | None, *args: Any, **kwargs: Any) -> Tensor:
    """A batch norm; weights are standardised by one that keeps no statistics."""
    if mean is not None:
        return _batch_norm(x, mean, *args, **kwargs)
    return _channelwise(x, kwargs.get("weight"), kwargs.get("bias"), 1)


def _no_moments(x: Tensor, dim: Any, keepdim: bool = False, **_: Any) -> tuple[Tensor, Tensor]:
    """Variance 1 and mean 0, whatever there is."""
    mean = torch.zeros_like(x.mean(dim, keepdim=keepdim))
    return mean + 1, mean


def _over_channels(of: Callable[..., Tensor], stand_in: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function that takes dimensions together; where those are the channels of pictures, or the last of three, which
    may be units or states, what stands in for it."""

    def found(x: Tensor, dim: Any = None, *args: Any, **kwargs: Any) -> Tensor:
        units = (dim == 1 and x.ndim == 4) or (dim == -1 and x.ndim == 3)
        return (stand_in if units else of)(x, *([] if dim is None else [dim]), *args, **kwargs)

    return found


_amax = Tensor.amax
_PICTURES = {"mean": Tensor.sum, "amax": lambda *args, **kwargs: functional.relu(_amax(*args, **kwargs))}
"""What of channels that are zero changes nothing, in place of what it changes."""


@contextlib.contextmanager
def norms_apart(*models: nn.Module) -> Iterator[None]:
    """Meanwhile norms over channels act on each channel alone: what they do else depends on how many there are."""
    patches = {
        "layer_norm": lambda x, shape, weight=None, bias=None, eps=0.0: _channelwise(x, weight, bias, -1),
        "rms_norm": lambda x, shape, weight=None, eps=0.0: _channelwise(x, weight, None, -1),
        "group_norm": lambda x, groups, weight=None, bias=None, eps=0.0: _channelwise(x, weight, bias, 1),
        "batch_norm": _by_statistics_kept,
    }
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(torch, "var_mean", _no_moments))
        for name, other in _PICTURES.items():
            for place in (torch, Tensor):
                stack.enter_context(mock.patch.object(place, name, _over_channels(getattr(Tensor, name), other)))
        for name, stand_in in patches.items():
            stack.enter_context(mock.patch.object(functional, name, stand_in))
        for module in [module for model in models for module in _norms(model)]:
            stack.enter_context(mock.patch.object(module, "forward", _stand_in(module)))
        yield


# ---- weights that are normed -----------------------------------------------------------------------------------------

DIRECTIONS = {"WeightNorm": "_v", "SpectralNorm": "_orig"}
"""Hooks that work a weight out in each call, and how what it is made of is called behind the weight's name."""
ORIGINALS = {"_WeightNorm": "original1", "_SpectralNorm": "original"}
"""The same of parametrisations."""


def plain(model: nn.Module) -> tuple[nn.Module, dict[str, str]]:
    """The same network with its weights as their norms leave them, and the new names of what they are made of.

    Else a weight of which something went is another in all its places.
    """
    model, names = copy.deepcopy(model), {}
    for prefix, module in model.named_modules():
        own = f"{prefix}." if prefix else ""
        hooks = {type(hook).__name__: (key, hook) for key, hook in module._forward_pre_hooks.items()}
        for kind in hooks.keys() & DIRECTIONS.keys():
            key, hook = hooks[kind]
            hook(module, ())
            del module._forward_pre_hooks[key], module._parameters[f"{hook.name}{DIRECTIONS[kind]}"]
            _hold(module, hook.name, vars(module).pop(hook.name))
            names[f"{own}{hook.name}{DIRECTIONS[kind]}"] = f"{own}{hook.name}"
        steps = getattr(module, "parametrizations", {})
        kinds = {name: type(each[0]).__name__ for name, each in steps.items()}
        if kinds and all(kind in ORIGINALS for kind in kinds.values()):
            values = {name: getattr(module, name) for name in kinds}
            module.__class__ = type(module).__bases__[0]  # copies share the class that reads them
            del module.parametrizations
            for name, kind in kinds.items():
                _hold(module, name, values[name])
                names[f"{own}parametrizations.{name}.{ORIGINALS[kind]}"] = f"{own}{name}"
    return model, names


def _hold(module: nn.Module, name: str, value: Tensor) -> None:
    """Make a value a parameter."""
    module.register_parameter(name, nn.Parameter(value.detach().clone()))


# ---- the verdict -----------------------------------------------------------------------------------------------------


def judge(found: Found, case: Case, cut: nn.Module, kept: dict[str, Tensor]) -> None:
    """Fill in what can be told of a cut network with its real values."""
    try:
        shapes = [answer.shape for answer in answers(cut, case.inputs)]
    except Exception as error:
        found.refusal = f"the cut network does not run: {told(error)}"
        return
    found.followed = True
    found.refusal = "" if shapes == [answer.shape for answer in answers(case.model, case.inputs)] else RESHAPED
    found.other_batch = runs(cut, case.smaller)
    dense, names = plain(case.model)
    cut, _ = plain(cut)
    reference = ignoring(dense, {names.get(name, name): positions for name, positions in kept.items()})
    try:
        with norms_apart(cut, reference):
            found.exact = alike(answers(reference, case.inputs), answers(cut, case.inputs))
    except Exception as error:
        found.refusal = f"cannot be compared: {told(error)}"

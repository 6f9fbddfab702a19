"""What a file says of a pruned network beside its tensors: the sizes that its modules and their forwards state."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from secateur.graph import BYPASSED, OpenAttention, open_attention, unnested
from secateur.graph.scope import has_columns, source_of
from secateur.graph.stated import says_size
from secateur.prune import Bypassed, Restated, bypass, layers_of, restate


def said_of(model: nn.Module) -> dict[str, Any]:
    """Plain values, each under the word that the file has for it; `state_again` and `set_widths` read them."""
    stated = layers_of(model)
    return {
        "widths": {name: widths for name, module in model.named_modules() if (widths := _widths(module))},
        "sizes": stated,
        "sources": {name: _digest(model.get_submodule(name)) for name in stated},
        "opened": [name for name, module in model.named_modules() if isinstance(module, OpenAttention)],
        "bypassed": [name for name, module in model.named_modules() if isinstance(module, Bypassed)],
    }


def state_again(model: nn.Module, said: Mapping[str, Any]) -> None:
    """Have a dense network's forwards state the sizes of a pruned one.

    Raises ValueError, KeyError, TypeError or AttributeError where `said_of` made none of that of such a network.
    """
    for name in said.get("opened", []):
        attention = model.get_submodule(name)
        if isinstance(attention, nn.MultiheadAttention):
            open_attention(attention)
    for name in said.get("bypassed", []):
        layer = model.get_submodule(name)
        if not isinstance(layer, BYPASSED):
            raise ValueError(f"{name} is no layer that can be left out")
        bypass(layer)
    unnested(model)
    _restate(model, said.get("sizes", {}), said.get("sources", {}))


def _widths(module: nn.Module) -> dict[str, int | list[int]]:
    """The whole numbers of a module, or tuples of them, that say how long something is."""
    found: dict[str, int | list[int]] = {}
    for name, value in vars(module).items():
        if says_size(name) and isinstance(value, int) and not isinstance(value, bool):
            found[name] = value
        elif says_size(name) and isinstance(value, tuple) and value and all(type(each) is int for each in value):
            found[name] = list(value)
    return found


def _restate(model: nn.Module, sizes: Mapping[str, Any], sources: Mapping[str, str]) -> None:
    """Make forwards state what they stated. Raises ValueError where the note is none that `save` wrote.

    Calls are found by their lines, or, where the text of a forward is another by now, by their numbers.
    """
    for name, layers in sizes.items():
        layers = [layers] if isinstance(layers, Mapping) else layers  # of one pruning, as files before had it
        by_line = sources.get(name) == _digest(model.get_submodule(name))
        restate(model.get_submodule(name), tuple(_checked(name, stated, by_line) for stated in layers))


def _checked(name: str, stated: Mapping[str, Any], by_line: bool) -> dict[str, list[tuple[Any, Any]]]:
    found = {}
    for call, changes in stated.items():
        for path, value in changes:
            if not path or not all(isinstance(step, (int, str)) for step in path):
                raise ValueError(f"the sizes of {name} have no place")
            if not isinstance(value, (int, float)) and not all(isinstance(each, int) for each in value):
                raise ValueError(f"the sizes of {name} are no numbers")
        if by_line or "@" not in call:
            found[call] = [(tuple(path), value) for path, value in changes]
    return found


def _digest(module: nn.Module) -> str:
    """Of the text of the module's own forward, and whether Python tells the columns of calls in it."""
    kind = type(module).__mro__[2] if isinstance(module, Restated) else type(module)
    forward = getattr(kind, "forward", None)
    return hashlib.sha256(f"{has_columns(forward)}{source_of(forward)}".encode()).hexdigest()[:16]


def set_widths(model: nn.Module, widths: Mapping[str, Mapping[str, int | list[int]]]) -> None:
    """Give modules the sizes that the file says they have, where they have such a number."""
    for name, module in model.named_modules():
        for key, value in widths.get(name, {}).items():
            old = getattr(module, key, None)
            if says_size(key) and type(old) is int and isinstance(value, int):
                setattr(module, key, value)
            elif says_size(key) and isinstance(old, tuple) and isinstance(value, list) and len(old) == len(value):
                setattr(module, key, tuple(value))
        shape, weight = getattr(module, "normalized_shape", None), getattr(module, "weight", None)
        if isinstance(shape, tuple) and isinstance(weight, Tensor):  # files of before did not say it
            module.normalized_shape = tuple(weight.shape)

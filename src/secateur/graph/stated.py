"""What modules and their forwards say of sizes: numbers that a pruned network has to say otherwise."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from secateur.graph.extent import Extent
from secateur.graph.follow import Follower
from secateur.graph.graph import Layer
from secateur.graph.network import Keys, module_at
from secateur.graph.recorder import Statement
from secateur.graph.scope import source_of
from secateur.graph.sizes import Attribute, Spot, StatedSize, name_of

WORKED_OUT = ("view", "reshape", "unflatten")
"""Functions whose sizes may be worked out from one that is cut, though they stay what they were (`C // heads`)."""


def stated_sizes(statements: Sequence[Statement], made: Iterable[Spot], keys: Keys) -> tuple[StatedSize, ...]:
    """All that may have to be stated otherwise, but what is stated differently in two runs of one forward.

    Where all calls of one place state the same, as in loops, that is told once, for however many there are; or once
    after each part that a loop goes over. `made` are all calls that could state something.
    """
    found: dict[tuple[Any, ...], StatedSize | None] = {}
    places: dict[tuple[Any, ...], list[tuple[Spot, StatedSize | None]]] = {}
    for each in statements:
        extents = tuple(keys.extent(axis) for axis in each.axes)
        stated = StatedSize(each.where, each.path, extents, each.constant, each.several)
        place = (each.where, each.path)
        found[place] = stated if found.setdefault(place, stated) == stated else None
    for (where, path), stated_there in found.items():
        places.setdefault((where.each, path), []).append((where, stated_there))
    calls = Counter(spot for where in made for spot in {where.each, where.behind})
    told: list[StatedSize] = []
    for (place, _), states in places.items():
        behind: dict[Spot, list[StatedSize | None]] = {}
        for where, stated_there in states:
            behind.setdefault(where.behind, []).append(stated_there)
        once = _once(place, [each for _, each in states], calls)
        parts = [_once(spot, several, calls) for spot, several in behind.items() if spot != place]
        if once is not None:
            told.append(once)
        elif len(parts) == len(behind) and all(each is not None for each in parts):
            told += [each for each in parts if each is not None]
        else:
            told += [each for _, each in states if each is not None]
    return tuple(
        each for each in told
        if each.constant is not None
        or name_of(each.where.kind) in WORKED_OUT
        or any(extent.groups for extent in each.extents)
    )  # fmt: skip


def _once(where: Spot, states: Sequence[StatedSize | None], calls: Mapping[Spot, int]) -> StatedSize | None:
    """What all calls of a place state, if they all state the same."""
    known = [each for each in states if each is not None]
    numbers = tuple(number for each in known for number in each.where.numbers)
    instructions = tuple(place for each in known for place in each.where.instructions)
    where = replace(where, numbers=numbers, instructions=instructions)
    forms = {replace(each, where=where) for each in known}
    return forms.pop() if len(forms) == 1 and len(known) == len(states) == calls[where] else None


SIDES = (
    ("in_channels", "weight", 1), ("out_channels", "weight", 0), ("in_features", "weight", 1),
    ("out_features", "weight", 0), ("num_features", "weight", 0), ("num_channels", "weight", 0),
    ("num_parameters", "weight", 0), ("embedding_dim", "weight", 1), ("input_size", "weight_ih_l0", 1),
    ("hidden_size", "weight_hh_l0", 1), ("proj_size", "weight_hr_l0", 0), ("embed_dim", "out_proj.weight", 0),
    ("in1_features", "weight", 1),
)  # fmt: skip
"""Attributes of torch's own modules, each with the tensor and the dimension whose size it says."""
SPOKEN = ("d_model", "head", "dim", "hidden", "width", "channel", "embed", "feature", "inner", "size", "group", "split")
UNSPOKEN = ("window", "patch", "kernel", "stride", "image", "img", "layer", "batch", "class", "label", "vocab", "_size")


def says_size(name: str) -> bool:
    """Whether an attribute of this name may say how long something is."""
    against = [x for x in UNSPOKEN if x in name]
    against = [x for x in against if x != "_size" or "hidden" not in name]  # of hidden units it is one
    return any(name == each for each, *_ in SIDES) or (any(x in name for x in SPOKEN) and not against)


def attributes(model: nn.Module, follower: Follower, layers: Sequence[Layer], keys: Keys) -> tuple[Attribute, ...]:
    """What modules say of their own sizes, by names that torch uses."""
    by_name = {layer.name: layer for layer in layers}
    found: list[Attribute] = []
    for name, module in model.named_modules():
        layer = by_name.get(name)
        for attribute, tensor, dim in SIDES:
            if isinstance(getattr(module, attribute, None), int):
                extent = _of(follower, keys, f"{name}.{tensor}".lstrip("."), dim)
                if layer is not None and attribute.startswith(("in_", "out_")):
                    extent = layer.inputs if attribute.startswith("in_") else layer.outputs
                if extent is not None and extent.length == getattr(module, attribute):
                    found.append(Attribute(name, attribute, (extent,)))
        if layer is not None and layer.split.length > 1 and isinstance(getattr(module, "groups", None), int):
            found.append(Attribute(name, "groups", (layer.split,)))
        shape = getattr(module, "normalized_shape", None)
        if isinstance(shape, tuple) and getattr(module, "weight", None) is not None:
            extents = [_of(follower, keys, f"{name}.weight".lstrip("."), dim) for dim in range(len(shape))]
            found.append(Attribute(name, "normalized_shape", tuple(x for x in extents if x is not None), True))
    return tuple(each for each in found if any(extent.groups for extent in each.extents))


def spoken(
    model: nn.Module,
    stated: Sequence[StatedSize],
    compared: Iterable[tuple[str, Extent]],
    known: Sequence[Attribute],
) -> tuple[Attribute, ...]:
    """Other whole numbers of modules that are stated as sizes in their forwards, or found to be one there by comparing
    them, wherever they are that size alone.

    Those of the module itself, by what they are called; and those of modules within that its forward reads.
    """
    taken = {(each.module, each.name) for each in known}
    own: dict[str, set[Extent]] = {}
    for each in stated:
        own.setdefault(each.where.module, set()).update(extent for extent in each.extents if extent.groups)
    for module, extent in compared:
        own.setdefault(module, set()).update([extent] if extent.groups else [])
    found: dict[tuple[str, str], Attribute] = {}
    for name, extents in own.items():
        for module, attribute, value in _numbers_of(model, name):
            alike = {extent for extent in extents if extent.length == value}
            if len(alike) == 1 and value > 1 and (module, attribute) not in taken:
                found.setdefault((module, attribute), Attribute(module, attribute, tuple(alike), guessed=True))
    return tuple(found.values())


def queries_to_a_key(follower: Follower, keys: Keys) -> Iterator[tuple[str, Extent]]:
    """By module, how many queries share a key where its attention has groups: another attention may need to be told."""
    for found in follower.record.contractions:
        heads = [axis.factors() for axis in found.what.factor] if found.weight is None else []
        groups = [factors[-1] for factors in heads if len(factors) > 1]
        yield from ((found.module, keys.extent(axis)) for axis in groups)


def _numbers_of(model: nn.Module, name: str) -> Iterator[tuple[str, str, int]]:
    """Whole numbers that may be sizes: the module that has them, what they are called, and what they are."""
    module = model.get_submodule(name)
    for attribute, value in vars(module).items():
        if isinstance(value, int) and not isinstance(value, bool) and says_size(attribute):
            yield name, attribute, value
    for path, attribute in set(re.findall(r"\bself\.(\w+(?:\.\w+)*)\.(\w+)\b", source_of(type(module).forward))):
        inner = module_at(module, path)
        value = None if inner is None else vars(inner).get(attribute)
        if isinstance(value, int) and not isinstance(value, bool) and says_size(attribute):
            yield f"{name}.{path}".lstrip("."), attribute, value


def _of(follower: Follower, keys: Keys, tensor: str, dim: int) -> Extent | None:
    held: Tensor | None = follower.names.get(tensor)
    if held is None or held.dim() <= dim:
        return None
    return keys.extent(follower.axes[held][dim])

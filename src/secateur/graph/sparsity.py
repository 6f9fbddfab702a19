"""Sparsity: a layer some of whose weights may be zero, beside the channels that are cut."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from secateur.graph.graph import Layer, ModelGraph, Sparsity
from secateur.sparse import Pattern, pattern


def may_be_sparse(layer: Layer) -> bool:
    """Whether every output of the layer is a sum over all its inputs, of weights that are its own."""
    return layer.kind != "depthwise" and layer.groups == 1 and layer.once


def sparsities_named(graph: ModelGraph, keys: Iterable[str]) -> dict[str, list[Pattern]]:
    """The sparse layers among the keys of a plan, and their patterns."""
    found: dict[str, list[Pattern]] = {}
    for key in keys:
        name, _, text = key.partition(":")
        if name not in graph.layer or not may_be_sparse(graph.layer[name]):
            continue
        try:
            found.setdefault(name, []).append(pattern(text))
        except ValueError:
            continue
    return found


def with_sparsity(graph: ModelGraph, patterns: Mapping[str, Sequence[Pattern]]) -> ModelGraph:
    """The same graph, in which these layers may keep a part of their weights only."""
    layers = tuple(
        replace(layer, sparsities=_sparsities(layer, patterns.get(layer.name, ()))) for layer in graph.layers
    )
    return replace(graph, layers=layers)


def _sparsities(layer: Layer, kinds: Sequence[Pattern]) -> tuple[Sparsity, ...]:
    """Of a layer, the coarser first."""
    ordered = sorted(dict.fromkeys(kinds), key=lambda kind: kind.together, reverse=True)
    return tuple(
        Sparsity(f"{layer.name}:{kind}", kind, kind.levels(layer.out_channels, layer.features)) for kind in ordered
    )

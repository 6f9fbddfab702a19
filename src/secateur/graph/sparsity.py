"""Sparsity: a layer some of whose weights may be zero, beside the channels that are cut."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from secateur.errors import PlanError
from secateur.graph.graph import Layer, ModelGraph, Sparsity
from secateur.sparse import Pattern, pattern


def may_be_sparse(layer: Layer) -> bool:
    """Whether every output of the layer is a sum over all its inputs, of weights that are its own."""
    return layer.kind != "depthwise" and layer.groups == 1 and layer.once


def sparsities_named(graph: ModelGraph, keys: Iterable[str]) -> dict[str, Pattern]:
    """The sparse layers among the keys of a plan, and their patterns. Raises PlanError where one layer has two."""
    found: dict[str, Pattern] = {}
    for key in keys:
        name, _, text = key.partition(":")
        if name not in graph.layer or not may_be_sparse(graph.layer[name]):
            continue
        try:
            kind = pattern(text)
        except ValueError:
            continue
        if name in found:
            raise PlanError(f"the plan gives {name} two patterns of sparsity, {found[name]} and {kind}; keep one")
        found[name] = kind
    return found


def with_sparsity(graph: ModelGraph, patterns: Mapping[str, Pattern]) -> ModelGraph:
    """The same graph, in which these layers may keep a part of their weights only."""
    layers = tuple(
        replace(layer, sparsity=_sparsity(layer, patterns[layer.name])) if layer.name in patterns else layer
        for layer in graph.layers
    )
    return replace(graph, layers=layers)


def _sparsity(layer: Layer, kind: Pattern) -> Sparsity:
    return Sparsity(f"{layer.name}:{kind}", kind, kind.levels(layer.out_channels, layer.features))

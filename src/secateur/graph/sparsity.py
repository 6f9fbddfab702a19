"""Sparsity: a layer some of whose weights may be zero, beside the channels that are cut."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from secateur.errors import PlanError
from secateur.graph.graph import Layer, ModelGraph, Sparsity
from secateur.sparse import Pattern, pattern, patterns


def may_be_sparse(layer: Layer) -> bool:
    """Whether every output of the layer is a sum over all its inputs, of weights that are its own."""
    return layer.kind != "depthwise" and layer.groups == 1 and layer.once


def sparsities_named(graph: ModelGraph, keys: Iterable[str]) -> dict[str, list[Pattern]]:
    """The sparse layers among a plan's keys, and their patterns. Raises PlanError where they do not go together."""
    found: dict[str, list[str]] = {}
    for key in keys:
        name, _, text = key.partition(":")
        if name not in graph.layer or not may_be_sparse(graph.layer[name]):
            continue
        with suppress(ValueError):
            pattern(text)
            found.setdefault(name, []).append(text)
    try:
        return {name: patterns(texts) for name, texts in found.items()}
    except ValueError as error:
        raise PlanError(f"the plan has {error}") from error


def with_sparsity(graph: ModelGraph, patterns: Mapping[str, Sequence[Pattern]]) -> ModelGraph:
    """The same graph, in which these layers may keep a part of their weights only, by patterns as `patterns` gives."""
    layers = tuple(
        replace(layer, sparsities=_sparsities(layer, patterns.get(layer.name, ()))) for layer in graph.layers
    )
    return replace(graph, layers=layers)


def _sparsities(layer: Layer, kinds: Sequence[Pattern]) -> tuple[Sparsity, ...]:
    """Of a layer, in their order."""
    return tuple(
        Sparsity(f"{layer.name}:{kind}", kind, kind.levels(layer.out_channels, layer.features)) for kind in kinds
    )

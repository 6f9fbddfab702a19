"""torch-pruning, used as its documentation says: a pruner over all groups, the layers that answer left alone.

Numbers of heads are told to it, and what a module remembers of its width is set anew after cutting, as its examples
do; no model's code is rewritten. Which channels go is drawn at random, so what is judged does not depend on weights.
"""

from __future__ import annotations

import contextlib
import copy
import io
import time
import warnings
from typing import Any

import torch
import torch_pruning as tp
from architectures.case import Case
from torch import Tensor, nn

from contestants import judging
from contestants.judging import Found

RATIOS = (0.5, 0.7, 0.9)
"""Fractions of the channels that go; the first is judged, the others tried until half the MACs are gone."""
HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head")
FUSED = ("qkv", "c_attn", "query_key_value", "Wqkv", "qkv_proj", "in_proj")
QUERIES = ("q", "query", "q_proj", "q_lin", "wq")
KEYS = ("k", "v", "key", "value", "k_proj", "v_proj", "k_lin", "v_lin", "wk", "wv")
HEAD_WIDTHS = ("head_dim", "attention_head_size", "head_size", "dim_head")
WIDTHS = ("all_head_size", "inner_dim", "attn_dim", "embed_dim", "hidden_size")


def look(case: Case) -> dict[str, Any]:
    """What torch-pruning makes of a network."""
    warnings.filterwarnings("ignore")
    case, found = judging.precise(case), Found()
    try:
        ignored = survey(found, case)
        if not found.sites:
            found.refusal = "no groups"
            return found.as_dict()
        cut_and_judge(found, case, ignored, RATIOS[0])
        if found.refusal == judging.RESHAPED:
            ignored += layers_that_reshape(case, ignored)
            cut_and_judge(found, case, ignored, RATIOS[0])
    except Exception as error:
        found.refusal = judging.told(error)
        return found.as_dict()
    for ratio in RATIOS[1:]:
        if found.followed and not found.reaches_half:
            with contextlib.suppress(Exception):
                found.reaches_half = halved(cut(case, ignored, ratio)[0], case)
    return found.as_dict()


def survey(found: Found, case: Case) -> list[str]:
    """Follow the network and list its groups; the names of the layers that are to be left alone."""
    model = copy.deepcopy(case.model)
    begun = time.perf_counter()
    graph = tp.DependencyGraph().build_dependency(model, **told(case))
    found.seconds = time.perf_counter() - begun
    answering = layers_that_answer(graph)
    groups = list(graph.get_all_groups(ignored_layers=answering))
    names = {id(module): name for name, module in model.named_modules()}
    modules = [dep.target.module for group in groups for dep, _ in group]
    touched = {f"{names[id(module)]}.weight" for module in modules if id(module) in names}
    found.sites = len(groups)
    found.share_macs = judging.share(judging.macs_by_weight(case.model, case.inputs), touched)
    return [names[id(module)] for module in answering]


def told(case: Case) -> dict[str, Any]:
    """How the network is called."""
    if case.kwargs:
        return {
            "example_inputs": {"args": case.args, "kwargs": case.kwargs},
            "forward_fn": lambda model, inputs: model(*inputs["args"], **inputs["kwargs"]),
        }
    return {"example_inputs": case.args, "forward_fn": lambda model, inputs: model(*inputs)}


def layers_that_answer(graph: tp.DependencyGraph) -> list[nn.Module]:
    """The layers whose channels reach the end of the network: they are to be left alone."""
    found: list[nn.Module] = []
    for group in graph.get_all_groups():
        ends = [dep.target for dep, _ in group if graph.is_out_channel_pruning_fn(dep.handler)]
        if any(not node.outputs for node in ends):
            found += out_layers(graph, group)
    return list(dict.fromkeys(found))


def out_layers(graph: tp.DependencyGraph, group: Any) -> list[nn.Module]:
    """The layers with weights whose outputs a group cuts."""
    modules = [dep.target.module for dep, _ in group if graph.is_out_channel_pruning_fn(dep.handler)]
    return [module for module in modules if isinstance(getattr(module, "weight", None), Tensor)]


def layers_that_reshape(case: Case, ignored: list[str]) -> list[str]:
    """The layers of groups that change the shape of an answer, each group tried by itself on a copy."""
    shapes = [answer.shape for answer in judging.answers(case.model, case.inputs)]
    count, number, found = 1, 0, list[str]()
    while number < count:
        model = copy.deepcopy(case.model)
        graph = tp.DependencyGraph().build_dependency(model, **told(case))
        groups = list(graph.get_all_groups(ignored_layers=[model.get_submodule(name) for name in ignored]))
        names = {id(module): name for name, module in model.named_modules()}
        group, count = groups[number], len(groups)
        layers = [names[id(layer)] for layer in out_layers(graph, group)]
        group.prune(list(range(len(group[0].idxs) // 2)))
        with contextlib.suppress(Exception):
            if [answer.shape for answer in judging.answers(model, case.inputs)] != shapes:
                found += layers
        number += 1
    return list(dict.fromkeys(found))


def heads_of(model: nn.Module) -> tuple[dict[nn.Module, int], list[tuple[nn.Module, nn.Module, int, int]]]:
    """Projections and their numbers of heads; and attention, the projection it goes by, its heads, and thirds in it."""
    heads, attentions = {}, []
    for module in model.modules():
        config = getattr(module, "config", None)
        count = next((n for n in (getattr(module, key, None) for key in HEADS) if isinstance(n, int)), None)
        count = count or getattr(config, "num_attention_heads", None)
        fused = next((layer for name, layer in module.named_children() if name in FUSED), None)
        query = next((layer for name, layer in module.named_children() if name in QUERIES), None)
        if not isinstance(count, int) or not isinstance(fused or query, nn.Linear | nn.Conv2d):
            continue
        shared = getattr(module, "num_key_value_heads", None) or getattr(config, "num_key_value_heads", None) or count
        heads |= {layer: shared for name, layer in module.named_children() if name in KEYS}
        heads[fused or query] = count
        attentions.append((module, fused or query, count, 3 if fused else 1))
    return heads, attentions


def cut(case: Case, ignored: list[str], ratio: float) -> tuple[nn.Module, dict[str, Tensor]]:
    """A copy of the network less this fraction of all groups, all at once; and which values stayed."""
    model = copy.deepcopy(case.model)
    heads, attentions = heads_of(model)
    pruner = tp.pruner.BasePruner(
        model,
        importance=at_random,
        pruning_ratio=ratio,
        ignored_layers=[model.get_submodule(name) for name in ignored],
        num_heads=heads,
        in_channel_groups={},
        out_channel_groups={},
        **told(case),
    )
    judging.number(model)
    for group in pruner.step(interactive=True):
        group.prune()
    kept = judging.restore(model, case.model)
    for module, projection, count, parts in attentions:
        width = (projection.out_features if isinstance(projection, nn.Linear) else projection.out_channels) // parts
        for name in HEAD_WIDTHS + WIDTHS:
            if isinstance(getattr(module, name, None), int):
                setattr(module, name, width // count if name in HEAD_WIDTHS else width)
    return model, kept


def cut_and_judge(found: Found, case: Case, ignored: list[str], ratio: float) -> None:
    """Cut and judge what comes of it."""
    model, kept = cut(case, ignored, ratio)
    judging.judge(found, case, model, kept)
    if found.followed:
        found.round_trip = round_trip(model, case)
        found.reaches_half = halved(model, case)


def halved(model: nn.Module, case: Case) -> bool:
    """Whether half the MACs are gone."""
    return judging.macs(model, case.inputs) <= judging.HALF * judging.macs(case.model, case.inputs)


def at_random(group: Any) -> Tensor:
    """An importance for each channel of a group: always the same numbers."""
    return torch.rand(len(group[0].idxs), generator=torch.Generator().manual_seed(0))


def round_trip(model: nn.Module, case: Case) -> bool:
    """Whether the network comes back from a file as its documentation saves it: whole."""
    try:
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        again = torch.load(file, weights_only=False)
        return judging.alike(judging.answers(model, case.inputs), judging.answers(again, case.inputs))
    except Exception:
        return False

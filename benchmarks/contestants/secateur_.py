"""Secateur itself: every site that `inspect` offers, half of its units cut at once."""

from __future__ import annotations

import contextlib
import copy
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from architectures.case import Case
from torch import nn

import secateur as sc
from contestants import judging
from contestants.judging import Found
from secateur.graph import Inputs, ModelGraph
from secateur.prune import Cutter

KEPT = (0.5, 0.3, 0.1)
"""Fractions of every site that stay; the first is judged, the others tried until half the MACs are gone."""


def look(case: Case) -> dict[str, Any]:
    """What Secateur makes of a network."""
    warnings.filterwarnings("ignore")
    found, inputs = Found(), Inputs(case.args, case.kwargs)
    begun = time.perf_counter()
    try:
        graph = sc.inspect(case.model, inputs)
    except sc.TraceError as error:
        found.refusal, found.seconds = str(error)[:300], time.perf_counter() - begun
        return found.as_dict()
    found.seconds, found.sites = time.perf_counter() - begun, len(graph.prunable)
    keys = {group.key for group in graph.prunable}
    case = judging.precise(case)
    normed, names = judging.plain(case.model)
    touched = {names.get(held.name, held.name) for held in graph.tensors if keys & set(held.groups)}
    found.share_macs = judging.share(judging.macs_by_weight(normed, case.inputs), touched)
    numbered = copy.deepcopy(case.model)
    judging.number(numbered)
    cut = copy.deepcopy(Cutter(numbered, graph).cut(kept(graph, KEPT[0])))
    positions = judging.restore(cut, case.model)
    cut = copy.deepcopy(Cutter(case.model, graph).cut(kept(graph, KEPT[0])))  # what weights are normed by is made anew
    judging.judge(found, case, cut, positions)
    found.round_trip = found.followed and comes_back(cut, case)
    whole = judging.macs(case.model, case.inputs)
    for share in KEPT if found.followed else ():
        small = Cutter(case.model, graph).cut(kept(graph, share))
        if not found.reaches_half:
            found.reaches_half = judging.macs(small, case.inputs) <= judging.HALF * whole
    return found.as_dict()


def kept(graph: ModelGraph, share: float) -> dict[str, Any]:
    """About so much of every group, drawn at random."""
    chance = np.random.default_rng(0)
    return {
        group.key: np.sort(chance.permutation(group.width)[: max(round(share * group.width), 1)])
        for group in graph.prunable
    }


def comes_back(cut: nn.Module, case: Case) -> bool:
    """Whether a file brings the cut network back."""
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Exception):
        sc.save(cut, Path(folder) / "cut.safetensors")
        back = sc.load(Path(folder) / "cut.safetensors", case.model)
        return judging.alike(judging.answers(cut, case.inputs), judging.answers(back, case.inputs))
    return False

"""torch-kirigami, used as its documentation says for removals that are given: half of each axis that it offers.

Its automatic search asks for one channel after another and takes minutes for a ResNet-18, so it is not waited for.
"""

from __future__ import annotations

import copy
import io
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from architectures.case import Case
from torch import nn
from torch_kirigami import AxisRef, DependencyGraph
from torch_kirigami.pruning import Candidate, Pruner, PruningPlan, load_checkpoint, save_checkpoint

from contestants import judging
from contestants.judging import Found

RATIOS = (0.5, 0.75)
"""Fractions of the channels that go; the first is judged, the other tried if half the MACs are left."""


@dataclass(frozen=True)
class Domain:
    """What the library offers: an axis, and how many of its positions go together."""

    key: str
    axis: AxisRef
    block: int

    def candidates(self, goes: float) -> Iterator[Candidate]:
        """What may go: drawn at random; where that is refused, evenly; else from the front."""
        blocks = self.axis.tensor.shape[self.axis.dim] // self.block
        count = int(blocks * goes)
        order = torch.randperm(blocks, generator=torch.Generator().manual_seed(0)).tolist()
        even = [number for number in range(blocks) if (number + 1) * count // blocks > number * count // blocks]
        for chosen in (sorted(order[:count]), even, list(range(count))):
            places = [number * self.block + offset for number in chosen for offset in range(self.block)]
            if places:
                yield Candidate(self.key, (self.axis.select(places),), self.axis)


def look(case: Case) -> dict[str, Any]:
    """What torch-kirigami makes of a network."""
    case, found = judging.precise(case), Found()
    try:
        model = copy.deepcopy(case.model)
        begun = time.perf_counter()
        graph = DependencyGraph.build(model, args=case.args, kwargs=case.kwargs)
        found.seconds = time.perf_counter() - begun
        pruner = Pruner(model, graph=graph)
        chosen = offered(pruner, RATIOS[0])
        found.sites = len(chosen)
        if not chosen:
            reasons = "; ".join(dict.fromkeys(each.message for each in graph.diagnostics))
            found.refusal = reasons[:300] or "no candidates"
            return found.as_dict()
        cut_and_judge(found, case, together(pruner, chosen))
    except Exception as error:
        found.refusal = found.refusal or judging.told(error)
        return found.as_dict()
    if found.followed and not found.reaches_half:
        found.reaches_half = further(case, pruner)
    return found.as_dict()


def domains(graph: DependencyGraph) -> list[Domain]:
    """All axes that the library's rules declare for pruning."""
    found: dict[AxisRef, Domain] = {}
    for operation in graph.operations():
        spec = graph.operator_spec(operation)
        for offer in spec.candidates if spec is not None else ():
            found.setdefault(offer.axis, Domain(offer.key, offer.axis, offer.block_size))
    return list(found.values())


def offered(pruner: Pruner, goes: float) -> list[Candidate]:
    """For each group of axes that go together, what the library lets go of it by itself."""
    assert pruner.graph is not None
    every, covered, chosen = domains(pruner.graph), set[AxisRef](), list[Candidate]()
    for domain in every:
        if domain.axis in covered:
            continue
        for candidate in domain.candidates(goes):
            impact = pruner.impact([candidate])
            if impact.status == "resolved":
                chosen.append(candidate)
                axes = [other.axis for other in every]
                covered |= {axis for axis in axes if impact.selection(axis.tensor).fully_selected_indices(axis.dim)}
                break
    return chosen


def together(pruner: Pruner, chosen: list[Candidate]) -> PruningPlan:
    """A plan of all, or of as many as can go together. Raises what the library raises where none can."""
    plan: PruningPlan | None = None
    error: Exception | None = None
    taken: list[Candidate] = []

    def take(more: list[Candidate]) -> None:
        nonlocal plan, error, taken
        try:
            plan = pruner.plan_remove([one for candidate in taken + more for one in candidate.remove])
            taken = taken + more
        except Exception as raised:
            error = error or raised
            if len(more) > 1:
                take(more[: len(more) // 2])
                take(more[len(more) // 2 :])

    take(chosen)
    if plan is None:
        assert error is not None
        raise error
    return plan


def cut(case: Case, plan: PruningPlan, numbered: bool) -> nn.Module:
    """A copy of the network, cut by a plan."""
    model = copy.deepcopy(case.model)
    if numbered:
        judging.number(model)
    return Pruner(model).apply(plan)[0]


def cut_and_judge(found: Found, case: Case, plan: PruningPlan) -> None:
    """Cut and judge what comes of it."""
    kept = judging.restore(cut(case, plan, numbered=True), case.model)
    weights = judging.macs_by_weight(case.model, case.inputs)
    found.share_macs = judging.share(weights, judging.changed(case.model, kept))
    model = cut(case, plan, numbered=False)
    judging.judge(found, case, model, kept)
    if found.followed:
        found.round_trip = round_trip(model, case)
        found.reaches_half = halved(model, case)


def halved(model: nn.Module, case: Case) -> bool:
    """Whether half the MACs are gone."""
    return judging.macs(model, case.inputs) <= judging.HALF * judging.macs(case.model, case.inputs)


def further(case: Case, pruner: Pruner) -> bool:
    """Whether a plan by which more goes removes half the MACs."""
    try:
        return halved(cut(case, together(pruner, offered(pruner, RATIOS[1])), numbered=False), case)
    except Exception:
        return False


def round_trip(model: nn.Module, case: Case) -> bool:
    """Whether the network comes back from its checkpoint into the dense definition."""
    try:
        file = io.BytesIO()
        save_checkpoint(model, file)
        file.seek(0)
        again = load_checkpoint(copy.deepcopy(case.model), file)
        return judging.alike(judging.answers(model, case.inputs), judging.answers(again, case.inputs))
    except Exception:
        return False

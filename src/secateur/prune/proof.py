"""Prove that cutting does exactly what it should; leave alone what fails.

A cut network must answer as the dense one does whose sums leave out what is gone: every product with a weight, and
every norm or mean over an axis, is taken over the members that stay. What was followed wrongly cannot pass. All sites
are cut at once, by numbers that differ, and once more to few; only where that fails are they tried in parts.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from secateur.errors import TraceError
from secateur.graph import (
    Inputs,
    Kept,
    Masked,
    ModelGraph,
    Numbers,
    Scope,
    StatedSize,
    Traced,
    forgetful,
    may_be_bypassed,
    plain_kernels,
    structural,
    tensors_in,
    where_raised,
    with_bypasses,
    with_reasons,
)
from secateur.prune.alike import near, same
from secateur.prune.checking import Checking
from secateur.prune.cut import Cutter

DRAWS = 2
"""Cuts of the same sites that are looked at."""
SHARES = (0.35, 0.7), (0.25, 0.45)
"""What is kept of each in those, from and to."""
T = TypeVar("T")


def prove(traced: Traced) -> ModelGraph:
    """The same graph, in which every group that fails the proof is fixed with the reason.

    Costs two forward passes a cut, of which two are needed where all is well, and one in training. Raises TraceError
    where no group is left to prune.
    """
    if traced.drew:
        _Proof(traced, traced.graph).tell_of_chance()
    proven = _proven(traced, traced.graph)
    failed = [group.key for group in traced.graph.prunable if proven.group[group.key].fixed]
    plain = replace(traced.graph, attributes=traced.graph.stated_alone)
    if (
        failed and plain.attributes != traced.graph.attributes and _Proof(traced, plain).any_stands(failed)
    ):  # an attribute was taken for a size that it is not
        plainer = _proven(traced, plain)
        proven = plainer if len(plainer.prunable) > len(proven.prunable) else proven
    if not proven.prunable:
        found = "; ".join(f"{group.key}: {group.fixed}" for group in proven.groups[:5])
        raise TraceError(f"nothing of {type(traced.model).__name__} can be pruned ({found})")
    return _with_bypasses(traced, proven)


def _with_bypasses(traced: Traced, graph: ModelGraph) -> ModelGraph:
    """The same graph, in which sites may keep nothing where that is proven too: all together, or else each alone."""
    keys = may_be_bypassed(traced.model, graph)
    if not keys:
        return graph
    able = with_bypasses(graph, frozenset(keys))
    proof = _Proof(traced, able)
    nothing = np.zeros(0, dtype=np.int64)
    if proof.differs_in(dict.fromkeys(keys, nothing)):
        keys = [key for key in keys if not proof.differs_in({key: nothing})]
    return with_bypasses(graph, frozenset(keys))


def _proven(traced: Traced, graph: ModelGraph) -> ModelGraph:
    proof = _Proof(traced, graph)
    reasons = proof.faults([group.key for group in graph.prunable])
    return replace(graph, groups=with_reasons(graph.groups, reasons), sizes=proof.needed)


class _Proof:
    """Runs one network cut, and as it must answer then."""

    def __init__(self, traced: Traced, graph: ModelGraph) -> None:
        self.traced, self.graph = traced, graph
        self._cutter = Cutter(self.traced.model, replace(graph, sizes=()))
        self._missed: set[StatedSize] = set()
        self._trains = False
        """Whether cut networks have to run in training, too."""
        self._known: dict[tuple[int | str, ...], str] = {}
        """What was found of a draw of groups."""

    def tell_of_chance(self) -> None:
        """Warns where the same network answers otherwise the second time."""
        with torch.random.fork_rng([]):
            torch.rand(1)  # the next numbers are others than when it was followed
            again = self._reference({}, fork=False)
        if isinstance(again, str) or not same(self.traced.answers, again):
            warnings.warn(
                f"{type(self.traced.model).__name__} answers otherwise each time, even in eval mode: what is cut is "
                "proven with the same random numbers, and scores are noisy",
                stacklevel=5,
            )

    def any_stands(self, keys: Sequence[str]) -> bool:
        """Whether some of these groups can be cut; of those of one name, the first speaks for all."""
        return any(not self._fault(each[:1], draws=1) for each in _alike(keys))

    def faults(self, keys: Sequence[str]) -> dict[str, str]:
        """The groups that cannot be cut, each with the reason."""
        found: dict[str, str] = {}
        if keys and self._fault(keys):
            self._search(_alike(keys), found)
            self._search_together([], [key for key in keys if key not in found], found)
        left = [key for key in keys if key not in found]
        if left and self._fails_in_training(left) and not self._fails_in_training([]):
            self._trains = True
            self._search(_alike(left), found)
            self._search_together([], [key for key in left if key not in found], found)
        return found

    def _search(self, alike: Sequence[Sequence[str]], found: dict[str, str]) -> None:
        """By halves: first among sets of groups of one name, then in such a set, where all fail if both ends do."""
        keys = [key for each in alike for key in each]
        reason = self._fault(keys, draws=1)
        if not reason:
            return
        if len(alike) == 1 and len(keys) > 1:
            first, last = self._fault(keys[:1], draws=1), self._fault(keys[-1:], draws=1)
            alike = [[key] for key in keys] if not first or first != last else alike
        if len(alike) == 1:
            found |= dict.fromkeys(keys, reason)
            return
        for half in _halves(alike):
            self._search(half, found)

    def _search_together(self, others: Sequence[str], keys: Sequence[str], found: dict[str, str]) -> None:
        """What each alone can be cut, but not beside `others`."""
        reason = self._fault([*others, *keys]) if keys else ""
        if not reason:
            return
        if len(keys) == 1:
            found[keys[0]] = reason
            return
        one, other = _halves(keys)
        self._search_together(others, one, found)
        self._search_together([*others, *(key for key in one if key not in found)], other, found)

    @property
    def needed(self) -> tuple[StatedSize, ...]:
        """The sizes that forwards do not come to themselves, in all modules of a class where one of them does not: some
        are right by chance."""
        missed = {self._of_class(each) for each in self._missed}
        forms = ((each, each.relative, each.left_open) for each in self.graph.sizes)
        chosen = (next((form for form in three if self._of_class(form) in missed), None) for three in forms)
        return tuple(each for each in chosen if each is not None)

    def _of_class(self, size: StatedSize) -> tuple[object, ...]:
        module = self.traced.model.get_submodule(size.where.module)
        return type(module), size.where.kind, size.where.line, size.path

    def _fault(self, keys: Sequence[str], draws: int = DRAWS) -> str:
        """Why these groups cannot be cut together; empty if they can."""
        return self._differs(keys, draws) or (self._fails_in_training(keys) if self._trains else "")

    def _fails_in_training(self, keys: Sequence[str]) -> str:
        cut = self._cut(self._some(keys, 0), Numbers(), training=True)
        return cut if isinstance(cut, str) else ""

    def _differs(self, keys: Sequence[str], draws: int) -> str:
        for seed in range(draws):
            place: tuple[int | str, ...] = seed, *keys
            if place not in self._known:
                self._known[place] = self.differs_in(self._some(keys, seed))
            if self._known[place]:
                return self._known[place]
        return ""

    def differs_in(self, kept: Kept) -> str:
        """Why the network that keeps these answers otherwise than it must."""
        numbers = Numbers()
        reference = self._reference(kept, numbers=numbers)
        if isinstance(reference, str):
            return reference
        cut = self._cut(kept, numbers)
        if isinstance(cut, str):
            return cut
        if [x.shape for x in cut] != [x.shape for x in reference]:
            return "without some of its units the network's answer has another shape"
        if same(reference, cut) or (near(reference, cut) and same(reference, cut, self._nudged(kept))):
            return ""
        return "something else than the layers that follow reads its channels"

    def _some(self, keys: Sequence[str], seed: int) -> Kept:
        """Some of each group's units, another number of each; of parts of one layer (the halves of a chunk) surely."""
        chance = np.random.default_rng(seed)
        kept, taken = {}, set[tuple[str, int]]()
        for key in keys:
            width = self.graph.group[key].width
            share = chance.uniform(*SHARES[seed])
            count = int(np.clip(round(width * share), 1, max(width - 1, 1)))
            layer = key.partition("#")[0]
            while (layer, count) in taken and any((layer, each) not in taken for each in range(1, width)):
                count = count % (width - 1) + 1
            taken.add((layer, count))
            kept[key] = np.sort(chance.permutation(width)[:count])
        return kept

    def _cut(self, kept: Kept, numbers: Numbers, training: bool = False) -> list[Tensor] | str:
        """What the cut network answers, its sizes put right, and its numbers these; or why it does not run."""
        counts = {key: len(units) for key, units in structural(kept).items()}
        try:
            model = self._cutter.cut(kept).train(training)
            checking = Checking(self.graph.sizes, counts, numbers)
            scope = Scope(model, checking.calls.begin, checking.calls.end)
            with torch.no_grad(), torch.random.fork_rng([]), plain_kernels(self.traced.double), scope, checking:
                answer = [x.detach() for x in tensors_in(self.traced.inputs.run(model))]
        except Exception as error:
            mode = " in training" if training else ""
            return f"without some of its units the network does not run{mode} ({where_raised(error)})"
        self._missed |= checking.missed
        return answer

    def _nudged(self, kept: Kept) -> list[Tensor]:
        """What the reference answers to inputs that differ by rounding: some networks make much of that."""
        nudged = self.traced.inputs.map(
            lambda x: x * (1 + torch.finfo(x.dtype).eps) if x.is_floating_point() else x
        )  # fmt: skip
        found = self._reference(kept, nudged)
        return [] if isinstance(found, str) else found

    def _reference(
        self, kept: Kept, inputs: Inputs | None = None, fork: bool = True, numbers: Numbers | None = None
    ) -> list[Tensor] | str:
        """What the dense network answers without what is gone; `numbers` notes those that its calls are given."""
        numbers = numbers or Numbers()
        try:
            masked = Masked(self.traced.model, self.traced.record, self.traced.alive(kept))
            scope = Scope(self.traced.model, numbers.calls.begin, numbers.calls.end)
            with (
                torch.no_grad(), torch.random.fork_rng([], enabled=fork), plain_kernels(self.traced.double),
                scope, numbers, masked,
            ):  # fmt: skip
                answer = (inputs or self.traced.inputs).run(forgetful(self.traced.model))
                return [x.detach() for x in tensors_in(answer)]
        except RuntimeError as error:
            return f"what the network answers without some of its units cannot be told ({where_raised(error)})"


def _alike(keys: Sequence[str]) -> list[list[str]]:
    """Groups whose names differ by numbers alone: those of a network's blocks."""
    found: dict[str, list[str]] = {}
    for key in keys:
        found.setdefault(re.sub(r"\d+", "", key), []).append(key)
    return list(found.values())


def _halves(several: Sequence[T]) -> tuple[Sequence[T], Sequence[T]]:
    return several[: len(several) // 2], several[len(several) // 2 :]

"""Prove that cutting does exactly what it should; leave alone what fails.

A cut network must answer as the dense one does whose sums leave out what is gone: every product with a weight, and
every norm or mean over an axis, is taken over the members that stay. What was followed wrongly cannot pass. All sites
are cut at once, by numbers that differ; only where that fails are they tried in parts.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from secateur.errors import TraceError
from secateur.graph import (
    Calls,
    Inputs,
    Kept,
    Masked,
    ModelGraph,
    Path,
    Scope,
    Spot,
    StatedSize,
    Traced,
    argument,
    forgetful,
    kind_of,
    name_of,
    plain_kernels,
    where_raised,
    with_reasons,
)
from secateur.prune.cut import Cutter
from secateur.prune.restate import called

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}
"""Largest difference allowed, by how precisely the network computes, as a fraction of the spread of what differs: of
each output, and of each column of it. Right cuts differ by 1e-14 in double precision, and wrong ones by 4e-5 or more.
"""
DRAWS, LARGE = 2, 2e9
"""Cuts of all sites at once, each by numbers of its own; one for a network of more MACs than this."""


def prove(traced: Traced) -> ModelGraph:
    """The same graph, in which every group that fails the proof is fixed with the reason.

    Costs two forward passes a cut, of which two are needed where all is well. Raises TraceError where no group is left
    to prune.
    """
    _Proof(traced, traced.graph).tell_of_chance()
    proven = _proven(traced, traced.graph)
    if len(proven.prunable) < len(traced.graph.prunable):  # an attribute may have been taken for a size that it is not
        plainer = _proven(traced, replace(traced.graph, attributes=traced.graph.stated_alone))
        proven = plainer if len(plainer.prunable) > len(proven.prunable) else proven
    if not proven.prunable:
        found = "; ".join(f"{group.key}: {group.fixed}" for group in proven.groups[:5])
        raise TraceError(f"nothing of {type(traced.model).__name__} can be pruned ({found})")
    return proven


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

    def tell_of_chance(self) -> None:
        """Warns where the same network answers otherwise the second time."""
        with torch.random.fork_rng([]):
            torch.rand(1)  # the next numbers are others than when it was followed
            again = self._reference({}, fork=False)
        if isinstance(again, str) or not _same(self.traced.answers, again):
            warnings.warn(
                f"{type(self.traced.model).__name__} answers otherwise each time, even in eval mode: what is cut is "
                "proven with the same random numbers, and scores are noisy",
                stacklevel=5,
            )

    def faults(self, keys: Sequence[str]) -> dict[str, str]:
        """The groups that cannot be cut, each with the reason."""
        found: dict[str, str] = {}
        self._search(keys, found)
        left = [key for key in keys if key not in found]
        while found and left and (reason := self._fault(left)):  # each alone can be cut, not all together
            found[left.pop()] = reason
        return found

    def _search(self, keys: Sequence[str], found: dict[str, str]) -> None:
        reason = self._fault(keys) if keys else ""
        if not reason:
            return
        if len(keys) == 1:
            found[keys[0]] = reason
            return
        for half in (keys[: len(keys) // 2], keys[len(keys) // 2 :]):
            self._search(half, found)

    @property
    def needed(self) -> tuple[StatedSize, ...]:
        """The sizes that forwards do not come to themselves."""
        forms = ((each, each.relative) for each in self.graph.sizes)
        return tuple(found for form in forms if (found := next((x for x in form if x in self._missed), None)))

    def _fault(self, keys: Sequence[str]) -> str:
        """Why these groups cannot be cut together; empty if they can."""
        for seed in range(DRAWS if self.graph.dense.macs < LARGE else 1):
            kept = self._some(keys, seed)
            cut = self._cut(kept)
            if isinstance(cut, str):
                return cut
            reference = self._reference(kept)
            if isinstance(reference, str):
                return reference
            if [x.shape for x in cut] != [x.shape for x in reference]:
                return "the network's output"
            if not _same(reference, cut) and not _same(reference, cut, self._nudged(kept)):
                return "something else than the layers that follow reads its channels"
        return ""

    def _some(self, keys: Sequence[str], seed: int) -> Kept:
        """About half of each group's units, another number of each."""
        chance = np.random.default_rng(seed)
        kept = {}
        for key in keys:
            width = self.graph.group[key].width
            count = int(np.clip(round(width * chance.uniform(0.35, 0.7)), 1, max(width - 1, 1)))
            kept[key] = np.sort(chance.permutation(width)[:count])
        return kept

    def _cut(self, kept: Kept) -> list[Tensor] | str:
        """What the cut network answers, its sizes put right; or why it does not run."""
        counts = {key: len(units) for key, units in kept.items()}
        try:
            model = self._cutter.cut(kept)
            checking = _Checking(self.graph.sizes, counts)
            scope = Scope(model, checking.calls.begin, checking.calls.end)
            with torch.no_grad(), torch.random.fork_rng([]), plain_kernels(self.traced.double), scope, checking:
                answer = _outputs(self.traced.inputs.run(model))
        except Exception as error:
            return f"without some of its units the network does not run ({where_raised(error)})"
        self._missed |= checking.missed
        return answer

    def _nudged(self, kept: Kept) -> list[Tensor]:
        """What the reference answers to inputs that differ by rounding: some networks make much of that."""
        nudged = self.traced.inputs.map(
            lambda x: x * (1 + torch.finfo(x.dtype).eps) if x.is_floating_point() else x
        )  # fmt: skip
        found = self._reference(kept, nudged)
        return [] if isinstance(found, str) else found

    def _reference(self, kept: Kept, inputs: Inputs | None = None, fork: bool = True) -> list[Tensor] | str:
        """What the dense network answers without what is gone."""
        try:
            masked = Masked(self.traced.model, self.traced.record, self.traced.alive(kept))
            with torch.no_grad(), torch.random.fork_rng([], enabled=fork), plain_kernels(self.traced.double), masked:
                return _outputs((inputs or self.traced.inputs).run(forgetful(self.traced.model)))
        except RuntimeError as error:
            return f"what the network answers without some of its units cannot be told ({where_raised(error)})"


class _Checking(TorchFunctionMode):
    """Compares what is stated in a cut network with what has to be, and puts it right."""

    def __init__(self, sizes: Sequence[StatedSize], counts: dict[str, int]) -> None:
        super().__init__()
        self.calls, self.missed = Calls(), set[StatedSize]()
        self._counts = counts
        self._sizes: dict[Spot, list[StatedSize]] = {}
        for each in sizes:
            self._sizes.setdefault(each.where, []).append(each)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call it with what it has to be called with."""
        kwargs = kwargs or {}
        kind = kind_of(func, args, kwargs)
        if kind is None:
            return func(*args, **kwargs)
        wrong = [each for each in self._sizes.get(self.calls.next(kind), ()) if not self._right(each, args, kwargs)]
        for each in wrong:
            as_written = argument(args, kwargs, _plain(each.path)) == each.value({})
            self.missed.add(each.relative if as_written else each)
        return called(func, kind, args, kwargs, [(each.path, each.value(self._counts)) for each in wrong])

    def _right(self, size: StatedSize, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether the call is given the size that there is."""
        return _alike(size, argument(args, kwargs, _plain(size.path)), size.value(self._counts))


def _plain(path: Path) -> Path:
    """Where the whole argument lies."""
    return path[:-1] if path[-1] == "slice" else path


def _alike(size: StatedSize, given: object, wanted: object) -> bool:
    """Whether what is given comes to what is wanted."""
    if size.constant is not None:
        return given is not None and abs(float(given) - size.constant) <= 1e-9 * abs(size.constant)  # type: ignore[arg-type]
    if isinstance(given, slice):
        assert isinstance(wanted, list)
        start, length = wanted
        return (given.start or 0) == start and (given.stop is None or given.stop == start + length)
    if name_of(size.where.kind) == "chunk" and isinstance(given, int):
        assert isinstance(wanted, list)
        each = -(-sum(wanted) // given)
        return all(x == each for x in wanted[:-1]) and len(wanted) == given
    if name_of(size.where.kind) == "split" and isinstance(given, int):
        assert isinstance(wanted, list)
        return all(x == given for x in wanted[:-1]) and wanted[-1] <= given
    if size.several and isinstance(given, (tuple, list)):
        return list(given) == wanted
    return given == wanted


def _outputs(answer: object) -> list[Tensor]:
    """All tensors a model returns."""
    return [leaf for leaf in tree_leaves(answer) if isinstance(leaf, Tensor)]


def _same(ones: Sequence[Tensor], others: Sequence[Tensor], nudged: Sequence[Tensor] = ()) -> bool:
    """Whether two networks' outputs are equal but for rounding, each at its own scale; `nudged`: as `_floor` has it."""
    rounded = nudged if [x.shape for x in nudged] == [x.shape for x in ones] else ones
    return len(ones) == len(others) and all(map(_equal, ones, others, rounded))


def _equal(one: Tensor, other: Tensor, nudged: Tensor) -> bool:
    """Every element within the tolerance at the scale of its column, along each dimension: beside boxes in pixels,
    class scores are small."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if not one.is_floating_point() or one.numel() == 0:
        return torch.equal(one, other)
    one, other, nudged = (x.unsqueeze(0) if x.dim() == 0 else x for x in (one, other, nudged))
    apart, tolerance = (one - other).abs(), TOLERANCE[one.dtype if one.dtype in TOLERANCE else torch.float32]
    floor = _floor(one, nudged, tolerance)
    for dimension in range(one.dim()):
        columns = one.transpose(0, dimension).reshape(one.shape[dimension], -1)
        columns = columns if columns.shape[1] > 1 else columns.reshape(1, -1)  # single numbers, on the scale of all
        spread = (columns - columns.mean(1, keepdim=True)).square().mean(1).sqrt()
        spread = spread if columns.shape[1] > 1 else columns.abs().amax(1)
        worst = apart.transpose(0, dimension).reshape(len(columns), -1).amax(1)
        if not bool((worst <= tolerance * spread + floor).all()):
            return False
    return True


def _floor(answer: Tensor, nudged: Tensor, tolerance: float) -> float:
    """What rounding alone may come to, where a column is all but zero: by the numbers' size, or by what came of inputs
    that were nudged by rounding; of what is chaotic beyond that, nothing is proven."""
    largest = float(answer.abs().max())
    seen = min(float((answer - nudged).abs().max()), tolerance / 64 * largest)
    return 64 * max(torch.finfo(answer.dtype).eps * largest, seen)

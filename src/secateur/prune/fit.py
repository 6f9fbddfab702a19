"""One layer, fitted by least squares to what it should give on rows of its operand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from secateur.graph import BATCH_NORMS, Layer, bias_of, weight_of
from secateur.prune.offset import has_offset, offset_behind, shift
from secateur.prune.shrink import own_moments, own_products, shrink, trusted
from secateur.prune.solve import masked_least_squares, solve_positive
from secateur.sparse import mask_of

NARROW, PIECES = 32, 4
"""Columns below which a product is not worth cutting up, and pieces at most."""


@dataclass(frozen=True)
class Effort:
    """How much of the examples a refit looks at, and how far it trusts what it sees."""

    rows: int = 32
    """Output positions that a layer is fitted on, for each of its input features."""
    fewest: int = 4096
    """The least of them for a layer."""
    grouped: int = 4096
    """The same for a depthwise layer, or another of many groups: each of them has few features."""
    ridge: float = 1e-3
    """Pull towards the weights as they are, as a fraction of the mean energy of a layer's inputs."""
    shrink: bool = True
    """Whether what features have in common by chance is left out; a hard pull needs no more of that."""


QUICK = Effort(rows=1, fewest=512, grouped=128, ridge=2.0, shrink=False)
"""For a trial. So few rows alone would be overfitted; pulled so hard, they rank plans as the finished networks rank."""


@dataclass(frozen=True)
class Fitted:
    """A layer of a network that has kept so many units."""

    model: nn.Module
    layer: Layer
    counts: Mapping[str, int]

    @property
    def mask(self) -> Tensor | None:
        """Which of its weights there are, where it is sparse."""
        return mask_of(self.model.get_submodule(self.layer.name)) if self.layer.sparsities else None


@dataclass(frozen=True)
class Rows:
    """Of so many examples: what a layer sees [rows, groups, D], and what it should give [rows, out]."""

    seen: Tensor
    wanted: Tensor
    examples: int


def fit(fitted: Fitted, pieces: Iterable[Rows], effort: Effort) -> None:
    """Move weights (and offset) to the least-squares solution on all rows; only one piece of them is held at a time."""
    model, layer, counts = fitted.model, fitted.layer, fitted.counts
    held, own = weight_of(model, layer, counts), bias_of(model, layer, counts)
    weight = held.float().flatten(2)
    sums = _Sums(weight, has_offset(model, layer), effort.shrink)
    for piece in pieces:
        sums.add(piece)
    square, right = sums.finish()
    diagonal = square.diagonal(dim1=1, dim2=2)
    diagonal.add_(effort.ridge * diagonal.mean(1, keepdim=True) + 1e-9)
    mask = fitted.mask
    change = solve_positive(square, right) if mask is None else _solve_masked(square, right, mask)
    moved = weight + change.transpose(1, 2)
    held.copy_(moved.view(held.shape))
    if sums.centred:
        bias = offset_behind(model, layer) if own is None else own.float()
        level = sums.level - torch.as_tensor(bias).view(len(weight), 1, -1)
        shift(model, layer, (level - sums.mean @ change).flatten(), counts)


class _Sums:
    """What least squares needs to know: x^T x and x^T m, where m is what the weights as they are miss of the target.

    Where the offset is free, both about the means of the first piece, and set right to those of all at the end.
    """

    def __init__(self, weight: Tensor, centred: bool, shrunk: bool) -> None:
        self._weight, self.centred, self._shrunk = weight, centred, shrunk
        self._rows, self._examples = 0, 0
        self.mean = self.level = torch.zeros(())
        self._sums: list[Tensor] = []

    def add(self, piece: Rows) -> None:
        """The rows of some more examples."""
        x, missing = self._missing(piece)
        first = self._rows == 0
        if self.centred:
            if first:
                self.mean, self.level = x.mean(1, keepdim=True), missing.mean(1, keepdim=True)
                self._off = torch.zeros_like(self.mean), torch.zeros_like(self.level)
            x, missing = x - self.mean, missing - self.level
            if not first:  # of the first piece they add up to nothing
                for off, each in zip(self._off, (x, missing), strict=True):
                    off.add_(each.sum(1, keepdim=True))
        found = [square_of(x), x.transpose(1, 2) @ missing]
        if self._shrunk:
            mine, theirs = (rows.unflatten(1, (piece.examples, -1)) for rows in (x, missing))
            found += [own_moments(mine), own_products(mine, theirs)]
        self._sums = found if first else [one.add_(more) for one, more in zip(self._sums, found, strict=True)]
        self._rows += x.shape[1]
        self._examples += piece.examples

    def _missing(self, piece: Rows) -> tuple[Tensor, Tensor]:
        """x [groups, rows, D] and m [groups, rows, out]."""
        x = piece.seen.transpose(0, 1)
        wanted = piece.wanted.unflatten(1, self._weight.shape[:2]).transpose(0, 1)
        if len(x) > 1:  # products of hundreds of small matrices take half as long where each lies in a piece
            x, wanted = x.contiguous(), wanted.contiguous()
        return x, wanted - x @ self._weight.transpose(1, 2)

    def finish(self) -> tuple[Tensor, Tensor]:
        """x^T x [groups, D, D] and x^T m [groups, D, out], shrunk to what the examples agree about."""
        square, right, *own = self._sums
        if self.centred:
            x, missing = (off / self._rows for off in self._off)
            square.baddbmm_(x.transpose(1, 2), x, alpha=-self._rows)
            right.baddbmm_(x.transpose(1, 2), missing, alpha=-self._rows)
            self.mean, self.level = self.mean + x, self.level + missing
        if own:
            shrink(square.div_(self._rows), own[0], self._examples)
            square.mul_(self._rows)
            common = (right / self._rows).square().sum((1, 2), dtype=torch.float64)
            right.mul_(trusted(common, own[1], self._examples).to(right.dtype)[:, None, None])
        return square, right


def before_norm(model: nn.Module, layer: Layer, drift: Tensor) -> Tensor:
    """What has to change before the batch norm for its output to change by `drift` [rows, out]."""
    if layer.norm is None:
        return drift
    norm = model.get_submodule(layer.norm)
    assert isinstance(norm, BATCH_NORMS)
    if norm.running_var is None:
        return torch.zeros_like(drift)
    spread = (norm.running_var + norm.eps).sqrt()
    gain = norm.weight if norm.weight is not None else torch.ones_like(spread)
    reachable = gain.abs() > 1e-3 * gain.abs().max()
    return drift * torch.where(reachable, spread / torch.where(reachable, gain, 1.0), 0.0).to(drift.dtype)


def square_of(x: Tensor) -> Tensor:
    """x^T x [groups, D, D] of x [groups, rows, D]; wide ones by pieces, as what lies below the diagonal is known."""
    pieces = max(min(x.shape[2] // NARROW, PIECES), 1)
    ends = [x.shape[2] * number // pieces for number in range(pieces + 1)]
    square = x.new_empty(len(x), x.shape[2], x.shape[2])
    for low, high in pairwise(ends):
        square[:, low:high, low:] = x[..., low:high].transpose(1, 2) @ x[..., low:]
        square[:, high:, low:high] = square[:, low:high, high:].transpose(1, 2)
    return square


def _solve_masked(square: Tensor, right: Tensor, mask: Tensor) -> Tensor:
    """The same, [1, D, D] and [1, D, out], where each output may use some features only."""
    change = masked_least_squares(square[0], right[0].T, torch.zeros_like(right[0].T), mask.flatten(1))
    return change.T[None]

"""The dims of attention heads in a basis of their own: the same answers, and the last dims hardly matter.

Scores `q k^T` and outputs `O v` are products of two layers with nothing between them, so for any invertible A, one for
each head, `A q` and `A^-T k` are as good as `q` and `k`. With C the moments of `q` and G those of the answers'
gradient by it, the best `r` dims are the first of `A = U^T G^(1/2)`, where U are the left singular vectors of
`G^(1/2) C^(1/2)`: what the other dims add to the answers is the rest of the singular values, squared. So the best low
rank of a pair of layers is told in closed form, weighed by what attention makes of it. A pair whose network would
answer otherwise (rotary embeddings, norms of queries) stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur.graph import (
    QUERY_KEY,
    VALUE,
    ChannelGroup,
    Inputs,
    Layer,
    ModelGraph,
    Products,
    Run,
    Side,
    as_operators,
    bias_of,
    copied,
    in_double,
    plain_kernels,
    tensors_in,
    unwatched,
    weight_of,
)
from secateur.prune.alike import same
from secateur.prune.calibration import Calibration
from secateur.prune.offset import bias_behind
from secateur.prune.rows import operands, outputs
from secateur.prune.sensitivity import Sensitivity

EXAMPLES = 64
"""Examples that tell the moments of heads."""
RIDGE = 1e-4
"""Added to moments, as a fraction of the mean of their diagonal."""


@dataclass(frozen=True, eq=False)
class Part:
    """The dims of all heads on one side of a layer; `index` [heads, repeats, dims] are their places."""

    layer: Layer
    side: Side
    index: Tensor

    @property
    def module(self) -> str:
        """The layer's name."""
        return self.layer.name


@dataclass(frozen=True, eq=False)
class Pair:
    """Queries and keys, or values and what reads them: dims of the one meet the same dims of the other."""

    first: Part
    second: Part

    @property
    def seen(self) -> Part:
        """The part whose moments count: queries, or what the layer behind the values reads."""
        return self.second if self.second.side == "in" else self.first


def rotate(model: nn.Module, graph: ModelGraph, calibration: Calibration, sensed: Sensitivity) -> Sensitivity:
    """Turn the dims of heads in place, where the answers stay what they are. What is sensed is turned with them."""
    pairs = [pair for group in graph.prunable if (pair := _pair(graph, group)) and _weighs(pair, sensed)]
    if not pairs:
        return sensed
    few = calibration.head(EXAMPLES)
    moments = _moments(model, graph, pairs, few, sensed)
    bases = [_basis(_weighed(model, pair.seen, sensed), moments[pair.seen].sum(1)) for pair in pairs]
    check = _Check(model, few.head(2).inputs)
    turns = [*zip(pairs, bases, strict=True)]
    if not check.stays(turns):
        turns = [turn for turn in turns if check.stays([turn])]
    square, energy = dict(sensed.square), dict(sensed.energy)
    for part, by in _parts(turns):
        _turn(model, part, by)
        if part.side == "out" and part.module in square:
            square[part.module] = _turned(square[part.module], part, torch.linalg.inv(by).mT)
            mine = torch.einsum("hde,href,hdf->hrd", by, moments[part], by)
            energy[part.module] = energy[part.module].index_put((torch.tensor(0), part.index), mine)
    return Sensitivity(square, energy, sensed.matters)


def _weighs(pair: Pair, sensed: Sensitivity) -> bool:
    """Whether it is known how changes weigh, of all outputs of both together."""
    known = [sensed.square.get(part.module) for part in (pair.first, pair.second)]
    return pair.seen.module in sensed.square and all(square is None or len(square) == 1 for square in known)


def _pair(graph: ModelGraph, group: ChannelGroup) -> Pair | None:
    """The two sides of a site of heads' dims. None where it is another site, or the layers do more than a product."""
    read = [part for part in group.slices if part.side == "in"]
    both = [*group.made, *read]
    if len(both) != 2 or len(read) != {QUERY_KEY: 0, VALUE: 1}.get(group.role):
        return None
    heads = min(part.index.shape[1] for part in both)
    if not heads or any(part.index.shape[1] % heads for part in both):
        return None
    if not all(_plain(graph.layer[part.module]) for part in both):
        return None
    first, second = (
        Part(graph.layer[part.module], part.side, torch.from_numpy(part.index.T.reshape(heads, -1, group.width).copy()))
        for part in both
    )
    return Pair(first, second)


def _plain(layer: Layer) -> bool:
    """Whether it is one matrix, of its own, that every row is multiplied by once."""
    matrix = layer.matrix
    plain = layer.groups == 1 and layer.features == layer.in_channels and layer.stride == 1
    return plain and matrix is not None and matrix.alone and matrix.runs == 1


def _moments(
    model: nn.Module, graph: ModelGraph, pairs: Sequence[Pair], calibration: Calibration, sensed: Sensitivity
) -> dict[Part, Tensor]:
    """E[y y^T] of the dims, head by head, over positions that matter, [heads, repeats, dims, dims]."""
    parts = {part for pair in pairs for part in (pair.first, pair.second) if part.side == "out" or part is pair.seen}
    parts_of = {part.module: [each for each in parts if each.module == part.module] for part in parts}
    found: dict[Part, Tensor] = {}
    rows = dict.fromkeys(parts, 0)
    seen = 0

    def look(run: Run, y: Tensor) -> None:
        with unwatched():
            for part in parts_of[run.layer.name]:
                made = part.side == "out"
                value = outputs(run, y) + bias_behind(model, run) if made else operands(run).flatten(1, -2)
                where = sensed.matters.get(part.module)
                if where is not None:
                    value = value[where[seen : seen + len(value)].to(value.device)]
                heads = value[..., part.index.to(value.device)].flatten(0, -4).double()
                found[part] = found.get(part, 0) + torch.einsum("nhrd,nhre->hrde", heads, heads).cpu()
                rows[part] += len(heads)

    layers = [graph.layer[name] for name in parts_of]
    with torch.no_grad(), as_operators(model), Products(model, layers, after=look):
        for batch in calibration.batches(32):
            batch.run(model)
            seen += len(batch)
    return {part: square / max(rows[part], 1) for part, square in found.items()}


def _weighed(model: nn.Module, part: Part, sensed: Sensitivity) -> Tensor:
    """How changes of the dims of each head weigh, [heads, dims, dims]."""
    square, index = sensed.square[part.module][0].double(), part.index
    if part.side == "out":
        return square[index[..., :, None], index[..., None, :]].sum(1)
    weight = weight_of(model, part.layer).cpu().double().flatten(2)[0][:, index]
    found: Tensor = torch.einsum("ohrd,op,phre->hde", weight, square, weight)
    return found


def _basis(weighed: Tensor, moments: Tensor) -> Tensor:
    """A [heads, dims, dims], the dims that matter most first; of determinant 1."""
    root = _root(weighed)
    basis: Tensor = torch.linalg.svd(root @ _root(moments))[0].mT @ root
    scale: Tensor = torch.linalg.slogdet(basis)[1].div(basis.shape[-1]).exp()[:, None, None]
    return basis.div_(scale)


def _root(square: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(square)
    values = values.clamp_min(0) + RIDGE * values.mean(1, keepdim=True).clamp_min(1e-30)
    root: Tensor = (vectors * values.sqrt()[:, None]) @ vectors.mT
    return root


def _parts(turns: Sequence[tuple[Pair, Tensor]]) -> Iterator[tuple[Part, Tensor]]:
    """Each part, and what its dims are multiplied by."""
    for pair, basis in turns:
        yield pair.first, basis
        yield pair.second, torch.linalg.inv(basis).mT


def _turn(model: nn.Module, part: Part, by: Tensor) -> None:
    weight, bias = weight_of(model, part.layer)[0].flatten(1), bias_of(model, part.layer)
    held = [weight.T] if part.side == "in" else [weight] if bias is None else [weight, bias]
    for rows in held:
        heads = rows[part.index.to(rows.device)]
        turned = torch.einsum("hde,hrex->hrdx", by.to(heads.device), heads.double().reshape(*heads.shape[:3], -1))
        rows[part.index.to(rows.device)] = turned.reshape(heads.shape).to(rows.dtype)


def _turned(square: Tensor, part: Part, by: Tensor) -> Tensor:
    """The matrix [1, out, out] in the new basis of its rows and columns."""
    whole = torch.eye(square.shape[1], dtype=square.dtype)
    for repeat in range(part.index.shape[1]):
        index = part.index[:, repeat]
        whole[index[:, :, None], index[:, None, :]] = by.to(whole)
    turned: Tensor = whole @ square @ whole.T
    return turned


class _Check:
    """Whether a network answers as before once pairs are turned, in double precision where it runs so."""

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        self._model = copied(model).double()
        self._inputs = inputs.map(lambda x: x.double() if x.is_floating_point() else x)
        try:
            self._answers = self._run()
        except RuntimeError:  # a forward that makes tensors of its own in single precision
            self._model, self._inputs = copied(model), inputs
            self._answers = self._run()
        self._dense = {name: value.clone() for name, value in self._model.named_parameters()}

    def _run(self) -> list[Tensor]:
        with torch.no_grad(), torch.random.fork_rng([]), plain_kernels(in_double(self._model)):
            return [x.detach() for x in tensors_in(self._inputs.run(self._model))]

    def stays(self, turns: Sequence[tuple[Pair, Tensor]]) -> bool:
        """Of these pairs."""
        for part, by in _parts(turns):
            _turn(self._model, part, by)
        answers = self._run()
        for name, value in self._model.named_parameters():
            value.data.copy_(self._dense[name])
        return same(self._answers, answers)

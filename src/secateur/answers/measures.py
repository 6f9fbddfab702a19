"""How alike tensors of answers are, example by example: 1 where they are the same.

Answers [N, ...] have their classes, numbers of a vector, or channels along one dimension; the others are positions. Of
`counts` [N, positions], where it is given, only the positions that are true are looked at.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

LEAST = -1e4
"""The least logarithm of a probability: far below what has any weight, and finite where a word can never come."""
AT_ONCE = 2**24
"""Numbers that are looked at in double precision at once."""
FLOOR = 1e-6
"""The variance of a channel is taken for this share of its mean square at least: a constant has rounding errors too."""


def cosine(answers: Tensor, wanted: Tensor) -> Tensor:
    """Of each example's answers [N, ...], about their mean: 1 where they are the same up to a positive factor, [N].

    Of logits this says more than the Kullback-Leibler divergence, which looks at the likeliest classes alone
    (`benchmarks/scores.py` compares how scores rank plans).
    """
    answers, wanted = answers.flatten(1).float(), wanted.flatten(1).float()
    mine, theirs = (x - x.mean(1, keepdim=True) for x in (answers, wanted))
    point_nowhere = ~(mine.any(1) | theirs.any(1)) & (answers == wanted).all(1)
    return F.cosine_similarity(mine, theirs).masked_fill(point_nowhere, 1)


def logits(mine: Tensor, wanted: Tensor, dim: int, counts: Tensor | None = None) -> Tensor:
    """The cosine about the mean over the classes, and its mean over positions (pixels), [N]."""
    if mine.dim() == 2:
        return cosine(_levelled(mine, counts), _levelled(wanted, counts))
    ones, others = (x - x.mean(-1, keepdim=True) for x in (rows(mine, dim), rows(wanted, dim)))
    return _cosines(ones, others, counts)


def vectors(mine: Tensor, wanted: Tensor, dim: int, counts: Tensor | None = None) -> Tensor:
    """The cosine of vectors, and its mean over positions (tokens), [N]."""
    return _cosines(rows(mine, dim), rows(wanted, dim), counts)


def values(mine: Tensor, wanted: Tensor, dim: int, variance: Tensor, counts: Tensor | None = None) -> Tensor:
    """1 / (1 + the mean square error of a channel as a share of its `variance` [channels]), the mean over them, [N]."""
    apart = averaged((rows(mine, dim) - rows(wanted, dim)).square(), counts)
    return (1 / (1 + apart / variance)).mean(1)


def distributions(mine: Tensor, wanted: Tensor, dim: int, counts: Tensor | None = None) -> Tensor:
    """exp(-d), d the mean over positions of the Kullback-Leibler divergence from what is wanted, [N].

    `wanted` may be logits or logarithms of probabilities. Of one example at a time: vocabularies are large.
    """
    pairs = zip(mine, wanted, strict=True)
    apart = torch.stack([_divergence(one.movedim(dim - 1, -1), other.movedim(dim - 1, -1)) for one, other in pairs])
    return torch.exp(-averaged(apart.reshape(len(apart), -1), counts))


def kept_small(wanted: Tensor, dim: int) -> Tensor:
    """Logits as logarithms of probabilities in half precision, which are as good: rounding them changes `distributions`
    by less than 1e-3, for what all classes are rounded by together is made up for when they are normalised again."""
    return torch.stack([F.log_softmax(each.float(), dim - 1).half() for each in wanted])


def rows(x: Tensor, dim: int) -> Tensor:
    """Of each example, what stands at each position: [N, positions, classes or numbers or channels] in float32."""
    x = x[:, None] if x.dim() == 1 else x
    return x.float().movedim(dim, -1).reshape(len(x), -1, x.shape[dim])


def averaged(x: Tensor, counts: Tensor | None) -> Tensor:
    """The mean over positions of x [N, positions, ...]; 0 where none counts."""
    if counts is None:
        return x.mean(1)
    inside = counts if x.dim() == 2 else counts[..., None]
    return torch.where(inside, x, 0).sum(1) / inside.sum(1).clamp_min(1)


def variance_of(wanted: Tensor, dim: int, counts: Tensor | None = None) -> Tensor:
    """Of each channel, over all examples [N, ...] and positions, [channels]; never 0."""
    total = squares = torch.zeros((), dtype=torch.float64, device=wanted.device)
    number = 0
    for at in torch.arange(len(wanted)).split(max(AT_ONCE // wanted[:1].numel(), 1)):
        x = rows(wanted[at], dim).double()
        inside = torch.ones_like(x[..., 0], dtype=torch.bool) if counts is None else counts[at]
        x = x[inside]
        total, squares, number = total + x.sum(0), squares + x.square().sum(0), number + len(x)
    mean, square = total / max(number, 1), squares / max(number, 1)
    return torch.maximum(square - mean.square(), FLOOR * square).clamp_min(1e-30).float()


def _cosines(mine: Tensor, wanted: Tensor, counts: Tensor | None) -> Tensor:
    """Of rows [N, positions, D]. Two that are the same are so although they may be 0 and point nowhere."""
    apart = 1 - F.cosine_similarity(mine, wanted, dim=-1)
    return 1 - averaged(apart.masked_fill((mine == wanted).all(-1), 0), counts)


def _levelled(x: Tensor, counts: Tensor | None) -> Tensor:
    """[N, classes] that are positions themselves: where those do not count, the mean of the others stands."""
    return x if counts is None else torch.where(counts, x, averaged(x, counts)[:, None])


def _divergence(mine: Tensor, wanted: Tensor) -> Tensor:
    """Of logits [positions, classes], [positions]; in nats."""
    p, q = (F.log_softmax(x.float(), -1).clamp_min(LEAST) for x in (wanted, mine))
    return (p.exp() * (p - q)).sum(-1).clamp_min(0)

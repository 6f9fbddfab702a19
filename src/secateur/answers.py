"""How alike the answers of two networks are."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def cosine(answers: Tensor, wanted: Tensor) -> Tensor:
    """Of each example's answers [N, ...], about their mean: 1 where they are the same up to a positive factor, [N].

    Of logits this says more than the Kullback-Leibler divergence, which looks at the likeliest classes alone
    (`benchmarks/scores.py` compares how scores rank plans).
    """
    answers, wanted = answers.flatten(1).float(), wanted.flatten(1).float()
    return F.cosine_similarity(answers - answers.mean(1, keepdim=True), wanted - wanted.mean(1, keepdim=True))

"""Racing: stop scoring a candidate as soon as it can hardly be better than the best by as much as matters."""

from __future__ import annotations

import math
from functools import cache
from statistics import NormalDist

from secateur.run.score import Values, doublings

WORTH = 0.002
"""A score that is higher by less than this fraction is not worth looking for: most of a search's candidates are as good
as the best but for so little, and to tell them apart takes nearly all examples."""
ERROR_RATE = 0.2
"""At most this share of the candidates that are better than the best by `WORTH` is stopped before the end; of those
that are better by more, fewer."""


def hopeless(values: Values, rival: Values | None) -> bool:
    """Whether a candidate, by the examples it has seen, is unlikely to be better than the rival by `WORTH`.

    Both are compared on each example (a paired test): most of what makes an example hard is common to both,
    so that a few hundred tell what independent samples would need thousands for.
    """
    if rival is None:
        return False
    difference = rival[: len(values)] - values
    error = float(difference.std()) / math.sqrt(max(len(values), 1))
    looks = max(len(doublings(len(rival))) - 1, 1)
    behind = float(difference.mean()) + WORTH * abs(float(rival.mean()))
    return error > 0 and behind > _behind(looks) * error


@cache
def _behind(looks: int) -> float:
    """How many standard errors behind is hopeless, where a candidate is looked at so often on its way."""
    return NormalDist().inv_cdf(1 - ERROR_RATE / looks)


def expected(values: Values, rival: Values) -> float:
    """The whole score to expect of a candidate that was stopped: the rival's, less what it was behind."""
    return float(rival.mean()) - float((rival[: len(values)] - values).mean())

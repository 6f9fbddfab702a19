"""Racing: stop scoring a candidate as soon as it can no longer be the best."""

from __future__ import annotations

import math
from functools import cache
from statistics import NormalDist

from secateur.run.score import Values, doublings

ERROR_RATE = 0.05
"""At most this share of the candidates that are exactly as good as the best is stopped before the end; of those
that are better, fewer."""


def hopeless(values: Values, rival: Values | None) -> bool:
    """Whether a candidate is significantly worse than the rival on the examples it has seen.

    Both are compared on each example (a paired test): most of what makes an example hard is common to both,
    so that a few hundred tell what independent samples would need thousands for.
    """
    if rival is None:
        return False
    difference = rival[: len(values)] - values
    error = float(difference.std()) / math.sqrt(max(len(values), 1))
    looks = max(len(doublings(len(rival))) - 1, 1)
    return error > 0 and float(difference.mean()) > _behind(looks) * error


@cache
def _behind(looks: int) -> float:
    """How many standard errors behind is hopeless, where a candidate is looked at so often on its way."""
    return NormalDist().inv_cdf(1 - ERROR_RATE / looks)


def expected(values: Values, rival: Values) -> float:
    """The whole score to expect of a candidate that was stopped: the rival's, less what it was behind."""
    return float(rival.mean()) - float((rival[: len(values)] - values).mean())

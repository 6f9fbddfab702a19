"""Racing: stop scoring a candidate as soon as it can no longer be the best."""

from __future__ import annotations

import math

from secateur.plan import Outcome

SIGMAS = 4.0
"""How many standard errors behind is hopeless: at most one wrong stop in 30,000 looks."""


def hopeless(score: float, examples: int, stage: int, rival: Outcome | None) -> bool:
    """Whether a candidate with `score` over `examples` is far behind the rival on the same examples.

    Scores are means over examples of values in [0, 1]. The error of their difference is taken as if the two
    were independent; being paired they agree more than that, so the true error rate is below the stated one.
    """
    if rival is None or stage >= len(rival.stages):
        return False
    theirs = rival.stages[stage]
    variance = score * (1 - score) + theirs * (1 - theirs)
    return theirs - score > SIGMAS * math.sqrt(variance / examples)

"""What a search on one network teaches about another: which kind of site matters more than its loss curve says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file

from secateur.errors import StudyError
from secateur.search.episode import FEATURES, site_facts
from secateur.search.searcher import State
from secateur.search.space import SearchSpace

Array = npt.NDArray[np.float64]

NEAR = 0.1
"""Distance, in features scaled to [0, 1], within which sites of two networks speak for each other."""


def lessons(space: SearchSpace, weights: Array) -> State:
    """Facts of each site [sites, 11] and the weights learnt for them [sites], as part of a searcher's state."""
    return {"lessons.facts": site_facts(space), "lessons.weights": weights}


def prior_weights(space: SearchSpace, place: str | Path | None) -> Array | None:
    """Weights [sites] for a new space, from the searcher.safetensors that a search on another network left.

    Each is the geometric mean of the weights learnt on sites like it, the nearer the more. Raises StudyError
    where the file cannot be read or holds no lessons.
    """
    if place is None:
        return None
    try:
        state: dict[str, npt.NDArray[Any]] = load_file(place)
        facts, weights = state["lessons.facts"], state["lessons.weights"]
    except (OSError, SafetensorError, KeyError) as error:
        raise StudyError(
            f"{place} holds no lessons of a search ({error}); give a run's searcher.safetensors"
        ) from error
    if facts.ndim != 2 or facts.shape[1] != len(FEATURES) or len(facts) != len(weights) or not (weights > 0).all():
        raise StudyError(f"{place} holds lessons of another form; give the searcher.safetensors of a newer run")
    distance = ((site_facts(space)[:, None] - facts[None]) ** 2).sum(2)
    logarithms = -distance / (2 * NEAR**2)
    nearness = np.exp(logarithms - logarithms.max(1, keepdims=True))
    mean = (nearness @ np.log(weights)) / nearness.sum(1)
    return np.asarray(np.exp(mean - mean.mean()), dtype=np.float64)


def load_state(place: str | Path) -> State:
    """A searcher's state from the searcher.safetensors of a run. Raises StudyError where it cannot be read."""
    try:
        state: dict[str, npt.NDArray[Any]] = load_file(place)
    except (OSError, SafetensorError) as error:
        raise StudyError(
            f"{place} holds no lessons of a search ({error}); give a run's searcher.safetensors"
        ) from error
    return state

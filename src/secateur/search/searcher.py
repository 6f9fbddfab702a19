"""The contract between a study and whatever proposes plans."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from secateur.plan import Plan
from secateur.search.space import SearchSpace

State = Mapping[str, npt.NDArray[Any]]
"""All that a searcher knows, as named arrays: it can be written without pickle."""


class Searcher(Protocol):
    """Proposes plans that meet the budget, and learns from rewards.

    Several plans may be asked for before their rewards are told; they are told in the order of asking.
    `reward` is None where the evaluation failed. After `restore(state())` a fresh searcher of the same
    settings and space goes on exactly as the old one would have.
    """

    def ask(self) -> Plan:
        """The next plan to try."""

    def tell(self, plan: Plan, reward: float | None) -> None:
        """What a plan was worth."""

    def state(self) -> State:
        """Everything learnt, with the state of the random numbers."""

    def restore(self, state: State) -> None:
        """Become what `state` was taken from."""


@runtime_checkable
class Conditioned(Searcher, Protocol):
    """A searcher that serves a range of budgets: its plans spread over the range, and it has an answer for each."""

    def propose(self, limit: float) -> Plan:
        """The plan it believes best at this limit, in the metric's own unit; nothing is learnt or drawn."""


class Strategy(Protocol):
    """The settings of a searcher: a frozen dataclass whose fields are the keys of a job file."""

    @property
    def seed(self) -> int:
        """What the random numbers begin with."""

    def start(self, space: SearchSpace) -> Searcher:
        """A fresh searcher over a space."""


def random_state(rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """The state of a generator as bytes of JSON."""
    return np.frombuffer(json.dumps(rng.bit_generator.state).encode(), dtype=np.uint8).copy()


def restore_random(rng: np.random.Generator, saved: npt.NDArray[Any]) -> None:
    """Set a generator to a saved state."""
    rng.bit_generator.state = json.loads(saved.astype(np.uint8).tobytes().decode())

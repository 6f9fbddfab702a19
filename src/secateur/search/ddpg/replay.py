"""The last episodes, as transitions to learn from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from secateur.search.searcher import State

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class EpisodeRecord:
    """One walk: states [sites, features], actions [sites], units kept [sites], and the reward of each step [sites]."""

    states: Array
    actions: Array
    counts: npt.NDArray[np.int64]
    rewards: Array


@dataclass(frozen=True)
class Batch:
    """Transitions: state_t [B, F], action_t [B], reward_t [B], state_tp1 [B, F], going_on [B] (0 at the end)."""

    state_t: Tensor
    action_t: Tensor
    reward_t: Tensor
    state_tp1: Tensor
    going_on: Tensor


class Replay:
    """A ring of whole episodes: the oldest is forgotten when it is full."""

    def __init__(self, episodes: int, sites: int, features: int) -> None:
        self.states: Array = np.zeros((episodes, sites, features), dtype=np.float32)
        self.actions: Array = np.zeros((episodes, sites), dtype=np.float32)
        self.counts: npt.NDArray[np.int64] = np.zeros((episodes, sites), dtype=np.int64)
        self.rewards: Array = np.zeros((episodes, sites), dtype=np.float32)
        self.added = 0

    def __len__(self) -> int:
        return min(self.added, len(self.rewards))

    def add(self, record: EpisodeRecord) -> None:
        """Remember an episode."""
        place = self.added % len(self.rewards)
        self.states[place] = record.states
        self.actions[place] = record.actions
        self.counts[place] = record.counts
        self.rewards[place] = record.rewards
        self.added += 1

    def sample(self, size: int, rng: np.random.Generator) -> Batch:
        """Draw transitions uniformly."""
        sites = self.actions.shape[1]
        episode, t = np.divmod(rng.integers(len(self) * sites, size=size), sites)
        return Batch(
            torch.from_numpy(self.states[episode, t]),
            torch.from_numpy(self.actions[episode, t]),
            torch.from_numpy(self.rewards[episode, t]),
            torch.from_numpy(self.states[episode, np.minimum(t + 1, sites - 1)]),
            torch.from_numpy((t + 1 < sites).astype(np.float32)),
        )

    def state(self) -> State:
        """All episodes, where they lie in the ring, and how many there ever were."""
        return {name: array[: len(self)].copy() for name, array in self._rings().items()} | {
            "added": np.array([self.added])
        }

    def restore(self, state: dict[str, npt.NDArray[Any]]) -> None:
        """Become what `state` was taken from."""
        self.added = int(state["added"][0])
        for name, ring in self._rings().items():
            ring[: len(self)] = state[name]

    def _rings(self) -> dict[str, npt.NDArray[Any]]:
        return {"states": self.states, "actions": self.actions, "counts": self.counts, "rewards": self.rewards}

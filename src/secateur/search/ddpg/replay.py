"""The last episodes, as transitions to learn from."""

from __future__ import annotations

from collections import deque
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
    """One walk: states [sites, features], actions [sites], and the reward that every step shares."""

    states: Array
    actions: Array
    reward: float


@dataclass(frozen=True)
class Batch:
    """Transitions: state_t [B, F], action_t [B], reward_t [B], state_tp1 [B, F], going_on [B] (0 at the end)."""

    state_t: Tensor
    action_t: Tensor
    reward_t: Tensor
    state_tp1: Tensor
    going_on: Tensor


class Replay:
    """A ring of whole episodes."""

    def __init__(self, episodes: int) -> None:
        self.records: deque[EpisodeRecord] = deque(maxlen=episodes)

    def add(self, record: EpisodeRecord) -> None:
        """Remember an episode, forgetting the oldest when full."""
        self.records.append(record)

    def sample(self, size: int, rng: np.random.Generator) -> Batch:
        """Draw transitions uniformly."""
        sites = len(self.records[0].actions)
        picks = rng.integers(len(self.records) * sites, size=size)
        chosen = [(self.records[pick // sites], int(pick % sites)) for pick in picks]
        state_tp1 = np.stack([record.states[min(t + 1, sites - 1)] for record, t in chosen])
        return Batch(
            torch.from_numpy(np.stack([record.states[t] for record, t in chosen])),
            torch.tensor([float(record.actions[t]) for record, t in chosen]),
            torch.tensor([record.reward for record, _ in chosen]),
            torch.from_numpy(state_tp1),
            torch.tensor([float(t + 1 < sites) for _, t in chosen]),
        )

    def state(self) -> State:
        """All episodes, stacked."""
        if not self.records:
            return {}
        return {
            "states": np.stack([record.states for record in self.records]),
            "actions": np.stack([record.actions for record in self.records]),
            "rewards": np.array([record.reward for record in self.records]),
        }

    def restore(self, state: dict[str, npt.NDArray[Any]]) -> None:
        """Become what `state` was taken from."""
        self.records.clear()
        if state:
            for states, actions, reward in zip(state["states"], state["actions"], state["rewards"], strict=True):
                self.records.append(EpisodeRecord(states, actions, float(reward)))

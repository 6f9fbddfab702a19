"""Actor and critic with their targets and optimisers: deep deterministic policy gradient (Lillicrap et al., 2016)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from secateur.search.ddpg.networks import Actor, Critic
from secateur.search.ddpg.replay import Batch
from secateur.search.searcher import State

Array = npt.NDArray[np.float32]


class Rates(Protocol):
    """What a learner has to be told; the settings of the agent have it all."""

    @property
    def seed(self) -> int:
        """Of the first weights."""

    @property
    def hidden(self) -> int:
        """Units of each of the two hidden layers."""

    @property
    def actor_lr(self) -> float:
        """Learning rate of the actor."""

    @property
    def critic_lr(self) -> float:
        """Learning rate of the critic."""

    @property
    def tau(self) -> float:
        """How far targets follow at each update."""

    @property
    def discount(self) -> float:
        """Of the value of the next state."""


class Learner:
    """One policy, learnt from transitions."""

    def __init__(self, features: int, rates: Rates, advised: bool = False) -> None:
        self.rates = rates
        generator = torch.Generator().manual_seed(rates.seed)
        self.actor = Actor(features, rates.hidden, generator, advised)
        self.critic = Critic(features, rates.hidden, generator)
        self.actor_target = copy.deepcopy(self.actor)
        self.critic_target = copy.deepcopy(self.critic)
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), rates.actor_lr)
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), rates.critic_lr)
        self.baseline = 0.0
        self.spread = 0.0

    def act(self, states: Sequence[Array]) -> list[float]:
        """The actor's answers in these states."""
        with torch.no_grad():
            actions: list[float] = self.actor(torch.from_numpy(np.stack(states))).tolist()
        return actions

    def update(self, batch: Batch) -> None:
        """One step of both networks; the reward is taken against a moving-average baseline."""
        mean, std = float(batch.reward_t.mean()), float(batch.reward_t.std())
        first = self.spread == 0.0
        self.baseline = mean if first else 0.5 * (self.baseline + mean)
        self.spread = max(std if first else 0.5 * (self.spread + std), 1e-8)
        advantage = (batch.reward_t - self.baseline) / self.spread
        with torch.no_grad():
            action_tp1 = self.actor_target(batch.state_tp1)
            value_tp1 = self.critic_target(batch.state_tp1, action_tp1)
            target = advantage + self.rates.discount * batch.going_on * value_tp1
        loss = nn.functional.mse_loss(self.critic(batch.state_t, batch.action_t), target)
        _descend(self.critic_optimizer, loss)
        _descend(self.actor_optimizer, -self.critic(batch.state_t, self.actor(batch.state_t)).mean())
        _follow(self.actor_target, self.actor, self.rates.tau)
        _follow(self.critic_target, self.critic, self.rates.tau)

    def state(self) -> State:
        """Networks, optimisers and the baseline as arrays."""
        arrays: dict[str, npt.NDArray[Any]] = {"baseline": np.array([self.baseline, self.spread], dtype=np.float64)}
        for name, part in self._parts().items():
            arrays |= {f"{name}.{key}": tensor.numpy().copy() for key, tensor in part.items()}
        return arrays

    def restore(self, state: State) -> None:
        """Become what `state` was taken from."""
        self.baseline, self.spread = (float(x) for x in state["baseline"])
        self.adopt(state)
        for name in ("actor", "critic"):
            _restore_adam(getattr(self, f"{name}_optimizer"), under(f"{name}_optimizer", state))

    def adopt(self, state: State) -> None:
        """Take over the networks alone. Raises RuntimeError where they are of another size."""
        for name in ("actor", "critic", "actor_target", "critic_target"):
            loaded = {key: torch.from_numpy(array.copy()) for key, array in under(name, state).items()}
            getattr(self, name).load_state_dict(loaded)

    def _parts(self) -> dict[str, dict[str, torch.Tensor]]:
        parts = {
            name: dict(getattr(self, name).state_dict())
            for name in ("actor", "critic", "actor_target", "critic_target")
        }
        for name in ("actor_optimizer", "critic_optimizer"):
            memory = getattr(self, name).state_dict()["state"]
            parts[name] = {f"{i}.{key}": value for i, slot in memory.items() for key, value in slot.items()}
        return parts


def under(prefix: str, state: State) -> dict[str, npt.NDArray[Any]]:
    """The arrays of one part, without its prefix."""
    return {name[len(prefix) + 1 :]: array for name, array in state.items() if name.startswith(prefix + ".")}


def _descend(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _follow(target: nn.Module, trained: nn.Module, tau: float) -> None:
    with torch.no_grad():
        for slow, fast in zip(target.parameters(), trained.parameters(), strict=True):
            slow.lerp_(fast, tau)


def _restore_adam(optimizer: torch.optim.Optimizer, arrays: dict[str, npt.NDArray[Any]]) -> None:
    memory: dict[int, dict[str, torch.Tensor]] = {}
    for name, array in arrays.items():
        number, key = name.split(".", 1)
        memory.setdefault(int(number), {})[key] = torch.from_numpy(np.array(array))
    optimizer.load_state_dict({"state": memory, "param_groups": optimizer.state_dict()["param_groups"]})

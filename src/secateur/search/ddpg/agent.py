"""Deep deterministic policy gradient over the layers of a network (AMC, sections 3.3 and 4)."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from secateur.plan import Plan
from secateur.search.baselines import RULES, random_keeps
from secateur.search.ddpg.networks import Actor, Critic
from secateur.search.ddpg.replay import Batch, EpisodeRecord, Replay
from secateur.search.episode import FEATURES, Episode
from secateur.search.searcher import Searcher, State, random_state, restore_random
from secateur.search.space import SearchSpace
from secateur.threads import torch_threads


@dataclass(frozen=True)
class DDPG:
    """The paper's agent. Defaults are the paper's where it gives them."""

    seed: int = 0
    warmup: int = 100
    """Episodes that act at random; the first three of them are the hand-made rules."""
    sigma: float = 0.5
    """Spread of the truncated normal noise on actions after warm-up."""
    sigma_decay: float = 0.95
    """Factor on sigma after every episode that follows warm-up."""
    hidden: int = 300
    actor_lr: float = 1e-4
    critic_lr: float = 1e-3
    tau: float = 0.01
    """How far target networks move towards the trained ones at each update."""
    discount: float = 1.0
    batch: int = 64
    replay: int = 100
    """Episodes remembered."""
    updates: int = 1
    """Gradient updates for each site of an episode."""

    def start(self, space: SearchSpace) -> Searcher:
        """A fresh agent over a space."""
        return Agent(space, self)


class Agent:
    """Walks the sites, and learns one policy for all of them from the reward at the end."""

    def __init__(self, space: SearchSpace, settings: DDPG) -> None:
        self.space = space
        self.settings = settings
        self.episode = Episode(space)
        self.rng = np.random.default_rng(settings.seed)
        generator = torch.Generator().manual_seed(settings.seed)
        self.actor = Actor(len(FEATURES), settings.hidden, generator)
        self.critic = Critic(len(FEATURES), settings.hidden, generator)
        self.actor_target = copy.deepcopy(self.actor)
        self.critic_target = copy.deepcopy(self.critic)
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), settings.actor_lr)
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), settings.critic_lr)
        self.replay = Replay(settings.replay)
        self.asked = 0
        self.baseline = 0.0
        self.spread = 0.0

    @property
    def sigma(self) -> float:
        """Spread of the noise on the next episode's actions."""
        return self.settings.sigma * self.settings.sigma_decay ** max(0, self.asked - self.settings.warmup)

    def ask(self) -> Plan:
        """Walk the sites once; each action is limited to what the budget still allows."""
        number = self.asked
        self.asked += 1
        if number < self.settings.warmup:
            if number < len(RULES):
                return self.space.fit([*RULES.values()][number](len(self.space.sites)))
            return self.space.fit(random_keeps(self.space, self.rng))
        state_t = self.episode.reset()
        while not self.episode.done:
            with torch.no_grad():
                action = float(self.actor(torch.from_numpy(state_t)[None])[0])
            state_t = self.episode.step(self._explore(action))
        return self.space.fit(self.episode.keeps)

    def _explore(self, action: float) -> float:
        """Truncated normal noise around the action, within what the site allows."""
        low, high = self.episode.least, self.episode.most
        for _ in range(20):
            noisy = self.rng.normal(action, self.sigma)
            if low <= noisy <= high:
                return float(noisy)
        return float(np.clip(action, low, high))

    def tell(self, plan: Plan, reward: float | None) -> None:
        """Remember the walk that leads to `plan`, and learn once warm-up is over."""
        if reward is None:
            return
        states = self.episode.states_of(plan)
        actions = np.array([plan[site.key] for site in self.space.sites], dtype=np.float32)
        self.replay.add(EpisodeRecord(states, actions, reward))
        if self.asked > self.settings.warmup:
            with torch_threads(1):
                for _ in range(self.settings.updates * len(self.space.sites)):
                    self._update(self.replay.sample(self.settings.batch, self.rng))

    def _update(self, batch: Batch) -> None:
        """One step of both networks; the reward is taken against a moving-average baseline."""
        mean, std = float(batch.reward_t.mean()), float(batch.reward_t.std())
        first = self.spread == 0.0
        self.baseline = mean if first else 0.5 * (self.baseline + mean)
        self.spread = max(std if first else 0.5 * (self.spread + std), 1e-8)
        advantage = (batch.reward_t - self.baseline) / self.spread
        with torch.no_grad():
            action_tp1 = self.actor_target(batch.state_tp1)
            value_tp1 = self.critic_target(batch.state_tp1, action_tp1)
            target = advantage + self.settings.discount * batch.going_on * value_tp1
        loss = nn.functional.mse_loss(self.critic(batch.state_t, batch.action_t), target)
        _descend(self.critic_optimizer, loss)
        _descend(self.actor_optimizer, -self.critic(batch.state_t, self.actor(batch.state_t)).mean())
        _follow(self.actor_target, self.actor, self.settings.tau)
        _follow(self.critic_target, self.critic, self.settings.tau)

    def state(self) -> State:
        """Networks, optimisers, replay and random numbers as arrays."""
        arrays: dict[str, npt.NDArray[Any]] = {
            "random": random_state(self.rng),
            "progress": np.array([self.asked, self.baseline, self.spread], dtype=np.float64),
        }
        arrays |= {f"replay.{name}": array for name, array in self.replay.state().items()}
        for name, part in self._parts().items():
            arrays |= {f"{name}.{key}": tensor.numpy().copy() for key, tensor in part.items()}
        return arrays

    def restore(self, state: State) -> None:
        """Become what `state` was taken from."""
        restore_random(self.rng, state["random"])
        asked, self.baseline, self.spread = (float(x) for x in state["progress"])
        self.asked = int(asked)
        self.replay.restore(_under("replay", state))
        for name in ("actor", "critic"):
            for network in (name, f"{name}_target"):
                loaded = {key: torch.from_numpy(array.copy()) for key, array in _under(network, state).items()}
                getattr(self, network).load_state_dict(loaded)
            _restore_adam(getattr(self, f"{name}_optimizer"), _under(f"{name}_optimizer", state))

    def _parts(self) -> dict[str, dict[str, torch.Tensor]]:
        parts = {
            name: dict(getattr(self, name).state_dict())
            for name in ("actor", "critic", "actor_target", "critic_target")
        }
        for name in ("actor_optimizer", "critic_optimizer"):
            memory = getattr(self, name).state_dict()["state"]
            parts[name] = {f"{i}.{key}": value for i, slot in memory.items() for key, value in slot.items()}
        return parts


def _descend(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _follow(target: nn.Module, trained: nn.Module, tau: float) -> None:
    with torch.no_grad():
        for slow, fast in zip(target.parameters(), trained.parameters(), strict=True):
            slow.lerp_(fast, tau)


def _under(prefix: str, state: State) -> dict[str, npt.NDArray[Any]]:
    return {name[len(prefix) + 1 :]: array for name, array in state.items() if name.startswith(prefix + ".")}


def _restore_adam(optimizer: torch.optim.Optimizer, arrays: dict[str, npt.NDArray[Any]]) -> None:
    memory: dict[int, dict[str, torch.Tensor]] = {}
    for name, array in arrays.items():
        number, key = name.split(".", 1)
        memory.setdefault(int(number), {})[key] = torch.from_numpy(np.array(array))
    optimizer.load_state_dict({"state": memory, "param_groups": optimizer.state_dict()["param_groups"]})

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
from secateur.search.surrogate import Surrogate, as_rows
from secateur.threads import torch_threads


@dataclass(frozen=True)
class DDPG:
    """The agent of the paper, and what makes it need fewer rewards; `DDPG.paper()` is the paper's own."""

    seed: int = 0
    warmup: int = 5
    """Episodes that act at random; the first three of them are the hand-made rules."""
    sigma: float = 0.25
    """Spread of the truncated normal noise on actions after warm-up."""
    sigma_decay: float = 0.98
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
    rehearsal: int = 16
    """Walks imagined for every real one: the agent learns on what the loss curves, corrected by all rewards so
    far, say of them, and tries the most promising of as many walks. 0: it learns from real rewards alone."""
    memory: int = 1000
    """Imagined walks remembered."""

    @classmethod
    def paper(cls, seed: int = 0, warmup: int = 100) -> DDPG:
        """The settings of the paper: no rehearsal, more noise."""
        return cls(seed=seed, warmup=warmup, sigma=0.5, sigma_decay=0.95, rehearsal=0)

    def start(self, space: SearchSpace) -> Searcher:
        """A fresh agent over a space."""
        return Agent(space, self)


@dataclass(frozen=True, eq=False)
class _Walk:
    plan: Plan
    record: EpisodeRecord


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
        sites = len(space.sites)
        self.replay = Replay(settings.replay, sites, len(FEATURES))
        self.imagined = Replay(settings.memory, sites, len(FEATURES))
        self.told: list[tuple[dict[str, int], float]] = []
        self.surrogate = Surrogate(space)
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
        if not self.settings.rehearsal:
            return self._walk(1)[0].plan
        walks = self._walk(self.settings.rehearsal)
        counts = as_rows([self.space.counts(walk.plan) for walk in walks])
        return walks[int(np.argmax(self.surrogate.draw(counts, self.rng)))].plan

    def _walk(self, number: int) -> list[_Walk]:
        """Noisy walks side by side, each fitted to the budget."""
        episodes = [copy.copy(self.episode) for _ in range(number)]
        state_t = np.stack([episode.reset() for episode in episodes])
        while not episodes[0].done:
            with torch.no_grad():
                actions = self.actor(torch.from_numpy(state_t)).tolist()
            pairs = zip(episodes, actions, strict=True)
            state_t = np.stack([episode.step(self._explore(episode, action)) for episode, action in pairs])
        return [self._remembered(self.space.fit(episode.keeps)) for episode in episodes]

    def _remembered(self, plan: Plan, reward: float = 0.0) -> _Walk:
        """The walk that leads to a plan."""
        states = self.episode.states_of(plan)
        actions = np.array([plan[site.key] for site in self.space.sites], dtype=np.float32)
        counts = np.array([*self.space.counts(plan).values()])
        return _Walk(plan, EpisodeRecord(states, actions, counts, np.full_like(actions, reward)))

    def _explore(self, episode: Episode, action: float) -> float:
        """Truncated normal noise around the action, within what the site allows."""
        low, high = episode.least, episode.most
        for _ in range(20):
            noisy = self.rng.normal(action, self.sigma)
            if low <= noisy <= high:
                return float(noisy)
        return float(np.clip(action, low, high))

    def tell(self, plan: Plan, reward: float | None) -> None:
        """Remember the walk that leads to `plan`, and learn once warm-up is over."""
        if reward is None:
            return
        record = self._remembered(plan, reward).record
        self.replay.add(record)
        if self.settings.rehearsal:
            self.told.append((self.space.counts(plan), reward))
            self._rehearse(record)
        if self.asked > self.settings.warmup or self.settings.rehearsal:
            replay = self.imagined if self.settings.rehearsal else self.replay
            with torch_threads(1):
                for _ in range(self.settings.updates * len(self.space.sites)):
                    self._update(replay.sample(self.settings.batch, self.rng))

    def _rehearse(self, record: EpisodeRecord) -> None:
        """Correct the surrogate by what is known now, and walk on it."""
        self._learn()
        self.imagined.add(record)
        for walk in self._walk(self.settings.rehearsal):
            self.imagined.add(walk.record)
        counts = self.imagined.counts[: len(self.imagined)]
        self.imagined.rewards[: len(counts)] = self.surrogate.predict(counts)[0][:, None]

    def _learn(self) -> None:
        plans, rewards = zip(*self.told, strict=True)
        self.surrogate.fit(as_rows(plans), np.array(rewards))

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
        if self.told:
            plans, rewards = zip(*self.told, strict=True)
            arrays |= {"told.plans": as_rows(plans), "told.rewards": np.array(rewards)}
        for name, replay in self._replays().items():
            arrays |= {f"{name}.{key}": array for key, array in replay.state().items()}
        for name, part in self._parts().items():
            arrays |= {f"{name}.{key}": tensor.numpy().copy() for key, tensor in part.items()}
        return arrays

    def restore(self, state: State) -> None:
        """Become what `state` was taken from."""
        restore_random(self.rng, state["random"])
        asked, self.baseline, self.spread = (float(x) for x in state["progress"])
        self.asked = int(asked)
        for name, replay in self._replays().items():
            replay.restore(_under(name, state))
        told = _under("told", state)
        if told:
            keys = [site.key for site in self.space.sites]
            plans = [dict(zip(keys, map(int, row), strict=True)) for row in told["plans"]]
            self.told = [(plan, float(reward)) for plan, reward in zip(plans, told["rewards"], strict=True)]
            self._learn()
        for name in ("actor", "critic"):
            for network in (name, f"{name}_target"):
                loaded = {key: torch.from_numpy(array.copy()) for key, array in _under(network, state).items()}
                getattr(self, network).load_state_dict(loaded)
            _restore_adam(getattr(self, f"{name}_optimizer"), _under(f"{name}_optimizer", state))

    def _replays(self) -> dict[str, Replay]:
        return {"replay": self.replay, "imagined": self.imagined}

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

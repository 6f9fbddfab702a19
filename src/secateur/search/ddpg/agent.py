"""Deep deterministic policy gradient over the layers of a network (AMC, sections 3.3 and 4)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from secateur.errors import StudyError
from secateur.plan import Plan
from secateur.search.baselines import random_keeps, rule_plan
from secateur.search.belief import Belief
from secateur.search.ddpg.learner import Array, Learner, under
from secateur.search.ddpg.replay import EpisodeRecord, Replay
from secateur.search.episode import FEATURES, Episode
from secateur.search.searcher import Searcher, State, random_state, restore_random
from secateur.search.space import SearchSpace
from secateur.search.surrogate import as_rows
from secateur.search.transfer import load_state
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
    prior: str | None = None
    """A searcher.safetensors that an agent left on another network: begin with its policy and what it learnt."""

    @classmethod
    def paper(cls, seed: int = 0, warmup: int = 100) -> DDPG:
        """The settings of the paper: no rehearsal, more noise."""
        return cls(seed=seed, warmup=warmup, sigma=0.5, sigma_decay=0.95, rehearsal=0)

    def start(self, space: SearchSpace) -> Searcher:
        """A fresh agent over a space."""
        return Agent(space, self)


class Agent:
    """Walks the sites, and learns one policy for all of them from the reward at the end.

    Where a range of budgets is searched, a twelfth feature tells the limit of the walk, as a fraction of the dense
    cost; so one policy serves the whole range.
    """

    def __init__(self, space: SearchSpace, settings: DDPG) -> None:
        self.space = space
        self.settings = settings
        self.rng = np.random.default_rng(settings.seed)
        features, sites = len(FEATURES) + space.budget.is_range, len(space.sites)
        self.learner = Learner(features, settings)
        self.replay = Replay(settings.replay, sites, features)
        self.imagined = Replay(settings.memory, sites, features)
        self.belief = Belief(space, settings.prior)
        self.asked = 0
        if settings.prior is not None:
            self._adopt(settings.prior)

    def _adopt(self, prior: str) -> None:
        try:
            self.learner.adopt(load_state(prior))
        except RuntimeError as error:
            raise StudyError(
                f"{prior} holds no agent of this form; it must have the same `hidden`, and both or "
                "neither a range of budgets"
            ) from error

    @property
    def sigma(self) -> float:
        """Spread of the noise on the next episode's actions."""
        return self.settings.sigma * self.settings.sigma_decay ** max(0, self.asked - self.settings.warmup)

    def ask(self) -> Plan:
        """Walk the sites once; each action is limited to what the budget still allows."""
        number, limit = self.asked, self.space.limit_of(self.asked)
        self.asked += 1
        if number < self.settings.warmup:
            rule = rule_plan(self.space, number, limit)
            return rule or self.space.fit(random_keeps(self.space, self.rng), limit)
        walks = self._walk([limit] * max(self.settings.rehearsal, 1), self.rng, self.sigma)
        if not self.settings.rehearsal:
            return walks[0]
        counts = as_rows([self.space.counts(walk) for walk in walks])
        return walks[int(np.argmax(self.belief.surrogate.draw(counts, self.rng)))]

    def propose(self, limit: float) -> Plan:
        """Of the policy's own walk to this limit and some near it, the one the surrogate believes in."""
        rng = np.random.default_rng([self.settings.seed, self.asked])
        still, near = self._walk([limit], rng, 0.0), self._walk([limit] * 2 * self.settings.rehearsal, rng, 0.1)
        mean, _ = self.belief.surrogate.predict(as_rows([self.space.counts(walk) for walk in still + near]))
        return (still + near)[int(np.argmax(mean)) if self.settings.rehearsal else 0]

    def _walk(self, limits: list[float], rng: np.random.Generator, sigma: float) -> list[Plan]:
        """Walks side by side, each to a limit of its own, and each fitted to it."""
        episodes = [Episode(self.space, limit) for limit in limits]
        states = [self._seen(episode.reset(), limit) for episode, limit in zip(episodes, limits, strict=True)]
        while not episodes[0].done:
            for number, action in enumerate(self.learner.act(states)):
                episode = episodes[number]
                states[number] = self._seen(episode.step(_noisy(episode, action, rng, sigma)), limits[number])
        return [self.space.fit(one.keeps, limit) for one, limit in zip(episodes, limits, strict=True)]

    def _seen(self, state: Array, limit: float) -> Array:
        """A state as the networks see it."""
        if not self.space.budget.is_range:
            return state
        return np.append(state, np.float32(limit / self.space.cost.dense))

    def _record(self, plan: Plan, reward: float = 0.0) -> EpisodeRecord:
        """The walk that leads to a plan; it is taken to have been told to cost what it costs."""
        counts = self.space.counts(plan)
        limit = self.space.cost(counts)
        states = np.stack([self._seen(state, limit) for state in Episode(self.space).states_of(plan)])
        actions = np.array([plan[site.key] for site in self.space.sites], dtype=np.float32)
        return EpisodeRecord(states, actions, np.array([*counts.values()]), np.full_like(actions, reward))

    def tell(self, plan: Plan, reward: float | None) -> None:
        """Remember the walk that leads to `plan`, and learn."""
        if reward is None:
            return
        record = self._record(plan, reward)
        self.replay.add(record)
        if self.settings.rehearsal:
            self.belief.learn(plan, reward)
            self._rehearse(record)
            self._update(self.imagined)
        elif self.asked > self.settings.warmup:
            self._update(self.replay)

    def _rehearse(self, record: EpisodeRecord) -> None:
        """Walk on the surrogate, and pay all imagined walks by what is believed of them now."""
        self.imagined.add(record)
        limits = [self.space.limit_of(self.asked + number) for number in range(self.settings.rehearsal)]
        for walk in self._walk(limits, self.rng, self.sigma):
            self.imagined.add(self._record(walk))
        counts = self.imagined.counts[: len(self.imagined)]
        mean, _ = self.belief.surrogate.predict(counts)
        self.imagined.rewards[: len(counts)] = mean[:, None]

    def _update(self, replay: Replay) -> None:
        with torch_threads(1):
            for _ in range(self.settings.updates * len(self.space.sites)):
                self.learner.update(replay.sample(self.settings.batch, self.rng))

    def state(self) -> State:
        """Networks, optimisers, replays, all that was told, and random numbers, as arrays."""
        arrays = {"random": random_state(self.rng), "asked": np.array([self.asked])}
        for name, replay in self._replays().items():
            arrays |= {f"{name}.{key}": array for key, array in replay.state().items()}
        return {**arrays, **self.belief.state(), **self.learner.state()}

    def restore(self, state: State) -> None:
        """Become what `state` was taken from."""
        restore_random(self.rng, state["random"])
        self.asked = int(state["asked"][0])
        for name, replay in self._replays().items():
            replay.restore(under(name, state))
        self.belief.restore(state)
        self.learner.restore(state)

    def _replays(self) -> dict[str, Replay]:
        return {"replay": self.replay, "imagined": self.imagined}


def _noisy(episode: Episode, action: float, rng: np.random.Generator, sigma: float) -> float:
    """Truncated normal noise around the action, within what the site allows."""
    low, high = episode.least, episode.most
    for _ in range(20 if sigma else 0):
        noisy = rng.normal(action, sigma)
        if low <= noisy <= high:
            return float(noisy)
    return float(np.clip(action, low, high))

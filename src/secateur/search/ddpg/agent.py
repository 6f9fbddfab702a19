"""Deep deterministic policy gradient over the layers of a network (AMC, sections 3.3 and 4)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from secateur.errors import StudyError
from secateur.plan import Plan
from secateur.search.baselines import random_keeps, rule_plan
from secateur.search.belief import Belief
from secateur.search.ddpg.learner import Array, Learner, under
from secateur.search.ddpg.replay import EpisodeRecord, Replay
from secateur.search.episode import FEATURES, Episode
from secateur.search.knapsack import Solver
from secateur.search.searcher import Searcher, State, random_state, restore_random
from secateur.search.space import SearchSpace
from secateur.search.surrogate import as_rows
from secateur.search.transfer import load_state


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
    noisy: int | None = 4
    """Sites of a walk, on average, whose actions are noisy; None: all. Where many are, what the policy knows of the
    others drowns: a good plan with a few sites changed tells more than one that is changed everywhere."""
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
    advice: int = 4
    """Answers of the knapsack, for likely weights of the loss curves, that walks side by side are advised by: a twelfth
    feature tells the agent what they keep at each site. 0: it sees the paper's eleven."""
    memory: int = 1000
    """Imagined walks remembered."""
    prior: str | None = None
    """A searcher.safetensors that an agent left on another network: begin with its policy and what it learnt, without
    warm-up."""

    @classmethod
    def paper(cls, seed: int = 0, warmup: int = 100) -> DDPG:
        """The settings of the paper: no rehearsal, no advice, more noise, and everywhere."""
        return cls(seed=seed, warmup=warmup, sigma=0.5, sigma_decay=0.95, noisy=None, rehearsal=0, advice=0)

    def start(self, space: SearchSpace) -> Searcher:
        """A fresh agent over a space."""
        return Agent(space, self)


class Agent:
    """Walks the sites, and learns one policy for all of them from the reward at the end.

    Where a range of budgets is searched, one more feature tells the limit of the walk, as a fraction of the dense cost;
    so one policy serves the whole range. The last feature is advice, if there is any.
    """

    def __init__(self, space: SearchSpace, settings: DDPG) -> None:
        self.space = space
        self.settings = settings
        self.warmup = 0 if settings.prior else settings.warmup
        self.rng = np.random.default_rng(settings.seed)
        features, sites = len(FEATURES) + space.budget.is_range + bool(settings.advice), len(space.sites)
        self.learner = Learner(features, settings, bool(settings.advice))
        self.solver = Solver(space)
        self.replay = Replay(settings.replay, sites, features)
        self.imagined = Replay(settings.memory, sites, features)
        self.belief = Belief(space, settings.prior)
        self.asked = 0
        if settings.prior is not None:
            self._adopt(settings.prior)

    def _adopt(self, prior: str) -> None:
        try:
            state = load_state(prior)
            if list(state.get("form", ())) != list(self._form):
                raise RuntimeError("other features")
            self.learner.adopt(state)
        except RuntimeError as error:
            raise StudyError(
                f"{prior} holds no agent of this form; it must have the same `hidden`, and both or neither "
                "a range of budgets and advice"
            ) from error

    @property
    def _form(self) -> npt.NDArray[np.int64]:
        """What is told beside the paper's features: the limit, advice."""
        return np.array([self.space.budget.is_range, bool(self.settings.advice)], dtype=np.int64)

    @property
    def sigma(self) -> float:
        """Spread of the noise on the next episode's actions."""
        return self.settings.sigma * self.settings.sigma_decay ** max(0, self.asked - self.warmup)

    def ask(self) -> Plan:
        """Walk the sites once; each action is limited to what the budget still allows."""
        number, limit = self.asked, self.space.limit_of(self.asked)
        self.asked += 1
        if number < self.warmup:
            rule = rule_plan(self.space, number, limit)
            return rule or self.space.fit(random_keeps(self.space, self.rng), limit)
        walks = self._walk([limit] * max(self.settings.rehearsal, 1), self.rng, self.sigma)
        if not self.settings.rehearsal:
            return walks[0]
        counts = as_rows([self.space.counts(walk) for walk in walks])
        return walks[int(np.argmax(self.belief.surrogate.draw(counts, self.rng)))]

    def propose(self, limit: float) -> Plan:
        """Of the policy's own walk to this limit and some near it, the one the surrogate believes in."""
        walks = self._walk([limit], None, 0.0)
        if self.settings.rehearsal:
            rng = np.random.default_rng([self.settings.seed, self.asked])
            walks += self._walk([limit] * 2 * self.settings.rehearsal, rng, 0.1)
        worth = self.belief.surrogate.expect(as_rows([self.space.counts(walk) for walk in walks]))
        return walks[int(np.argmax(worth))]

    def _walk(self, limits: list[float], rng: np.random.Generator | None, sigma: float) -> list[Plan]:
        """Walks side by side, each to a limit of its own, and each fitted to it; without `rng` by what is likeliest."""
        episodes = [Episode(self.space, limit) for limit in limits]
        told = self._told(limits, rng)
        states = [np.append(episode.reset(), told[number, 0]) for number, episode in enumerate(episodes)]
        for site in range(len(self.space.sites)):
            for number, action in enumerate(self.learner.act(states)):
                state = episodes[number].step(_noisy(episodes[number], action, self._explores(rng), sigma))
                states[number] = np.append(state, told[number, min(site + 1, len(self.space.sites) - 1)])
        return [self.space.fit(one.keeps, limit) for one, limit in zip(episodes, limits, strict=True)]

    def _explores(self, rng: np.random.Generator | None) -> np.random.Generator | None:
        """The noise of one site's action: none at most sites of a walk."""
        few = self.settings.noisy
        if rng is None or few is None or rng.random() * len(self.space.sites) < few:
            return rng
        return None

    def _told(self, limits: list[float], rng: np.random.Generator | None) -> Array:
        """What walks to these limits are told at each site beside the paper's features, [walks, sites, 0 to 2].

        Without `rng`, advice is for the weights that are most likely.
        """
        told = np.empty((len(limits), len(self.space.sites), 0), dtype=np.float32)
        if self.space.budget.is_range:
            shares = np.array(limits, dtype=np.float32) / np.float32(self.space.cost.dense)
            told = np.concatenate([told, np.broadcast_to(shares[:, None, None], (*told.shape[:2], 1))], axis=2)
        if self.settings.advice:
            told = np.concatenate([told, self._advice(limits, rng)[:, :, None]], axis=2)
        return told

    def _advice(self, limits: list[float], rng: np.random.Generator | None) -> Array:
        """The fractions that the knapsack keeps, [walks, sites]; walks take turns with a few draws of the weights."""
        surrogate, draws = self.belief.surrogate, self.settings.advice
        weights = [surrogate.sound(surrogate.mean)] if rng is None else [surrogate.sample(rng) for _ in range(draws)]
        answers: dict[tuple[int, float], list[float]] = {}
        for number, limit in enumerate(limits):
            draw = number % len(weights)
            if (draw, limit) not in answers:
                plan = self.space.plan(self.solver.solve(surrogate.weighted(weights[draw]), limit))
                answers[draw, limit] = [plan[site.key] for site in self.space.sites]
        return np.array([answers[number % len(weights), limit] for number, limit in enumerate(limits)], np.float32)

    def _records(self, plans: list[Plan], reward: float = 0.0) -> list[EpisodeRecord]:
        """The walks that lead to plans; they are taken to have been told to cost what they cost, and what is advised
        now."""
        counts, space = [self.space.counts(plan) for plan in plans], self.space
        limits = [max(space.cost(each), space.lowest) if space.budget.is_range else space.limit for each in counts]
        records = []
        for plan, kept, told in zip(plans, counts, self._told(limits, None), strict=True):
            states = np.concatenate([Episode(space).states_of(plan), told], axis=1)
            actions = np.array([plan[site.key] for site in space.sites], dtype=np.float32)
            records.append(EpisodeRecord(states, actions, np.array([*kept.values()]), np.full_like(actions, reward)))
        return records

    def tell(self, plan: Plan, reward: float | None) -> None:
        """Remember the walk that leads to `plan`, and learn."""
        if reward is None:
            return
        record = self._records([plan], reward)[0]
        self.replay.add(record)
        if self.settings.rehearsal:
            self.belief.learn(plan, reward)
            self._rehearse(record)
            self._update(self.imagined)
        elif self.asked > self.warmup:
            self._update(self.replay)

    def _rehearse(self, record: EpisodeRecord) -> None:
        """Walk on the surrogate, and pay all imagined walks by what is believed of them now."""
        self.imagined.add(record)
        limits = [self.space.limit_of(self.asked + number) for number in range(self.settings.rehearsal)]
        for imagined in self._records(self._walk(limits, self.rng, self.sigma)):
            self.imagined.add(imagined)
        counts = self.imagined.counts[: len(self.imagined)]
        self.imagined.rewards[: len(counts)] = self.belief.surrogate.expect(counts)[:, None]

    def _update(self, replay: Replay) -> None:
        for _ in range(self.settings.updates * len(self.space.sites)):
            self.learner.update(replay.sample(self.settings.batch, self.rng))

    def state(self) -> State:
        """Networks, optimisers, replays, all that was told, and random numbers, as arrays."""
        arrays = {"random": random_state(self.rng), "asked": np.array([self.asked]), "form": self._form}
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


def _noisy(episode: Episode, action: float, rng: np.random.Generator | None, sigma: float) -> float:
    """Truncated normal noise around the action, within what the site allows; none without `rng`."""
    low, high = episode.least, episode.most
    noisy = () if rng is None else rng.normal(action, sigma, size=20).tolist()
    return float(next((each for each in noisy if low <= each <= high), np.clip(action, low, high)))

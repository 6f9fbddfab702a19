"""The surrogate learns which sites matter, and the knapsack gives its best plan exactly."""

from itertools import product

import numpy as np
import pytest
import torch
from searcher_contract import space

import secateur as sc
from secateur import zoo
from secateur.search import DDPG, Bayesian, Knapsack, Random, SearchSpace, Strategy
from secateur.search.bayesian import mutant
from secateur.search.ddpg import Agent
from secateur.search.knapsack import Solver
from secateur.search.surrogate import Surrogate, as_rows

NETWORKS = ("plain", "residual")


def informed(name: str, seed: int = 0) -> SearchSpace:
    """A space whose curves fall with the count, steeply at first, in no common way."""
    here, rng = space(name, "macs", 0.5), np.random.default_rng(seed)
    curves = {}
    for site in here.sites:
        curve = np.sort(rng.exponential(1.0, site.width + 1))[::-1].cumsum()[::-1]
        curves[site.key] = (curve - curve[-1]) / curve[0]
    return here.informed(curves)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", NETWORKS)
def test_the_knapsack_is_nearly_the_best_of_all_plans(name: str, seed: int) -> None:
    here = informed(name, seed)
    losses = [here.loss(site) for site in here.sites]

    def loss(counts: dict[str, int]) -> float:
        return float(sum(curve[n] for curve, n in zip(losses, counts.values(), strict=True)))

    axes = [site.counts[:: max(1, len(site.counts) // 8)] for site in here.sites]
    plans = (dict(zip((site.key for site in here.sites), point, strict=True)) for point in product(*axes))
    best = min(loss(plan) for plan in plans if here.cost(plan) <= here.limit)
    found = Solver(here).solve(losses)
    assert here.cost(found) <= here.limit
    assert loss(found) <= 1.02 * best


def test_the_knapsack_keeps_all_where_all_fits() -> None:
    here = informed("plain")
    losses = [here.loss(site) for site in here.sites]
    assert Solver(here).solve(losses, limit=here.cost.dense) == {site.key: site.width for site in here.sites}


def random_counts(here: SearchSpace, number: int, seed: int = 0) -> np.ndarray:
    searcher = Random(seed).start(here)
    return as_rows([here.counts(searcher.ask()) for _ in range(number)])


def test_draws_do_not_hang_on_the_last_digit() -> None:
    """Fitted to the same plans in another order, sums round otherwise; what is drawn is the same all the same."""
    graph = sc.inspect(zoo.build("resnet20"), torch.zeros(1, 3, 32, 32))
    here = SearchSpace(graph, sc.Budget(macs=0.5), sc.SpaceSettings())
    here = here.informed({site.key: np.linspace(1, 0, site.width + 1) for site in here.sites})
    rows, rewards = random_counts(here, 5), np.random.default_rng(1).normal(size=5)
    drawn = []
    for order in (np.arange(5), np.arange(5)[::-1]):
        surrogate = Surrogate(here)
        surrogate.fit(rows[order], rewards[order])
        drawn.append((surrogate.sample(np.random.default_rng(2)), surrogate.draw(rows, np.random.default_rng(3))))
    for one, other in zip(*drawn, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_the_surrogate_finds_the_site_that_matters() -> None:
    here = informed("residual")
    surrogate, rng = Surrogate(here), np.random.default_rng(0)
    weights = np.ones(len(here.sites))
    weights[0] = 8.0
    told, unseen = random_counts(here, 60), random_counts(here, 60, seed=1)
    surrogate.fit(told, -np.exp(surrogate.losses(told) @ weights + rng.normal(0, 0.02, 60)))
    learnt = surrogate.mean / surrogate.mean[1:].mean()
    assert 3 < learnt[0] < 16
    mean, covariance = surrogate.predict(unseen)
    assert np.corrcoef(mean, -(surrogate.losses(unseen) @ weights))[0, 1] > 0.95
    assert (covariance.diagonal() > 0).all()


def test_the_surrogate_learns_what_no_sum_can_say() -> None:
    """Two sites that must not both be cut: the smooth part sees it, and is surest where it was told."""
    here = informed("residual")
    told, unseen = random_counts(here, 150), random_counts(here, 100, seed=1)

    def worth(counts: np.ndarray) -> np.ndarray:
        keeps = counts / np.array([site.width for site in here.sites])
        return np.asarray(-np.abs(keeps[:, 0] - keeps[:, 1]))

    surrogate = Surrogate(here)
    surrogate.fit(told, worth(told))
    mean, covariance = surrogate.predict(unseen)
    assert np.corrcoef(mean, worth(unseen))[0, 1] > 0.8
    assert surrogate.predict(told)[1].diagonal().mean() < covariance.diagonal().mean()


def test_a_site_that_never_varied_matters_as_much_as_the_others() -> None:
    """Kept whole in all plans told, it has taught nothing: that is no reason to think that cutting it is free."""
    here = informed("residual")
    surrogate, told = Surrogate(here), random_counts(here, 12)
    told[:, 0] = here.sites[0].width
    surrogate.fit(told, -surrogate.losses(told).sum(1))
    assert 0.3 < surrogate.mean[0] / surrogate.mean[1:].mean() < 3
    drawn = np.array([surrogate.sample(np.random.default_rng(seed))[0] for seed in range(20)])
    assert drawn.std() > 0.1 * drawn.mean()


def test_equal_rewards_teach_nothing() -> None:
    here = informed("plain")
    surrogate = Surrogate(here)
    surrogate.fit(random_counts(here, 10), np.zeros(10))
    assert np.isfinite(surrogate.mean).all()
    assert (surrogate.sample(np.random.default_rng(0)) > 0).all()


@pytest.mark.parametrize("seed", range(10))
def test_a_mutant_meets_the_budget_and_has_no_step_to_spare(seed: int) -> None:
    here, rng = informed("residual", seed), np.random.default_rng(seed)
    limit = rng.uniform(0.4, 0.9) * here.cost.dense
    counts = mutant(here, here.counts(Random(seed).start(here).ask()), limit, rng)
    assert here.cost(counts) <= limit
    for site in here.sites:
        more = [n for n in site.counts if n > counts[site.key]]
        assert not more or here.cost({**counts, site.key: more[0]}) > limit


@pytest.mark.parametrize("strategy", [Bayesian, Knapsack, DDPG])
def test_curves_corrected_by_rewards_beat_random_search(strategy: type[Strategy]) -> None:
    """The truth weighs the curves by factors that nobody told: both have to find them out."""

    def best(kind: type[Strategy], seed: int) -> float:
        here = informed("residual", seed)
        searcher = kind(seed=seed).start(here)  # type: ignore[call-arg]
        weights = np.exp(np.random.default_rng([seed, 1]).normal(0, 1, len(here.sites)))
        found = []
        for _ in range(40):
            plan = searcher.ask()
            counts = here.counts(plan)
            found.append(-float(sum(w * here.loss(s)[counts[s.key]] for w, s in zip(weights, here.sites, strict=True))))
            searcher.tell(plan, found[-1])
        return max(found)

    gains = [best(strategy, seed) - best(Random, seed) for seed in range(4)]
    assert np.mean(gains) > 0, gains


def test_an_agent_takes_the_knapsacks_advice_until_it_knows_better() -> None:
    here = informed("residual")
    advised, alone = DDPG(seed=0).start(here), DDPG.paper().start(here)
    assert isinstance(advised, Agent)
    assert isinstance(alone, Agent)
    wanted = here.counts(Knapsack().start(here).ask())
    (walk,) = advised._walk([here.limit], None, 0.0)
    for site in here.sites:
        at, of = site.counts.index(here.counts(walk)[site.key]), site.counts.index(wanted[site.key])
        assert abs(at - of) <= 1, (site.key, here.counts(walk), wanted)
    assert alone.learner.actor.first.in_features == 11
    assert advised.learner.actor.first.in_features == 12

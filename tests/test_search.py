"""The space, the budget, the episode and the searchers. Nothing is trained and no data is read here."""

import json
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from networks import NETWORKS, build, image, random_network
from searcher_contract import SearcherContract, play, space
from torch import nn

import secateur as sc
from secateur.cost import CountedCosts
from secateur.graph import ModelGraph, count_costs
from secateur.prune import Cutter
from secateur.search import (
    DDPG,
    FEATURES,
    Bayesian,
    Deep,
    Episode,
    Knapsack,
    Random,
    SearchSpace,
    Shallow,
    SpaceSettings,
    Strategy,
    Uniform,
    resource_constrained,
)
from secateur.search.evolution import Evolution
from secateur.search.optuna import CMAES, TPE
from secateur.search.space import default_step

METRICS = ("macs", "params", "bytes")
fractions = st.floats(0.001, 1.0)


# ---- sites -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("site", "keep", "count"),
    [
        (sc.Site("a", 16), 0.5, 8),
        (sc.Site("a", 16), 0.001, 1),
        (sc.Site("a", 16, least=3), 0.1, 3),
        (sc.Site("a", 64, step=8, least=8), 0.5, 32),
        (sc.Site("a", 64, step=8, least=8), 0.55, 32),
        (sc.Site("a", 64, step=8, least=8), 0.57, 40),
        (sc.Site("a", 64, step=8, least=8), 0.0, 8),
        (sc.Site("a", 20, step=8, least=8), 0.95, 20),  # the whole width, though no multiple of the step
        (sc.Site("a", 20, step=8, least=8), 0.89, 16),
        (sc.Site("a", 20, step=8, least=8), 1.0, 20),
        (sc.Site("a", 5, step=5, least=5), 0.2, 5),
    ],
)
def test_a_site_rounds_to_its_step(site: sc.Site, keep: float, count: int) -> None:
    assert site.count(keep) == count


@st.composite
def sites(draw: st.DrawFn) -> sc.Site:
    width = draw(st.integers(1, 300))
    return SpaceSettings(min_keep=draw(fractions), step=draw(st.integers(1, 64) | st.none())).site(
        _Group(width)  # type: ignore[arg-type]
    )


class _Group:
    """All that a site needs of a channel group."""

    def __init__(self, width: int) -> None:
        self.key, self.width = "g", width


@given(sites(), st.floats(0, 1), st.floats(0, 1))
def test_rounding_stays_among_the_counts_and_never_comes_to_nothing(site: sc.Site, one: float, other: float) -> None:
    assert 1 <= site.least <= site.width
    assert site.count(one) in site.counts
    assert site.count(min(one, other)) <= site.count(max(one, other)), "rounding turned two fractions round"
    for count in site.counts:
        assert site.count(site.keep(count)) == count


@given(st.integers(1, 300), fractions)
def test_no_site_keeps_less_than_min_keep(width: int, min_keep: float) -> None:
    site = SpaceSettings(min_keep=min_keep).site(_Group(width))  # type: ignore[arg-type]
    assert site.keep(site.least) >= min_keep * (1 - 1e-9)


@pytest.mark.parametrize(
    ("width", "step"), [(1, 1), (7, 1), (16, 1), (31, 1), (32, 2), (64, 4), (96, 4), (128, 8), (512, 8), (2048, 8)]
)
def test_the_default_step_suits_the_width(width: int, step: int) -> None:
    assert default_step(width) == step


@pytest.mark.parametrize("bad", [{"min_keep": 0.0}, {"min_keep": 1.5}, {"step": 0}, {"leave": "layer1.*"}])
def test_bad_settings_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(sc.BudgetError, match=next(iter(bad))):
        SpaceSettings(**bad)


def test_a_plan_takes_any_real_number() -> None:
    plan = sc.Plan({"a": np.float32(0.5), "b": 1})
    assert plan == sc.Plan({"a": 0.5, "b": 1})
    assert plan.digest == sc.Plan.from_json(json.loads(json.dumps(plan.to_json()))).digest
    with pytest.raises(sc.PlanError, match="a fraction in"):
        sc.Plan({"a": np.float32(1.5)})


# ---- the space -------------------------------------------------------------------------------------------------------


def test_streams_and_named_groups_are_left_alone() -> None:
    graph = sc.inspect(*build("residual"))

    def keys(settings: SpaceSettings) -> set[str]:
        return {site.key for site in SearchSpace(graph, sc.Budget(macs=0.9), settings).sites}

    inner = {"blocks.0.conv1", "blocks.1.conv1", "blocks.2.conv1"}
    assert keys(SpaceSettings()) == inner
    assert keys(SpaceSettings(streams=True)) == inner | {"stem.0", "blocks.1.conv2"}
    assert keys(SpaceSettings(leave=("blocks.0.*",))) == inner - {"blocks.0.conv1"}
    with pytest.raises(sc.TraceError, match="left alone"):
        SearchSpace(graph, sc.Budget(macs=0.9), SpaceSettings(leave=("blocks.*",)))
    with pytest.raises(sc.BudgetError, match="leave names 'layer9', and no layer or group is called so"):
        SearchSpace(graph, sc.Budget(macs=0.9), SpaceSettings(leave=("blocks.0.*", "layer9")))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("absolute", [False, True])
def test_a_budget_that_cannot_be_met_names_the_least_that_can_be(metric: str, absolute: bool) -> None:
    graph = sc.inspect(*build("plain"))
    loose = SearchSpace(graph, sc.Budget(**{metric: 1.0}), SpaceSettings(min_keep=0.5))
    least = loose.cost({site.key: site.least for site in loose.sites})
    reachable = least / (1 if absolute else loose.cost.dense)
    met = SearchSpace(graph, sc.Budget(**{metric: reachable}), SpaceSettings(min_keep=0.5))
    assert {met.counts(met.fit([0.7] * len(met.sites)))[s.key] for s in met.sites} <= {s.least for s in met.sites}
    with pytest.raises(sc.BudgetError, match=rf"cannot be met.*{least / loose.cost.dense:.1%}.*{least:,.0f} {metric}"):
        SearchSpace(graph, sc.Budget(**{metric: reachable * 0.99}), SpaceSettings(min_keep=0.5))


@cache
def random_case(seed: int) -> tuple[nn.Module, ModelGraph]:
    model = random_network(seed)
    return model, sc.inspect(model, image())


@st.composite
def spaces(draw: st.DrawFn) -> tuple[nn.Module, SearchSpace]:
    model, graph = random_case(draw(st.integers(0, 11)))
    metric = draw(st.sampled_from(METRICS))
    chosen = SpaceSettings(
        min_keep=draw(st.floats(0.01, 0.6)),
        step=draw(st.sampled_from([None, 1, 2, 5])),
        streams=draw(st.booleans()),
    )
    free = SearchSpace(graph, sc.Budget(**{metric: 1.0}), SpaceSettings(streams=True))
    assume(any(chosen.streams or not graph.group[site.key].stream for site in free.sites))
    loose = SearchSpace(graph, sc.Budget(**{metric: 1.0}), chosen)
    least = loose.cost({site.key: site.least for site in loose.sites})
    amount = least + draw(st.floats(0, 1)) * (loose.cost.dense - least)
    budget = amount if draw(st.booleans()) else min(1.0, amount / loose.cost.dense * (1 + 1e-12))
    return model, SearchSpace(graph, sc.Budget(**{metric: budget}), chosen)


def assert_affordable(model: nn.Module, here: SearchSpace, plan: sc.Plan) -> None:
    """Build the network and count: within the budget, and as the arithmetic says."""
    counts = here.counts(plan)
    for site in here.sites:
        assert site.least <= counts[site.key] <= site.width
    kept = {key: np.arange(count) for key, count in counts.items()}
    built = count_costs(Cutter(model, here.graph).cut(kept), image())
    assert built == CountedCosts(here.graph)(counts)
    assert built[here.budget.metric] <= here.limit, f"{plan} costs {built} of {here.limit} {here.budget.metric}"
    again = sc.Plan.from_json(json.loads(json.dumps(plan.to_json())))
    assert again == plan
    assert here.counts(again) == counts
    assert again.digest == plan.digest


@settings(max_examples=60, deadline=None)
@given(spaces(), st.data())
def test_no_fitted_plan_ever_exceeds_the_budget(case: tuple[nn.Module, SearchSpace], data: st.DataObject) -> None:
    model, here = case
    keeps = data.draw(st.lists(fractions, min_size=len(here.sites), max_size=len(here.sites)))
    assert_affordable(model, here, here.fit(keeps))


@settings(max_examples=60, deadline=None)
@given(spaces(), st.data())
def test_no_walk_ever_exceeds_the_budget(case: tuple[nn.Module, SearchSpace], data: st.DataObject) -> None:
    model, here = case
    episode = Episode(here)
    states = [episode.reset()]
    while not episode.done:
        assert episode.least <= episode.most
        states.append(episode.step(data.draw(st.floats(-0.5, 1.5))))
    table = np.stack(states)
    assert table.shape == (len(here.sites) + 1, 11)
    assert table.dtype == np.float32
    assert ((table >= 0) & (table <= 1)).all(), f"outside [0, 1]: {table.min(0)} to {table.max(0)}"
    plan = sc.Plan(dict(zip((site.key for site in here.sites), episode.keeps, strict=True)))
    assert_affordable(model, here, plan)
    np.testing.assert_array_equal(Episode(here).states_of(plan), table[:-1])
    assert_affordable(model, here, here.fit(episode.keeps))


@settings(max_examples=40, deadline=None)
@given(spaces(), st.data())
def test_the_ceiling_is_the_highest_count_that_leaves_the_rest_affordable(
    case: tuple[nn.Module, SearchSpace], data: st.DataObject
) -> None:
    _, here = case
    decided: dict[str, int] = {}
    episode = Episode(here)
    for number, site in enumerate(here.sites):
        rest = {later.key: later.least for later in here.sites[number + 1 :]}
        affordable = [n for n in site.counts if here.cost({**decided, **rest, site.key: n}) <= here.limit]
        assert site.count(episode.most) == max(affordable)
        decided[site.key] = data.draw(st.sampled_from(affordable))
        episode.step(site.keep(decided[site.key]))


@settings(max_examples=40, deadline=None)
@given(spaces(), st.data())
def test_a_fitted_plan_leaves_no_room_for_one_more_step_everywhere(
    case: tuple[nn.Module, SearchSpace], data: st.DataObject
) -> None:
    """The budget is used up: the whole of what is left could not raise every site by a step."""
    _, here = case
    keeps = data.draw(st.lists(fractions, min_size=len(here.sites), max_size=len(here.sites)))
    counts = here.counts(here.fit(keeps))
    more = {site.key: min([n for n in site.counts if n > counts[site.key]], default=site.width) for site in here.sites}
    assert more == counts or here.cost(more) > here.limit


def test_a_budget_of_all_keeps_all() -> None:
    graph = sc.inspect(*build("plain"))
    here = SearchSpace(graph, sc.Budget(macs=1.0))
    assert set(here.fit([0.3, 0.9, 0.1]).keeps.values()) == {1.0}


# ---- the episode -----------------------------------------------------------------------------------------------------


def tiny() -> tuple[nn.Module, ModelGraph]:
    """conv 3 -> 4 (6,912 MACs at 8 x 8), conv 4 -> 8 with stride 2 (4,608), linear 8 -> 5 (40): 11,560 in all."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 8, 3, stride=2, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )
    return model, sc.inspect(model, image())


def row(**values: float) -> np.ndarray:
    assert set(values) == set(FEATURES)
    return np.array([values[name] for name in FEATURES], dtype=np.float32)


def test_the_states_by_hand() -> None:
    _, graph = tiny()
    here = SearchSpace(graph, sc.Budget(macs=0.99))
    assert here.cost.dense == 11_560
    episode = Episode(here)
    first = row(
        t=0, n=4 / 8, c=3 / 4, h=1, w=1, stride=1 / 2, k=1, cost=6912 / 11560, reduced=0,
        rest=(4608 + 40) / 11560, a_tm1=0,
    )  # fmt: skip
    np.testing.assert_allclose(episode.reset(), first, rtol=1e-6)
    second = row(
        t=1, n=1, c=1, h=1, w=1, stride=1, k=1, cost=4608 / 11560, reduced=(6912 + 4608) / 2 / 11560,
        rest=40 / 11560, a_tm1=0.5,
    )  # fmt: skip
    np.testing.assert_allclose(episode.step(0.49), second, rtol=1e-6)
    assert not episode.done
    last = second.copy()
    last[FEATURES.index("reduced")] = 1 - (6912 / 2 + 4608 / 2 / 4 + 40 / 4) / 11560
    last[FEATURES.index("a_tm1")] = 0.25
    np.testing.assert_allclose(episode.step(0.25), last, rtol=1e-6)
    assert episode.done
    assert episode.keeps == [0.5, 0.25]
    np.testing.assert_allclose(episode.reset(), first, rtol=1e-6, err_msg="something of the last walk is left")


def test_the_limit_on_the_action_by_hand() -> None:
    _, graph = tiny()
    episode = Episode(SearchSpace(graph, sc.Budget(macs=0.5)))  # 5,780 = 1,728 a + 144 a b + 5 b
    episode.reset()
    assert (episode.least, episode.most) == (1 / 4, 3 / 4)
    episode.step(1.0)
    assert (episode.least, episode.most) == (1 / 8, 1 / 8)
    episode.step(1.0)
    assert episode.keeps == [3 / 4, 1 / 8]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "attention"])
def test_every_network_has_eleven_features_in_bounds(name: str, metric: str) -> None:
    here = space(name, metric, 0.9)
    states = Episode(here).states_of(here.fit([0.5] * len(here.sites)))
    assert states.shape == (len(here.sites), 11)
    assert ((states >= 0) & (states <= 1)).all()
    t = states[:, FEATURES.index("t")]
    assert (np.diff(t) > 0).all()
    assert (np.diff(states[:, FEATURES.index("reduced")]) >= 0).all()
    assert (np.diff(states[:, FEATURES.index("rest")]) <= 0).all()


def test_the_reward_is_minus_the_error() -> None:
    costs_ = sc.Costs(1, 1, 1)
    assert resource_constrained(0.9, costs_, sc.Outcome(1.0, costs_, 0.0, 0.0)) == pytest.approx(-0.1)


# ---- searchers -------------------------------------------------------------------------------------------------------


class TestDDPG(SearcherContract):
    def strategy(self, seed: int) -> Strategy:
        return DDPG(seed=seed, warmup=6, hidden=16, batch=8, replay=7)


class TestDDPGOfThePaper(SearcherContract):
    def strategy(self, seed: int) -> Strategy:
        return replace(DDPG.paper(seed, warmup=6), hidden=16, batch=8, replay=7)


class TestKnapsack(SearcherContract):
    def strategy(self, seed: int) -> Strategy:
        return Knapsack(seed=seed)


class TestBayesian(SearcherContract):
    def strategy(self, seed: int) -> Strategy:
        return Bayesian(seed=seed, children=20, alone=3)


class TestDDPGWithoutWarmUp(SearcherContract):
    def strategy(self, seed: int) -> Strategy:
        return DDPG(seed=seed, warmup=0, hidden=8, batch=4)


class TestRandom(SearcherContract):
    def strategy(self, seed: int) -> Strategy:
        return Random(seed)


class TestEvolution(SearcherContract):
    def strategy(self, seed: int) -> Strategy:
        return Evolution(seed, population=6)


class TestTPE(SearcherContract):
    def strategy(self, seed: int) -> Strategy:
        return TPE(seed, startup=5)


class TestCMAES(SearcherContract):
    def strategy(self, seed: int) -> Strategy:
        return CMAES(seed, population=4)


class TestUniform(SearcherContract):
    def strategy(self, seed: int) -> Strategy:
        return Uniform(seed)


class TestShallow(SearcherContract):
    def strategy(self, seed: int) -> Strategy:
        return Shallow(seed)


class TestDeep(SearcherContract):
    def strategy(self, seed: int) -> Strategy:
        return Deep(seed)


@pytest.mark.parametrize("strategy", [Random, DDPG])
def test_another_seed_gives_other_plans(strategy: type[Strategy]) -> None:
    one, other = (play(strategy(seed=seed).start(space()), 0, 8) for seed in (0, 1))  # type: ignore[call-arg]
    assert {plan.digest for plan in one[3:]}.isdisjoint(plan.digest for plan in other[3:])


def test_the_rules_prune_where_they_say() -> None:
    model = nn.Sequential(*(nn.Conv2d(32, 32, 3, padding=1) for _ in range(6)))
    graph = sc.inspect(model, image()[:, :1].expand(-1, 32, -1, -1))
    here = SearchSpace(graph, sc.Budget(macs=0.5), SpaceSettings(step=1))
    plans = {rule: rule().start(here).ask().keeps for rule in (Uniform, Shallow, Deep)}
    uniform, shallow, deep = (list(plans[rule].values()) for rule in (Uniform, Shallow, Deep))
    assert max(uniform) - min(uniform) <= 1 / 32 + 1e-9
    assert shallow == sorted(shallow)
    assert shallow[0] < shallow[-1] - 0.2
    assert deep == sorted(deep, reverse=True)
    assert deep[-1] < deep[0] - 0.2


def test_ddpg_begins_with_the_rules_and_explores_less_and_less() -> None:
    agent = DDPG(warmup=5, sigma=0.5, sigma_decay=0.9).start(space())
    assert play(agent, 0, 3) == [rule().start(space()).ask() for rule in (Uniform, Shallow, Deep)]
    play(agent, 3, 2)
    assert agent.sigma == 0.5  # type: ignore[attr-defined]
    play(agent, 5, 10)
    assert agent.sigma == pytest.approx(0.5 * 0.9**10)  # type: ignore[attr-defined]


@pytest.mark.parametrize("seed", [0, 1])
def test_ddpg_learns_a_known_problem(seed: int) -> None:
    """The reward is the distance to a plan that none of the rules knows; random search stays far from it."""
    here = space("plain", "macs", 0.5)
    target = {"conv1": 3 / 4, "conv2": 1 / 3, "fc1": 1.0}

    def rewards(strategy: Strategy, trials: int) -> list[float]:
        searcher, found = strategy.start(here), []
        for _ in range(trials):
            plan = searcher.ask()
            found.append(-sum((plan[key] - keep) ** 2 for key, keep in target.items()))
            searcher.tell(plan, found[-1])
        return found

    learnt = np.mean(rewards(DDPG.paper(seed=seed, warmup=50), 230)[-20:])
    guessed = np.mean(rewards(Random(seed), 200))
    assert learnt > 0.25 * guessed, f"mean reward {learnt:.4f} after learning, {guessed:.4f} at random"

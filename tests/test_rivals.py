"""The agent's rivals that learn: evolution, and the samplers of the optuna family."""

import sys
from functools import cache

import numpy as np
import optuna
import pytest
from networks import build, image
from searcher_contract import play, space
from torch import nn

import secateur as sc
from secateur.search import RULES, Random, Searcher, SearchSpace, SpaceSettings, Strategy
from secateur.search.evolution import Evolution, History
from secateur.search.optuna import CMAES, TPE

rivals = pytest.mark.parametrize("rival", [Evolution, TPE, CMAES])
Rival = type[Evolution] | type[TPE] | type[CMAES]


@cache
def deep_space() -> SearchSpace:
    """Nine sites of 32 channels, of which half the MACs may stay."""
    model = nn.Sequential(nn.Conv2d(3, 32, 3), *(nn.Conv2d(32, 32, 3, padding=1) for _ in range(9)))
    return SearchSpace(sc.inspect(model, image()), sc.Budget(macs=0.5))


def loss(plan: sc.Plan) -> float:
    """Additive over the sites, which matter very differently: a plan that cuts where it costs little is far better."""
    weights = np.random.default_rng(3).permutation(np.geomspace(0.02, 1.0, len(plan.keeps)))
    return float(sum(weight * (1 - keep) ** 2 for weight, keep in zip(weights, plan.keeps.values(), strict=True)))


def least_loss(strategy: Strategy, trials: int, failing: int = 0) -> float:
    """The least loss of a search; every `failing`-th trial fails, the plans are checked against the budget."""
    here, losses = deep_space(), []
    searcher = strategy.start(here)
    for number in range(trials):
        plan = searcher.ask()
        assert here.cost(here.counts(plan)) <= here.limit
        failed = failing and number % failing == 0
        if not failed:
            losses.append(loss(plan))
        searcher.tell(plan, None if failed else -losses[-1])
    return min(losses)


@cache
def random_loss(trials: int) -> float:
    return float(np.mean([least_loss(Random(seed), trials) for seed in range(5)]))


@rivals
def test_a_rival_finds_far_better_plans_than_random_search(rival: Rival) -> None:
    found = float(np.mean([least_loss(rival(seed=seed), 100) for seed in range(5)]))
    assert found < 0.75 * random_loss(100), f"least loss {found:.4f}, at random {random_loss(100):.4f}"


@rivals
def test_a_rival_learns_though_every_third_trial_fails(rival: Rival) -> None:
    found = float(np.mean([least_loss(rival(seed=seed), 100, failing=3) for seed in range(5)]))
    assert found < 0.9 * random_loss(100), f"least loss {found:.4f}, at random without failures {random_loss(100):.4f}"


@rivals
def test_a_rival_begins_with_the_rules_and_goes_its_own_way_by_seed(rival: Rival) -> None:
    one, other = (play(rival(seed=seed).start(deep_space()), 0, 30) for seed in (0, 1))
    rules = [deep_space().fit(rule(len(deep_space().sites))) for rule in RULES.values()]
    assert one[:3] == other[:3] == rules
    assert {plan.digest for plan in one[3:]}.isdisjoint(plan.digest for plan in other[3:])


@rivals
def test_a_state_taken_while_trials_are_out_is_whole(rival: Rival) -> None:
    """The restored searcher takes the rewards of plans that the old one proposed, whichever plans those are."""
    for played in (0, 2, 24):
        old, restored = (rival(seed=3).start(deep_space()) for _ in range(2))
        play(old, 0, played)
        out = [old.ask() for _ in range(3)]
        restored.restore(old.state())
        assert follow(restored, out) == follow(old, out)


def follow(searcher: Searcher, out: list[sc.Plan]) -> list[sc.Plan]:
    """What is proposed from here on: beside the plans that are out, and after their rewards."""
    beside = searcher.ask()
    for plan in (*out, beside):
        searcher.tell(plan, -loss(plan))
    return [beside, *play(searcher, 0, 12, parallel=2)]


@rivals
def test_what_is_told_changes_what_is_proposed(rival: Rival) -> None:
    def last(sign: float) -> sc.Plan:
        searcher = rival(seed=0).start(deep_space())
        for _ in range(40):
            plan = searcher.ask()
            searcher.tell(plan, sign * loss(plan))
        return plan

    assert loss(last(-1.0)) < loss(last(1.0))


@rivals
def test_a_reward_without_a_plan_is_refused(rival: Rival) -> None:
    searcher = rival().start(space())
    plan = searcher.ask()
    searcher.tell(plan, 0.5)
    with pytest.raises(sc.StudyError, match="never asked"):
        searcher.tell(plan, 0.5)


@rivals
@pytest.mark.parametrize("parallel", [1, 5])
def test_a_space_of_one_site_and_one_of_fixed_sites_are_searched(rival: Rival, parallel: int) -> None:
    graph = sc.inspect(*build("plain"))
    single = SearchSpace(graph, sc.Budget(macs=0.9), SpaceSettings(leave=("conv2", "fc1")))
    fixed = SearchSpace(graph, sc.Budget(macs=1.0), SpaceSettings(min_keep=1.0))
    assert len(single.sites) == 1
    for here in (single, fixed):
        plans = play(rival().start(here), 0, 30, parallel)
        assert all(here.cost(here.counts(plan)) <= here.limit for plan in plans)


# ---- evolution -------------------------------------------------------------------------------------------------------


def test_evolution_tries_no_plan_twice() -> None:
    plans = play(Evolution().start(deep_space()), 0, 80, parallel=4)
    assert len({plan.digest for plan in plans}) == len(plans)


def test_only_plans_that_succeeded_have_children() -> None:
    """All that succeed are worth the same, so it is the failures alone that children keep away from."""

    def failures(strategy: Strategy) -> int:
        searcher, failed = strategy.start(deep_space()), []
        for _ in range(80):
            plan = searcher.ask()
            failed.append(plan[deep_space().sites[0].key] > 0.5)
            searcher.tell(plan, None if failed[-1] else 1.0)
        return sum(failed[-40:])

    assert failures(Evolution()) < 0.5 * failures(Random())


def test_the_best_are_in_order_and_none_of_them_failed() -> None:
    history = History(seed=0, sites=1)
    for reward in (None, 0.2, 0.5, None, 0.5):
        history.ask(np.array([float(history.number)]))
        history.tell(reward)
    history.ask(np.array([9.0]))
    assert [float(point[0]) for point in history.best(2)] == [2, 4]
    assert [float(point[0]) for point in history.best(9)] == [2, 4, 1]


# ---- the optuna family -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rival", "package"), [(TPE, "optuna"), (CMAES, "cmaes")])
def test_a_missing_package_is_an_error_that_says_what_to_install(
    rival: type[TPE] | type[CMAES], package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(sc.StudyError, match=rf"needs {package}: pip install optuna cmaes"):
        rival().start(space())


def test_optuna_says_nothing_and_its_own_verbosity_stays(capfd: pytest.CaptureFixture[str]) -> None:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.INFO)
    try:
        searcher = TPE().start(space())
        play(searcher, 0, 12)
        searcher.restore(searcher.state())
        assert optuna.logging.get_verbosity() == optuna.logging.INFO
    finally:
        optuna.logging.set_verbosity(before)
    assert capfd.readouterr() == ("", "")


def test_trials_that_run_together_are_not_the_same_plan() -> None:
    """The estimator is told which plans are out, so a round is spread over the space."""
    searcher = TPE().start(deep_space())
    play(searcher, 0, 20)
    asked = [searcher.ask() for _ in range(6)]
    assert len({plan.digest for plan in asked}) == 6


@pytest.mark.parametrize(
    ("rival", "bad"),
    [
        (Evolution, {"population": 0}),
        (Evolution, {"parents": 0}),
        (Evolution, {"mutated": 0.0}),
        (Evolution, {"sigma": -0.1}),
        (TPE, {"startup": 0}),
        (TPE, {"candidates": 0}),
        (CMAES, {"sigma": 0.0}),
        (CMAES, {"population": 3}),
    ],
)
def test_settings_that_cannot_be_are_refused(rival: Rival, bad: dict[str, float]) -> None:
    with pytest.raises(sc.StudyError, match=next(iter(bad))):
        rival(**bad)  # type: ignore[arg-type]

"""One search for a range of budgets: its plans spread over it, and any point of it can be cut afterwards."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import build
from torch import nn

import secateur as sc
from secateur.search import SearchSpace
from secateur.search.transfer import prior_weights

EXAMPLE = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
RANGE = sc.Budget(macs=(0.3, 0.7))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 1))


def search(
    searcher: object = None, budget: sc.Budget = RANGE, folder: Path | None = None, trials: int = 12
) -> sc.Study:
    return sc.search(
        network(),
        EXAMPLE,
        evaluate=sc.agreement(network(), torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(1))),
        calibration=[torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(2))],
        budget=budget,
        searcher=searcher or sc.Bayesian(seed=0),
        trials=trials,
        folder=folder,
        settings=sc.SearchSettings(race=True),
    )


SEARCHERS = [sc.Bayesian(), sc.Knapsack(), sc.DDPG(warmup=4, hidden=16)]


@pytest.mark.parametrize("searcher", SEARCHERS, ids=lambda searcher: type(searcher).__name__)
def test_the_trials_spread_over_the_range(searcher: object) -> None:
    study = search(searcher)
    fractions = [trial.outcome.costs.macs / study.graph.dense.macs for trial in study.trials]
    assert max(fractions) <= 0.7
    assert min(fractions) < 0.4
    assert max(fractions) > 0.6
    assert len(set(np.digitize(fractions, [0.4, 0.5, 0.6]))) == 4


def test_the_front_rises_and_every_point_of_it_is_complete() -> None:
    front = search(trials=20).front
    assert len(front) > 3
    costs = [trial.outcome.costs.macs for trial in front]
    rewards = [trial.outcome.reward for trial in front]
    assert costs == sorted(set(costs))
    assert rewards == sorted(set(rewards))
    assert all(trial.outcome.complete for trial in front)


@pytest.mark.parametrize("fraction", [0.3, 0.41, 0.5, 0.7])
@pytest.mark.parametrize("searcher", SEARCHERS, ids=lambda searcher: type(searcher).__name__)
def test_any_budget_of_the_range_has_its_plan(searcher: object, fraction: float) -> None:
    study = search(searcher)
    plan = study.plan(sc.Budget(macs=fraction))
    small = sc.prune(network(), EXAMPLE, plan, calibration=[EXAMPLE])
    assert sc.inspect(small, EXAMPLE).dense.macs <= fraction * study.graph.dense.macs
    assert plan == study.plan(sc.Budget(macs=fraction)), "asking changes nothing"


def test_the_plan_for_a_budget_is_finished_and_scored_beside_the_best_trial_there() -> None:
    study, budget = search(), sc.Budget(macs=0.5)
    tried = study.within(0.5 * study.space.cost.dense).plan
    believed = study.searcher.propose(0.5 * study.space.cost.dense)
    assert tried != believed
    check, scored = study.check, []
    for favourite in (tried, believed):

        def favours(plan: sc.Plan, favourite: sc.Plan = favourite) -> sc.Outcome:
            scored.append(plan)
            return replace(check(plan), reward=float(plan == favourite))

        study.check = favours
        assert study.plan(budget) == favourite
    assert len(scored) == 4


def test_a_budget_outside_the_range_is_refused() -> None:
    study = search()
    for budget in (sc.Budget(macs=0.2), sc.Budget(macs=0.8), sc.Budget(params=0.5)):
        with pytest.raises(sc.BudgetError, match="outside what was searched"):
            study.plan(budget)


def test_a_searcher_of_one_budget_says_so_before_the_first_trial() -> None:
    with pytest.raises(sc.StudyError, match="Random serves one budget only"):
        search(sc.Random())


def test_a_resumed_range_goes_on_as_it_would_have(tmp_path: Path) -> None:
    whole = search(folder=tmp_path / "a")
    search(folder=tmp_path / "b", trials=5)
    resumed = search(folder=tmp_path / "b")
    assert [trial.plan for trial in resumed.trials] == [trial.plan for trial in whole.trials]
    assert resumed.plan(sc.Budget(macs=0.45)) == whole.plan(sc.Budget(macs=0.45))


@pytest.mark.parametrize("bad", [(0.7, 0.3), (0.5, 0.5), (0.5, 1000), (0.0, 0.5), (0.2, 0.3, 0.4), ("a", "b")])
def test_a_range_that_makes_no_sense_is_refused(bad: tuple[object, ...]) -> None:
    with pytest.raises(sc.BudgetError, match="budget macs"):
        sc.Budget(macs=bad)  # type: ignore[arg-type]


# ---- transfer --------------------------------------------------------------------------------------------------------


def test_what_was_learnt_on_one_network_begins_the_search_on_another(tmp_path: Path) -> None:
    search(budget=sc.Budget(macs=0.5), folder=tmp_path / "a", trials=20)
    file = tmp_path / "a" / "searcher.safetensors"
    here = SearchSpace(sc.inspect(*build("residual")), sc.Budget(macs=0.5))
    weights = prior_weights(here, file)
    assert weights is not None
    assert weights.shape == (len(here.sites),)
    assert (weights > 0).all()
    assert np.log(weights).mean() == pytest.approx(0, abs=1e-9)
    warm = sc.Bayesian(prior=str(file)).start(here)
    cold = sc.Bayesian().start(here)
    assert here.cost(here.counts(warm.ask())) <= here.limit
    assert warm.belief.surrogate.mean.tolist() != cold.belief.surrogate.mean.tolist()


def test_a_network_teaches_itself_what_it_learnt(tmp_path: Path) -> None:
    first = search(budget=sc.Budget(macs=0.5), folder=tmp_path / "a", trials=40)
    learnt = first.searcher.belief.surrogate.mean
    space = first.space
    carried = prior_weights(space, tmp_path / "a" / "searcher.safetensors")
    assert np.argmax(carried) == np.argmax(learnt)


def test_lessons_that_are_none_are_refused(tmp_path: Path) -> None:
    here = SearchSpace(sc.inspect(*build("residual")), sc.Budget(macs=0.5))
    (tmp_path / "bad.safetensors").write_bytes(b"no such thing")
    search(sc.Random(), sc.Budget(macs=0.5), tmp_path / "r", trials=1)
    for file in (tmp_path / "bad.safetensors", tmp_path / "none.safetensors", tmp_path / "r" / "searcher.safetensors"):
        with pytest.raises(sc.StudyError, match="holds no lessons"):
            sc.Bayesian(prior=str(file)).start(here)


def test_an_agent_without_rehearsal_serves_a_range() -> None:
    study = search(sc.DDPG.paper(warmup=4))
    plan = study.plan(sc.Budget(macs=0.4))
    assert study.space.cost(study.space.counts(plan)) <= 0.4 * study.space.cost.dense


def test_a_policy_that_was_told_other_things_is_refused(tmp_path: Path) -> None:
    """Twelve features both times: a limit of a range, or advice."""
    search(sc.DDPG(warmup=2, hidden=16, advice=0), folder=tmp_path / "a", trials=4)
    file = str(tmp_path / "a" / "searcher.safetensors")
    with pytest.raises(sc.StudyError, match="both or neither a range of budgets and advice"):
        search(sc.DDPG(warmup=2, hidden=16, prior=file), sc.Budget(macs=0.5), trials=4)


def test_an_agent_takes_its_policy_with_it(tmp_path: Path) -> None:
    agent = sc.DDPG(warmup=2, hidden=16)
    taught = search(agent, sc.Budget(macs=0.5), tmp_path / "a", trials=6).searcher
    here = SearchSpace(sc.inspect(*build("residual")), sc.Budget(macs=0.5))
    file = str(tmp_path / "a" / "searcher.safetensors")
    warm = sc.DDPG(warmup=2, hidden=16, prior=file).start(here)
    state = [np.full(12, 0.5, dtype=np.float32)]
    assert warm.learner.act(state) == taught.learner.act(state)
    with pytest.raises(sc.StudyError, match="same `hidden`"):
        sc.DDPG(hidden=8, prior=file).start(here)


def test_trials_gather_where_a_reward_that_weighs_costs_is_best() -> None:
    """A reward that is best at 60 % of the MACs, whatever the score."""
    settings = sc.SearchSettings(reward=lambda score, costs, dense: -abs(costs.macs / dense.costs.macs - 0.6))
    shares = {}
    for name, chosen in (("weighed", settings), ("even", sc.SearchSettings())):
        study = sc.search(
            network(),
            EXAMPLE,
            evaluate=lambda network: 0.5,
            calibration=[EXAMPLE],
            budget=RANGE,
            searcher=sc.Bayesian(seed=0),
            trials=60,
            settings=chosen,
        )
        fractions = np.array([trial.outcome.costs.macs / study.graph.dense.macs for trial in study.trials])
        shares[name] = float(np.mean(np.abs(fractions - 0.6) < 0.06))
    assert shares["weighed"] > shares["even"] + 0.1


def test_the_smallest_network_within_a_tolerance() -> None:
    study = search(trials=20)
    scores = sorted(trial.outcome.score for trial in study.ranked)
    tolerance = study.dense.score - scores[len(scores) // 2]
    chosen = study.smallest(tolerance)
    kept = [trial for trial in study.ranked if trial.outcome.score >= study.dense.score - tolerance]
    assert chosen in kept
    assert chosen.outcome.costs.macs == min(trial.outcome.costs.macs for trial in kept)
    assert study.smallest(1.0, "params").outcome.costs.params == min(x.outcome.costs.params for x in study.ranked)
    with pytest.warns(UserWarning, match="no trial lost as little as -1 of score"):
        assert study.smallest(-1.0) == study.best, "where none loses so little, the best"

"""What every searcher has to keep to. A searcher is tested by a subclass that says how to make one.

class TestRandom(SearcherContract):
    def strategy(self, seed: int) -> Strategy:
        return Random(seed)
"""

import dataclasses
from functools import cache
from pathlib import Path

import pytest
from networks import build

from secateur.cost import CountedCosts
from secateur.graph import trace
from secateur.plan import Budget, Plan
from secateur.run import RunFolder
from secateur.run.folder import Snapshot
from secateur.search import Searcher, SearchSpace, SpaceSettings, State, Strategy


@cache
def space(name: str = "residual", metric: str = "macs", fraction: float = 0.5) -> SearchSpace:
    """A small space with residual streams, on one of the test networks."""
    return SearchSpace(trace(*build(name)), Budget(**{metric: fraction}), SpaceSettings(streams=True))


def worth(plan: Plan, number: int) -> float | None:
    """A reward that depends on the plan alone; every seventh trial fails."""
    return None if number % 7 == 3 else -sum((keep - 0.3) ** 2 for keep in plan.keeps.values())


def play(searcher: Searcher, first: int, trials: int, parallel: int = 1) -> list[Plan]:
    """Ask for `trials` plans with `parallel` of them under way, as the loop does, and tell them all; the plans."""
    return going_on(searcher, first, [], trials, parallel)


def going_on(searcher: Searcher, first: int, under_way: list[Plan], trials: int, parallel: int) -> list[Plan]:
    """The same, where some were asked for before; the plans told."""
    plans: list[Plan] = []
    waiting = [*under_way]
    while len(plans) < trials:
        while len(waiting) < parallel and len(plans) + len(waiting) < trials:
            waiting.append(searcher.ask())
        plans.append(waiting.pop(0))
        searcher.tell(plans[-1], worth(plans[-1], first + len(plans) - 1))
    return plans


class SearcherContract:
    """Inherit from it and define `strategy`."""

    def strategy(self, seed: int) -> Strategy:
        raise NotImplementedError

    @pytest.mark.parametrize("metric", ["macs", "params", "bytes"])
    @pytest.mark.parametrize("name", ["plain", "residual", "dense", "depthwise", "grouped"])
    def test_plans_meet_the_budget_and_name_every_site(self, name: str, metric: str) -> None:
        here = space(name, metric, 0.6)
        for plan in play(self.strategy(1).start(here), 0, 20):
            assert set(plan) == {site.key for site in here.sites}
            price = CountedCosts(here.graph)(here.counts(plan))
            assert price[metric] <= here.limit, f"{price[metric]} {metric} of {here.limit} allowed: {plan}"

    def test_a_plan_says_the_counts_it_was_made_of(self) -> None:
        here = space()
        for plan in play(self.strategy(2).start(here), 0, 12):
            for site in here.sites:
                assert site.count(plan[site.key]) in site.counts
                assert plan[site.key] == site.keep(site.count(plan[site.key])), site

    def test_several_plans_may_be_asked_for_before_any_is_told(self) -> None:
        searcher = self.strategy(3).start(space())
        for start in range(0, 21, 3):
            asked = [searcher.ask() for _ in range(3)]
            for number, plan in enumerate(asked, start):
                searcher.tell(plan, worth(plan, number))
        assert searcher.ask() is not None

    def test_goes_on_when_every_trial_fails(self) -> None:
        searcher = self.strategy(4).start(space())
        for _ in range(15):
            searcher.tell(searcher.ask(), None)
        plan = searcher.ask()
        searcher.tell(plan, 0.5)
        assert set(searcher.ask()) == {site.key for site in space().sites}

    def test_the_same_seed_gives_the_same_plans(self) -> None:
        one, other = (play(self.strategy(5).start(space()), 0, 16) for _ in range(2))
        assert one == other

    def test_two_searchers_do_not_disturb_each_other(self) -> None:
        alone = play(self.strategy(6).start(space()), 0, 12)
        mine, rival = self.strategy(6).start(space()), self.strategy(7).start(space())
        beside = []
        for number in range(12):
            beside += play(mine, number, 1)
            play(rival, number, 1)
        assert beside == alone

    @pytest.mark.parametrize("parallel", [1, 3])
    @pytest.mark.parametrize("played", [0, 3, 6, 15])
    def test_a_restored_searcher_goes_on_as_the_old_one_would_have(
        self, played: int, parallel: int, tmp_path: Path
    ) -> None:
        old = self.strategy(8).start(space())
        play(old, 0, played, parallel)
        under_way = [old.ask() for _ in range(parallel)]
        folder = RunFolder(tmp_path / "run", {"a": 1})
        folder.save_searcher(Snapshot(old.state(), played, tuple(under_way)))
        expected = going_on(old, played, under_way, 12, parallel)

        saved = folder.load_searcher()
        assert (saved.told, saved.asked) == (played, tuple(under_way))
        restored = self.strategy(8).start(space())
        restored.restore(saved.state)
        assert going_on(restored, played, list(saved.asked), 12, parallel) == expected

    def test_a_state_does_not_change_while_the_searcher_goes_on(self) -> None:
        searcher = self.strategy(9).start(space())
        play(searcher, 0, 9)
        state: State = searcher.state()
        before = {name: array.copy() for name, array in state.items()}
        expected = play(searcher, 9, 6)
        for name, array in before.items():
            assert (state[name] == array).all(), f"{name} is shared with the running searcher"
        twin = self.strategy(9).start(space())
        twin.restore(state)
        assert play(twin, 9, 6) == expected

    def test_settings_are_a_frozen_dataclass_with_a_seed(self) -> None:
        strategy = self.strategy(10)
        assert dataclasses.is_dataclass(strategy)
        assert strategy.seed == 10
        with pytest.raises(dataclasses.FrozenInstanceError):
            strategy.seed = 11

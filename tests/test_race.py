"""Racing saves examples, never changes which plan wins, and depends on nothing but the seed."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

import secateur as sc
from secateur.run.race import ERROR_RATE, WORTH, expected, hopeless
from secateur.run.score import Staged, Values, doublings

EXAMPLE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_far_behind_is_hopeless_and_close_is_not():
    rival = np.random.default_rng(0).normal(0.9, 0.1, 400).astype(np.float32)
    noise = np.random.default_rng(1).normal(0, 0.02, 100).astype(np.float32)
    noise -= noise.mean()
    assert hopeless(rival[:100] - 0.05 + noise, rival)
    assert not hopeless(rival[:100] + noise, rival)
    assert not hopeless(rival[:100] + 0.05 + noise, rival)
    assert not hopeless(rival[:100] - 0.05 + noise, None)
    assert not hopeless(rival[:100], rival), "no difference is no reason to stop"


def test_pairs_tell_what_independent_samples_would_not():
    """Hard examples are hard for both: a difference far below the spread of the values is seen all the same."""
    rng = np.random.default_rng(0)
    rival = rng.normal(0.5, 0.3, 200).astype(np.float32)
    mine = (rival - 0.01 + rng.normal(0, 0.01, 200)).astype(np.float32)
    assert 0.3 / np.sqrt(200) > 0.01
    assert hopeless(mine, rival)
    assert expected(mine, rival) == pytest.approx(rival.mean() - 0.01, abs=0.003)


def test_the_share_of_better_ones_that_is_stopped_is_as_stated():
    rng = np.random.default_rng(0)
    looks = doublings(800)[:-1]
    stopped = 0
    for _ in range(2000):
        shared = rng.normal(0, 0.3, 800)
        rival, mine = ((0.9 + shared + rng.normal(0, 0.1, 800)).astype(np.float32) for _ in range(2))
        mine = mine * (1 + WORTH)
        stopped += any(hopeless(mine[:look], rival) for look in looks)
    assert looks == [100, 200, 400]
    assert stopped <= 1.1 * ERROR_RATE * 2000


class Counted:
    """A staged score that prefers wide networks, over 80 examples, and counts what it looked at."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, network: nn.Module) -> float:
        *_, values = self.stages(network)
        return float(values.mean())

    def stages(self, network: nn.Module) -> Iterator[Values]:
        first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
        wobble = np.random.default_rng(first.out_channels).normal(0, 0.01, 80)
        values = (first.out_channels / 16 + wobble).astype(np.float32)
        for examples in (20, 40, 80):
            self.seen += 20 if examples == 20 else examples // 2
            yield values[:examples]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 1))


def search(evaluate: Counted, folder=None, macs=0.5, searcher=None, **settings) -> sc.Study:
    return sc.search(
        network(),
        EXAMPLE,
        evaluate=evaluate,
        calibration=[EXAMPLE],
        budget=sc.Budget(macs=macs),
        searcher=searcher or sc.Random(seed=1),
        trials=20,
        folder=folder,
        settings=sc.SearchSettings(prune=sc.PruneSettings(refit=False, sequential=False), **settings),
    )


def test_racing_looks_at_fewer_examples_and_finds_the_same_plan():
    full, raced = Counted(), Counted()
    assert isinstance(full, Staged)
    one, other = search(full), search(raced, race=True)
    assert raced.seen < full.seen
    assert one.best.plan == other.best.plan
    assert other.best.outcome.complete
    stopped = [trial for trial in other.trials if not trial.outcome.complete]
    assert stopped
    assert all(trial.outcome.score < other.best.outcome.score for trial in stopped)


def test_over_a_range_of_budgets_a_plan_races_against_the_front_at_its_own_cost():
    study = search(Counted(), macs=(0.2, 0.9), searcher=sc.DDPG(warmup=20, hidden=16), race=True)

    def cost(trial):
        return trial.outcome.costs.macs

    better = 0
    for stopped in (trial for trial in study.trials if not trial.outcome.complete):
        told = sc.Study(study.space, study.dense, study.trials[: stopped.number])
        low = told.within(cost(stopped))
        high = next((trial for trial in told.front if cost(trial) > cost(stopped)), low)
        share = (cost(stopped) - cost(low)) / max(cost(high) - cost(low), 1)
        assert stopped.outcome.score < low.outcome.score + share * (high.outcome.score - low.outcome.score)
        better += stopped.outcome.score > low.outcome.score
    assert better, "what a cheaper plan scores would have stopped none of these"


def test_images_that_lie_sorted_by_class_are_looked_at_shuffled() -> None:
    """Or the first look of a race would see one class only."""
    labels = torch.arange(4).repeat_interleave(200)

    class Favours(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return nn.functional.one_hot(torch.zeros(len(images), dtype=torch.long), 4).float()

    first, *_, last = sc.accuracy(torch.rand(800, 3, 2, 2), labels).stages(Favours())
    assert len(first) < len(last) == 800
    assert last.mean() == 0.25
    assert 0.1 < first.mean() < 0.4
    images = labels[:, None, None, None].float().expand(-1, 1, 2, 2)
    assert sc.accuracy(images, labels)(Reads()) == 1, "each image keeps its own label"
    assert sc.agreement(Reads(), images)(Reads()) == pytest.approx(1)


def test_labels_that_do_not_fit_the_answers_are_refused() -> None:
    """Where shapes differ, every answer would be compared with every label."""
    labels = torch.arange(4).repeat(5)
    images = labels[:, None, None, None].float().expand(-1, 1, 2, 2)
    with pytest.raises(sc.EvaluationError, match=r"logits \[20, 4\] and labels \[20, 1\]: flatten them"):
        sc.accuracy(images, labels[:, None])(Reads())
    with pytest.raises(sc.EvaluationError, match="20 images and 19 labels"):
        sc.accuracy(images, labels[1:])

    class Pixels(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return nn.functional.one_hot(images[:, 0].long(), 4).float().movedim(-1, 1)

    of_pixels = labels[:, None, None].expand(-1, 2, 2).clone()
    of_pixels[:, 0, 0] = 0
    assert sc.accuracy(images, of_pixels)(Pixels()) == pytest.approx(1 - 0.75 / 4)


def test_scoring_leaves_a_network_in_training_as_it_was() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(16, 4))
    images, labels = torch.rand(200, 3, 2, 2), torch.arange(200) % 4
    scored = sc.accuracy(images, labels)(network.eval())
    mean = network[1].running_mean.clone()
    network.train()
    network[2].eval()
    assert sc.accuracy(images, labels)(network) == scored
    assert torch.equal(network[1].running_mean, mean)
    assert [module.training for module in network] == [True, True, False, True, True]


class Reads(nn.Module):
    """Tells the class that is written into an image."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.one_hot(images[:, 0, 0, 0].long(), 4).float()


def test_a_reward_that_weighs_cost_is_not_raced() -> None:
    """A cheaper plan may score less and be paid more: examples on which it is behind say nothing."""
    rewards = (sc.AccuracyGuaranteed("params"), lambda score, costs, dense: score - costs.macs / dense.costs.macs)
    for reward in rewards:
        study = search(Counted(), macs=(0.2, 0.9), searcher=sc.Bayesian(), race=True, reward=reward)
        assert all(trial.outcome.complete for trial in study.trials)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_raced_study_is_the_same_again_and_resumes(workers, tmp_path):
    first = search(Counted(), tmp_path / "a", race=True, workers=workers)
    journal = tmp_path / "a" / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:7]))
    (tmp_path / "a" / "searcher.safetensors").unlink()
    again = search(Counted(), tmp_path / "a", race=True, workers=workers)
    assert [(t.plan, t.outcome.stages) for t in again.trials] == [(t.plan, t.outcome.stages) for t in first.trials]


def test_a_search_stops_in_time_and_goes_on(tmp_path):
    short = search(Counted(), tmp_path / "a", seconds=1e-9)
    assert len(short.trials) == 1
    again = search(Counted(), tmp_path / "a", seconds=1e-6)
    assert len(again.trials) == 1, "the time that it had is over"
    whole = search(Counted(), tmp_path / "a")
    assert len(whole.trials) == 20
    assert [t.plan for t in whole.trials] == [t.plan for t in search(Counted()).trials]


@pytest.mark.parametrize("bad", [{"seconds": 0}, {"engine": "tensorrt"}, {"workers": 0}])
def test_settings_that_make_no_sense_are_refused(bad):
    with pytest.raises(sc.StudyError, match=next(iter(bad))):
        sc.SearchSettings(**bad)


def test_a_race_needs_a_score_by_stages() -> None:
    with pytest.raises(sc.StudyError, match="scores by stages"):
        sc.search(
            nn.Conv2d(3, 4, 1),
            EXAMPLE,
            evaluate=lambda network: 1.0,
            calibration=[EXAMPLE],
            budget=sc.Budget(macs=0.5),
            settings=sc.SearchSettings(race=True),
        )

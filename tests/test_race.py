"""Racing saves examples, never changes which plan wins, and depends on nothing but the seed."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.plan import Costs, Outcome
from secateur.run.race import hopeless
from secateur.run.score import Staged

EXAMPLE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def outcome(*stages: float) -> Outcome:
    return Outcome(stages[-1], Costs(1, 1, 1), stages[-1] - 1, 0.0, stages)


def test_far_behind_is_hopeless_and_close_is_not():
    rival = outcome(0.90, 0.91)
    assert hopeless(0.50, 100, 0, rival)
    assert not hopeless(0.85, 100, 0, rival)
    assert not hopeless(0.99, 100, 0, rival)
    assert not hopeless(0.50, 100, 0, None)
    assert not hopeless(0.50, 100, 2, rival)  # the rival was never scored that far


def test_a_stopped_candidate_was_truly_worse():
    """Two coins of equal bias are almost never parted: the stated error rate, with room."""
    generator = torch.Generator().manual_seed(0)
    tosses = (torch.rand(4000, 2, 200, generator=generator) < 0.8).float().mean(2)
    wrong = sum(hopeless(float(a), 200, 0, outcome(float(b))) for a, b in tosses)
    assert wrong <= 2


class Counted:
    """A staged score that prefers wide networks, over 80 examples, and counts what it looked at."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, network: nn.Module) -> float:
        *_, (score, _, _) = self.stages(network)
        return score

    def stages(self, network: nn.Module) -> Iterator[tuple[float, int, int]]:
        first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
        for examples in (20, 40, 80):
            self.seen = self.seen + (20 if examples == 20 else examples // 2)
            yield first.out_channels / 16, examples, 80


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 1))


def search(evaluate: Counted, folder=None, **settings) -> sc.Study:
    return sc.search(
        network(),
        EXAMPLE,
        evaluate=evaluate,
        calibration=[EXAMPLE],
        budget=sc.Budget(macs=0.5),
        searcher=sc.Random(seed=1),
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
    assert any(not trial.outcome.complete for trial in other.trials)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_raced_study_is_the_same_again_and_resumes(workers, tmp_path):
    first = search(Counted(), tmp_path / "a", race=True, workers=workers)
    journal = tmp_path / "a" / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:7]))
    (tmp_path / "a" / "searcher.safetensors").unlink()
    again = search(Counted(), tmp_path / "a", race=True, workers=workers)
    assert [(t.plan, t.outcome.stages) for t in again.trials] == [(t.plan, t.outcome.stages) for t in first.trials]

"""What docs/extend.md says of Python works as it stands, and what it says is refused is refused."""

import re
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import build, image, settled
from torch import nn

import secateur as sc
from secateur.cost import EnergyEstimate

PAGE = Path(__file__).parents[1] / "docs" / "extend.md"


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the page's blocks leave, run in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    model, example = build("residual")
    names: dict[str, Any] = {"model": model, "example": example, "images": image(40), "__name__": "page"}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(block, names)
    return names


def test_the_page_runs(said: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(said["rows"]) == 6
    assert said["graph"].dense.macs > sc.inspect(said["small"], said["example"]).dense.macs
    half = 0.5 * said["graph"].dense.macs
    assert all(trial.outcome.costs.macs <= half for trial in said["climbed"].trials)
    assert len({trial.plan.digest for trial in said["climbed"].trials}) > 1
    dense = said["faster"].dense.costs.latency_ms
    assert all(trial.outcome.costs.latency_ms <= 0.6 * dense for trial in said["faster"].trials)
    assert said["history"][-1].loss < said["history"][0].loss
    assert said["weighed"].best.outcome.costs.params < said["graph"].dense.params


def going_on(said: dict[str, Any], searcher: object, folder: str, **options: Any) -> sc.Study:
    given = {"evaluate": sc.agreement(said["model"], said["images"]), "trials": 8, "budget": sc.Budget(macs=0.5)}
    where = {"calibration": [said["images"]], "searcher": searcher, "folder": folder}
    return sc.search(said["model"], said["example"], **given | where | options)


def test_its_searcher_goes_on_as_if_nothing_had_happened(said: dict[str, Any]) -> None:
    resumed = going_on(said, said["HillClimbing"](seed=1), "runs/climbed")
    at_once = going_on(said, said["HillClimbing"](seed=1), "runs/at_once")
    assert [trial.plan for trial in resumed.trials] == [trial.plan for trial in at_once.trials]
    assert resumed.trials[:6] == said["climbed"].trials


@dataclass(frozen=True)
class Greedy:
    """Asks for a plan that is not to be had."""

    keeps: Any
    seed: int = 0

    def start(self, space: sc.SearchSpace) -> Any:
        return self

    def ask(self) -> Any:
        return self.keeps

    def state(self) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize(
    ("keeps", "says"),
    [
        (sc.Plan({}), r"the plan costs [\d,]+ macs, more than"),
        (sc.Plan({"nowhere": 0.5}), "nowhere is no site of this search"),
        ({"stem": 0.5}, "dict is no Plan"),
    ],
)
def test_a_plan_that_is_not_to_be_had_ends_the_search(said: dict[str, Any], keeps: Any, says: str) -> None:
    with pytest.raises(sc.StudyError, match=f"Greedy asked for .*{says}"):
        going_on(said, Greedy(keeps), "runs/greedy")


def test_a_class_for_a_searcher_and_a_model_of_another_metric_are_refused(said: dict[str, Any]) -> None:
    with pytest.raises(sc.StudyError, match=r"give the settings of one"):
        going_on(said, sc.Random, "runs/none")
    with pytest.raises(sc.StudyError, match="does not tell latency_ms"):
        sc.SearchSettings(latency=EnergyEstimate())


def test_another_cost_model_reward_or_evaluate_is_another_study(said: dict[str, Any]) -> None:
    slower = sc.SearchSettings(latency=replace(said["Roofline"](), macs_per_ms=1e6))
    with pytest.raises(sc.StudyError, match="latency was"):
        going_on(said, None, "runs/roofline", budget=sc.Budget(latency_ms=0.6), settings=slower)

    def paid(score: float, costs: sc.Costs, dense: sc.Outcome, weight: float) -> float:
        return score - weight * costs.params / dense.costs.params

    for weight in (0.1, 0.2):
        settings = sc.SearchSettings(reward=partial(paid, weight=weight))
        if weight == 0.1:
            going_on(said, sc.Random(), "runs/partial", settings=settings, trials=2)
        else:
            with pytest.raises(sc.StudyError, match="reward was"):
                going_on(said, sc.Random(), "runs/partial", settings=settings, trials=2)
    with pytest.warns(UserWarning, match=r"the dense network scored 1 when this study began, and 1000 now"):
        going_on(said, sc.Random(seed=1), "runs/random", evaluate=lambda network: 1000.0, trials=6)


def test_top_1_of_what_has_no_classes_is_refused() -> None:
    images = torch.randn(10, 6)
    with pytest.raises(sc.EvaluationError, match="no images"):
        sc.agreement(settled(nn.Linear(6, 2)), images[:0])

    class Pair(nn.Linear):
        def forward(self, x: torch.Tensor) -> Any:
            return super().forward(x), x

    with pytest.raises(sc.EvaluationError, match="answers by a tuple"):
        sc.accuracy(images, torch.zeros(10).long())(settled(Pair(6, 2)))

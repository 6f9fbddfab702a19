"""A latency budget holds when it is measured: what the table got wrong is made up for."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import digits_job
from test_range import EXAMPLE, network, search
from torch import Tensor, nn

import secateur as sc
from secateur import runtimes, zoo
from secateur.cli import main
from secateur.cost import NetworkCost
from secateur.cost.table import shape_of
from secateur.graph import count_costs
from secateur.run import aim, meet
from secateur.runtimes import Measured
from secateur.runtimes.sessions.profile import processor

HALF = sc.Budget(macs=0.5)
SEARCHERS = [sc.Bayesian(), sc.Knapsack(), sc.Random()]


def clock(study: sc.Study, error: float, seen: list[sc.Plan]) -> Callable[[sc.Plan], float]:
    """A device on which plans take `error` times what is predicted, but for the part that nobody can cut."""

    def measured(plan: sc.Plan) -> float:
        seen.append(plan)
        cost = study.space.cost
        return 0.05 + 0.95 * error * cost(study.space.counts(plan)) / cost.dense

    return measured


@pytest.mark.parametrize("searcher", SEARCHERS, ids=lambda searcher: type(searcher).__name__)
@pytest.mark.parametrize("error", [0.8, 1.0, 1.2])
def test_the_plan_meets_the_budget_when_it_is_measured(searcher: object, error: float) -> None:
    study, seen = search(searcher, HALF), []
    measured = clock(study, error, seen)
    met = meet(study, measured, study.best.plan)
    assert met.measured == measured(met.plan) <= 0.5
    assert len(met.tries) == len(seen) - 1 <= 6, "no plan is measured for nothing"
    assert seen[0] == study.best.plan


def test_a_budget_is_used_up_where_the_table_was_too_careful() -> None:
    study = search(sc.Bayesian(), HALF)
    met = meet(study, clock(study, 0.7, []), study.best.plan)
    assert met.measured > 0.45
    assert study.space.cost(study.space.counts(met.plan)) > study.space.limit


@pytest.mark.parametrize("error", [0.8, 1.0, 1.2])
def test_a_search_can_aim_at_what_is_measured(error: float) -> None:
    study, seen = search(sc.Bayesian(), HALF), []
    measured = clock(study, error, seen)
    aimed = study.space.limited(aim(study.space, measured))
    assert 1 <= len(seen) <= 4
    assert aimed.budget == HALF
    plan = sc.Knapsack().start(aimed).ask()
    assert measured(plan) == pytest.approx(0.5, rel=0.03)
    study.space = aimed
    assert meet(study, measured, plan).measured <= 0.5, "the budget is still what was asked for"


def test_a_search_for_what_no_plan_can_meet_is_refused_before_it_begins() -> None:
    study = search(sc.Bayesian(), HALF)
    with pytest.raises(sc.BudgetError, match=r"with every site at its least, 90\.0% of the dense network"):
        aim(study.space, lambda plan: 0.9)
    with pytest.raises(sc.StudyError, match="a table of this machine"):
        sc.SearchSettings(measured=True, latency="pixel1")


def test_a_budget_that_no_plan_meets_is_an_error_with_all_that_was_measured() -> None:
    study = search(sc.Bayesian(), HALF)
    with pytest.raises(sc.BudgetError, match=r"no plan meets 50\.0% of macs .* 90\.0%"):
        meet(study, lambda plan: 0.9, study.best.plan)


def test_a_plan_whose_cost_the_reward_chose_is_not_made_larger() -> None:
    study = search(sc.Knapsack(), sc.Budget(macs=(0.3, 0.9)))
    plan = study.plan(sc.Budget(macs=0.4))
    study.space = study.space.informed(study.space.losses, weighed=True)
    met = meet(study, clock(study, 1.0, []), plan)
    assert met.plan == plan
    assert len(met.tries) == 1


def test_only_latency_is_measured_by_a_clock() -> None:
    with pytest.raises(sc.BudgetError, match="only latency_ms"):
        sc.meet(search(sc.Bayesian(), HALF), network(), EXAMPLE, runtime="torch")


def counted(
    networks: Mapping[str, nn.Module],
    inputs: tuple[Tensor, ...],
    names: Sequence[str],
    threads: int = 1,
    **more: object,
) -> list[Measured]:
    """Measuring by multiply-adds, a fifth more of them for what is not dense: a clock that never wavers."""
    taken = {name: count_costs(each, inputs).macs for name, each in networks.items()}
    dense = taken.pop("dense")
    others = [Measured(name, names[0], 1.2 * macs, 1) for name, macs in taken.items()]
    return [Measured("dense", names[0], dense, 1), *others]


def table_by_macs(model: nn.Module, example: Tensor) -> dict[str, object]:
    """A table by which every layer takes as many milliseconds as multiply-adds."""
    grids = {}
    for layer in sc.inspect(model, example).layers:
        sides = [1, layer.in_channels], [1, layer.out_channels]
        cost = [[layer.positions * layer.weights(i, o) for o in sides[1]] for i in sides[0]]
        kind, kernel, stride, groups, in_hw = shape_of(layer)
        facts = {"kind": kind, "kernel": kernel, "stride": stride, "groups": groups, "in_hw": in_hw}
        grids[shape_of(layer)] = {**facts, "in_channels": sides[0], "out_channels": sides[1], "cost": cost}
    made = {"device": f"here, {processor()}", "runtime": "onnxruntime", "threads": 1, "made": "2026-11-23", "step": 1}
    return {**made, "fixed": 0.0, "layers": list(grids.values())}


def test_an_absolute_budget_is_held_to_in_milliseconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that takes twice what the table says, for the dense network too."""

    def slow(*given: Any, **more: Any) -> list[Measured]:
        return [replace(each, latency_ms=2 * each.latency_ms) for each in counted(*given, **more)]

    monkeypatch.setattr(runtimes, "measure", slow)
    model, place = network(), tmp_path / "table.json"
    place.write_text(json.dumps(table_by_macs(model, EXAMPLE)))
    most = 0.9 * count_costs(model, EXAMPLE).macs
    study = sc.search(
        model,
        EXAMPLE,
        evaluate=sc.agreement(model, EXAMPLE),
        calibration=[EXAMPLE],
        budget=sc.Budget(latency_ms=most, absolute=True),
        trials=3,
        settings=sc.SearchSettings(latency=str(place)),
    )
    met = sc.meet(study, model, EXAMPLE)
    small = sc.prune(model, EXAMPLE, met.plan, calibration=[EXAMPLE])
    assert 0.8 * most < 2 * 1.2 * count_costs(small, EXAMPLE).macs <= most


def test_a_table_of_another_device_is_not_measured_here(tmp_path: Path) -> None:
    model, place = network(), tmp_path / "table.json"
    place.write_text(json.dumps(table_by_macs(model, EXAMPLE) | {"device": "board, aarch64 Cortex-A72"}))
    budget = sc.Budget(latency_ms=0.6)
    settings = sc.SearchSettings(latency=str(place), measured=True)
    given = {"calibration": [EXAMPLE], "budget": budget, "trials": 2, "folder": tmp_path / "study"}
    with pytest.raises(sc.BudgetError, match="the table is of board, aarch64 Cortex-A72, this machine is"):
        sc.search(model, EXAMPLE, evaluate=sc.agreement(model, EXAMPLE), settings=settings, **given)
    assert not (tmp_path / "study").exists()


def test_a_job_is_delivered_within_its_measured_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runtimes, "measure", counted)
    job = digits_job(tmp_path, 'measured = true\nlatency = "table.json"\ntrials = 6', "[budget]\nlatency_ms = 0.6")
    dense, text = sc.load(tmp_path / "dense.safetensors", zoo.build("plain20", 10, 1, width=8)).eval(), job.read_text()
    job.write_text(text.replace('"table.json"', '"pixel1"'))
    assert main(["search", str(job)]) == 2
    assert "a table of this machine" in capsys.readouterr().err
    job.write_text(text)
    (tmp_path / "table.json").write_text(json.dumps(table_by_macs(dense, torch.zeros(1, 1, 8, 8))))
    assert main(["prune", str(job)]) == 0
    met = json.loads((tmp_path / "run" / "searched" / "met.json").read_text())
    assert len(met["tries"]) == 1, "the search has aimed at what is measured"
    small = sc.load(tmp_path / "run" / "searched" / "pruned.safetensors", zoo.build("plain20", 10, 1, width=8))
    image = torch.zeros(1, 1, 8, 8)
    share = 1.2 * count_costs(small, image).macs / count_costs(dense, image).macs
    assert met["measured"] == pytest.approx(share)
    assert share <= 0.6
    monkeypatch.setattr(runtimes, "measure", None)
    assert main(["prune", str(job)]) == 0, "what was measured is kept"


def test_rivals_have_the_limit_that_was_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "measure", counted)
    tables = '[budget]\nlatency_ms = 0.6\n[finetune]\nepochs = 0\n[report]\nrivals = ["uniform", "random"]'
    job = digits_job(tmp_path, 'measured = true\nlatency = "table.json"\ntrials = 4', tables)
    dense, image = (
        sc.load(tmp_path / "dense.safetensors", zoo.build("plain20", 10, 1, width=8)),
        torch.zeros(1, 1, 8, 8),
    )
    (tmp_path / "table.json").write_text(json.dumps(table_by_macs(dense.eval(), image)))
    assert main(["compress", str(job)]) == 0
    assert not [*(tmp_path / "run" / "random").glob("limit.json")]
    rows = json.loads((tmp_path / "run" / "report.json").read_text())["rows"]
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["measured"] == json.loads((tmp_path / "run" / "searched" / "met.json").read_text())["measured"] <= 0.6
    assert rows[0]["costs"]["latency_ms"] > rows[-1]["costs"]["latency_ms"] > 0
    assert "a table of layers measured by clock on here" in report["sources"]["latency_ms"]
    whole = rows[0]["costs"]["macs"]
    shares = {row["name"]: 1.2 * row["costs"]["macs"] / whole for row in rows[1:]}
    assert shares.keys() == {"uniform", "random", "searched"}
    assert all(0.5 < share <= 0.6 for share in shares.values())


def test_where_a_profile_tells_latency_the_runtime_has_to_be_named() -> None:
    study = search(sc.Bayesian(), HALF)
    told = sc.SearchSettings(latency="pixel1").prices[0]
    study.space.budget, study.space.prices = sc.Budget(latency_ms=0.5), {"latency_ms": NetworkCost(study.graph, told)}
    with pytest.raises(sc.BudgetError, match="name a runtime"):
        sc.meet(study, network(), EXAMPLE)

"""Rewards, and the metrics that a device decides: latency by profile or table, energy by estimate."""

import json
import math
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from jobs import digits_job
from networks import build, image, settled
from torch import nn

import secateur as sc
from secateur import zoo
from secateur.cli import main
from secateur.cost import DEVICES, DeviceProfile, EnergyEstimate, LayerTable, NetworkCost, latency_model
from secateur.errors import BudgetError, JobError, StudyError
from secateur.graph import count_costs
from secateur.job import parse_job
from secateur.prune import Pruner
from secateur.run import smallest_first
from secateur.search import SearchSpace, resource_constrained

DENSE = sc.Outcome(0.9, sc.Costs(1000, 100, 400, latency_ms=10.0, energy_mj=50.0), 0.0, 0.0)
HALF = sc.Costs(500, 50, 200, latency_ms=5.0, energy_mj=20.0, block_sparsity=0.25)


# ---- accuracy-guaranteed ---------------------------------------------------------------------------------------------


def test_accuracy_guaranteed_is_error_times_log_of_cost() -> None:
    assert sc.AccuracyGuaranteed()(0.7, HALF, DENSE) == pytest.approx(-0.3 * math.log(500))
    assert sc.AccuracyGuaranteed("params")(0.7, HALF, DENSE) == pytest.approx(-0.3 * math.log(50))
    assert sc.AccuracyGuaranteed("latency_ms")(0.7, HALF, DENSE) == pytest.approx(-0.3 * math.log(5e6))  # ns
    quick, quicker = (sc.Costs(1000, 100, 400, latency_ms=ms, energy_mj=ms) for ms in (0.6, 0.06))
    for metric in ("latency_ms", "energy_mj"):
        reward = sc.AccuracyGuaranteed(metric)
        assert reward(0.7, quick, DENSE) < reward(0.7, quicker, DENSE), "below one unit less is still better"


def test_within_the_tolerance_the_smaller_network_is_better() -> None:
    reward = sc.AccuracyGuaranteed(tolerance=0.01)
    smaller = sc.Costs(400, 40, 160)
    assert reward(0.89, smaller, DENSE) > reward(0.9, HALF, DENSE)
    assert reward(0.80, smaller, DENSE) < reward(0.9, HALF, DENSE)


def test_a_perfect_dense_network_is_not_the_best_of_all() -> None:
    perfect = sc.Outcome(1.0, DENSE.costs, 0.0, 0.0)
    reward = sc.AccuracyGuaranteed()
    assert reward(1.0, HALF, perfect) > reward(1.0, perfect.costs, perfect)


@pytest.mark.parametrize(("wrong", "says"), [({"metric": "flops"}, "metric"), ({"tolerance": 0.0}, "tolerance")])
def test_accuracy_guaranteed_refuses(wrong: dict, says: str) -> None:
    with pytest.raises(JobError, match=says):
        sc.AccuracyGuaranteed(**wrong)


# ---- composite -------------------------------------------------------------------------------------------------------


def test_composite_adds_four_terms_relative_to_dense() -> None:
    reward = sc.Composite(alpha=2, beta=-10, gamma=3, delta=4, f="quadratic", g="linear", h="logarithmic", F="linear")
    terms = reward.terms(0.81, HALF, DENSE)
    assert terms == pytest.approx(
        {
            "latency": 2 * 0.5**2,
            "accuracy": -10 * 0.1,
            "power": 3 * math.log1p((5.0 - 4.0) / 5.0),
            "sparsity": 4 * 0.25,
        }
    )
    assert reward(0.81, HALF, DENSE) == pytest.approx(sum(terms.values()))


@pytest.mark.parametrize("shape", ["linear", "logarithmic", "quadratic"])
def test_slower_counts_against_and_better_counts_for(shape: str) -> None:
    reward = sc.Composite(alpha=1, beta=-1, f=shape, g=shape)  # type: ignore[arg-type]
    slower = sc.Costs(500, 50, 200, latency_ms=15.0)
    assert reward.terms(0.9, slower, DENSE)["latency"] < 0
    assert reward.terms(0.95, HALF, DENSE)["accuracy"] > 0
    assert reward.terms(0.9, DENSE.costs, DENSE) == {"latency": 0, "accuracy": 0, "power": 0, "sparsity": 0}


@pytest.mark.parametrize("wrong", [{"f": "cubic"}, {"alpha": math.nan}, {"alpha": 0, "beta": 0}])
def test_composite_refuses(wrong: dict) -> None:
    with pytest.raises(JobError, match=r"\[reward\]"):
        sc.Composite(**wrong)


# ---- in a search -----------------------------------------------------------------------------------------------------


def search(
    reward: object, budget: sc.Budget, folder: Path | None = None, searcher: object = None, **settings: object
) -> sc.Study:
    model, example = build("residual")
    return sc.search(
        model,
        example,
        evaluate=sc.agreement(model, image(40)),
        calibration=[image(40)],
        budget=budget,
        trials=8,
        folder=folder,
        searcher=searcher,  # type: ignore[arg-type]
        settings=sc.SearchSettings(reward=reward, **settings),  # type: ignore[arg-type]
    )


def test_a_search_is_paid_by_the_reward_and_keeps_its_terms(tmp_path: Path) -> None:
    study = search(
        sc.Composite(alpha=1, beta=-1, gamma=0.1), sc.Budget(macs=(0.5, 1)), latency="pixel1", energy="estimate"
    )
    outcomes = [trial.outcome for trial in study.trials]
    for outcome in outcomes:
        assert outcome.reward == pytest.approx(sum(outcome.terms.values()))
        assert outcome.terms.keys() == {"latency", "accuracy", "power", "sparsity"}
        assert outcome.costs.latency_ms < study.dense.costs.latency_ms
    assert study.best.outcome.reward == max(outcome.reward for outcome in study.checked.values())
    assert sc.Trial.from_json(json.loads(json.dumps(study.best.to_json()))) == study.best


def test_the_smallest_without_loss_is_one_that_was_finished() -> None:
    """Of what trials say, the smallest may have been lucky: the next is finished until one holds."""
    reward = sc.AccuracyGuaranteed("macs", 0.2)
    study = search(reward, sc.Budget(macs=(0.4, 1)))
    assert study.smallest(0.2, "macs").number in study.checked
    study.checked.clear()
    asked = []
    for trial in smallest_first(0.2, "macs")(study):
        asked.append(trial)
        lucky = len(asked) < 3
        study.checked[trial.number] = replace(trial.outcome, score=0.0) if lucky else trial.outcome
    assert len(asked) == 3
    macs = [trial.outcome.costs.macs for trial in asked]
    assert macs == sorted(macs)
    assert study.smallest(0.2, "macs") == asked[-1]
    study.checked = {trial.number: replace(trial.outcome, score=0.0) for trial in study.succeeded}
    assert len(list(smallest_first(0.2, "macs")(study))) == 3, "where none holds, the best by reward"


def test_a_plan_that_cannot_be_finished_is_not_delivered(monkeypatch: pytest.MonkeyPatch) -> None:
    finish, asked = Pruner.final, []

    def broken(self: Pruner, counts: dict[str, int]) -> nn.Module:
        asked.append(counts)
        if len(asked) == 1:
            raise RuntimeError("the disk is full")
        return finish(self, counts)

    monkeypatch.setattr(Pruner, "final", broken)
    with pytest.warns(UserWarning, match="could not be finished: the disk is full"):
        study = search(sc.AccuracyGuaranteed("macs", 0.2), sc.Budget(macs=(0.4, 1)))
    assert len(study.unfinished) == 1
    assert study.smallest(0.2, "macs").number in study.checked
    assert len(asked) == 1 + len(study.checked), "each once"


def test_a_function_of_the_users_own() -> None:
    study = search(lambda score, costs, dense: -costs.params / dense.costs.params, sc.Budget(macs=(0.4, 1)))
    fewest = min(trial.outcome.costs.params for trial in study.trials)
    assert study.best.outcome.costs.params == fewest


@pytest.mark.parametrize("gives", [float("nan"), float("-inf"), "much"])
def test_a_reward_that_is_no_number_fails_its_trial_and_nothing_else(gives: object, tmp_path: Path) -> None:
    given: list[object] = []

    def odd(score: float, costs: sc.Costs, dense: sc.Outcome) -> object:
        given.append(gives if len(given) == 1 else np.float32(score))
        return given[-1]

    study = search(odd, sc.Budget(macs=0.6), tmp_path / "run", sc.Random())
    (failed,) = (trial for trial in study.trials if trial.error)
    assert "the reward returned" in failed.error
    assert len(study.trials) == 8


def test_a_reward_whose_metric_nobody_tells_is_refused_before_the_search() -> None:
    with pytest.raises(StudyError, match="latency_ms"):
        search(sc.Composite(alpha=1), sc.Budget(macs=(0.5, 1)))


def test_what_tells_latency_may_not_change_within_a_study(tmp_path: Path) -> None:
    profile = tmp_path / "phone.json"
    own = resources.files("secateur.cost") / "devices" / "pixel1.json"
    profile.write_text(own.read_text())
    first = search(resource_constrained, sc.Budget(latency_ms=0.8), tmp_path / "run", latency=str(profile))
    again = search(resource_constrained, sc.Budget(latency_ms=0.8), tmp_path / "run", latency=str(profile))
    assert [trial.plan for trial in again.trials] == [trial.plan for trial in first.trials]
    profile.write_text(own.read_text() + "\n")
    with pytest.raises(sc.StudyError, match="latency was"):
        search(resource_constrained, sc.Budget(latency_ms=0.8), tmp_path / "run", latency=str(profile))


def test_a_budget_in_milliseconds_is_met() -> None:
    study = search(sc.SearchSettings().reward, sc.Budget(latency_ms=0.8), latency="pixel1")
    assert all(trial.outcome.costs.latency_ms <= 0.8 * study.dense.costs.latency_ms for trial in study.trials)
    with pytest.raises(BudgetError, match="latency"):
        search(sc.SearchSettings().reward, sc.Budget(latency_ms=0.8))
    with pytest.raises(BudgetError, match="energy"):
        search(sc.SearchSettings().reward, sc.Budget(energy_mj=0.6))


# ---- job files -------------------------------------------------------------------------------------------------------

JOB = {"model": {"name": "resnet20"}, "data": {"source": "digits"}, "budget": {"macs": [0.3, 1.0]}}


@pytest.mark.parametrize(
    "table",
    [
        {"kind": "resource-constrained"},
        {"kind": "accuracy-guaranteed", "metric": "params", "tolerance": 0.01},
        {"kind": "composite", "alpha": 1, "beta": -5, "f": "quadratic", "F": "logarithmic"},
        {"kind": "math:fsum"},
    ],
)
def test_jobs_name_rewards(table: dict) -> None:
    job = parse_job({**JOB, "reward": table}, Path("job.toml"))
    assert callable(job.settings.reward)


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"kind": "accuracy"}, "module:function"),
        ({"kind": "composite", "alpha": 1, "epsilon": 2}, "epsilon"),
        ({"kind": "composite", "h": "cubic"}, "cubic"),
        ({"kind": "nowhere.at.all:reward"}, "cannot be imported"),
        ({"kind": "math:pi"}, "not a function"),
        ({"kind": "math:fsum", "alpha": 1}, "takes no alpha"),
    ],
)
def test_jobs_with_impossible_rewards_are_refused(table: dict, says: str) -> None:
    with pytest.raises(JobError, match=says):
        parse_job({**JOB, "reward": table}, Path("job.toml"))


def test_a_reward_that_weighs_cost_needs_a_range() -> None:
    with pytest.raises(JobError, match="range"):
        parse_job({**JOB, "budget": {"macs": 0.5}, "reward": {"kind": "accuracy-guaranteed"}}, Path("job.toml"))


def test_a_job_with_latency_and_a_reward_runs_and_resumes(tmp_path: Path) -> None:
    job = digits_job(
        tmp_path,
        'trials = 4\nlatency = "pixel1"\nenergy = "estimate"',
        """
        [budget]
        latency_ms = [0.8, 1.0]
        [reward]
        kind = "composite"
        alpha = 1
        beta = -5
        gamma = 0.5
        [finetune]
        epochs = 0
        [report]
        rivals = ["uniform"]
        """,
        "resnet20",
    )
    assert main(["search", str(job)]) == 0
    journal = tmp_path / "run" / "searched" / "journal.jsonl"
    before = journal.read_bytes()
    assert main(["resume", str(tmp_path / "run")]) == 0
    assert journal.read_bytes() == before
    assert main(["report", str(tmp_path / "run")]) == 0
    assert "What the reward is made of" in (tmp_path / "run" / "report.html").read_text()
    assert json.loads(before.splitlines()[0])["outcome"]["terms"].keys() == {"latency", "accuracy", "power", "sparsity"}


# ---- what tells latency and energy -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DEVICES)
def test_profiles_price_any_network_and_more_channels_never_cost_less(name: str) -> None:
    model = settled(zoo.build("mobilenet_v1", 1000, width=0.25))
    graph = sc.inspect(model, torch.zeros(1, 3, 32, 32))
    cost = NetworkCost(graph, latency_model(name))
    assert cost.dense > 0
    for group in graph.prunable:
        assert (np.diff(cost.curve({}, group.key)) >= 0).all()


def test_the_pixel_profile_knows_its_own_mobilenet() -> None:
    graph = sc.inspect(zoo.build("mobilenet_v1", 1001).eval(), torch.zeros(1, 3, 224, 224))
    assert latency_model("pixel1").dense(graph) == pytest.approx(124.5, rel=0.02), "measured: 123.0 to 127.2 ms"


def test_energy_counts_operations_and_bytes() -> None:
    model, example = build("plain")
    graph = sc.inspect(model, example)
    layer = graph.layer["conv1"]  # 3 -> 8 channels, 3 x 3, on 8 x 8 pixels
    assert (layer.positions, layer.in_hw) == (64, (8, 8))
    moved = 4 * (8 * 3 * 9 + 3 * 64 + 8 * 64)
    expected = (4.6 * 64 * 8 * 3 * 9 + 160 * moved) * 1e-9
    assert EnergyEstimate().layer_cost(layer, 3, 8) == pytest.approx(expected)


TABLE = {
    "device": "a board",
    "runtime": "onnxruntime",
    "threads": 1,
    "made": "2026-11-22",
    "step": 4,
    "fixed": 0.5,
    "layers": [
        {
            "kind": "conv",
            "kernel": [3, 3],
            "stride": 1,
            "groups": 1,
            "in_hw": [8, 8],
            "in_channels": [3],
            "out_channels": [4, 8],
            "cost": [[1.0, 3.0]],
        },
        {
            "kind": "conv",
            "kernel": [3, 3],
            "stride": 2,
            "groups": 1,
            "in_hw": [8, 8],
            "in_channels": [4, 8],
            "out_channels": [4, 8, 12],
            "cost": [[1.0, 2.0, 2.5], [2.0, 4.0, 3.0]],
            "scale": 2.0,
        },
        {
            "kind": "linear",
            "kernel": [],
            "stride": 1,
            "groups": 1,
            "in_hw": [1, 1],
            "in_channels": [1, 192],
            "out_channels": [1, 20],
            "cost": [[0.0, 0.1], [0.1, 0.2]],
        },
    ],
}


def table(tmp_path: Path, **changes: object) -> LayerTable:
    place = tmp_path / "table.json"
    place.write_text(json.dumps({**TABLE, **changes}))
    model = latency_model(str(place))
    assert isinstance(model, LayerTable)
    return model


def test_a_table_is_exact_on_its_grid_and_goes_by_the_hardwares_steps(tmp_path: Path) -> None:
    told = table(tmp_path)
    graph = sc.inspect(*build("plain"))
    conv2 = graph.layer["conv2"]
    assert told.layer_cost(conv2, 4, 8) == pytest.approx(2 * 2.0)
    assert told.layer_cost(conv2, 5, 8) == told.layer_cost(conv2, 8, 8) == pytest.approx(2 * 4.0)
    assert told.layer_cost(conv2, 8, 12) == pytest.approx(2 * 4.0), "12 channels never take less than 8"
    finer = table(tmp_path, step=1)
    assert finer.layer_cost(conv2, 6, 6) == pytest.approx(2 * (1 + 2 + 2 + 4) / 4)
    many = told.layer_cost(conv2, np.array([4, 8]), np.array([4, 8]))
    assert many == pytest.approx([2.0, 8.0])


def test_a_network_takes_what_its_layers_do_and_what_is_between_them(tmp_path: Path) -> None:
    told, graph = table(tmp_path), sc.inspect(*build("plain"))
    layers = sum(float(told.layer_cost(x, x.in_channels, x.out_channels)) for x in graph.layers)
    assert told.dense(graph) == pytest.approx(layers + 0.5)
    space = SearchSpace(graph, sc.Budget(latency_ms=0.8), prices=[told])
    plan = space.fit([1.0] * len(space.sites))
    assert space.costs(space.counts(plan)).latency_ms <= 0.8 * told.dense(graph)


def test_a_layer_that_was_not_measured_is_named(tmp_path: Path) -> None:
    told = table(tmp_path, layers=TABLE["layers"][:1])
    with pytest.raises(BudgetError, match="conv2"):
        told.dense(sc.inspect(*build("plain")))


def test_a_table_of_narrower_layers_is_refused(tmp_path: Path) -> None:
    narrow = {**TABLE["layers"][1], "out_channels": [4], "cost": [[1.0], [2.0]]}
    told = table(tmp_path, layers=[TABLE["layers"][0], narrow, *TABLE["layers"][2:]])
    with pytest.raises(BudgetError, match=r"narrower layers than conv2"):
        told.dense(sc.inspect(*build("plain")))


def test_a_table_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    for wrong in ({"cost": []}, {"cost": [[1.0, -2.0], [2.0, 4.0]]}, {"in_channels": [8, 4]}, {"scale": 0.0}):
        with pytest.raises(BudgetError, match="channels rise"):
            table(tmp_path, layers=[{**TABLE["layers"][1], **wrong}])
    with pytest.raises(BudgetError, match="profile it anew"):
        table(tmp_path, fixed=-100.0).dense(sc.inspect(*build("plain")))
    (tmp_path / "table.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BudgetError, match="is no text"):
        latency_model(str(tmp_path / "table.json"))


def test_a_reward_that_cannot_be_paid_is_refused_before_the_search(tmp_path: Path) -> None:
    def two(score: float, costs: sc.Costs) -> float:
        return score

    with pytest.raises(StudyError, match="the reward of the dense network: TypeError"):
        search(two, sc.Budget(macs=0.6), tmp_path / "run")
    assert not (tmp_path / "run" / "journal.jsonl").exists()


def test_two_rewards_of_one_name_are_two_studies(tmp_path: Path) -> None:
    half = sc.Budget(macs=0.5)
    search(lambda score, costs, dense: score, half, tmp_path / "run")
    with pytest.raises(StudyError):
        search(lambda score, costs, dense: 2 * score - costs.macs / dense.costs.macs, half, tmp_path / "run")


@pytest.mark.parametrize("text", ["{", "[]", '{"layers": 3}', '{"device": "x"}'])
def test_what_is_no_table_is_refused(text: str, tmp_path: Path) -> None:
    place = tmp_path / "table.json"
    place.write_text(text)
    with pytest.raises(BudgetError, match="latency = "):
        latency_model(str(place))
    with pytest.raises(BudgetError, match="no such file"):
        latency_model(str(tmp_path / "nowhere.json"))


def test_a_profile_is_a_file_too(tmp_path: Path) -> None:
    place = tmp_path / "mine.json"
    rates = {"ms_per_gmac": 1.0, "ms_per_input_mb": 0.0, "ms_per_output_mb": 0.0}
    place.write_text(json.dumps({"device": "d", "runtime": "r", "source": "s", "kinds": {"conv": rates}}))
    profile = latency_model(str(place))
    assert isinstance(profile, DeviceProfile)
    model, example = build("plain")
    graph = sc.inspect(model, example)
    assert float(profile.layer_cost(graph.layer["conv1"], 3, 8)) == pytest.approx(graph.layer["conv1"].macs / 1e9)
    with pytest.raises(BudgetError, match="fc1"):
        profile.dense(graph)
    assert count_costs(model, example).latency_ms is None

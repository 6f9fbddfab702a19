"""Budgets too far for one step: search, fine-tune, search again."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from jobs import digits_job

import secateur as sc
from secateur import zoo
from secateur.cli import main
from secateur.graph import count_costs
from secateur.job import read_job
from secateur.job.compress import Run
from secateur.job.stages import steps

TABLES = """
[budget]
macs = 0.12
[finetune]
epochs = 1
[report]
rivals = ["uniform"]
"""
EXAMPLE = torch.zeros(1, 1, 8, 8)


@pytest.fixture
def job(tmp_path: Path) -> Path:
    return digits_job(tmp_path, "trials = 3\nstage = 0.4", TABLES)


def run_of(job: Path) -> Run:
    return Run(read_job(job), "a test")


def test_a_far_budget_is_reached_in_stages(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compress", str(job)]) == 0
    folder = job.parent / "run"
    dense = zoo.build("plain20", 10, 1, width=8)
    places = (folder / "stage" / "stage", folder / "stage", folder)
    shares = [
        count_costs(sc.load(place / "small.safetensors", dense), EXAMPLE).macs / count_costs(dense, EXAMPLE).macs
        for place in places
    ]
    assert shares[0] <= 0.12 ** (1 / 3)
    assert shares[1] <= 0.12 ** (2 / 3)
    assert shares[2] <= 0.12
    assert shares[2] > 0.08, "what the stages before left is not taken for the dense network"
    report = json.loads((folder / "report.json").read_text())
    assert [row["name"] for row in report["rows"]] == ["dense", "uniform", "searched"]
    assert report["rows"][0]["costs"]["macs"] == count_costs(dense, EXAMPLE).macs
    kept = report["rows"][-1]["plan"]
    assert np.mean([*kept.values()]) < 0.5, "shares of the dense network, not of what the stage before left"
    assert sum(dense for _, dense, _ in report["layers"]) == report["rows"][0]["costs"]["macs"]
    assert "stage 1" in (said := capsys.readouterr()).out + said.err
    job.write_text(job.read_text().replace("epochs = 1", "epochs = 0"))
    assert main(["prune", str(job)]) == 2
    assert "was reached in stages, which are fine-tuned" in capsys.readouterr().err


def test_stages_are_taken_up_again(job: Path) -> None:
    first = run_of(job).small().state_dict()
    journals = [*job.parent.rglob("journal.jsonl")]
    assert len(journals) == 3
    lines = [place.read_text() for place in journals]
    again = run_of(job).small().state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert [place.read_text() for place in journals] == lines


def test_what_a_stage_has_left_stays_once_it_is_used(job: Path) -> None:
    run_of(job).small()
    text, stage = job.read_text(), job.parent / "run" / "stage"
    kept = (stage / "small.safetensors").read_bytes(), (stage / "searched" / "journal.jsonl").read_bytes()
    job.write_text(text.replace("trials = 3", "trials = 5"))
    assert len(run_of(job).study().trials) == 5
    job.write_text(text.replace("epochs = 1", "epochs = 2"))
    run_of(job).pruned()
    assert kept == ((stage / "small.safetensors").read_bytes(), (stage / "searched" / "journal.jsonl").read_bytes())


def test_a_run_begun_in_one_step_stays_so(job: Path) -> None:
    text = job.read_text()
    job.write_text(text.replace("epochs = 1", "epochs = 0"))
    run_of(job).pruned()
    job.write_text(text)
    assert run_of(job).before is None
    run_of(job).small()


def test_what_cannot_be_reached_in_one_step_can_be_in_stages(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job.write_text(job.read_text().replace("macs = 0.12", "macs = 0.015"))
    assert main(["inspect", str(job)]) == 0
    assert "in 5 steps" in capsys.readouterr().out
    assert main(["search", str(job)]) == 0


def test_near_budgets_ranges_and_no_fine_tuning_take_one_step(job: Path) -> None:
    text = job.read_text()
    for number, (old, new) in enumerate(
        (
            ("macs = 0.12", "macs = 0.4"),
            ("macs = 0.12", "macs = [0.12, 0.5]"),
            ("epochs = 1", "epochs = 0"),
            ("[finetune]", '[space.sparsity]\n"*" = "element"\n[finetune]'),
        )
    ):
        job.write_text(text.replace(old, new).replace('run"', f'run{number}"'))
        assert run_of(job).before is None
    job.write_text(text.replace("stage = 0.4", "stage = 1.5"))
    with pytest.raises(sc.JobError, match=r"stage = 1\.5"):
        read_job(job)


def test_what_agrees_and_teaches_is_the_dense_network(job: Path) -> None:
    run = run_of(job)
    assert run.before is not None
    assert run.before.materials is run.materials
    assert run.score(run.materials.model) == pytest.approx(1)
    assert run.space.dense.macs < run.before.space.dense.macs < count_costs(run.materials.model, EXAMPLE).macs


@pytest.mark.parametrize(
    ("share", "stage", "number"), [(0.001, 0.1, 3), (0.125, 0.5, 3), (0.1, 0.1, 1), (0.0099, 0.1, 3)]
)
def test_steps_are_no_more_than_it_takes(job: Path, share: float, stage: float, number: int) -> None:
    assert steps(replace(read_job(job), stage=stage), share) == number


def test_a_small_budget_may_be_absolute() -> None:
    dense = sc.Costs(1000, 100, 400, latency_ms=2.0)
    assert sc.Budget(latency_ms=0.8).limit(dense) == pytest.approx(1.6)
    assert sc.Budget(latency_ms=0.8, absolute=True).limit(dense) == pytest.approx(0.8)
    assert sc.Budget(latency_ms=(0.5, 1.5), absolute=True).limits(dense) == (0.5, 1.5)
    assert str(sc.Budget(latency_ms=0.8, absolute=True)) == "0.8 latency_ms"
    with pytest.raises(sc.BudgetError, match="two fractions, or two absolute"):
        sc.Budget(latency_ms=(0.5, 1.5))

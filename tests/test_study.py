"""The journal, the run folder and the loop: a study that is killed goes on as if nothing had happened."""

import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import Plain, Residual, Viewed, image, settled
from safetensors.torch import save_file
from threadpoolctl import threadpool_info, threadpool_limits
from torch import Tensor, nn

import secateur as sc
from secateur.run import Journal, RunFolder, folder, journal
from secateur.run.loop import FINALISTS
from secateur.search.knapsack import Solver
from secateur.threads import torch_threads

TRIALS = 24
BUDGET = sc.Budget(macs=0.6)
AGENT = sc.DDPG(seed=3, warmup=5, sigma=0.5, sigma_decay=0.95, hidden=8, batch=8, replay=6, rehearsal=0)
EVALUATIONS = {"dense": 1}


def batches(examples: int = 24) -> Iterator[Tensor]:
    yield image(examples)


def evaluate(model: nn.Module) -> float:
    """Cheap, and different for every plan: how near the answers are to nothing at all."""
    return -float(model(image(4)).square().mean())


def search(place: Path | None, evaluate: Callable[[nn.Module], Any] = evaluate, **options: Any) -> sc.Study:
    options = {"trials": TRIALS, "budget": BUDGET, "searcher": AGENT, "calibration": batches(), **options}
    if "workers" in options:
        options["settings"] = sc.SearchSettings(workers=options.pop("workers"))
    model = options.pop("model", None) or settled(Plain())
    return sc.search(model, image(), evaluate=evaluate, folder=place, **options)


def lines(place: Path) -> list[dict[str, Any]]:
    """The journal without what differs from run to run."""
    found = [json.loads(line) for line in (place / "journal.jsonl").read_text().splitlines()]
    for trial in found:
        if trial["outcome"]:
            trial["outcome"].pop("seconds")
    return found


def trial(number: int, **values: Any) -> sc.Trial:
    outcome = sc.Outcome(0.1 + number / 3, sc.Costs(10, 20, 30), -0.9, 0.25)
    return sc.Trial(number, 0, sc.Plan({"a": 1 / 3, "b": 1.0}), **{"outcome": outcome, **values})


# ---- the journal -----------------------------------------------------------------------------------------------------


def test_trials_come_back_as_they_were(tmp_path: Path) -> None:
    book = Journal(tmp_path / "journal.jsonl")
    assert book.read() == []
    written = [trial(0), trial(1, outcome=None, error="ValueError: no\nnewlines ü"), trial(2)]
    for each in written:
        book.append(each)
    assert book.read() == written
    assert len((tmp_path / "journal.jsonl").read_bytes().splitlines()) == 3


def test_a_line_torn_at_any_byte_is_dropped_and_written_anew(tmp_path: Path) -> None:
    book = Journal(tmp_path / "journal.jsonl")
    for number in range(3):
        book.append(trial(number))
    whole = book.path.read_bytes()
    start = whole.rstrip(b"\n").rindex(b"\n") + 1
    for end in range(start, len(whole)):
        book.path.write_bytes(whole[:end])
        assert book.read() == [trial(0), trial(1)], f"torn after {end - start} of {len(whole) - start} bytes"
        book.append(trial(2))
        assert book.path.read_bytes() == whole, f"torn after {end - start} of {len(whole) - start} bytes"


def test_a_first_line_torn_leaves_an_empty_journal(tmp_path: Path) -> None:
    book = Journal(tmp_path / "journal.jsonl")
    book.path.write_bytes(b'{"number": 0, "se')
    assert book.read() == []
    assert book.path.read_bytes() == b""


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"\x00\xff\xfe",
        b"{}",
        b"5",
        b"[]",
        b'{"number": 1, "seed": 0}',
        b'{"number": 1, "seed": 0, "plan": [1], "outcome": null, "error": null}',
        b'{"number": 1, "seed": 0, "plan": {"a": 2.0}, "outcome": null, "error": null}',
        b'{"number": 1, "seed": 0, "plan": {"a": "x"}, "outcome": null, "error": null}',
        b'{"number": 1, "seed": 0, "plan": {"a": 1.0}, "outcome": {"score": 1}, "error": null}',
        b'{"number": 7, "seed": 0, "plan": {"a": 1.0}, "outcome": null, "error": "x"}',
    ],
)
def test_a_damaged_line_in_the_middle_is_named(damage: bytes, tmp_path: Path) -> None:
    book = Journal(tmp_path / "journal.jsonl")
    for number in range(3):
        book.append(trial(number))
    parts = book.path.read_bytes().splitlines(keepends=True)
    damaged = parts[0] + damage + b"\n" + parts[2]
    book.path.write_bytes(damaged)
    with pytest.raises(sc.StudyError, match=r"journal\.jsonl, line 2.*delete that line"):
        book.read()
    assert book.path.read_bytes() == damaged, "the damaged file has to stay as it was found"


# ---- the folder ------------------------------------------------------------------------------------------------------


def test_a_file_in_place_of_the_folder_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("I was here first")
    calls: list[nn.Module] = []
    with pytest.raises(sc.StudyError, match=r"cannot write.*run.*name another"):
        search(tmp_path / "run", calls.append)
    assert not calls, "the model was evaluated before the folder was tried"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_leave_to_write_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o500)
    with pytest.raises(sc.StudyError, match="cannot write"):
        search(tmp_path / "run")


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("model", {"model": settled(Residual())}),
        ("weights", {"model": settled(Plain(), seed=1)}),
        ("budget", {"budget": sc.Budget(macs=0.7)}),
        ("budget", {"budget": sc.Budget(params=0.6)}),
        ("searcher", {"searcher": sc.Random(seed=3)}),
        ("searcher", {"searcher": replace(AGENT, seed=4)}),
        ("space", {"settings": sc.SearchSettings(space=sc.SpaceSettings(min_keep=0.2))}),
        ("prune", {"settings": sc.SearchSettings(prune=sc.PruneSettings(criterion="magnitude"))}),
        ("workers", {"workers": 2}),
    ],
)
def test_another_study_in_the_folder_is_refused_by_name(what: str, change: dict[str, Any], tmp_path: Path) -> None:
    search(tmp_path / "run", trials=2)
    before = (tmp_path / "run" / "journal.jsonl").read_bytes()
    with pytest.raises(sc.StudyError, match=rf"holds another study.*\b{what} was"):
        search(tmp_path / "run", **change)
    assert (tmp_path / "run" / "journal.jsonl").read_bytes() == before


def test_a_damaged_header_is_named(tmp_path: Path) -> None:
    search(tmp_path / "run", trials=1)
    (tmp_path / "run" / "study.json").write_text('{"format":')
    with pytest.raises(sc.StudyError, match=r"study\.json is damaged"):
        search(tmp_path / "run", trials=2)


def test_a_partial_snapshot_is_ignored(tmp_path: Path) -> None:
    search(tmp_path / "a", trials=TRIALS)
    search(tmp_path / "b", trials=TRIALS // 2)
    (tmp_path / "b" / "searcher.safetensors.partial").write_bytes(b"\x00torn")
    search(tmp_path / "b", trials=TRIALS)
    assert lines(tmp_path / "b") == lines(tmp_path / "a")


def test_a_damaged_snapshot_is_named_and_can_be_deleted(tmp_path: Path) -> None:
    search(tmp_path / "a")
    search(tmp_path / "b", trials=TRIALS // 2)
    snapshot = tmp_path / "b" / "searcher.safetensors"
    snapshot.write_bytes(snapshot.read_bytes()[:-100])
    with pytest.raises(sc.StudyError, match=r"searcher\.safetensors is damaged.*delete it"):
        search(tmp_path / "b")
    save_file({"nothing": torch.zeros(1)}, snapshot)  # without its metadata
    with pytest.raises(sc.StudyError, match=r"searcher\.safetensors is damaged.*delete it"):
        search(tmp_path / "b")
    snapshot.unlink()
    search(tmp_path / "b")
    assert lines(tmp_path / "b") == lines(tmp_path / "a")


def test_a_snapshot_ahead_of_its_journal_is_refused(tmp_path: Path) -> None:
    search(tmp_path / "a", trials=4)
    book = tmp_path / "a" / "journal.jsonl"
    book.write_bytes(b"".join(book.read_bytes().splitlines(keepends=True)[:2]))
    with pytest.raises(sc.StudyError, match="ahead of the journal"):
        search(tmp_path / "a", trials=6)


# ---- killed ----------------------------------------------------------------------------------------------------------


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _dying_evaluate(at: int) -> Callable[[nn.Module], float]:
    calls = [0]

    def wrapped(model: nn.Module) -> float:
        calls[0] += 1
        if calls[0] == at + 1:  # the first call is for the dense network
            _die()
        return evaluate(model)

    return wrapped


def _after_append(at: int) -> None:
    append = Journal.append

    def wrapped(self: Journal, trial: sc.Trial) -> None:
        append(self, trial)
        if trial.number == at:
            _die()

    Journal.append = wrapped  # type: ignore[method-assign]


def _torn_append(at: int) -> None:
    append = Journal.append

    def wrapped(self: Journal, trial: sc.Trial) -> None:
        if trial.number < at:
            return append(self, trial)
        line = json.dumps(trial.to_json()).encode()
        with self.path.open("ab") as file:
            file.write(line[: len(line) * 2 // 3])
        _die()

    Journal.append = wrapped  # type: ignore[method-assign]


def _torn_snapshot(at: int) -> None:
    write = folder.write_atomically

    def wrapped(path: Path, content: bytes) -> None:
        if path.name == "searcher.safetensors":
            path.with_name(path.name + ".partial").write_bytes(content[: len(content) // 2])
            _die()
        write(path, content)

    folder.write_atomically = wrapped


def _after_snapshot(at: int) -> None:
    save = RunFolder.save_searcher

    def wrapped(self: RunFolder, now: Any) -> None:
        save(self, now)
        _die()

    RunFolder.save_searcher = wrapped  # type: ignore[method-assign]


KILLS: dict[str, Callable[[int], None]] = {
    "after the line": _after_append,
    "within the line": _torn_append,
    "within the snapshot": _torn_snapshot,
    "after the snapshot": _after_snapshot,
}


def _child(place: Path, workers: int, kill: str, at: int) -> None:
    torch.set_num_threads(1)
    if kill in KILLS:
        KILLS[kill](at)
    search(place, _dying_evaluate(at) if kill == "in evaluate" else evaluate, workers=workers)


def _in_a_child(place: Path, workers: int, kill: str = "", at: int = 0) -> int | None:
    """Run a search in a process of its own; its exit code."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["secateur", "torch._dynamo"])  # dynamo: what a first forward pass loads
    child = context.Process(target=_child, args=(place, workers, kill, at))
    child.start()
    child.join(120)
    assert not child.is_alive(), "the search hangs"
    return child.exitcode


@pytest.fixture(scope="module", params=[1, 2], ids=["one worker", "two workers"])
def unbroken(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, list[Any]]:
    place = tmp_path_factory.mktemp("unbroken") / "run"
    assert _in_a_child(place, request.param) == 0
    found = lines(place)
    assert [line["number"] for line in found] == list(range(TRIALS))
    assert len({json.dumps(line["plan"]) for line in found}) > TRIALS // 2, "the plans hardly differ: nothing is tested"
    return request.param, found


@pytest.mark.parametrize(
    "kills",
    [
        [("in evaluate", 8), ("in evaluate", 3)],
        [("after the line", 0), ("after the line", 11), ("within the line", 23)],
        [("within the line", 0), ("within the line", 7)],
        [("within the snapshot", 0)],
        [("after the snapshot", 0), ("in evaluate", 2)],
    ],
    ids=lambda kills: ", ".join(f"{kill} {at}" for kill, at in kills),
)
def test_a_killed_search_resumes_to_the_same_journal(
    kills: list[tuple[str, int]], unbroken: tuple[int, list[Any]], tmp_path: Path
) -> None:
    workers, expected = unbroken
    place = tmp_path / "run"
    for kill, at in kills:
        assert _in_a_child(place, workers, kill, at) == -signal.SIGKILL
        recorded = Journal(place / "journal.jsonl").read()
        assert len(recorded) < TRIALS or "snapshot" in kill or at == TRIALS - 1
    assert _in_a_child(place, workers) == 0
    assert lines(place) == expected


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupt_loses_nothing(workers: int, tmp_path: Path) -> None:
    calls = [0]

    def interrupted(model: nn.Module) -> float:
        calls[0] += 1
        if calls[0] == 12:
            raise KeyboardInterrupt
        return evaluate(model)

    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "b", interrupted, workers=workers)
    assert len(lines(tmp_path / "b")) >= 10 // workers * workers, "trials that were finished are not in the journal"
    resumed = search(tmp_path / "b", workers=workers)
    search(tmp_path / "a", workers=workers)
    assert lines(tmp_path / "b") == lines(tmp_path / "a")
    assert [each.number for each in resumed.trials] == list(range(TRIALS))


# ---- the loop --------------------------------------------------------------------------------------------------------


def test_more_trials_continue_a_finished_study(tmp_path: Path) -> None:
    whole = search(tmp_path / "a", trials=TRIALS)
    search(tmp_path / "b", trials=7)
    calls: list[int] = []

    def counted(model: nn.Module) -> float:
        calls.append(1)
        return evaluate(model)

    resumed = search(tmp_path / "b", counted, trials=TRIALS)
    assert lines(tmp_path / "b") == lines(tmp_path / "a")
    assert resumed.best.plan == whole.best.plan
    assert len(calls) <= 1 + TRIALS - 7, "trials of the journal were evaluated again"
    before = (tmp_path / "b" / "journal.jsonl").read_bytes()
    assert len(search(tmp_path / "b", counted, trials=TRIALS).trials) == TRIALS
    assert (tmp_path / "b" / "journal.jsonl").read_bytes() == before


def test_a_folder_changes_nothing_of_the_search(tmp_path: Path) -> None:
    inside, outside = search(tmp_path / "a"), search(None)
    assert [each.plan for each in inside.trials] == [each.plan for each in outside.trials]


def test_the_same_plan_is_not_evaluated_twice() -> None:
    calls: list[int] = []

    def counted(model: nn.Module) -> float:
        calls.append(1)
        return evaluate(model)

    study = search(None, counted, searcher=sc.Uniform(), trials=5)
    assert len(calls) == 3, "the dense network, the one plan there is, and that plan's finished network"
    assert len({each.outcome for each in study.trials}) == 1


def test_on_trial_sees_every_new_trial() -> None:
    seen: list[int] = []
    search(None, trials=6, on_trial=lambda study, each: seen.append((each.number, len(study.trials))))  # type: ignore
    assert seen == [(n, n + 1) for n in range(6)]


def test_a_searcher_leaves_the_cores_to_the_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    propose = Solver.solve

    def watched(self: Solver, *arguments: Any) -> dict[str, int]:
        libraries = [each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"]
        seen.append(max([torch.get_num_threads(), *libraries]))
        return propose(self, *arguments)

    monkeypatch.setattr(Solver, "solve", watched)
    with threadpool_limits(2), torch_threads(2):
        search(None, trials=5, searcher=sc.Bayesian(), workers=2)
        assert torch.get_num_threads() == 2, "what the caller had set is set again"
    assert len(seen) >= 5
    assert set(seen) == {1}


def test_the_best_is_the_first_of_the_highest_rewards() -> None:
    scores = iter([0.0, 0.1, 0.7, 0.3, 0.7, 0.2, 0.1, 0.0, 0.5, *[0.7] * FINALISTS])  # two plans come twice
    study = search(None, lambda model: next(scores), searcher=sc.Random(0), trials=10)
    assert study.dense.score == 0.0
    assert study.best.number == 1
    assert study.best.outcome is not None
    assert study.best.outcome.score == 0.7


def test_every_outcome_meets_the_budget() -> None:
    study = search(None)
    for each in study.trials:
        assert each.outcome is not None
        assert each.outcome.costs.macs <= 0.6 * study.dense.costs.macs


@pytest.mark.filterwarnings("ignore:.*could not be finished")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_failing_evaluate_is_recorded_and_the_search_goes_on(workers: int, tmp_path: Path) -> None:
    dense: list[int] = []

    def failing(model: nn.Module) -> float:
        score = evaluate(model)
        if dense and int(abs(score) * 1e6) % 3 == 0:
            raise ZeroDivisionError("it burst")
        dense.append(1)
        return score

    study = search(tmp_path / "a", failing, workers=workers, searcher=sc.Random(1))
    failed = [each for each in study.trials if each.error]
    assert failed, "no trial failed: nothing is tested"
    assert len(failed) + len(study.succeeded) == TRIALS
    for each in failed:
        assert each.error == "ZeroDivisionError: it burst"
        assert each.outcome is None
    assert Journal(tmp_path / "a" / "journal.jsonl").read() == study.trials


@pytest.mark.parametrize("value", [math.nan, math.inf, "0.9", None, True, torch.zeros(2), [0.5]])
def test_what_is_no_number_is_a_failed_trial(value: Any) -> None:
    calls: list[int] = []

    def odd(model: nn.Module) -> Any:
        calls.append(1)
        return value if len(calls) == 3 else evaluate(model)

    study = search(None, odd, trials=5, searcher=sc.Random(0))
    assert [each.number for each in study.trials if each.error] == [1]
    assert study.trials[1].error is not None
    assert study.trials[1].error.startswith("EvaluationError: evaluate returned")
    assert study.trials[1].outcome is None


@pytest.mark.parametrize("value", [3, 0.5, torch.tensor(0.5), torch.tensor([0.5], dtype=torch.float64)])
def test_any_finite_number_is_a_score(value: Any) -> None:
    assert search(None, lambda model: value, trials=1).dense.score == float(value)


@pytest.mark.parametrize("trials", [4, TRIALS])
def test_all_failing_is_an_error_that_shows_the_first_cause(trials: int, tmp_path: Path) -> None:
    calls: list[int] = []

    def failing(model: nn.Module) -> float:
        calls.append(1)
        if len(calls) > 1:
            raise RuntimeError(f"cause {len(calls) - 1}")
        return 0.5

    with pytest.raises(sc.StudyError, match=r"failed with: RuntimeError: cause 1$"):
        search(tmp_path / "a", failing, trials=trials)
    assert len(lines(tmp_path / "a")) == min(trials, 10), "a hopeless search should stop early"


def test_a_hopeless_search_goes_on_once_its_cause_is_gone(tmp_path: Path) -> None:
    calls: list[int] = []

    def failing(model: nn.Module) -> float:
        calls.append(1)
        if len(calls) > 1:
            raise RuntimeError("the disk is away")
        return evaluate(model)

    with pytest.raises(sc.StudyError, match="the disk is away"):
        search(tmp_path / "a", failing)
    study = search(tmp_path / "a")
    assert len(study.succeeded) == TRIALS - 10


def test_what_fails_before_the_first_trial_leaves_the_folder_free(tmp_path: Path) -> None:
    with pytest.raises(sc.StudyError, match="the reward of the dense network"):
        search(tmp_path / "a", settings=sc.SearchSettings(reward=lambda score, costs, dense: score / 0))
    with pytest.raises(sc.DataError, match="calibration"):
        search(tmp_path / "a", calibration=[], budget=sc.Budget(macs=0.5))
    study = search(tmp_path / "a", trials=2)
    assert len(study.trials) == 2
    with pytest.raises(sc.StudyError, match="holds another study"):
        search(tmp_path / "a", budget=sc.Budget(macs=0.5))


@pytest.mark.parametrize("value", ["0.9", None, math.nan, False])
def test_a_bad_evaluate_is_found_out_before_any_work(value: Any) -> None:
    taken: list[int] = []

    def calibration() -> Iterator[Tensor]:
        taken.append(1)
        yield image(24)

    with pytest.raises(sc.EvaluationError, match="evaluate returned"):
        search(None, lambda model: value, calibration=calibration())
    assert not taken, "calibration began before evaluate was tried"


@pytest.mark.parametrize("calibration", [[], [image(0)], [(3, 4)], [{"x": image()}], [()]])
def test_calibration_without_inputs_is_a_data_error(calibration: Any) -> None:
    with pytest.raises(sc.DataError, match="calibration"):
        search(None, calibration=calibration)


@pytest.mark.parametrize("bad", [{"trials": 0}, {"trials": -3}, {"workers": 0}])
def test_bad_numbers_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(sc.StudyError, match=next(iter(bad))):
        search(None, **bad)


def test_a_number_is_no_budget() -> None:
    with pytest.raises(sc.BudgetError, match=r"budget = 0\.5: give sc\.Budget"):
        search(None, budget=0.5)


def test_an_impossible_budget_is_refused_before_anything_is_evaluated() -> None:
    calls: list[nn.Module] = []
    with pytest.raises(sc.BudgetError, match="cannot be met"):
        search(None, calls.append, budget=sc.Budget(macs=0.001))
    assert not calls


def test_evaluate_gets_a_network_in_eval_mode_that_it_may_spoil() -> None:
    modes: list[bool] = []

    def spoiling(model: nn.Module) -> float:
        modes.append(any(module.training for module in model.modules()))
        score = evaluate(model)
        for parameter in model.parameters():
            parameter.data.zero_()
        return score

    model = settled(Plain()).train()
    spoilt, clean = search(None, spoiling, model=model), search(None, model=model)
    assert not any(modes)
    assert [each.outcome and each.outcome.score for each in spoilt.trials] == [
        each.outcome and each.outcome.score for each in clean.trials
    ]


def test_a_network_that_views_feature_maps_is_scored_pruned_and_trained(tmp_path: Path) -> None:
    """Its forward fails on images, or weights, that lie channels-last."""
    model = settled(Viewed())
    images, labels = image(200), torch.arange(200) % 5
    agrees = sc.agreement(model, images)
    assert agrees(model) == pytest.approx(1)
    study = search(None, agrees, model=model, trials=4, settings=sc.SearchSettings(race=True))
    assert len(study.succeeded) == 4
    small = study.prune(study.best.plan)
    pairs = [(images[:100], labels[:100]), (images[100:], labels[100:])]
    for precision in ("float32", "bfloat16"):
        sc.finetune(small, pairs, teacher=model, settings=sc.FineTune(epochs=1, precision=precision))
    assert 0 <= sc.accuracy(images, labels)(small) <= 1


def test_the_journal_module_writes_no_nan(tmp_path: Path) -> None:
    bad = sc.Outcome(math.nan, sc.Costs(1, 1, 1), 0.0, 0.0)
    with pytest.raises(ValueError, match="JSON"):
        journal.Journal(tmp_path / "j").append(trial(0, outcome=bad))


def test_two_processes_do_not_share_a_folder(tmp_path: Path) -> None:
    code = (
        "import fcntl, os, sys, time\n"
        "held = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)\n"
        "fcntl.lockf(held, fcntl.LOCK_EX)\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout is not None
    assert other.stdout.readline() == b"held\n"
    try:
        with pytest.raises(sc.StudyError, match="another process is at work"):
            RunFolder(tmp_path, {})
    finally:
        other.communicate()
    RunFolder(tmp_path, {}).close()


# ---- the end ---------------------------------------------------------------------------------------------------------


def test_the_best_plans_are_scored_as_they_are_delivered_and_only_once(tmp_path: Path) -> None:
    model, calls = settled(Plain()), []

    def evaluate(network: nn.Module) -> float:
        calls.append(network)
        return float(network(image()).detach().sum().tanh())

    study = search(tmp_path / "run", evaluate, model=model)
    scored = len(calls)
    assert len(study.checked) == min(FINALISTS, len(study.ranked))
    assert study.best.number == max(study.checked, key=lambda number: study.checked[number].reward)
    delivered = sc.prune(model, image(), study.best.plan, calibration=batches())
    assert evaluate(delivered.eval()) == pytest.approx(study.best.outcome.score, abs=1e-6)
    quicker = study.prune(study.best.plan)
    assert not quicker.training
    assert torch.equal(quicker(image()), delivered(image()))

    calls.clear()
    again = search(tmp_path / "run", evaluate, model=model)
    assert again.best == study.best
    assert len(calls) == 1 < scored, "only the dense network is scored once more"


def test_another_plan_is_finished_for_one_that_cannot_be(tmp_path: Path) -> None:
    calls: list[int] = []

    def moody(model: nn.Module) -> float:
        calls.append(1)
        if len(calls) in (8, 9):  # the dense network and six trials come first
            raise RuntimeError("not now")
        return evaluate(model)

    with pytest.warns(UserWarning, match="could not be finished: not now"):
        study = search(tmp_path / "run", moody, trials=6, searcher=sc.Random(3))
    assert len(study.checked) == FINALISTS
    assert len(study.unfinished) == 2
    assert study.best.number in study.checked


def test_plans_that_cannot_be_finished_stay_as_their_trials(tmp_path: Path) -> None:
    calls: list[int] = []

    def tired(model: nn.Module) -> float:
        calls.append(1)
        if len(calls) > 4:
            raise RuntimeError("no more")
        return evaluate(model)

    with pytest.warns(UserWarning, match="could not be finished: no more"):
        study = search(tmp_path / "run", tired, trials=3, searcher=sc.Random(3))
    assert len(study.succeeded) == 3
    assert not study.checked
    assert study.best == study.ranked[0]


def test_damaged_finalists_are_named_before_anything_is_tried(tmp_path: Path) -> None:
    search(tmp_path / "run", trials=3)
    (tmp_path / "run" / "finalists.jsonl").write_bytes(b"{}\n")
    seen: list[int] = []
    with pytest.raises(sc.StudyError, match=r"finalists\.jsonl, line 1"):
        search(tmp_path / "run", trials=6, on_trial=lambda study, each: seen.append(each.number))
    assert not seen

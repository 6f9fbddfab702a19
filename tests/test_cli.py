"""The command line, end to end on the digits: every step works, resumes, and reports a user's mistake in one line."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from jobs import digits_job
from safetensors.torch import load_file

import secateur as sc
from secateur import zoo
from secateur.cli import main
from secateur.graph import count_costs
from secateur.runtimes.sessions import open_session

TABLES = """
[budget]
macs = 0.4
[searcher]
kind = "ddpg"
warmup = 4
hidden = 16
[prune]
trial_examples = 32
[finetune]
epochs = 1

[report]
rivals = ["uniform", "random"]
"""


@pytest.fixture
def job(tmp_path: Path) -> Path:
    return digits_job(tmp_path, "trials = 6", TABLES, "resnet20")


def test_compress_leaves_a_small_network_and_a_report(job, capsys):
    assert main(["compress", str(job)]) == 0
    run = job.parent / "run"
    dense = zoo.build("resnet20", 10, 1, width=8)
    small = sc.load(run / "small.safetensors", dense)
    example = torch.zeros(1, 1, 8, 8)
    assert count_costs(small, example).macs <= 0.4 * count_costs(dense, example).macs
    report = json.loads((run / "report.json").read_text())
    assert [row["name"] for row in report["rows"]] == ["dense", "uniform", "random", "searched"]
    assert "<html" in (run / "report.html").read_text()
    assert "searched" in capsys.readouterr().out
    assert len((run / "searched" / "journal.jsonl").read_text().splitlines()) == 6


def test_steps_one_at_a_time_find_each_other(job, capsys):
    run = job.parent / "run"
    assert main(["search", str(job)]) == 0
    journal = (run / "searched" / "journal.jsonl").read_bytes()
    assert main(["resume", str(run)]) == 0
    assert main(["prune", str(run)]) == 0
    assert main(["finetune", str(run)]) == 0
    small = load_file(run / "small.safetensors")
    assert main(["report", str(run)]) == 0
    assert (run / "searched" / "journal.jsonl").read_bytes() == journal
    again = load_file(run / "small.safetensors")
    assert all(torch.equal(again[name], tensor) for name, tensor in small.items())


def test_inspect_says_what_is_left_alone_and_runs_nothing(job, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["inspect", str(job)]) == 0
    said = capsys.readouterr().out
    assert "layer1.0.conv1" in said
    assert "the network's output" in " ".join(said.split())
    assert "of the first 32 training images that score plans" in " ".join(said.split())
    assert not (job.parent / "run").exists()


def test_killed_anywhere_it_ends_in_the_same_plan(job, tmp_path):
    command = [sys.executable, "-m", "secateur.cli", "search", str(job)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    journal = job.parent / "run" / "searched" / "journal.jsonl"
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") >= 2):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert main(["search", str(job)]) == 0
    resumed = [json.loads(line)["plan"] for line in journal.read_text().splitlines()]
    job.write_text(job.read_text().replace(str(tmp_path / "run"), str(tmp_path / "whole")))
    assert main(["search", str(job)]) == 0
    whole = [json.loads(line)["plan"] for line in (tmp_path / "whole/searched/journal.jsonl").read_text().splitlines()]
    assert resumed == whole


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("macs = 0.4", "macs = 0.0001", "cannot be met"),
        ("trials = 6", "trials = 6\nnonsense = 1", "nonsense"),
        ("dense.safetensors", "missing.safetensors", "there is no file"),
        ('source = "digits"', 'source = "nowhere"', "nowhere"),
        ("width = 8", "width = 4", "cannot be cut from"),
        ("reward = 100", "reward = 100000", "ask for fewer"),
        ("[prune]", '[space]\nleave = ["*"]\n[prune]', "left alone"),
    ],
)
def test_a_mistake_is_one_line_and_comes_before_any_work(old, new, says, job, capsys):
    job.write_text(job.read_text().replace(old, new))
    assert main(["search", str(job)]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1
    assert "Traceback" not in said
    assert not (job.parent / "run" / "searched" / "journal.jsonl").exists()


def test_a_run_folder_of_another_job_is_refused(job, capsys):
    assert main(["search", str(job)]) == 0
    job.write_text(job.read_text().replace("macs = 0.4", "macs = 0.6"))
    assert main(["search", str(job)]) == 2
    assert "another job (not the same: budget)" in capsys.readouterr().err


def test_a_folder_where_nothing_was_begun_may_be_another_jobs(job, capsys):
    right = job.read_text()
    job.write_text(right.replace("macs = 0.4", "macs = 40"))
    assert main(["search", str(job)]) == 2
    assert "for 40 % write 0.4" in capsys.readouterr().err
    assert not [*job.parent.rglob("journal.jsonl")], "refused before any stage has begun"
    job.write_text(right)
    assert main(["search", str(job)]) == 0


def test_a_project_may_be_moved(job, tmp_path, capsys):
    text = job.read_text().replace(f'folder = "{job.parent / "run"}"', 'folder = "run"')
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    (job.parent / "dense.safetensors").rename(old / "dense.safetensors")
    for home in (old, new):
        if home is new:
            old.rename(new)
        (home / "job.toml").write_text(text.replace('"run"', f'"{home / "run"}"'))
        assert main(["search", str(home / "job.toml")]) == 0
    assert str(new / "dense.safetensors") in (new / "run" / "job.json").read_text()
    (new / "dense.safetensors").rename(new / "other.safetensors")
    (new / "job.toml").write_text((new / "job.toml").read_text().replace("dense.safetensors", "other.safetensors"))
    assert main(["search", str(new / "job.toml")]) == 2
    assert "not the same: model" in capsys.readouterr().err


def test_a_refused_job_is_not_what_the_folder_holds(job, capsys):
    assert main(["finetune", str(job)]) == 0
    place = job.parent / "run" / "job.json"
    kept = place.read_text()
    right = job.read_text()
    job.write_text(right.replace("epochs = 1", 'epochs = 3\nfeatures = ["nowhere"]'))
    assert main(["finetune", str(job)]) == 2
    assert "no module 'nowhere'" in capsys.readouterr().err
    assert place.read_text() == kept
    job.write_text(right.replace("epochs = 1", "epochs = 3"))
    with held_by_another(job.parent / "run" / "searched"):
        assert main(["finetune", str(job)]) == 2
    assert place.read_text() == kept


def test_what_frozen_parameters_the_factory_gives_are_trained_too(job):
    (job.parent / "freezing.py").write_text(
        "from secateur import zoo\ndef make(width):\n"
        "    network = zoo.build('resnet20', 10, 1, width=width)\n"
        "    network.conv1.requires_grad_(False)\n    return network\n"
    )
    text = job.read_text().replace('name = "resnet20"', 'name = "freezing:make"')
    job.write_text(text.replace('rivals = ["uniform", "random"]', "rivals = []"))
    assert main(["compress", str(job)]) == 0
    assert main(["compress", str(job)]) == 0


def test_features_of_layers_that_may_be_cut_are_refused_before_the_search(job, capsys):
    right = job.read_text()
    job.write_text(right.replace("epochs = 1", 'epochs = 1\nfeatures = ["layer1.0.conv1"]'))
    assert main(["search", str(job)]) == 2
    assert "whose channels stay whole" in capsys.readouterr().err
    assert not (job.parent / "run" / "searched").exists()
    job.write_text(right.replace("epochs = 1", 'epochs = 1\nfeatures = ["layer1"]'))
    assert main(["search", str(job)]) == 0


def test_a_folder_of_an_older_version_is_still_the_jobs(job):
    assert main(["search", str(job)]) == 0
    place = job.parent / "run" / "job.json"
    old = json.loads(place.read_text())
    del old["stage"], old["budget"]["absolute"]
    place.write_text(json.dumps(old))
    assert main(["search", str(job)]) == 0


def test_a_finished_run_of_an_older_version_is_not_trained_again(job):
    assert main(["finetune", str(job)]) == 0
    searched = job.parent / "run" / "searched"
    note, checkpoint = searched / "finetune.json", searched / "finetune.pt"
    kept = checkpoint.read_bytes()
    old = json.loads(note.read_text())
    del old["averaging"], old["features"]
    note.write_text(json.dumps(old | {"rivals": False}))
    assert main(["finetune", str(job)]) == 0
    assert checkpoint.read_bytes() == kept


def test_what_was_delivered_stays_until_its_successor_is_there(job, monkeypatch):
    assert main(["finetune", str(job)]) == 0
    run = job.parent / "run"
    first = (run / "small.safetensors").read_bytes()
    job.write_text(job.read_text().replace("epochs = 1", "epochs = 2"))

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("secateur.job.row_folder.finetune", interrupted)
        assert main(["finetune", str(job)]) == 130
    assert (run / "previous.safetensors").read_bytes() == first
    assert main(["finetune", str(job)]) == 0
    assert (run / "small.safetensors").read_bytes() != first


@contextmanager
def held_by_another(folder):
    """Another process at work in a folder."""
    hold = (
        "import sys, time; from pathlib import Path; from secateur.run import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", hold, str(folder)], stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout.readline() == b"held\n"
            yield
        finally:
            other.kill()


def test_two_commands_do_not_train_in_one_folder(job, capsys):
    assert main(["prune", str(job)]) == 0
    with held_by_another(job.parent / "run" / "searched"):
        assert main(["finetune", str(job)]) == 2
    assert "another process is at work in" in capsys.readouterr().err


def test_a_wrong_suffix_is_refused_before_the_search(job, capsys):
    assert main(["export", str(job), "--runtime", "onnxruntime", "-o", "small.tflite"]) == 2
    assert "ends in .onnx" in capsys.readouterr().err
    assert not (job.parent / "run" / "searched").exists()


def test_another_fine_tuning_of_the_same_plan_is_made_afresh(job, capsys):
    assert main(["finetune", str(job)]) == 0
    searched = job.parent / "run" / "searched"
    journal, pruned = (searched / "journal.jsonl").read_bytes(), (searched / "pruned.safetensors").stat().st_mtime_ns
    job.write_text(job.read_text().replace("epochs = 1", "epochs = 2\nrivals = true"))
    assert main(["finetune", str(job)]) == 0
    assert len(json.loads((searched / "history.json").read_text())) == 2
    assert (searched / "journal.jsonl").read_bytes() == journal
    assert (searched / "pruned.safetensors").stat().st_mtime_ns == pruned
    trained = (searched / "finetune.pt").stat().st_mtime_ns
    job.write_text(job.read_text().replace("rivals = true", "rivals = false"))
    assert main(["finetune", str(job)]) == 0
    assert (searched / "finetune.pt").stat().st_mtime_ns == trained, "who else is trained changes nothing here"


def test_what_fine_tuning_makes_worse_is_delivered_as_it_was(job, capsys):
    job.write_text(job.read_text().replace("epochs = 1", "epochs = 1\nlr = 30.0"))
    assert main(["finetune", str(job)]) == 0
    said = capsys.readouterr().out
    assert "as it was before fine-tuning" in said
    run = job.parent / "run"
    scores = json.loads((run / "searched" / "scores.json").read_text())
    assert scores["tuned"] < scores["pruned"]
    pruned = load_file(run / "searched" / "pruned.safetensors")
    for place in (run / "searched" / "small.safetensors", run / "small.safetensors"):
        delivered = load_file(place)
        assert all(torch.equal(delivered[name], value) for name, value in pruned.items())
    assert main(["finetune", str(job)]) == 0
    assert said.splitlines()[-2:] == capsys.readouterr().out.splitlines()[-2:], "found done, told as before"
    assert main(["report", str(job)]) == 0
    assert "searched stays as it was before fine-tuning" in capsys.readouterr().out
    job.write_text(job.read_text().replace("lr = 30.0", "lr = 0.01"))
    assert main(["finetune", str(job)]) == 0
    again = json.loads((run / "searched" / "scores.json").read_text())
    assert again["tuned"] > scores["tuned"], "another fine-tuning is judged afresh"


def test_what_shifts_the_images_that_score_plans_is_held_fast(job, capsys):
    assert main(["search", str(job)]) == 0
    job.write_text(job.read_text().replace("epochs = 1", "epochs = 1\ncrop_pad = 0"))
    assert main(["search", str(job)]) == 2
    assert "not the same: crop_pad" in capsys.readouterr().err


def test_a_run_folder_finds_the_jobs_own_modules_from_anywhere(job, monkeypatch):
    (job.parent / "network_of_a_user.py").write_text(
        "from secateur import zoo\ndef make(width):\n    return zoo.build('resnet20', 10, 1, width=width)\n"
    )
    job.write_text(job.read_text().replace('name = "resnet20"', 'name = "network_of_a_user:make"'))
    assert main(["search", str(job)]) == 0
    code = "import sys; from secateur.cli import main; sys.exit(main(sys.argv[1:]))"
    run = subprocess.run(
        [sys.executable, "-c", code, "prune", str(job.parent / "run")], cwd="/", capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("command", ["measure", "profile"])
def test_no_threads_are_refused(command, job, capsys):
    with pytest.raises(SystemExit):
        main([command, str(job), "--threads", "0"])
    assert "give 1 or more" in capsys.readouterr().err


def test_a_gpu_that_is_too_small_is_one_line_and_nothing_is_lost(job, capsys, monkeypatch):
    def too_large(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total of 4.00 GiB.")

    with monkeypatch.context() as patch:
        patch.setattr("secateur.job.row_folder.finetune", too_large)
        assert main(["finetune", str(job)]) == 2
    assert "Tried to allocate 2.00 GiB): it holds all training images" in capsys.readouterr().err
    journal = (job.parent / "run" / "searched" / "journal.jsonl").read_bytes()
    assert main(["finetune", str(job)]) == 0
    assert (job.parent / "run" / "searched" / "journal.jsonl").read_bytes() == journal


def test_an_unwritable_folder_is_named(job, capsys):
    (job.parent / "run").write_text("a file in its place")
    assert main(["search", str(job)]) == 2
    assert "cannot write to the run folder" in capsys.readouterr().err


def test_other_weights_in_the_same_folder_are_refused(job, capsys):
    assert main(["search", str(job)]) == 0
    torch.manual_seed(1)
    sc.save(zoo.build("resnet20", 10, 1, width=8), job.parent / "dense.safetensors")
    assert main(["search", str(job)]) == 2
    assert "weights" in capsys.readouterr().err


def test_a_range_is_searched_once_and_cut_anywhere(job, capsys):
    text = (
        job.read_text().replace("macs = 0.4", "macs = [0.3, 0.6]").replace('kind = "ddpg"\nwarmup = 4\nhidden = 16', "")
    )
    job.write_text(text.replace('rivals = ["uniform", "random"]', 'rivals = ["uniform"]'))
    assert main(["search", str(job)]) == 0
    run = job.parent / "run"
    journal = (run / "searched" / "journal.jsonl").read_bytes()
    dense = zoo.build("resnet20", 10, 1, width=8)
    example = torch.zeros(1, 1, 8, 8)
    whole = count_costs(dense, example).macs
    for at in (0.35, 0.5):
        assert main(["prune", str(run), "--at", str(at)]) == 0
        place = run / f"at_{at:g}" / "pruned.safetensors"
        assert str(place) in capsys.readouterr().out
        assert 0.8 * at * whole < count_costs(sc.load(place, dense), example).macs <= at * whole
    for command in (["finetune"], ["export", "--runtime", "onnxruntime"], ["measure", "--runtime", "torch"]):
        assert main([command[0], str(run), "--at", "0.5", *command[1:]]) == 0
    assert (run / "at_0.5" / "small.onnx").exists()
    assert len(json.loads((run / "at_0.5" / "history.json").read_text())) == 1
    assert (run / "searched" / "journal.jsonl").read_bytes() == journal, "it searched again"
    assert not (run / "small.safetensors").exists(), "the run's own network is another"
    assert main(["prune", str(run), "--at", "0.7"]) == 2
    assert "outside what was searched" in capsys.readouterr().err
    unsearched = text.replace(f'"{run}"', f'"{job.parent / "other"}"')
    job.write_text(unsearched)
    assert main(["prune", str(job), "--at", "0.7"]) == 2
    assert not (job.parent / "other" / "searched").exists(), "it was refused after a search"
    assert main(["report", str(run)]) == 0
    assert 'id="front"' in (page := (run / "report.html").read_text())
    assert 'id="plans"' in page
    report = json.loads((run / "report.json").read_text())
    assert len(report["front_plans"]) == len(report["front"]) > 1
    assert all(0 < kept <= 1 for plan in report["front_plans"] for kept in plan.values())


def test_a_searcher_of_one_budget_refuses_a_range(job, capsys):
    text = job.read_text().replace("macs = 0.4", "macs = [0.3, 0.6]")
    text = text.replace('rivals = ["uniform", "random"]', "rivals = []")
    job.write_text(text.replace('kind = "ddpg"\nwarmup = 4\nhidden = 16', 'kind = "random"'))
    assert main(["search", str(job)]) == 2
    assert "Random serves one budget only" in capsys.readouterr().err


def test_a_run_is_exported_and_measured(job, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    run = job.parent / "run"
    assert main(["export", str(job), "--runtime", "onnxruntime"]) == 0
    assert "answers as PyTorch does on 16 test images" in capsys.readouterr().out
    (answer,) = open_session("onnxruntime", run / "small.onnx")([np.zeros((1, 1, 8, 8), np.float32)])
    assert answer.shape == (1, 10)
    assert main(["measure", str(run), "--runtime", "torch", "--runtime", "onnxruntime"]) == 0
    said = capsys.readouterr().out
    assert "onnxruntime" in said
    assert "pruned" in said


def test_what_is_finished_is_exported_without_searching_or_proving_again(job, monkeypatch):
    run = job.parent / "run"
    assert main(["finetune", str(job)]) == 0

    def forbidden(*args, **options):
        raise AssertionError("it is there already")

    with monkeypatch.context() as patched:
        for verb in ("compress.search", "compress.inspect", "row_folder.finetune"):
            patched.setattr(f"secateur.job.{verb}", forbidden)
        assert main(["export", str(run), "--runtime", "onnxruntime"]) == 0
        assert main(["measure", str(run), "--runtime", "torch"]) == 0
        job.write_text(job.read_text().replace("epochs = 1", "epochs = 2"))
        with pytest.raises(AssertionError, match="there already"):
            main(["export", str(job), "--runtime", "onnxruntime"])
    assert main(["export", str(job), "--runtime", "onnxruntime"]) == 0
    assert len(json.loads((run / "searched" / "history.json").read_text())) == 2, "it was to be trained anew"


def test_what_inspect_prints_into_a_file_is_not_cut_short(job, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    assert main(["inspect", str(job)]) == 0
    said = capsys.readouterr().out
    assert "…" not in said
    assert "layer3.2.conv1" in said


def test_a_runtime_nobody_knows_is_refused_before_the_search(job, capsys):
    assert main(["export", str(job), "--runtime", "tensorrt"]) == 2
    assert main(["measure", str(job), "--runtime", "tensorrt"]) == 2
    assert "choose one of" in capsys.readouterr().err
    assert not (job.parent / "run" / "searched").exists()


def test_a_job_that_thins_weights_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables = """
[budget]
macs = 0.3
[space]
leave = ["*"]
[space.sparsity]
"layer3.*" = ["4x4", "element"]
"*" = "element"
[finetune]
epochs = 1
[report]
rivals = ["uniform"]
"""
    job = digits_job(tmp_path, "trials = 4", tables, "resnet20")
    assert main(["inspect", str(job)]) == 0
    assert "may be sparse" in capsys.readouterr().out
    assert main(["compress", str(job)]) == 0
    assert "BSF" in capsys.readouterr().out
    run = tmp_path / "run"
    report = json.loads((run / "report.json").read_text())
    assert all(row["costs"]["block_sparsity"] > 0 for row in report["rows"][1:])
    assert report["blocks"]
    assert all(name.startswith("layer3") and 0 < share < 1 for name, share in report["blocks"].items())
    assert '<th scope="col">BSF</th>' in (run / "report.html").read_text()
    small = sc.load(run / "small.safetensors", zoo.build("resnet20", 10, 1, width=8))
    assert count_costs(small, torch.zeros(1, 1, 8, 8)).macs <= report["rows"][-1]["costs"]["macs"]
    assert (run / "small.safetensors").stat().st_size < 0.6 * (run / "dense.safetensors").stat().st_size
    assert main(["export", str(run), "--runtime", "onnxruntime"]) == 0
    assert "it is dense" in capsys.readouterr().out
    job.write_text(job.read_text().replace('"*" = "element"', '"layer9.*" = "element"').replace("run", "other"))
    assert main(["search", str(job)]) == 2
    assert "no layer of that name can be sparse" in capsys.readouterr().err


def test_what_is_pruned_can_be_pruned_further(job: Path) -> None:
    run, example = job.parent / "run", torch.zeros(1, 1, 8, 8)
    job.write_text(job.read_text().replace('rivals = ["uniform", "random"]', "rivals = []"))
    assert main(["compress", str(job)]) == 0
    text = job.read_text().replace("dense.safetensors", str(run / "small.safetensors"))
    job.write_text(text.replace(f'"{run}"', f'"{job.parent / "further"}"').replace("macs = 0.4", "macs = 0.5"))
    assert main(["compress", str(job)]) == 0
    dense = zoo.build("resnet20", 10, 1, width=8)
    first, second = (sc.load(folder / "small.safetensors", dense) for folder in (run, job.parent / "further"))
    assert count_costs(second, example).macs <= 0.5 * count_costs(first, example).macs

"""The command line: arguments in, one clear line out where something is wrong."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from secateur.errors import SecateurError

if TYPE_CHECKING:
    from secateur.job import Job
    from secateur.job.compress import Run

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, 2 for what the user has to put right, or 130 for Ctrl-C."""
    parser = _parser()
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(given)
    options.command_line = shlex.join(["secateur", *given])
    try:
        options.action(options)
    except SecateurError as error:
        print(f"secateur: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a full disk, a folder that is gone
        print(f"secateur: {error}; put that right, and the same command goes on from here", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("secateur: interrupted; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's; to import torch takes seconds
            raise
        tried = ". ".join(str(error).split(". ")[:2])
        print(
            f"secateur: the GPU's memory does not hold this ({tried}): it holds all training images, and a batch's "
            'activations; make batch in [finetune] smaller, or train on the CPU (device = "cpu"); what is done is kept',
            file=sys.stderr,
        )
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="secateur", description="Prune a trained PyTorch network to a budget you can measure."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, action: object, text: str, takes: str | None) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(action=action)
        if takes:
            sub.add_argument("job", metavar=takes, type=Path)
        return sub

    demo = command("demo", _demo, "the main job on scikit-learn's digits, in about two minutes", None)
    demo.add_argument("--folder", default="runs/demo", help="the run folder (default: %(default)s)")
    command("inspect", _inspect, "layers, channel groups, costs, and what is left alone and why", "JOB.toml")
    either = "JOB.toml|RUN"
    command("compress", _compress, "search, prune, fine-tune, save and report; interrupted, it resumes", either)
    command("search", _search, "search only", either)
    command("resume", _search, "go on with the search of a run folder", "RUN")
    prune = command("prune", _prune, "prune by the best plan (searching first if need be)", either)
    tune = command("finetune", _finetune, "fine-tune the pruned network (pruning it first if need be)", either)
    ship = command(
        "export", _export, "write the network as a file of a runtime, proven to answer as PyTorch does", either
    )
    ship.add_argument(
        "--runtime", required=True, metavar="NAME", help="onnxruntime, openvino, executorch, ncnn, litert"
    )
    ship.add_argument("-o", "--output", type=Path, metavar="FILE", help="by default small.SUFFIX in the run folder")
    timed = command("measure", _measure, "latency and size, dense and pruned, on every installed runtime", either)
    timed.add_argument("--runtime", action="append", metavar="NAME", help="only this one (may be repeated)")
    timed.add_argument("--threads", type=count, default=1)
    timed.add_argument("--meter", metavar="NAME", help="measure energy too: rapl, nvml")
    for of_a_range in (prune, tune, ship, timed):
        of_a_range.add_argument(
            "--at",
            type=float,
            metavar="BUDGET",
            help="where a range of budgets was searched: the network for this one, without searching again",
        )
    device = command("profile", _profile, "measure a table of a network's layers, here or for elsewhere", "JOB.toml")
    device.add_argument(
        "--runtime", required=True, metavar="NAME", help="torch, cuda, onnxruntime, openvino, executorch, ncnn, litert"
    )
    device.add_argument("--threads", type=count, default=1)
    device.add_argument("--meter", metavar="NAME", help="a table of energy instead of latency: rapl, nvml")
    to = device.add_mutually_exclusive_group(required=True)
    to.add_argument("-o", "--output", type=Path, metavar="TABLE.json", help="measure on this machine")
    to.add_argument("--bundle", type=Path, metavar="FOLDER", help="write what another device needs to measure its own")
    command("report", _report, "measure every row and write report.html", either)
    return parser


def count(text: str) -> int:
    """What an option that counts something was given."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number}: give 1 or more")
    return number


def _job(place: Path) -> Job:
    """The job of a file, or of a run folder."""
    from secateur.job import parse_job, read_job
    from secateur.job.claim import job_of_folder

    if not place.is_dir():
        return read_job(place)
    return replace(parse_job(job_of_folder(place), place), folder=str(place))


def _run(options: argparse.Namespace) -> Run:
    from secateur.job.compress import Run

    return Run(_job(options.job), options.command_line)


def _row(options: argparse.Namespace) -> tuple[Run, str]:
    """A run, and which of its rows is meant."""
    from secateur.job.claim import SEARCHED

    run = _run(options)
    return run, SEARCHED if options.at is None else run.at(options.at)


def _demo(options: argparse.Namespace) -> None:
    from secateur.commands.demo import demo

    _finish(demo(options.folder, options.command_line))


def _inspect(options: argparse.Namespace) -> None:
    from secateur.commands.inspection import print_inspection

    print_inspection(_job(options.job))


def _search(options: argparse.Namespace) -> None:
    run = _run(options)
    best = run.chosen()
    assert best.outcome is not None
    print(f"best of {len(run.study().trials)} trials: score {best.outcome.score:.4f}, plan in {run.write_plan()}")


def _prune(options: argparse.Namespace) -> None:
    run, row = _row(options)
    print(f"test top-1 {run.test(run.pruned(row)):.4f} before fine-tuning, network in {run.row(row).network}")


def _finetune(options: argparse.Namespace) -> None:
    run, row = _row(options)
    print(f"test top-1 {run.test(run.small(row)):.4f} after fine-tuning, network in {run.place(row)}")
    if scores := run.row(row).undone:
        print(f"it is as it was before fine-tuning: that made its score {scores[1]:.4f}, before it was {scores[0]:.4f}")


def _export(options: argparse.Namespace) -> None:
    from secateur.runtimes import runtime_called
    from secateur.sparse import masked_layers

    runtime = runtime_called(options.runtime)
    runtime.require()  # before the network is searched, if it has to be
    if options.output:
        runtime.check_place(options.output)
    run, row = _row(options)
    network, place = run.delivered(row), options.output or run.place(row).with_suffix(runtime.suffix)
    error = run.export(network, runtime.name, place)
    print(f"{place}: answers as PyTorch does on {run.compared} test images, within {error:.1g} of their size")
    if any(masked_layers(network)):
        print(f"it is dense: {runtime.name} is no faster for zeros (in PyTorch, sc.block_sparse makes use of blocks)")


def _measure(options: argparse.Namespace) -> None:
    from secateur.report import runtimes_table, wide_console
    from secateur.runtimes import meter_called, require

    if options.meter:
        meter_called(options.meter)
    only = [*dict.fromkeys(options.runtime or ())] or None
    for name in only or ():
        require(name)
    run, row = _row(options)
    found = run.measure(run.delivered(row), only, options.threads, options.meter)
    wide_console().print(runtimes_table(found, options.threads))


def _profile(options: argparse.Namespace) -> None:
    from secateur.commands.profiling import How, profile_job

    how = How(options.runtime, options.threads, options.meter)
    print(profile_job(_job(options.job), how, options.output, options.bundle))


def _report(options: argparse.Namespace) -> None:
    _finish(_run(options))


def _compress(options: argparse.Namespace) -> None:
    _finish(_run(options))


def _finish(run: Run) -> None:
    from secateur.commands.reporting import report
    from secateur.report import table, wide_console

    run.small()
    wide_console().print(table(report(run)))
    print(f"network: {run.folder / 'small.safetensors'}\nreport:  {run.folder / 'report.html'}")


if __name__ == "__main__":
    sys.exit(main())

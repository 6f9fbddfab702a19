"""Which job a run folder holds: written down once its words make sense, and held fast once a search has begun.

Where files lie is not, so that a project can be moved; what weights and tables hold is, by the study.
"""

from __future__ import annotations

import dataclasses
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from secateur.errors import CheckpointError, JobError, StudyError
from secateur.job.words import SEARCHERS, Job, parse_job
from secateur.run import as_json, locked, try_to_write, wherever, write_atomically

SEARCHED = "searched"
"""The row of the job's own searcher, and its folder."""
STAGE = "stage"
"""Where, in the folder of a run, the run of the stage before lies."""
MAY_CHANGE = {"trials", "seconds", "threads", "report", "finetune", "folder", "modules"}
"""Keys of a job that a run folder does not hold fast."""
OF_IMAGES = ("crop_pad", "flip")
"""But these of [finetune]: the images that score plans are shifted and mirrored alike."""


def claim(job: Job) -> Path:
    """The job's folder, which is made. Raises JobError where it holds a run of another job."""
    folder = Path(job.folder)
    mine = wherever(json.loads(json.dumps(describe(job))))
    place = folder / "job.json"
    try:
        if place.exists() and _begun(folder):
            # Read as a job, so that keys which it does not know yet have their defaults.
            found = wherever(json.loads(json.dumps(describe(parse_job(json.loads(place.read_text()), place)))))
            held = (mine.keys() | found.keys()) - MAY_CHANGE
            differing = sorted(key for key in held if mine.get(key) != found.get(key))
            if _sparsity(mine) != _sparsity(found) and "space" not in differing:
                differing.append("space")
            differing += [key for key in OF_IMAGES if mine["finetune"].get(key) != found["finetune"].get(key)]
            if differing:
                raise JobError(
                    f"{folder} holds a run of another job (not the same: {', '.join(differing)}); "
                    "give this job another `folder`, or delete that one"
                )
        folder.mkdir(parents=True, exist_ok=True)
        try_to_write(folder / "job.json")
    except OSError as error:
        raise StudyError(f"cannot write to the run folder {folder}: {error.strerror}") from error
    except ValueError as error:
        raise StudyError(f"{place} is damaged ({error}); delete it") from error
    return folder


def _begun(folder: Path) -> bool:
    """Whether any search of the run has tried a plan."""
    return any(folder.glob("*/study.json")) or any((folder / STAGE).rglob("study.json"))


def write_down(job: Job) -> None:
    """Keep a job in its folder, where commands find it. Raises StudyError while another process searches there."""
    folder = Path(job.folder)
    place, words, searched = folder / "job.json", as_json(describe(job)), folder / SEARCHED
    if place.exists() and place.read_bytes() == words:
        return
    with locked(searched) if searched.exists() else nullcontext():
        write_atomically(place, words)


def _sparsity(job: dict[str, Any]) -> list[Any]:
    """In its order: the first name that fits a layer counts."""
    return [*job.get("space", {}).get("sparsity", {}).items()]


def describe(job: Job) -> dict[str, Any]:
    """The job as plain values that `parse_job` reads back."""
    kinds = {kind: name for name, kind in SEARCHERS.items()}
    raw = _without_none(dataclasses.asdict(job))
    searcher = dataclasses.asdict(job.searcher)  # type: ignore[call-overload]
    return {**raw, "searcher": {"kind": kinds[type(job.searcher)], **searcher}}


def _without_none(raw: dict[str, Any]) -> dict[str, Any]:
    pruned = {key: _without_none(value) if isinstance(value, dict) else value for key, value in raw.items()}
    return {key: value for key, value in pruned.items() if value is not None}


def job_of_folder(folder: Path) -> dict[str, Any]:
    """The job that a run folder holds. Raises CheckpointError where there is none."""
    place = folder / "job.json"
    try:
        return json.loads(place.read_text())  # type: ignore[no-any-return]
    except OSError as error:
        raise CheckpointError(f"{folder} is no run folder (it has no job.json)") from error
    except ValueError as error:
        raise CheckpointError(f"{place} is damaged ({error})") from error

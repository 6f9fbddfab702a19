"""A run folder on disk: what the study is (study.json), its journals, and snapshots of its searcher."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

try:
    import fcntl
except ImportError:  # Windows has no such locks; there, two searches in one folder are the user's to avoid
    fcntl = None  # type: ignore[assignment]

from secateur.errors import PlanError, StudyError
from secateur.plan import Plan
from secateur.run.journal import Journal
from secateur.search import State


@dataclass(frozen=True)
class Snapshot:
    """A searcher as it was after the first `told` trials of the journal."""

    state: State
    told: int
    asked: tuple[Plan, ...] = ()
    """Plans that it knows beyond them."""
    seconds: float = 0.0
    """That the search had taken by then, over all its runs."""


class RunFolder:
    """Opens a folder for one study, and refuses a folder that holds another.

    A folder is a study's from its first trial on: what went wrong before leaves it free.
    """

    def __init__(self, path: str | os.PathLike[str], header: Mapping[str, Any]) -> None:
        self.path = Path(path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            try_to_write(self.path / "study.json")
        except OSError as error:
            raise StudyError(f"cannot write to the run folder {self.path}: {error.strerror}; name another") from error
        self._held = lock(self.path)
        self._header, self._study = json.loads(json.dumps(header)), self.path / "study.json"
        self._begun = self._study.exists()
        if self._begun:
            self._compare(self._header)
        self.journal = Journal(self.path / "journal.jsonl")
        self.finalists = Journal(self.path / "finalists.jsonl", in_order=False)

    def close(self) -> None:
        """Let other processes in."""
        os.close(self._held)

    def begin(self) -> None:
        """Write down what the study is: from now on the folder holds it."""
        if not self._begun:
            write_atomically(self._study, as_json(self._header))
        self._begun = True

    def _compare(self, header: dict[str, Any]) -> None:
        try:
            found = json.loads(self._study.read_text())
        except ValueError as error:
            raise StudyError(f"{self._study} is damaged ({error}); restore it, or use a new folder") from error
        keys = {*header, *found}
        differing = sorted(key for key in keys if wherever(header.get(key)) != wherever(found.get(key)))
        if differing:
            what = "; ".join(f"{key} was {found.get(key)}, is {header.get(key)}" for key in differing)
            raise StudyError(f"{self.path} holds another study ({what}); use a new folder, or the settings it has")

    def limit(self, found: Callable[[], float]) -> float:
        """The limit that was found by measuring when the study began; `found()` where it begins now."""
        return self._number("limit", found)

    def dense_score(self, found: float) -> float:
        """What the dense network scored when the study began; `found` where it begins now."""
        return self._number("dense", lambda: found)

    def _number(self, name: str, found: Callable[[], float]) -> float:
        place = self.path / f"{name}.json"
        if not place.exists() or not self._begun:
            write_atomically(place, json.dumps({name: found()}).encode() + b"\n")
        try:
            return float(json.loads(place.read_text())[name])
        except (ValueError, KeyError, TypeError) as error:
            raise StudyError(f"{place} is damaged ({error}); restore it, or use a new folder") from error

    def save_searcher(self, now: Snapshot) -> None:
        """Keep a snapshot, in the place of the last."""
        arrays = {name: np.array(array) for name, array in now.state.items()}
        asked = json.dumps([plan.to_json() for plan in now.asked])
        note = {"told": str(now.told), "asked": asked, "seconds": f"{now.seconds:.3f}"}
        write_atomically(self.path / "searcher.safetensors", save(arrays or {"nothing": np.zeros(1)}, metadata=note))

    def load_searcher(self) -> Snapshot:
        """The last snapshot; one of no trials where there is none."""
        place = self.path / "searcher.safetensors"
        if not place.exists():
            return Snapshot({}, 0)
        try:
            with safe_open(place, framework="numpy") as file:
                state = {name: file.get_tensor(name) for name in file.keys() if name != "nothing"}  # noqa: SIM118
                note = file.metadata()
                asked = tuple(Plan.from_json(raw) for raw in json.loads(note["asked"]))
                return Snapshot(state, int(note["told"]), asked, float(note.get("seconds", 0)))
        except (SafetensorError, PlanError, KeyError, TypeError, ValueError, AttributeError, OSError) as error:
            raise StudyError(f"{place} is damaged ({error}); delete it, and the search replays its journal") from error


def lock(folder: Path) -> int:
    """Hold a folder against other processes, which would tear its files; the descriptor to close when it is over."""
    held = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT)
    try:
        if fcntl is not None:
            fcntl.lockf(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(held)
        raise StudyError(f"another process is at work in {folder}; wait for it, or name another folder") from error
    return held


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for a while."""
    held = lock(folder)
    try:
        yield
    finally:
        os.close(held)


def wherever(words: Any) -> Any:
    """Plain values, of whose paths only the last part is left: a project may be moved, or copied to another machine."""
    if isinstance(words, dict):
        return {key: wherever(value) for key, value in words.items()}
    if isinstance(words, list):
        return [wherever(value) for value in words]
    return Path(words).name if isinstance(words, str) and Path(words).is_absolute() else words


def as_json(words: object) -> bytes:
    """As the files of a run hold what a person may want to read."""
    return json.dumps(words, indent=2).encode() + b"\n"


def try_to_write(path: Path) -> None:
    """Raises OSError where a file could not be written, and leaves what is there as it is."""
    trial = path.with_name(path.name + ".writable")
    write_atomically(trial, b"")
    trial.unlink()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a whole file or none of it, and wait until it is on disk."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)

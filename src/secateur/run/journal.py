"""The record of a study: one JSON line a trial, on disk before the next one is proposed."""

from __future__ import annotations

import json
import os
from pathlib import Path

from secateur.errors import SecateurError, StudyError
from secateur.plan import Trial


class Journal:
    """An append-only file of trials, numbered from 0 if `in_order`. A line that a kill tore off is dropped."""

    def __init__(self, path: Path, in_order: bool = True) -> None:
        self.path, self.in_order = path, in_order

    def read(self) -> list[Trial]:
        """All whole trials; cuts a torn last line off the file."""
        if not self.path.exists():
            return []
        raw = self.path.read_bytes()
        whole, newline, torn = raw.rpartition(b"\n")
        if torn:
            with self.path.open("r+b") as file:
                file.truncate(len(whole) + len(newline))
                os.fsync(file.fileno())
        trials = [self._trial(number, line) for number, line in enumerate(whole.splitlines())]
        for number, trial in enumerate(trials):
            if self.in_order and trial.number != number:
                raise StudyError(f"{self.path}, line {number + 1}: trial {trial.number} is out of order; {_REMEDY}")
        return trials

    def _trial(self, number: int, line: bytes) -> Trial:
        try:
            return Trial.from_json(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError, SecateurError) as error:
            raise StudyError(f"{self.path}, line {number + 1} is damaged ({error}); {_REMEDY}") from error

    def append(self, trial: Trial) -> None:
        """Write one trial and wait until it is on disk."""
        with self.path.open("ab") as file:
            file.write(json.dumps(trial.to_json(), allow_nan=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


_REMEDY = "restore the file, or delete that line and all after it and resume"

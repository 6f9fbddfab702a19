"""Where trials are evaluated. Only plans and outcomes travel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Protocol

import torch

from secateur.plan import Outcome, Plan

Evaluation = Callable[[Plan, Outcome | None], Outcome]
"""(plan, the best outcome so far if it is to be raced) -> outcome."""


class Workers(Protocol):
    """Takes plans, gives outcomes; an evaluation that raises gives a future that raises."""

    def submit(self, plan: Plan, rival: Outcome | None = None) -> Future[Outcome]:
        """Evaluate a plan, now or later, raced against `rival` if there is one."""

    def close(self) -> None:
        """Take no more plans, and do not wait for those under way."""


class InProcess:
    """Evaluates in the caller's thread, with all of torch's threads."""

    def __init__(self, evaluation: Evaluation) -> None:
        self._evaluation = evaluation

    def submit(self, plan: Plan, rival: Outcome | None = None) -> Future[Outcome]:
        """Evaluate at once."""
        future: Future[Outcome] = Future()
        try:
            future.set_result(self._evaluation(plan, rival))
        except Exception as error:
            future.set_exception(error)
        return future

    def close(self) -> None:
        """Nothing is under way."""


class Threads:
    """One thread an evaluator, and one of torch's threads for each.

    On CPUs this beats one trial on all cores: small layers leave little to share, and torch's own threads
    slow each other down badly on a busy machine.
    """

    def __init__(self, evaluations: Sequence[Evaluation]) -> None:
        self._free: SimpleQueue[Evaluation] = SimpleQueue()
        for evaluation in evaluations:
            self._free.put(evaluation)
        self._pool = ThreadPoolExecutor(len(evaluations), initializer=torch.set_num_threads, initargs=(1,))

    def submit(self, plan: Plan, rival: Outcome | None = None) -> Future[Outcome]:
        """Evaluate as soon as a thread is free."""
        return self._pool.submit(self._run, plan, rival)

    def _run(self, plan: Plan, rival: Outcome | None) -> Outcome:
        evaluation = self._free.get()
        try:
            return evaluation(plan, rival)
        finally:
            self._free.put(evaluation)

    def close(self) -> None:
        """Drop what has not begun."""
        self._pool.shutdown(wait=False, cancel_futures=True)

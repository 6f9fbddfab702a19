"""THE LOOP: evaluator, journal, workers, study; and the plan that holds when it is measured."""

from secateur.run.clock import clock
from secateur.run.evaluator import Evaluator
from secateur.run.folder import RunFolder, as_json, locked, try_to_write, wherever, write_atomically
from secateur.run.journal import Journal
from secateur.run.loop import Loop, OnTrial, best_first, nobody, smallest_first
from secateur.run.meet import Met, aim, meet
from secateur.run.score import Evaluate, Staged, accuracy, agreement, score_of
from secateur.run.study import Study
from secateur.run.workers import InProcess, Threads, Workers

__all__ = [
    "Evaluate",
    "Evaluator",
    "InProcess",
    "Journal",
    "Loop",
    "Met",
    "OnTrial",
    "RunFolder",
    "Staged",
    "Study",
    "Threads",
    "Workers",
    "accuracy",
    "agreement",
    "aim",
    "as_json",
    "best_first",
    "clock",
    "locked",
    "meet",
    "nobody",
    "score_of",
    "smallest_first",
    "try_to_write",
    "wherever",
    "write_atomically",
]

"""Secateur: prune a trained PyTorch network to a budget you can measure."""

from secateur.api import SearchSettings, inspect, prune, search
from secateur.errors import (
    BudgetError,
    CheckpointError,
    DataError,
    EvaluationError,
    JobError,
    PlanError,
    SecateurError,
    StudyError,
    TraceError,
)
from secateur.finish import FineTune, finetune, load, save
from secateur.plan import Budget, Costs, Outcome, Plan, Site, Trial
from secateur.prune import PruneSettings
from secateur.run import Study, accuracy
from secateur.search import DDPG, Deep, Random, Shallow, SpaceSettings, Uniform

__all__ = [
    "DDPG",
    "Budget",
    "BudgetError",
    "CheckpointError",
    "Costs",
    "DataError",
    "Deep",
    "EvaluationError",
    "FineTune",
    "JobError",
    "Outcome",
    "Plan",
    "PlanError",
    "PruneSettings",
    "Random",
    "SearchSettings",
    "SecateurError",
    "Shallow",
    "Site",
    "SpaceSettings",
    "Study",
    "StudyError",
    "TraceError",
    "Trial",
    "Uniform",
    "accuracy",
    "finetune",
    "inspect",
    "load",
    "prune",
    "save",
    "search",
]

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
from secateur.run import Study, accuracy, agreement
from secateur.search import (
    CMAES,
    DDPG,
    TPE,
    Bayesian,
    Deep,
    Evolution,
    Knapsack,
    Random,
    Shallow,
    SpaceSettings,
    Uniform,
)

__all__ = [
    "CMAES",
    "DDPG",
    "TPE",
    "Bayesian",
    "Budget",
    "BudgetError",
    "CheckpointError",
    "Costs",
    "DataError",
    "Deep",
    "EvaluationError",
    "Evolution",
    "FineTune",
    "JobError",
    "Knapsack",
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
    "agreement",
    "finetune",
    "inspect",
    "load",
    "prune",
    "save",
    "search",
]

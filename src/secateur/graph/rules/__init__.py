"""WHAT EACH OPERATOR DOES TO AXES: one file a kind; the table of operators is in `table.py`."""

from secateur.graph.rules import (
    arranging,
    contraction,
    elementwise,
    indexing,
    joining,
    normalisation,
    reduction,
    spatial,
)
from secateur.graph.rules.table import Axes, Call, Contraction, Rule, Use, bound, rule, rule_for, rules

__all__ = [
    "Axes",
    "Call",
    "Contraction",
    "Rule",
    "Use",
    "arranging",
    "bound",
    "contraction",
    "elementwise",
    "indexing",
    "joining",
    "normalisation",
    "reduction",
    "rule",
    "rule_for",
    "rules",
    "spatial",
]

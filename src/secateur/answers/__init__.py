"""HOW ALIKE TWO NETWORKS ANSWER: what they answer taken apart, and each tensor of it measured by what it is."""

from secateur.answers.dense import Dense
from secateur.answers.likeness import By, Likeness
from secateur.answers.measures import cosine
from secateur.answers.parts import Parts, logits_of, parts_of

__all__ = [
    "By",
    "Dense",
    "Likeness",
    "Parts",
    "cosine",
    "logits_of",
    "parts_of",
]

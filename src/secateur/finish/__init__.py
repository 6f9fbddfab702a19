"""MAKE IT GOOD AND KEEP IT: fine-tuning, and files without pickle."""

from secateur.finish.checkpoint import load, save
from secateur.finish.finetune import FineTune, finetune

__all__ = ["FineTune", "finetune", "load", "save"]

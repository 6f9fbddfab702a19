"""MAKE IT GOOD AND KEEP IT: fine-tuning, and files without pickle."""

from secateur.finish.checkpoint import load, load_weights, save
from secateur.finish.finetune import Epoch, FineTune, finetune

__all__ = ["Epoch", "FineTune", "finetune", "load", "load_weights", "save"]

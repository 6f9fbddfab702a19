"""MAKE IT GOOD AND KEEP IT: fine-tuning, and files without pickle."""

from secateur.finish.checkpoint import load, save, trained
from secateur.finish.files import load_weights
from secateur.finish.finetune import finetune
from secateur.finish.lesson import Lesson
from secateur.finish.settings import FineTune
from secateur.finish.training import Epoch

__all__ = ["Epoch", "FineTune", "Lesson", "finetune", "load", "load_weights", "save", "trained"]

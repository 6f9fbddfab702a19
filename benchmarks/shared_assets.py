"""The real data and weights beside the project (../shared), brought to tensors. Only benchmarks and tests use it."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor, nn

from secateur import zoo
from secateur.data import Dataset

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@cache
def _readers() -> ModuleType:
    spec = importlib.util.spec_from_file_location("shared_readers", SHARED / "assets.py")
    if spec is None or spec.loader is None or not SHARED.exists():
        sys.exit(f"this benchmark needs the data folder {SHARED}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def cifar10() -> Dataset:
    """CIFAR-10 in official order, with the statistics that the stored ResNets were trained with."""
    raw = _readers().cifar10()
    return Dataset(
        raw["train_images"],
        raw["train_labels"].astype(np.int64),
        raw["test_images"],
        raw["test_labels"].astype(np.int64),
        MEAN,
        STD,
        "CIFAR-10",
    )


def resnet(depth: int) -> nn.Module:
    """The trained CIFAR-10 ResNet of 20 or 56 layers, in eval mode."""
    network = zoo.build(f"resnet{depth}", 10)
    network.load_state_dict(_readers().resnet_weights(depth))
    return network.eval()


def training_images(dataset: Dataset, index: np.ndarray) -> tuple[Tensor, Tensor]:
    """Some training images [N, 3, 32, 32] and their labels [N]."""
    return dataset.tensors(dataset.train_images[index]), torch.from_numpy(dataset.train_labels[index])


def test_images(dataset: Dataset) -> tuple[Tensor, Tensor]:
    """All test images and labels."""
    return dataset.tensors(dataset.test_images), torch.from_numpy(dataset.test_labels)

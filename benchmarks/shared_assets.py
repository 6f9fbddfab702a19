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
from secateur.data import Dataset, TrainBatches, split
from secateur.run import Evaluate, accuracy

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


def mobilenet_v1() -> nn.Module:
    """MobileNet-V1 1.0-224 with its ImageNet weights; classes start at 1."""
    return _readers().mobilenet_v1().eval()


@cache
def imagenet_sample() -> tuple[Tensor, Tensor]:
    """1,000 ImageNet images [1000, 3, 224, 224] in a fixed random order, as MobileNet-V1 takes them, and labels."""
    images, classes = _readers().imagenet_sample()
    order = np.random.default_rng(0).permutation(len(images))
    middle = torch.from_numpy(images[order][:, 16:240, 16:240]).permute(0, 3, 1, 2)
    return middle.float().sub(127.5).div(127.5).contiguous(), torch.from_numpy(classes[order] + 1)


def materials(
    name: str, reward: int, calibration: int, report: int | None
) -> tuple[nn.Module, Tensor, Tensor, Evaluate]:
    """A network, images to score plans on (no labels), images to refit on, and its top-1 on images kept apart.

    CIFAR-10: augmented training images score, the test images report. ImageNet: the sample is divided in three.
    """
    if name == "mobilenet_v1":
        images, labels = imagenet_sample()
        first, second = reward, reward + calibration
        return mobilenet_v1(), images[:first], images[first:second], accuracy(images[-500:], labels[-500:], batch=25)
    dataset = cifar10()
    parts = split(dataset, reward, calibration, seed=0)
    images, labels = training_images(dataset, parts.reward)
    augmented, _ = next(iter(TrainBatches(images, labels, len(images), seed=0)))
    tests, answers = test_images(dataset)
    test = accuracy(tests[:report], answers[:report])
    return resnet(int(name.removeprefix("resnet"))), augmented, training_images(dataset, parts.calibration)[0], test

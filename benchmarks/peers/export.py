"""The network and the images of the comparison as plain files, for a peer that lives in another environment."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import shared_assets
import torch
from torch import Tensor

from secateur import zoo
from secateur.data import split

REWARD, CALIBRATION = 5000, 1500


def export(folder: Path, depth: int = 56) -> None:
    """Write what `nni_amc.py` reads.

    network.pt holds the state dict, shortcuts as convolutions. {reward,calibration,test}_images.npy are float32
    [N, 3, 32, 32], normalised; {reward,calibration,test}_labels.npy int64 [N]. first_logits.npy [100, 10] are the
    answers of our own network, option A, to the first 100 reward images.
    """
    folder.mkdir(parents=True, exist_ok=True)
    dataset = shared_assets.cifar10()
    parts = split(dataset, REWARD, CALIBRATION, seed=0)
    network = shared_assets.resnet(depth)
    images, labels = shared_assets.training_images(dataset, parts.reward)
    with torch.inference_mode():
        np.save(folder / "first_logits.npy", network(images[:100]).numpy())
    _save(folder, "reward", images, labels)
    _save(folder, "calibration", *shared_assets.training_images(dataset, parts.calibration))
    _save(folder, "test", *shared_assets.test_images(dataset))
    # NNI crashes on option A (slice and pad).
    torch.save(zoo.with_copying_shortcuts(network).state_dict(), folder / "network.pt")


def _save(folder: Path, name: str, images: Tensor, labels: Tensor) -> None:
    np.save(folder / f"{name}_images.npy", images.numpy())
    np.save(folder / f"{name}_labels.npy", labels.numpy())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    export(parser.parse_args().folder)

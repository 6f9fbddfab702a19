"""Dividing the training images: what a search trains, scores and calibrates on."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secateur.data.dataset import Dataset
from secateur.data.stratified import stratified
from secateur.errors import DataError

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Split:
    """Indices into the training images: `reward` is kept out of `train`, `calibration` is drawn from `train`.

    `train` is in order; the other two are shuffled, so that any first part of them is a fair sample too.
    """

    train: Indices
    reward: Indices
    calibration: Indices


def split(dataset: Dataset, reward: int, calibration: int, seed: int) -> Split:
    """Draws `reward` and `calibration` images, every class in proportion; the same for the same `seed`.

    The reward images come from the validation part where it has enough: the network has not seen those.
    Raises DataError when there are too few training images.
    """
    labels = dataset.train_labels
    total = len(labels)
    if reward < 0 or calibration < 0 or reward + max(calibration, 1) > total:
        wanted = f"{reward} reward and {calibration} calibration images"
        raise DataError(f"{dataset.name}: {wanted} do not fit in {total} training images; ask for fewer")
    rng = np.random.default_rng(seed)
    everything = np.arange(total)
    unseen = 0 < reward <= dataset.validation
    pool = everything[total - dataset.validation :] if unseen else everything
    held_out = pool[stratified(labels[pool], reward, rng)]
    train = np.setdiff1d(everything, held_out)
    return Split(train, held_out, train[stratified(labels[train], calibration, rng)])

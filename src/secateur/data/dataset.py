"""A data set in memory, and loading one by name or path."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.data.formats import Arrays, read_cifar10, read_digits, read_image_folder, read_npz
from secateur.errors import DataError


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images uint8 [N, H, W, C] with C 1 or 3, labels int64 [N]; `mean` and `std` [C] of pixels in 0..1.

    The last `validation` training images came as a validation part: the network has likely not seen them.
    """

    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    name: str
    validation: int = 0

    @property
    def num_classes(self) -> int:
        """One more than the largest label."""
        return 1 + int(max(self.train_labels.max(), self.test_labels.max()))

    @property
    def in_channels(self) -> int:
        """1 for grey images, 3 for colour."""
        return int(self.train_images.shape[3])

    def tensors(self, images: NDArray[np.uint8]) -> Tensor:
        """uint8 [N, H, W, C] -> float32 [N, C, H, W], (pixel / 255 - mean) / std."""
        pixels = torch.tensor(images.transpose(0, 3, 1, 2)).float()
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (self.mean, self.std))
        return pixels.div_(255).sub_(mean).div_(std)


def load_dataset(
    source: str | Path,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    image_size: int | None = None,
) -> Dataset:
    """The data set `source`, a name or a path.

    - "digits": scikit-learn's handwritten digits;
    - an .npz file with MedMNIST's keys;
    - the official CIFAR-10 folder, pickled (cifar-10-batches-py) or binary (cifar-10-batches-bin);
    - an image folder, root/train/<class>/* with root/test or root/val, or root/<class>/* (divided 80/20):
      it needs `image_size`, the pixels on a side that its images are resized and cropped to.

    `mean` and `std` default to those of the training images. Raises DataError, which says what to do.
    """
    path = Path(source).expanduser()
    classes: int | None = 10
    if str(source) == "digits":
        arrays = read_digits()
    elif path.suffix.lower() == ".npz":
        arrays, classes = read_npz(path), None
    elif not path.is_dir():
        raise DataError(f"{source}: no such data set; give 'digits', an .npz file, a CIFAR-10 or an image folder")
    elif any(path.glob("data_batch_*")) or any(path.glob("test_batch*")):
        arrays = read_cifar10(path)
    else:
        arrays, classes = read_image_folder(path, image_size)
    return _assemble(str(source), arrays, classes, mean, std, image_size)


def _assemble(
    name: str,
    arrays: Arrays,
    classes: int | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    image_size: int | None,
) -> Dataset:
    """The checked data set; `classes` None means: as many as the training labels show."""
    parts = ["train", "val", "test"] if "val_images" in arrays else ["train", "test"]
    images = {part: _images(name, part, arrays) for part in parts}
    labels = {part: _labels(name, part, arrays) for part in parts}
    shape = images["train"].shape[1:]
    if image_size is not None and shape[:2] != (image_size, image_size):
        raise DataError(f"{name}: images are {shape[0]} x {shape[1]}, not image_size {image_size}; leave it out")
    limit = classes or int(labels["train"].max()) + 1
    for part in parts:
        if images[part].shape[1:] != shape:
            raise DataError(f"{name}: {part}_images are {images[part].shape[1:]} but train_images are {shape}")
        if (worst := int(labels[part].max())) >= limit:
            raise DataError(f"{name}: {part}_labels has label {worst}; only 0 to {limit - 1} are known classes")
    trained = [part for part in parts if part != "test"]
    train_images = np.concatenate([images[part] for part in trained])
    own_mean, own_std = _statistics(train_images)
    return Dataset(
        train_images=train_images,
        train_labels=np.concatenate([labels[part] for part in trained]),
        test_images=images["test"],
        test_labels=labels["test"],
        mean=own_mean if mean is None else _per_channel(name, "mean", mean, shape[2]),
        std=own_std if std is None else _per_channel(name, "std", std, shape[2]),
        name=name,
        validation=len(labels["val"]) if "val" in parts else 0,
    )


def _array(name: str, key: str, arrays: Arrays) -> NDArray[Any]:
    if key not in arrays:
        raise DataError(f"{name}: {key} is missing; it has {', '.join(arrays) or 'no known key'}")
    return arrays[key]


def _images(name: str, part: str, arrays: Arrays) -> NDArray[np.uint8]:
    images = _array(name, f"{part}_images", arrays)
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3) or images.size == 0:
        found = f"{images.dtype} {list(images.shape)}"
        raise DataError(f"{name}: {part}_images is {found}; give uint8 [N, H, W, 1 or 3] or [N, H, W], not empty")
    return np.ascontiguousarray(images)


def _labels(name: str, part: str, arrays: Arrays) -> NDArray[np.int64]:
    labels = _array(name, f"{part}_labels", arrays)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    count = len(arrays[f"{part}_images"])
    if labels.dtype.kind not in "iu" or labels.shape != (count,):
        found = f"{labels.dtype} {list(labels.shape)}"
        raise DataError(f"{name}: {part}_labels is {found}; give one whole number per image, [{count}] or [{count}, 1]")
    if int(labels.min()) < 0 or int(labels.max()) >= 2**31:
        raise DataError(f"{name}: {part}_labels run from {labels.min()} to {labels.max()}; number the classes from 0")
    return labels.astype(np.int64)


def _per_channel(name: str, what: str, values: Sequence[float], channels: int) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in values)
    if len(numbers) != channels or not np.isfinite(numbers).all() or (what == "std" and min(numbers) <= 0):
        raise DataError(f"{name}: {what} {numbers} does not suit images of {channels} channel(s); one number for each")
    return numbers


def _statistics(images: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel in 0..1, from histograms: no float copy of the images."""
    levels = np.arange(256) / 255
    means, deviations = [], []
    for channel in range(images.shape[3]):
        counts = np.zeros(256)
        for first in range(0, len(images), 256):
            counts += np.bincount(images[first : first + 256, ..., channel].ravel(), minlength=256)
        share = counts / counts.sum()
        means.append(float(share @ levels))
        # A constant channel carries nothing; one grey level keeps the division by std finite.
        deviations.append(max(float(share @ (levels - means[-1]) ** 2) ** 0.5, 1 / 255))
    return tuple(means), tuple(deviations)

"""Batches of images: in order for evaluation, shuffled and augmented for training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import overload

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from secateur.errors import DataError


@overload
def batches(images: Tensor, labels: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]: ...
@overload
def batches(images: Tensor, labels: None, size: int) -> Iterator[Tensor]: ...
def batches(images: Tensor, labels: Tensor | None, size: int) -> Iterator[tuple[Tensor, Tensor]] | Iterator[Tensor]:
    """Views of `size` images at a time, in order, the last time fewer: (images, labels), or images alone."""
    pieces: tuple[Tensor, ...] = images.split(size)
    return iter(pieces) if labels is None else zip(pieces, labels.split(size), strict=True)


class TrainBatches:
    """Shuffled, augmented batches (images [B, C, H, W], labels [B]), made on the device of the images.

    Each image is shifted by up to `crop_pad` pixels (the border is filled with zeros, the mean colour) and,
    with `flip`, mirrored half of the time. Every pass is the next epoch, and what an epoch holds depends on
    `seed` and its number alone: a resumed training calls `set_epoch` and sees what it would have seen. A last
    batch of one image is left out, as batch norm cannot train on it.

    Raises DataError when that leaves no batch, and when shapes or numbers make no sense.
    """

    def __init__(
        self, images: Tensor, labels: Tensor, batch_size: int, seed: int, crop_pad: int = 4, flip: bool = True
    ) -> None:
        if images.ndim != 4 or labels.shape != images.shape[:1]:
            raise DataError(f"images {list(images.shape)} and labels {list(labels.shape)} are not [N, C, H, W] and [N]")
        if batch_size < 1 or crop_pad < 0 or seed < 0:
            raise DataError(f"batch_size {batch_size} must be 1 or more, crop_pad {crop_pad} and seed {seed} 0 or more")
        self.images, self.labels = images, labels
        self.batch_size, self.seed, self.crop_pad, self.flip = batch_size, seed, crop_pad, flip
        self.epoch = 0
        if len(self) == 0:
            raise DataError(f"{len(images)} training image(s) make no batch; give at least two")

    def to(self, device: torch.device | str) -> TrainBatches:
        """The same batches, made on another device."""
        images, labels = self.images.to(device), self.labels.to(device)
        return TrainBatches(images, labels, self.batch_size, self.seed, self.crop_pad, self.flip)

    def __len__(self) -> int:
        whole, rest = divmod(len(self.images), self.batch_size)
        return whole + (rest > 1)

    def set_epoch(self, epoch: int) -> None:
        """The next pass is epoch `epoch`, counted from 0."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        return self._batches_of(epoch)

    def _batches_of(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        # The draws are made on the CPU, so that they are the same whatever device the images are on.
        rng = torch.Generator().manual_seed(int(np.random.SeedSequence((self.seed, epoch)).generate_state(1)[0]))
        count = len(self.images)
        order = torch.randperm(count, generator=rng)
        shifts = torch.randint(2 * self.crop_pad + 1, (count, 2), generator=rng)
        mirrored = torch.rand(count, generator=rng) < (0.5 if self.flip else 0.0)
        device = self.images.device
        order, shifts, mirrored = order.to(device), shifts.to(device), mirrored.to(device)
        for first in range(0, len(self) * self.batch_size, self.batch_size):
            chosen = slice(first, first + self.batch_size)
            images = self._augmented(self.images[order[chosen]], shifts[chosen], mirrored[chosen])
            yield images, self.labels[order[chosen].to(self.labels.device)]

    def _augmented(self, images: Tensor, shifts: Tensor, mirrored: Tensor) -> Tensor:
        """[B, C, H, W] of the padded images, cropped at `shifts` [B, 2], reversed where `mirrored` [B]."""
        count, channels, height, width = images.shape
        padded = F.pad(images, [self.crop_pad] * 4)
        rows = shifts[:, :1] + torch.arange(height, device=images.device)
        columns = shifts[:, 1:] + torch.arange(width, device=images.device)
        columns = torch.where(mirrored[:, None], columns.flip(1), columns)
        image = torch.arange(count, device=images.device)[:, None, None, None]
        channel = torch.arange(channels, device=images.device)[None, :, None, None]
        return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]

"""What a job's words stand for: the network and the data, loaded and checked before anything is searched."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from secateur import zoo
from secateur.data import Dataset, TrainBatches, load_dataset, split
from secateur.errors import JobError, SecateurError
from secateur.finish import FineTune, Lesson, trained
from secateur.graph import as_inputs, private_copy
from secateur.job.words import Job, ModelJob, imported

LOOKED_AT = 32
"""Images that tell whether labels are the network's."""


@dataclass(frozen=True, eq=False)
class Materials:
    """What a job's words stand for: the dense network, and tensors of each part of the data."""

    model: nn.Module
    fresh: Callable[[], nn.Module]
    example: Tensor
    dataset: Dataset
    reward: tuple[Tensor, Tensor]
    calibration: Tensor
    train: TrainBatches
    test: tuple[Tensor, Tensor]


def materials(job: Job) -> Materials:
    """Load the network and the data. Raises JobError, CheckpointError or DataError."""
    data = job.data
    dataset = load_dataset(data.source, mean=data.mean, std=data.std, image_size=data.image_size)
    parts = split(dataset, data.reward, data.calibration, data.seed)
    fresh = partial(_network, job.model, dataset)
    model = fresh() if job.model.weights is None else trained(job.model.weights, fresh())
    labels = torch.from_numpy(dataset.train_labels)
    tune = job.finetune
    train = TrainBatches(
        dataset.tensors(dataset.train_images[parts.train]),
        labels[parts.train],
        tune.batch,
        tune.seed,
        tune.crop_pad,
        dataset.in_channels == 3 if tune.flip is None else tune.flip,
    )
    test = dataset.tensors(dataset.test_images)
    reward = dataset.tensors(dataset.train_images[parts.reward]), labels[parts.reward]
    _check_classes(model.eval(), reward[0][:LOOKED_AT], reward[1][:LOOKED_AT], dataset)
    if tune.epochs:
        check_training(model, model, tune, *reward)
    return Materials(
        model=model,
        fresh=fresh,
        example=test[:1],
        dataset=dataset,
        reward=reward,
        calibration=dataset.tensors(dataset.train_images[parts.calibration]),
        train=train,
        test=(test, torch.from_numpy(dataset.test_labels)),
    )


def refuse_random(job: Job, found: Materials) -> None:
    """A network without a weights file has to come with its own: drawn anew each time, no run could be taken up."""
    if job.model.weights is not None:
        return
    if job.model.name in zoo.NETWORKS:
        raise JobError("[model] weights: name the file of its trained weights; the zoo's networks are untrained")
    mine, other = found.model.state_dict().values(), found.fresh().state_dict().values()
    if not all(torch.equal(one, two) for one, two in zip(mine, other, strict=True)):
        raise JobError(
            f"[model] {job.model.name} gives other weights each time it is called: let it load trained ones, or name "
            "their file (weights = ...)"
        )


def _check_classes(model: nn.Module, images: Tensor, labels: Tensor, dataset: Dataset) -> None:
    """Refuse images that the network does not take, and labels that are not its own."""
    try:
        with torch.no_grad():
            answer = model(images)
    except Exception as error:
        raise JobError(
            f"the network does not run on the images of [data] {dataset.name}, {list(images.shape[1:])} each: {error}"
        ) from error
    if not isinstance(answer, Tensor) or answer.dim() != 2:
        return
    if answer.shape[1] < dataset.num_classes:
        raise JobError(
            f"[data] {dataset.name} has {dataset.num_classes} classes, but the network tells only {answer.shape[1]} "
            "apart: give the data that it was trained on"
        )
    right = int((answer.argmax(1) == labels).sum())
    if answer.shape[1] > dataset.num_classes and right * dataset.num_classes <= len(images):
        raise JobError(
            f"[data] {dataset.name} has {dataset.num_classes} classes, the network tells {answer.shape[1]} apart and "
            f"has {right} of {len(images)} right, no more than a guess: its first outputs have to be these classes in "
            "order (folders by name); give it a last layer of its own for them"
        )


def check_training(student: nn.Module, teacher: nn.Module, tune: FineTune, images: Tensor, labels: Tensor) -> None:
    """Refuse, before anything is searched, a network that could not be fine-tuned: two images are learnt from."""
    student = private_copy(student).train()
    with torch.no_grad(), torch.random.fork_rng([]), closing(Lesson(student, teacher, tune)) as lesson:
        try:
            lesson.loss(student, as_inputs(images[:2]), labels[:2])
        except SecateurError:
            raise
        except Exception as error:  # of a network that is not ours, anything
            raise JobError(
                f"the network cannot be fine-tuned: in training it fails on the images of [data]: {error}; "
                "[finetune] epochs = 0 leaves that out"
            ) from error


def _network(job: ModelJob, dataset: Dataset) -> nn.Module:
    module, colon, factory = job.name.partition(":")
    try:
        if not colon and job.name not in zoo.NETWORKS:
            raise JobError(
                f"[model] name = {job.name!r} is neither package.module:factory nor in the zoo, which has "
                f"{', '.join(zoo.NETWORKS)}"
            )
        if not colon:
            options = {"num_classes": dataset.num_classes, "in_channels": dataset.in_channels, **job.options}
            return zoo.build(job.name, **options)
        built = imported(module, factory, f"[model] name = {job.name!r}")(**job.options)
    except JobError:
        raise
    except Exception as error:  # of a factory that is not ours, anything
        raise JobError(f"[model] name = {job.name!r} cannot be built: {type(error).__name__}: {error}") from error
    if not isinstance(built, nn.Module):
        raise JobError(f"[model] {job.name} gave {type(built).__name__}, not an nn.Module")
    return built

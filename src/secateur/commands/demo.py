"""The main job on real data that is built in: handwritten digits, a ResNet trained on the spot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from secateur.finish import finetune, save
from secateur.job import DataJob, FineTuneJob, Job, ModelJob, ReportJob
from secateur.job.compress import Run
from secateur.job.materials import materials
from secateur.plan import Budget
from secateur.prune import PruneSettings
from secateur.report import FineTuneProgress
from secateur.search import SpaceSettings

DENSE_EPOCHS = 30


def demo(folder: str, command: str) -> Run:
    """Train the dense network if it is not there yet, and give the run that compresses it."""
    job = Job(
        model=ModelJob("resnet20", options={"width": 16}),
        data=DataJob("digits", reward=497, calibration=700),
        budget=Budget(macs=0.15),
        trials=100,
        folder=folder,
        workers=2,
        threads=1,
        space=SpaceSettings(min_keep=0.05),
        prune=PruneSettings(trial_examples=700),  # pictures of 8 x 8 pixels have few positions to learn from
        # Rivals are compared before fine-tuning: after it, 600 test images cannot tell the plans apart.
        finetune=FineTuneJob(epochs=15, lr=0.05, batch=64, crop_pad=1),
        report=ReportJob(rivals=("uniform", "shallow", "deep", "random")),
    )
    weights = Path(folder).resolve() / "dense.safetensors"
    if not weights.exists():
        _train_dense(job, weights)
    return Run(replace(job, model=replace(job.model, weights=str(weights))), command)


def _train_dense(job: Job, weights: Path) -> None:
    torch.set_num_threads(2)
    torch.manual_seed(0)
    stuff = materials(job)
    with FineTuneProgress(DENSE_EPOCHS, "training the dense network") as progress:
        settings = FineTuneJob(epochs=DENSE_EPOCHS, lr=0.1, distil=0.0)
        finetune(stuff.model, stuff.train, settings=settings, on_epoch=progress)
    weights.parent.mkdir(parents=True, exist_ok=True)
    save(stuff.model, weights)

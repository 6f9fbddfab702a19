"""The job file: one TOML, whose tables and keys are the dataclasses below and their fields."""

from __future__ import annotations

import dataclasses
import importlib
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from secateur.cost import DEVICES, ENERGIES
from secateur.errors import JobError, SecateurError
from secateur.finish import FineTune
from secateur.plan import Budget
from secateur.prune import PruneSettings
from secateur.schema import Malformed, decode
from secateur.search import (
    CMAES,
    DDPG,
    RULES,
    TPE,
    AccuracyGuaranteed,
    Bayesian,
    Composite,
    Deep,
    Evolution,
    Knapsack,
    Random,
    Reward,
    Shallow,
    SpaceSettings,
    Strategy,
    Uniform,
    resource_constrained,
)
from secateur.settings import SearchSettings

SEARCHERS: dict[str, type[Any]] = {
    "ddpg": DDPG,
    "bayesian": Bayesian,
    "knapsack": Knapsack,
    "evolution": Evolution,
    "tpe": TPE,
    "cmaes": CMAES,
    "random": Random,
    "uniform": Uniform,
    "shallow": Shallow,
    "deep": Deep,
}
FOR_RANGES = ("ddpg", "bayesian", "knapsack", *RULES)
"""Those that have an answer for every budget of a range; a rule's is its plan at the most that the range allows."""


@dataclass(frozen=True)
class ModelJob:
    """[model]: a zoo name, or `package.module:factory`, with a weights file."""

    name: str
    weights: str | None = None
    """safetensors, or a state dict without pickled code; what `secateur.save` wrote of a network that was cut
    already is cut further. None only for a factory that loads its own."""
    options: dict[str, Any] = field(default_factory=dict)
    """Arguments of the factory, such as width."""


@dataclass(frozen=True)
class DataJob:
    """[data]: `digits`, an .npz with MedMNIST's keys, a CIFAR-10 folder, or an image folder."""

    source: str
    image_size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    reward: int = 1000
    """Training images that score plans; they are kept out of fine-tuning."""
    calibration: int = 1000
    """Training images whose activations the refits use; their labels are not."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.reward < 2 or self.calibration < 2:
            raise JobError(
                f"[data] reward = {self.reward}, calibration = {self.calibration}: give some hundreds of images each"
            )


@dataclass(frozen=True)
class FineTuneJob(FineTune):
    """[finetune]: the fields of FineTune, and how batches are made."""

    batch: int = 128
    crop_pad: int = 4
    flip: bool | None = None
    """Whether training images are mirrored half of the time; by default colour images are, grey ones are not."""
    rivals: bool = False
    """Whether the rivals are fine-tuned too, for the table's last column."""
    device: Literal["auto", "cpu"] = "auto"
    """Where to train: by default on the GPU, if torch sees one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch < 2 or self.crop_pad < 0:
            raise JobError(
                f"[finetune] batch = {self.batch}, crop_pad = {self.crop_pad}: a batch is 2 or more, crop_pad 0 or more"
            )

    @property
    def where(self) -> str:
        """The device to train on, by torch's name."""
        return "cuda" if self.device == "auto" and torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class ReportJob:
    """[report]: which rivals are run at the same budget, to compare with."""

    rivals: tuple[str, ...] = ("uniform", "shallow", "deep")
    """Of uniform, shallow, deep, random; random is searched with as many trials."""


@dataclass(frozen=True)
class Job:
    """A whole job; every table but [model], [data] and [budget] may be left out."""

    model: ModelJob
    data: DataJob
    budget: Budget
    stage: float = 0.1
    """A budget below this share of the dense network is reached in stages: search, fine-tune, search again."""
    trials: int = 400
    seconds: float | None = None
    """Start no more trials of a search once it has taken so many seconds, over all its runs."""
    folder: str = ""
    """The run folder, from where the command is run; by default runs/<name of the job file>."""
    modules: str = ""
    """The folder of modules that the job names and Python does not find by itself; by default the job file's."""
    workers: int = 1
    score: Literal["agreement", "accuracy"] = "agreement"
    """What plans are scored by on the reward images: agreement with the dense network's answers, which needs no
    labels and tells plans apart on far fewer images, or top-1."""
    race: bool = True
    """Stop scoring candidates that have fallen hopelessly behind."""
    engine: Literal["torch", "openvino", "openvino-int8"] = "torch"
    """What runs the candidates while they are scored."""
    latency: str | None = None
    """What tells latency: pixel1, or a file of `secateur profile`."""
    measured: bool = False
    """Whether the network has to meet a latency budget when it is measured here, on the runtime of the table."""
    energy: str | None = None
    """What tells energy: estimate, or a file of `secateur profile --meter`."""
    reward: dict[str, Any] = field(default_factory=lambda: {"kind": "resource-constrained"})
    """[reward] kind: resource-constrained, accuracy-guaranteed or composite, with the fields of their classes; or
    `package.module:function`."""
    threads: int | None = None
    """torch's threads; by default what torch takes."""
    searcher: Strategy = field(default_factory=Bayesian)
    space: SpaceSettings = field(default_factory=SpaceSettings)
    prune: PruneSettings = field(default_factory=PruneSettings)
    finetune: FineTuneJob = field(default_factory=FineTuneJob)
    report: ReportJob = field(default_factory=ReportJob)

    def __post_init__(self) -> None:
        self._check_rivals()
        if self.trials < 1 or self.workers < 1 or (self.threads is not None and self.threads < 1):
            raise JobError("trials, workers and threads are 1 or more")
        if min(self.data.seed, self.searcher.seed, self.finetune.seed) < 0:
            raise JobError("seed: give 0 or more, in [data], [searcher] and [finetune]")
        if not 0 < self.stage < 1:
            raise JobError(f"stage = {self.stage}: give a share of the dense network between 0 and 1")
        if self.measured and (self.budget.metric != "latency_ms" or self.latency in (None, *DEVICES)):
            raise JobError("measured = true needs a budget in latency_ms, and a table of this machine (latency = ...)")
        kind = reward_of(self.reward)
        if isinstance(kind, (AccuracyGuaranteed, Composite)) and not self.budget.is_range:
            raise JobError(
                f"[reward] kind = {self.reward['kind']!r} weighs cost itself: give a range to choose from, such as "
                "[budget] macs = [0.2, 1.0]"
            )

    def _check_rivals(self) -> None:
        """Refuse now what would be known when the search is over, and the rivals begin."""
        rivals = self.report.rivals
        for name in rivals:
            if name not in SEARCHERS:
                raise JobError(f"[report] rivals: {name!r} is none of {', '.join(SEARCHERS)}")
            if rivals.count(name) > 1:
                raise JobError(f"[report] rivals: {name!r} is there twice")
            if self.budget.is_range and name not in FOR_RANGES:
                raise JobError(f"[report] rivals: {name!r} serves no range of budgets, as {', '.join(FOR_RANGES)} do")

    @property
    def settings(self) -> SearchSettings:
        """What `search` takes."""
        return SearchSettings(
            space=self.space,
            prune=self.prune,
            workers=self.workers,
            race=self.race,
            seconds=self.seconds,
            reward=reward_of(self.reward),
            latency=self.latency,
            measured=self.measured,
            energy=self.energy,
            engine=self.engine,
        )


REWARDS: dict[str, Any] = {"accuracy-guaranteed": AccuracyGuaranteed, "composite": Composite}


def reward_of(raw: Mapping[str, Any]) -> Reward:
    """The reward that a [reward] table stands for. Raises JobError or Malformed."""
    options = dict(raw)
    kind = options.pop("kind", "resource-constrained")
    if not isinstance(kind, str):
        raise JobError(f"[reward] kind = {kind!r}: give a text")
    if kind in REWARDS:
        reward: Reward = decode(REWARDS[kind], options, "reward")
        return reward
    if options:
        raise JobError(f"[reward] kind = {kind!r} takes no {', '.join(options)}")
    if kind == "resource-constrained":
        return resource_constrained
    module, colon, function = kind.partition(":")
    if not colon:
        raise JobError(f"[reward] kind = {kind!r}: give resource-constrained, {', '.join(REWARDS)} or module:function")
    found = imported(module, function, f"[reward] kind = {kind!r}")
    if not callable(found):
        raise JobError(f"[reward] kind = {kind!r} is {type(found).__name__}, not a function (score, costs, dense)")
    return found  # type: ignore[no-any-return]


def imported(module: str, name: str, where: str) -> Any:
    """What `module` calls `name`; beside the job, as `python -m` would find it. Raises JobError."""
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # a module that is not ours may raise anything
        raise JobError(f"{where} cannot be imported: {type(error).__name__}: {error}") from error


def read_job(path: str | Path) -> Job:
    """Read and check a job file; what it reads is relative to it. Raises JobError with the key at fault."""
    place = Path(path)
    try:
        raw = tomllib.loads(place.read_text())
    except OSError as error:
        raise JobError(f"cannot read the job file {place}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise JobError(f"{place} is not valid TOML: {error}") from error
    return parse_job(raw, place)


def parse_job(raw: Mapping[str, Any], place: Path) -> Job:
    """A job from parsed TOML; `place` names it in errors, and anchors its paths."""
    tables = dict(raw)
    try:
        tables["searcher"] = _searcher(tables.get("searcher", {}))
        tables["modules"] = _anchored(decode(str, tables.get("modules", "."), "job.modules"), place)
        if tables["modules"] not in sys.path:
            sys.path.append(tables["modules"])  # before the job is made: its reward may lie there
        job: Job = decode(Job, tables, "job")
    except (Malformed, SecateurError) as error:
        raise JobError(f"{place}: {error}") from error
    searcher = job.searcher
    if prior := getattr(searcher, "prior", None):
        searcher = dataclasses.replace(searcher, prior=_anchored(prior, place))  # type: ignore[type-var]
    weights, data = job.model.weights, job.data
    return dataclasses.replace(
        job,
        folder=job.folder or str(Path("runs") / place.stem),
        latency=job.latency if job.latency in (None, *DEVICES) else _anchored(job.latency, place),
        energy=job.energy if job.energy in (None, *ENERGIES) else _anchored(job.energy, place),
        model=dataclasses.replace(job.model, weights=weights and _anchored(weights, place)),
        data=data if data.source == "digits" else dataclasses.replace(data, source=_anchored(data.source, place)),
        searcher=searcher,
    )


def _searcher(raw: Any) -> Strategy:
    """The settings that a [searcher] table stands for. Raises JobError or Malformed."""
    if not isinstance(raw, Mapping):
        raise JobError(f'searcher = {raw!r}: give a table, [searcher] with kind = "bayesian"')
    options = dict(raw)
    kind = options.pop("kind", "bayesian")
    if not isinstance(kind, str) or kind not in SEARCHERS:
        raise JobError(f"[searcher] kind = {kind!r} is none of {', '.join(SEARCHERS)}")
    strategy: Strategy = decode(SEARCHERS[kind], options, "searcher")
    return strategy


def _anchored(path: str | None, place: Path) -> str:
    return str((place.parent / Path(path or "").expanduser()).resolve())

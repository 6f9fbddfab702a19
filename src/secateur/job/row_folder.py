"""The folder of one row of a run: its network, pruned and fine-tuned, and how each was made."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from torch import nn

from secateur.finish import Epoch, finetune, load, save
from secateur.job.materials import Materials
from secateur.job.words import FineTuneJob
from secateur.plan import Plan
from secateur.report import FineTuneProgress
from secateur.run import Evaluate, accuracy, as_json, score_of, write_atomically


class RowFolder:
    """What a searcher or a rule has come to; `home` also has the search's own files."""

    def __init__(self, home: Path, materials: Materials) -> None:
        self.home, self.materials = home, materials
        self.network, self._plan = home / "pruned.safetensors", home / "plan.json"
        self._tuning, self._history = home / "finetune.json", home / "history.json"
        self._tuned, self._scores = home / "small.safetensors", home / "scores.json"

    def pruned(self, plan: Plan) -> nn.Module | None:
        """The network pruned by this plan, if that is here."""
        here = self.network.exists() and self._plan.exists() and self._plan.read_bytes() == as_json(plan.to_json())
        if not here:
            return None
        # All of it is trained, as when it had just been cut, whatever the factory freezes.
        return load(self.network, self.materials.fresh()).eval().requires_grad_(True)

    def keep(self, small: nn.Module, plan: Plan) -> None:
        """Keep the network that a plan prunes to, in place of another plan's."""
        self.home.mkdir(exist_ok=True)
        self._plan.unlink(missing_ok=True)  # written last: it says that the network beside it is this plan's
        save(small, self.network)
        write_atomically(self._plan, as_json(plan.to_json()))

    def trained_otherwise(self, settings: FineTuneJob) -> bool:
        """Whether what was trained here, if anything was, was trained in another way."""
        if not self._tuning.exists():
            return False
        wanted = recipe(settings)
        # What was added since an older version wrote the note was then as it is by default.
        known = recipe(FineTuneJob()) | json.loads(self._tuning.read_text())
        return {name: known[name] for name in wanted} != wanted

    def train(self, small: nn.Module, settings: FineTuneJob, progress: FineTuneProgress) -> None:
        """Fine-tune its pruned network in place, or load what it came to; it ends on the CPU, in eval mode."""
        write_atomically(self._tuning, as_json(recipe(settings)))
        done = len(self.history) == settings.epochs  # then there is nothing to show
        with progress:
            history = finetune(
                small.to(settings.where),
                self.materials.train.to(settings.where),
                teacher=self.materials.model,
                settings=dataclasses.replace(settings, replay=settings.replay and settings.where == "cuda"),
                evaluate=accuracy(*self.materials.reward),
                checkpoint=self.home / "finetune.pt",
                on_epoch=None if done else progress,
            )
        save(small.cpu(), self._tuned)
        write_atomically(self._history, json.dumps([dataclasses.asdict(epoch) for epoch in history]).encode())

    def better(self, tuned: nn.Module, pruned: nn.Module, score: Evaluate) -> nn.Module:
        """The fine-tuned network, or the pruned one if it scores better on data held out from training."""
        scores = self._both_scores
        if scores is None:
            scores = score_of(score, pruned), score_of(score, tuned)
            write_atomically(self._scores, as_json(dict(zip(("pruned", "tuned"), scores, strict=True))))
        if scores[0] <= scores[1]:
            return tuned
        save(pruned, self._tuned)
        return pruned

    @property
    def _both_scores(self) -> tuple[float, float] | None:
        """Before fine-tuning and after it, once they are known."""
        if not self._scores.exists():
            return None
        known = json.loads(self._scores.read_text())
        return float(known["pruned"]), float(known["tuned"])

    @property
    def undone(self) -> tuple[float, float] | None:
        """The scores before and after fine-tuning, where that made it worse and the pruned network is delivered."""
        scores = self._both_scores
        return scores if scores is not None and scores[0] > scores[1] else None

    def forget_training(self) -> None:
        """It is to be trained afresh."""
        for late in (self.home / "finetune.pt", self._tuned, self._scores, self._history):
            late.unlink(missing_ok=True)

    @property
    def history(self) -> list[Epoch]:
        """Each epoch that it was fine-tuned for, once all are done."""
        return [Epoch(**epoch) for epoch in json.loads(self._history.read_text())] if self._history.exists() else []


def recipe(settings: FineTuneJob) -> dict[str, Any]:
    """What makes it another training, as JSON gives it back: not where it is done, nor who else is trained."""
    elsewhere = ("device", "replay", "rivals")
    own = {name: value for name, value in dataclasses.asdict(settings).items() if name not in elsewhere}
    return dict(json.loads(json.dumps(own)))

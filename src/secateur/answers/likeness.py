"""How alike another network answers: each part by a measure that follows from what it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from secateur.answers import measures
from secateur.answers.detections import Boxes, found_alike
from secateur.answers.parts import Parts, counting, of_tokens, said
from secateur.errors import EvaluationError
from secateur.graph import Inputs

Kind = Literal["logits", "vectors", "values", "distributions"]
"""Of classes, by the cosine about their mean; of vectors, by the cosine; numbers, channel by channel at the scale of
each; or distributions over a vocabulary, by their divergence."""
By = Literal["auto", "logits", "vectors", "values", "distributions"]


@dataclass(frozen=True)
class Measure:
    """How one part is measured."""

    kind: Kind
    dim: int
    """Along which classes, numbers of a vector or channels lie."""
    variance: Tensor | None = None
    """Of each channel, of the dense network's answers; [channels], for values."""

    @classmethod
    def of(cls, name: str, x: Tensor, inputs: Inputs, by: By = "auto") -> Measure:
        """By the name and the shape of a part, and by what the network is called with.

        Raises EvaluationError where it is to be measured `by` what it cannot be.
        """
        kind = _kind(name, x, inputs) if by == "auto" else by
        dim = _dim(name, x, inputs, kind)
        if kind != "values" and (x.dim() < 2 or x.shape[dim] < 2):
            if by == "auto":
                return cls("values", dim)
            raise EvaluationError(
                f'agreement by "{by}" needs two numbers or more at each position, and {name or "the answer"} is '
                f'{list(x.shape)}: compare it by "values"'
            )
        return cls(kind, dim)

    def scaled(self, wanted: Tensor, counts: Tensor | None) -> Measure:
        """The same, at the scale of what is wanted."""
        if self.kind != "values":
            return self
        return replace(self, variance=measures.variance_of(wanted, self.dim, counts))

    def __call__(self, mine: Tensor, wanted: Tensor, counts: Tensor | None) -> Tensor:
        """How alike, of each example, [N]."""
        if self.variance is not None:
            return measures.values(mine, wanted, self.dim, self.variance.to(mine.device), counts)
        measure = {"logits": measures.logits, "vectors": measures.vectors, "distributions": measures.distributions}
        return measure[self.kind](mine, wanted, self.dim, counts)


@dataclass(frozen=True)
class Likeness:
    """How alike answers are to the dense network's, part by part."""

    measures: Mapping[str, Measure]
    """Of each part that counts, but of detections, which have one measure alone."""

    @classmethod
    def to(cls, wanted: Parts, inputs: Inputs) -> Likeness:
        """Each part at the scale that it has in these answers."""
        tensors = {name: x for name, x in wanted.items() if isinstance(x, Tensor)}
        return cls(
            {name: Measure.of(name, x, inputs).scaled(x, counting(name, x, inputs)) for name, x in tensors.items()}
        )

    def __call__(self, mine: Parts, wanted: Parts, inputs: Inputs) -> Tensor:
        """Of each example, the mean over the parts of what is wanted, [N]; 1 where they are the same.

        Raises EvaluationError where an answer has not all of them in the same shapes.
        """
        found = [self._of(name, mine.get(name), x, inputs) for name, x in wanted.items()]
        values = found[0] if len(found) == 1 else torch.stack([each.to(found[0]) for each in found]).mean(0)
        return values.mean(0, keepdim=True) if inputs.whole else values

    def _of(self, name: str, mine: Tensor | list[Boxes] | None, wanted: Tensor | list[Boxes], inputs: Inputs) -> Tensor:
        if isinstance(wanted, list) and isinstance(mine, list):
            return found_alike(mine, wanted)
        if (
            not isinstance(wanted, Tensor)
            or not isinstance(mine, Tensor)
            or mine.shape != wanted.shape
            or name not in self.measures
        ):
            raise differs(name, wanted, mine, "from the network that is scored")
        return self.measures[name](mine, wanted.to(mine.device), counting(name, mine, inputs))


def _kind(name: str, x: Tensor, inputs: Inputs) -> Kind:
    of_classes = _of_classes(name)
    if x.dim() == 2:
        return "logits" if of_classes or not said(name) else "vectors"
    if of_tokens(x, inputs):
        return "distributions" if of_classes else "vectors"
    return "logits" if of_classes and x.dim() > 2 else "values"


def _dim(name: str, x: Tensor, inputs: Inputs, kind: Kind) -> int:
    """The second, as in torch's losses; of tokens, vectors, and what is called logits [N, T, classes], the last."""
    last = of_tokens(x, inputs) or kind == "vectors" or (_of_classes(name) and said(name) != "out" and kind != "values")
    return 2 if x.dim() == 3 and last else 1


def _of_classes(name: str) -> bool:
    """Whether a part is called so; torchvision's networks for segmentation answer by `out`."""
    return said(name) in ("logits", "out") or said(name).endswith("_logits")


def differs(name: str, wanted: Tensor | list[Boxes], mine: Tensor | list[Boxes] | None, where: str) -> EvaluationError:
    """That a part is not as the dense network has it."""
    return EvaluationError(
        f"agreement compares answers of one structure and the same shapes: the dense network answers by "
        f"{_shown(name, wanted)}, and {where} comes {_shown(name, mine)}: let the network answer as the dense one "
        "does, or score it by a function of your own (network -> number, higher is better)"
    )


def _shown(name: str, part: Tensor | list[Boxes] | None) -> str:
    """A part; its first dimension is that of a batch."""
    if isinstance(part, Tensor):
        return " ".join(filter(None, (name, str(["N", *part.shape[1:]]).replace("'", ""))))
    return f"no {name or 'tensor alone'}" if part is None else "boxes found in images"

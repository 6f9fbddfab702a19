"""The dense network's answers to all examples, held in memory for others to be compared with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from secateur.answers import measures
from secateur.answers.detections import Boxes
from secateur.answers.likeness import By, Likeness, Measure, differs
from secateur.answers.parts import Parts, counting, parts_of, refuse
from secateur.errors import EvaluationError
from secateur.graph import Inputs


class Dense:
    """What a network answers to inputs, looked at in batches of `batch`: `dense(outputs, numbers, inputs)` compares.

    On the CPU, as it was answered; distributions in half precision: 2 bytes * examples * tokens * vocabulary.
    Raises EvaluationError where nothing of the answers can be compared.
    """

    def __init__(self, network: nn.Module, inputs: Inputs, batch: int, by: By = "auto") -> None:
        device = next((each.device for each in network.parameters()), None)

        def run(piece: Inputs) -> Any:
            return piece.to(device).run(network)

        self._measures: dict[str, Measure] = {}
        self._kept: Parts = {}
        with torch.inference_mode():
            for start in range(0, len(inputs), batch):
                piece = inputs.part(start, start + batch)
                outputs = run(piece)
                found = parts_of(outputs, piece)
                if not start:
                    found = _of_examples(found, run, piece)
                    if not found:
                        raise refuse(outputs)
                    self._begin(found, inputs, piece, by)
                self._keep(found, start)
            self._refuse_none_found()
            scaled = {name: self._scaled(name, measure, inputs) for name, measure in self._measures.items()}
        self._likeness = Likeness(scaled)

    def __call__(self, outputs: object, numbers: Tensor, inputs: Inputs) -> Tensor:
        """How alike another network's answer to the examples of these numbers [n] is, of each, [n].

        Raises EvaluationError where it has not the dense network's parts in the same shapes.
        """
        wanted = {name: _chosen(kept, numbers, inputs.whole) for name, kept in self._kept.items()}
        return self._likeness(parts_of(outputs, inputs), wanted, inputs)

    def _begin(self, found: Parts, inputs: Inputs, piece: Inputs, by: By) -> None:
        """Make room for all examples."""
        for name, part in found.items():
            if not isinstance(part, Tensor):
                self._kept[name] = []
                continue
            measure = self._measures[name] = Measure.of(name, part, piece, by)
            kind = torch.half if measure.kind == "distributions" else part.dtype
            examples = len(part) if inputs.whole else len(inputs)
            self._kept[name] = torch.empty(examples, *part.shape[1:], dtype=kind)

    def _keep(self, found: Parts, start: int) -> None:
        for name, kept in self._kept.items():
            part = found.get(name)
            if isinstance(kept, list) and isinstance(part, list):
                kept += [{key: x.cpu() for key, x in boxes.items()} for boxes in part]
            elif isinstance(kept, Tensor) and isinstance(part, Tensor) and part.shape[1:] == kept.shape[1:]:
                measure = self._measures[name]
                part = measures.kept_small(part, measure.dim) if measure.kind == "distributions" else part
                kept[start : start + len(part)] = part.cpu()
            else:
                raise differs(name, kept, part, "for some examples")

    def _refuse_none_found(self) -> None:
        if any(isinstance(kept, list) and not any(len(x["boxes"]) for x in kept) for kept in self._kept.values()):
            raise EvaluationError(
                "the dense network finds no box in any image, and any network would do as well: give images of what it "
                "was trained to find, sized and scaled as it was trained"
            )

    def _scaled(self, name: str, measure: Measure, inputs: Inputs) -> Measure:
        kept = self._kept[name]
        assert isinstance(kept, Tensor)
        return measure.scaled(kept, counting(name, kept, inputs))


def _of_examples(found: Parts, run: Callable[[Inputs], Any], piece: Inputs) -> Parts:
    """Without the parts that compare the examples of a batch with each other, [n, n] (CLIP's likeness of each image to
    each text): they are others in each batch."""
    n = len(piece)
    if n < 2 or not any(isinstance(part, Tensor) and n in part.shape[1:] for part in found.values()):
        return found
    fewer = parts_of(run(piece.part(0, n - 1)), piece.part(0, n - 1))
    return {name: part for name, part in found.items() if _sizes(part) == _sizes(fewer.get(name))}


def _sizes(part: Tensor | list[Boxes] | None) -> object:
    """Of each example."""
    return part.shape[1:] if isinstance(part, Tensor) else type(part)


def _chosen(kept: Tensor | list[Boxes], numbers: Tensor, whole: bool) -> Tensor | list[Boxes]:
    if isinstance(kept, list):
        return [kept[number] for number in numbers.tolist()]
    return kept if whole else kept[numbers.to(kept.device)]

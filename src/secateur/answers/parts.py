"""What a network answers, taken apart into named tensors; and which tokens of its inputs count."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from typing import Any

import torch
from torch import Tensor

from secateur.answers.detections import Boxes, boxes_in
from secateur.errors import EvaluationError
from secateur.graph import Inputs

Parts = dict[str, Tensor | list[Boxes]]
"""Tensors [N, ...] by where they stand in the answer ("" for one alone, "0.maps" in the first of a tuple), or under
`DETECTIONS` what is found in each of N images."""
DETECTIONS = "detections"
LEFT_OUT = ("loss", "past_key_values", "aux", "aux_logits")
"""What tells nothing of the answers: losses, caches, and heads that only help in training."""


def parts_of(outputs: object, inputs: Inputs) -> Parts:
    """What counts of an answer to some inputs: floating tensors whose first dimension is the examples.

    `logits`, where it has them, alone. Answers that are a list, one an example, are stacked if they are of one shape.
    Where inputs hang together (`Inputs.whole`), the first dimension may be any. Empty where nothing counts.
    """
    examples = len(inputs)
    if isinstance(outputs, (list, tuple)) and len(outputs) == examples:
        images = [boxes for boxes in map(boxes_in, outputs) if boxes is not None]
        if len(images) == examples:
            return {DETECTIONS: images}
    logits = logits_of(outputs)
    found = {} if logits is outputs else _counted(logits, inputs, "logits")
    found = found or _counted(outputs, inputs) or _counted(getattr(outputs, "__dict__", None), inputs)
    if not found and isinstance(outputs, (list, tuple)) and len(outputs) == examples:
        found = _counted(_stacked(outputs), inputs)
    return {**found}


def logits_of(outputs: object) -> object:
    """An answer's `logits`, an attribute or an entry; the answer itself where it has none."""
    if isinstance(outputs, Tensor):
        return outputs
    found = getattr(outputs, "logits", None)
    found = outputs.get("logits") if found is None and isinstance(outputs, Mapping) else found
    return outputs if found is None else found


def said(name: str) -> str:
    """What a part is called by the network; nothing where it only stands somewhere."""
    return next((word for word in reversed(name.split(".")) if word and not word.isdigit()), "")


def refuse(outputs: object) -> EvaluationError:
    """That nothing of an answer can be compared, and what to do."""
    tensors = [f"{name or 'a tensor'} {list(x.shape)} of {str(x.dtype)[6:]}" for name, x in _named(outputs)]
    told = f" ({', '.join(tensors[:4])})" if tensors else ""
    return EvaluationError(
        "agreement compares floating tensors [N, ...] that a network answers N examples by, or boxes found in each of "
        f"N images, and this one answers by a {type(outputs).__name__}{told}: score it by a function of your own "
        "(network -> number, higher is better)"
    )


def of_tokens(x: Tensor, inputs: Inputs) -> bool:
    """Whether an answer [N, T, D] is one of tokens: the network is called with their numbers, [N, T] integers."""
    if x.dim() != 3:
        return False
    masks = [each for name, each in inputs.kwargs.items() if "mask" in name]
    lengths = {
        each.shape[1]
        for each in inputs.tensors
        if each.dim() == 2 and _integers(each) and not any(each is mask for mask in masks)
    }
    return bool(lengths) and not (x.shape[2] in lengths and x.shape[1] not in lengths)


def counting(name: str, x: Tensor, inputs: Inputs) -> Tensor | None:
    """Which tokens of a part [N, T, D] count, [N, T], by the mask that the call has; None where all do.

    So too of logits [N, T] that choose a token. What a decoder answers counts by the decoder's mask.
    """
    chooses = x.dim() == 2 and said(name).endswith("_logits")
    if not chooses and not of_tokens(x, inputs):
        return None
    decodes = any(each.startswith("decoder_") for each in inputs.kwargs) and not name.startswith("encoder_")
    mask = inputs.kwargs.get("decoder_attention_mask" if decodes else "attention_mask")
    if not isinstance(mask, Tensor) or mask.shape != x.shape[:2]:
        return None
    return (mask == 1).to(x.device)


def _integers(x: Tensor) -> bool:
    return not x.is_floating_point() and not x.is_complex() and x.dtype != torch.bool


def _counted(outputs: object, inputs: Inputs, prefix: str = "") -> dict[str, Tensor]:
    return {
        name: x
        for name, x in _named(outputs, prefix)
        if x.is_floating_point()
        and x.layout == torch.strided
        and x.dim()
        and x.numel()
        and (inputs.whole or len(x) == len(inputs))
    }


def _named(value: object, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors, but those of what is left out."""
    if isinstance(value, Tensor):
        yield name, value
        return
    for key, each in _entries(value):
        if key not in LEFT_OUT:
            yield from _named(each, f"{name}.{key}".lstrip("."))


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from ((str(name), each) for name, each in value.items())
    elif isinstance(value, (list, tuple)):
        names = getattr(value, "_fields", range(len(value)))
        yield from ((str(name), each) for name, each in zip(names, value, strict=True))
    elif isinstance(value, torch.distributions.Distribution) or (is_dataclass(value) and not isinstance(value, type)):
        yield from vars(value).items()


def _stacked(answers: list[Any] | tuple[Any, ...]) -> dict[str, Tensor]:
    """Of answers one an example, the parts that each has in one shape."""
    each = [dict(_named(answer)) for answer in answers]
    return {
        name: torch.stack([one[name] for one in each])
        for name, x in each[0].items()
        if all(name in one and one[name].shape == x.shape for one in each)
    }

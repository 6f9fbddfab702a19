"""How alike the objects are that two detectors find in an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

Boxes = Mapping[str, Tensor]
"""What is found in one image: `boxes` [n, 4] (left, top, right, bottom), `scores` [n], `labels` [n]."""
NAMES = ("boxes", "scores", "labels")


def boxes_in(answer: object) -> Boxes | None:
    """What a detector, as torchvision's, tells of an image, without masks and keypoints; None where it is none."""
    found = [answer.get(name) for name in NAMES] if isinstance(answer, Mapping) else []
    tensors = [x for x in found if isinstance(x, Tensor)]
    if [x.dim() for x in tensors] != [2, 1, 1] or len({len(x) for x in tensors}) > 1 or tensors[0].shape[1] != 4:
        return None
    return dict(zip(NAMES, tensors, strict=True))


def found_alike(mine: Sequence[Boxes], wanted: Sequence[Boxes]) -> Tensor:
    """Of each image, [N]: 1 where the same boxes are found, 0 where no two overlap.

    Each wanted box, by falling score, is matched with what overlaps it most of the boxes of its label that are left.
    The value is the overlap of matches (intersection over union), each weighed by the lower score, as a share of all
    scores; a match counts there by its higher score, once.
    """
    return torch.tensor([_alike(*map(_ordered, pair)) for pair in zip(mine, wanted, strict=True)])


def _alike(mine: Boxes, wanted: Boxes) -> float:
    overlaps = _overlaps(wanted["boxes"], mine["boxes"]) * (wanted["labels"][:, None] == mine["labels"])
    scores, theirs = mine["scores"].tolist(), wanted["scores"].tolist()
    shared = agreed = 0.0
    for row, score in zip(overlaps, theirs, strict=True) if scores else ():
        at = int(row.argmax())
        overlap = float(row[at])
        if overlap > 0:
            both = min(score, scores[at])
            shared, agreed = shared + both, agreed + both * overlap
            overlaps[:, at] = 0
    everything = sum(scores) + sum(theirs) - shared
    return agreed / everything if everything > 0 else 1.0


def _ordered(found: Boxes) -> dict[str, Tensor]:
    """By falling score."""
    order = found["scores"].argsort(descending=True, stable=True)
    return {name: found[name].detach().cpu()[order.cpu()] for name in NAMES}


def _overlaps(ones: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of boxes [n, 4] and [m, 4], [n, m]; 1 where they are the same, though they be points."""
    ones, others = ones.double()[:, None], others.double()[None]
    sides = (torch.minimum(ones, others)[..., 2:] - torch.maximum(ones, others)[..., :2]).clamp_min(0)
    shared = sides.prod(-1)
    areas = [(x[..., 2:] - x[..., :2]).clamp_min(0).prod(-1) for x in (ones, others)]
    union = (areas[0] + areas[1] - shared).clamp_min(1e-12)
    return torch.where((ones == others).all(-1), 1.0, shared / union)

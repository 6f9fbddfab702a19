"""Lets torchvision be imported where its compiled operations do not load: a wheel made for CUDA beside a torch for CPU.

Imported before torchvision. Where the compiled operations load, nothing is done. Elsewhere the two that the networks
here call, `nms` and `roi_align`, are registered under their own names, written in Python: a network's graph, its
backward pass too, has the same nodes as with the compiled ones.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "roi_align(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width,"
    " int sampling_ratio, bool aligned) -> Tensor",
)
_libraries: list[torch.library.Library] = []
"""A registration lasts as long as its library."""


def prepare() -> None:
    """Register what torchvision lacks, once, and import it."""
    if _libraries or _loads():
        return
    library = torch.library.Library("torchvision", "DEF")
    _libraries.append(library)
    for schema in _SCHEMAS:
        library.define(schema)
    import torchvision
    from torchvision.ops import roi_align

    library.impl("nms", _nms, "CPU")
    library.impl("roi_align", _roi_align, "CPU")
    library.impl("roi_align", torchvision._meta_registrations.meta_roi_align, "Meta")
    torch.library.register_autograd("torchvision::roi_align", _backward, setup_context=_remember, lib=library)
    torchvision.extension._has_ops = lambda: True
    vars(sys.modules[roi_align.__module__])["_has_ops"] = torchvision.extension._has_ops


def _loads() -> bool:
    """Whether the compiled operations are there; also true where there is no torchvision at all."""
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None:
        return True
    for suffix in [*importlib.machinery.EXTENSION_SUFFIXES, ".so"]:
        file = Path(found.origin).parent / f"_C{suffix}"
        if file.exists():
            try:
                torch.ops.load_library(str(file))
                return True
            except (ImportError, OSError):
                return False
    return False


def _nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Boxes kept, best first: each removes those after it that overlap it by more than `threshold`."""
    order = scores.argsort(descending=True, stable=True)
    boxes = boxes[order]
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    alive = torch.ones(len(boxes), dtype=torch.bool)
    for first in range(len(boxes)):
        if alive[first]:
            corner = torch.maximum(boxes[first, :2], boxes[first + 1 :, :2])
            sides = (torch.minimum(boxes[first, 2:], boxes[first + 1 :, 2:]) - corner).clamp(min=0)
            shared = sides[:, 0] * sides[:, 1]
            alive[first + 1 :] &= shared <= threshold * (area[first] + area[first + 1 :] - shared)
    return order[alive]


def _roi_align(
    input: Tensor, rois: Tensor, scale: float, height: int, width: int, sampling_ratio: int, aligned: bool
) -> Tensor:
    """The mean of bilinear samples in each bin, `[regions, channels, height, width]`; two a side where none is said."""
    samples = sampling_ratio if sampling_ratio > 0 else 2
    start, end = rois[:, 1:3] * scale - 0.5 * aligned, rois[:, 3:] * scale - 0.5 * aligned
    size = end - start if aligned else (end - start).clamp(min=1)
    size_in = torch.tensor(input.shape[:1:-1])
    steps = [(torch.arange(bins * samples) + 0.5) / (bins * samples) for bins in (width, height)]
    x, y = (start[:, axis, None] + step * size[:, axis, None] for axis, step in enumerate(steps))
    grid = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), -1)
    inside = ((grid > -1) & (grid < size_in)).all(-1)
    where = 2 * grid.clamp(min=0).minimum(size_in - 1.0) / (size_in - 1).clamp(min=1) - 1
    found = input.new_empty(len(rois), input.shape[1], height, width)
    for number, image in enumerate(input):
        own = rois[:, 0] == number
        points = where[own].to(input).flatten(0, 1)[None]
        sampled = torch.nn.functional.grid_sample(image[None], points, align_corners=True)[0]
        sampled = sampled.unflatten(1, (-1, height * samples)).transpose(0, 1) * inside[own, None]
        found = found.index_put((own.nonzero()[:, 0],), torch.nn.functional.avg_pool2d(sampled, samples))
    return found


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Keep what the backward pass needs."""
    ctx.save_for_backward(inputs[0], inputs[1])
    ctx.rest = inputs[2:]


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    """The gradient of the features, by another forward pass."""
    features, rois = ctx.saved_tensors
    with torch.enable_grad():
        again = features.detach().requires_grad_()
        (found,) = torch.autograd.grad(_roi_align(again, rois, *ctx.rest), again, gradient)
    return found, *[None] * 6

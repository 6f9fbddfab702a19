"""Ultralytics: the networks of its YAML files at their smallest scale."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable

from torch import nn

from architectures.case import Case, Cases, Inputs, fresh, images

FILES = {
    "yolov3_tiny": ("yolov3-tiny", "detect"),
    "yolov5n": ("yolov5n", "detect"),
    "yolov6n": ("yolov6n", "detect"),
    "yolov8n": ("yolov8n", "detect"),
    "yolov8n_seg": ("yolov8n-seg", "segment"),
    "yolov8n_cls": ("yolov8n-cls", "classify"),
    "yolov8n_pose": ("yolov8n-pose", "pose"),
    "yolov8n_obb": ("yolov8n-obb", "obb"),
    "yolov8n_ghost": ("yolov8n-ghost", "detect"),
    "yolov9t": ("yolov9t", "detect"),
    "yolov10n": ("yolov10n", "detect"),
    "yolo11n": ("yolo11n", "detect"),
    "yolo11n_seg": ("yolo11n-seg", "segment"),
    "yolo11n_cls": ("yolo11n-cls", "classify"),
    "yolo11n_pose": ("yolo11n-pose", "pose"),
    "yolo11n_obb": ("yolo11n-obb", "obb"),
    "yolo12n": ("yolo12n", "detect"),
    "yolo26n": ("yolo26n", "detect"),
    "yolo26n_seg": ("yolo26n-seg", "segment"),
}
"""Name, file and task."""


def network(file: str, task: str) -> nn.Module:
    """The module inside; what the library prints is kept quiet."""
    from ultralytics import YOLO

    logging.getLogger("ultralytics").setLevel(logging.WARNING)
    with contextlib.redirect_stdout(io.StringIO()):
        return YOLO(f"{file}.yaml", task=task, verbose=False).model


def yolo(file: str, task: str) -> Callable[[], Case]:
    """What makes the case of one file."""

    def case() -> Case:
        model = fresh(lambda: network(file, task))
        return Case(model, (images(2, 64),), {}, Inputs((images(3, 64),)), task)

    return case


CASES: Cases = {name: yolo(*file) for name, file in FILES.items()}

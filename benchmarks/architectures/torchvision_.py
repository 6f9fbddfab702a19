"""Torchvision: the smallest network of each family of classifiers, and all that segment, detect, watch and follow."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torchvision.models as tv
from torch import Tensor, nn

from architectures.case import Case, Cases, Inputs, fresh, images, pictured

PLAIN = {"weights": None}
WHOLE = {"weights": None, "weights_backbone": None}

CLASSIFIERS = {
    "alexnet": 64,
    "convnext_tiny": 64,
    "densenet121": 64,
    "efficientnet_b0": 64,
    "efficientnet_v2_s": 64,
    "mnasnet0_5": 64,
    "mobilenet_v2": 64,
    "mobilenet_v3_small": 64,
    "mobilenet_v3_large": 64,
    "regnet_x_400mf": 64,
    "regnet_y_400mf": 64,
    "resnet18": 64,
    "resnet50": 64,
    "resnext50_32x4d": 64,
    "wide_resnet50_2": 64,
    "shufflenet_v2_x0_5": 64,
    "squeezenet1_0": 64,
    "squeezenet1_1": 64,
    "swin_t": 64,
    "swin_v2_t": 64,
    "maxvit_t": 224,
}
"""Name and side of an image."""

SEGMENTERS = (
    "fcn_resnet50",
    "fcn_resnet101",
    "deeplabv3_resnet50",
    "deeplabv3_resnet101",
    "deeplabv3_mobilenet_v3_large",
    "lraspp_mobilenet_v3_large",
)

FEW_BOXES = {"rpn_post_nms_top_n_test": 20, "box_detections_per_img": 5}
FEW_ANCHORS = {"score_thresh": 0.0, "topk_candidates": 50, "detections_per_img": 10}
"""Something is found in every image; no more candidates than a slow removal of overlaps can bear."""

DETECTORS: dict[str, dict[str, Any]] = {
    **{
        name: {"min_size": 96, "max_size": 128, "box_score_thresh": 0.0, **FEW_BOXES}
        for name in (
            "fasterrcnn_resnet50_fpn",
            "fasterrcnn_resnet50_fpn_v2",
            "fasterrcnn_mobilenet_v3_large_fpn",
            "fasterrcnn_mobilenet_v3_large_320_fpn",
            "maskrcnn_resnet50_fpn",
            "maskrcnn_resnet50_fpn_v2",
            "keypointrcnn_resnet50_fpn",
        )
    },
    **{
        name: {"min_size": 96, "max_size": 128, **FEW_ANCHORS}
        for name in ("fcos_resnet50_fpn", "retinanet_resnet50_fpn", "retinanet_resnet50_fpn_v2")
    },
    "ssd300_vgg16": FEW_ANCHORS,
    "ssdlite320_mobilenet_v3_large": FEW_ANCHORS,
}
"""Name and what makes it small."""

WATCHERS: dict[str, tuple[int, ...]] = {
    "r3d_18": (8, 32, 32),
    "mc3_18": (8, 32, 32),
    "r2plus1d_18": (8, 32, 32),
    "s3d": (16, 224, 224),
    "swin3d_t": (8, 64, 64),
    "swin3d_s": (8, 64, 64),
    "swin3d_b": (8, 64, 64),
}
"""Name and the frames, height and width of a clip."""


def detector(name: str, small: dict[str, Any]) -> Callable[[], Case]:
    """A detector, called with a list of images of two shapes; of one, where it makes them large."""

    def case() -> Case:
        model = fresh(lambda: getattr(tv.detection, name)(**WHOLE, **small))
        settle(model, images(1, 96))
        sides = [(96, 128), (128, 96), (96, 96)]
        few = 1 if name.startswith("ssd") else 2
        two, three = ([images(1, side)[0] for side in sides[:count]] for count in (few, few + 1))
        return Case(model, (two,), {}, Inputs((three,)), "detection")

    return case


def settle(model: nn.Module, image: Tensor) -> None:
    """Have scores and boxes vary by about 1, as trained detectors' do; by thousands, no box lies within its picture."""

    def settled(head: Any, given: Any, answer: Tensor) -> Tensor:
        hooks.pop(head).remove()
        for parameter in head.parameters():
            parameter.data.div_(answer.std())
        return answer / answer.std()

    heads = [module for name, module in model.named_modules() if name.endswith(HEADS)]
    hooks = {head: head.register_forward_hook(settled) for head in heads}
    with torch.no_grad():
        model(image)
    assert not hooks, "some heads did not run"


HEADS = ("rpn.head.cls_logits", "rpn.head.bbox_pred", "box_predictor.cls_score", "box_predictor.bbox_pred")


def flow(name: str) -> Callable[[], Case]:
    """A network that follows pixels from one image to the next."""

    def case() -> Case:
        model = fresh(lambda: getattr(tv.optical_flow, name)(**PLAIN))
        two, three = ((images(count, 128), images(count, 128)) for count in (2, 3))
        return Case(model, two, {"num_flow_updates": 2}, Inputs(three, {"num_flow_updates": 2}), "optical flow")

    return case


def small_vit() -> nn.Module:
    """The vision transformer, narrow and of two layers: `vit_b_16` is the smallest that has a name."""
    return tv.VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=4, hidden_dim=64, mlp_dim=128, num_classes=100
    )


def small_mvit(second: bool) -> nn.Module:
    """A multiscale transformer of six blocks at three scales: of the first version, or with what the second adds."""
    heads, halves = (1, 1, 2, 2, 4, 4), (False, False, True, False, True, False)
    widths = [(16, 16), (16, 32), (32, 32), (32, 64), (64, 64), (64, 64)]
    if second:
        widths = [(16, 16), (16, 16), (16, 32), (32, 32), (32, 64), (64, 64)]
    cell, same = [3, 3, 3], [1, 1, 1]
    blocks = [
        tv.video.mvit.MSBlockConfig(
            head, *width, cell if half or second else [], cell, [1, 2, 2] if half else same * second, [1, 4, 4]
        )
        for head, width, half in zip(heads, widths, halves, strict=True)
    ]
    more = dict.fromkeys(("residual_pool", "rel_pos_embed", "proj_after_attn"), second)
    return tv.video.MViT((64, 64), 8, blocks, residual_with_cls_embed=not second, num_classes=100, **more)


CASES: Cases = {
    **{name: pictured(partial(getattr(tv, name), **PLAIN), size) for name, size in CLASSIFIERS.items()},
    "googlenet": pictured(partial(tv.googlenet, weights=None, aux_logits=False, init_weights=False), 64),
    "googlenet_aux": pictured(partial(tv.googlenet, weights=None, aux_logits=True, init_weights=False), 64),
    "inception_v3": pictured(partial(tv.inception_v3, weights=None, aux_logits=True, init_weights=False), 96),
    "vgg11": pictured(partial(tv.vgg11, weights=None, init_weights=False), 32),
    "vgg11_bn": pictured(partial(tv.vgg11_bn, weights=None, init_weights=False), 32),
    "vit": pictured(small_vit, 32),
    **{name: pictured(partial(getattr(tv.segmentation, name), **WHOLE), 64, "segmentation") for name in SEGMENTERS},
    "fcn_resnet50_aux": pictured(partial(tv.segmentation.fcn_resnet50, **WHOLE, aux_loss=True), 64, "segmentation"),
    **{name: detector(name, small) for name, small in DETECTORS.items()},
    **{name: pictured(partial(getattr(tv.video, name), **PLAIN), size, "video") for name, size in WATCHERS.items()},
    "mvit_v1": pictured(partial(small_mvit, second=False), (8, 64, 64), "video"),
    "mvit_v2": pictured(partial(small_mvit, second=True), (8, 64, 64), "video"),
    "raft_small": flow("raft_small"),
    "raft_large": flow("raft_large"),
}

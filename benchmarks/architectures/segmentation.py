"""Segmentation Models PyTorch: every decoder on ResNet-18, some on other encoders."""

from __future__ import annotations

from functools import partial

import segmentation_models_pytorch as smp
from torch import nn

from architectures.case import Cases, pictured

SIZE = 64
DECODERS = {
    "unet": SIZE,
    "unetplusplus": SIZE,
    "manet": SIZE,
    "linknet": SIZE,
    "fpn": SIZE,
    "pspnet": SIZE,
    "deeplabv3": SIZE,
    "deeplabv3plus": SIZE,
    "pan": 128,
    "upernet": SIZE,
    "segformer": SIZE,
}
"""Name and side of an image."""

OTHERS = {
    "unet_mobilenet_v2": ("unet", "mobilenet_v2"),
    "unet_efficientnet_b0": ("unet", "efficientnet-b0"),
    "unet_mit_b0": ("unet", "mit_b0"),
    "unet_vgg11_bn": ("unet", "vgg11_bn"),
    "unet_densenet121": ("unet", "densenet121"),
    "unet_mobileone_s0": ("unet", "mobileone_s0"),
    "unetplusplus_mobilenet_v2": ("unetplusplus", "mobilenet_v2"),
    "fpn_efficientnet_b0": ("fpn", "efficientnet-b0"),
    "deeplabv3plus_mobilenet_v2": ("deeplabv3plus", "mobilenet_v2"),
    "linknet_efficientnet_b0": ("linknet", "efficientnet-b0"),
    "upernet_mit_b0": ("upernet", "mit_b0"),
    "segformer_mit_b0": ("segformer", "mit_b0"),
}
"""Name, decoder and encoder."""


def network(decoder: str, encoder: str = "resnet18") -> nn.Module:
    """A network for three classes, its encoder untrained."""
    return smp.create_model(decoder, encoder, encoder_weights=None, classes=3)


def dense_prediction() -> nn.Module:
    """DPT needs a transformer for its encoder, here a tiny one."""
    return smp.DPT("tu-vit_tiny_patch16_224.augreg_in21k", encoder_weights=None, classes=3, dynamic_img_size=True)


CASES: Cases = {
    **{f"{name}_resnet18": pictured(partial(network, name), side, "segmentation") for name, side in DECODERS.items()},
    **{name: pictured(partial(network, *parts), SIZE, "segmentation") for name, parts in OTHERS.items()},
    "dpt_vit_tiny": pictured(dense_prediction, 224, "segmentation"),
}

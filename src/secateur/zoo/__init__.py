"""The reference networks of the AMC paper, by name."""

from collections.abc import Callable
from typing import Any

from torch import nn

from secateur.zoo.mobilenet import mobilenet_v1, mobilenet_v1_folded, mobilenet_v2
from secateur.zoo.resnet_cifar import plain20, resnet20, resnet32, resnet44, resnet56, with_copying_shortcuts
from secateur.zoo.vgg import vgg16, vgg16_imagenet

__all__ = [
    "NETWORKS",
    "build",
    "mobilenet_v1",
    "mobilenet_v1_folded",
    "mobilenet_v2",
    "plain20",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "vgg16",
    "vgg16_imagenet",
    "with_copying_shortcuts",
]

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "resnet20": resnet20,
    "resnet32": resnet32,
    "resnet44": resnet44,
    "resnet56": resnet56,
    "plain20": plain20,
    "vgg16": vgg16,
    "vgg16_imagenet": vgg16_imagenet,
    "mobilenet_v1": mobilenet_v1,
    "mobilenet_v1_folded": mobilenet_v1_folded,
    "mobilenet_v2": mobilenet_v2,
}


def build(name: str, num_classes: int | None = None, in_channels: int = 3, **options: Any) -> nn.Module:
    """The network `name`, freshly initialised; `num_classes=None` keeps its own default (10, 1000 or 1001).

    `options` go to the factory: width, stem_stride, imagenet. Raises ValueError for an unknown name.
    """
    if name not in NETWORKS:
        raise ValueError(f"no network is called {name!r}; the zoo has {', '.join(NETWORKS)}")
    if num_classes is not None:
        options["num_classes"] = num_classes
    return NETWORKS[name](in_channels=in_channels, **options)

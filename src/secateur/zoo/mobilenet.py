"""MobileNet-V1 (Howard et al., 2017) and MobileNet-V2 (Sandler et al., CVPR 2018).

`stem_stride=2` is the ImageNet form (224 x 224 shrinks to 7 x 7), 1 suits CIFAR (32 x 32 to 2 x 2).
"""

from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor, nn

# V1, table 1: output channels and stride of each depthwise separable block.
_V1_BLOCKS = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
    (512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1),
)  # fmt: skip

# V2, table 2: expansion, output channels, repeats, stride of the first repeat.
_V2_STAGES = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip


def _conv_bn(
    in_channels: int,
    out_channels: int,
    kernel: int,
    stride: int,
    activation: type[nn.Module],
    groups: int = 1,
) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), activation())


def _initialise(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
            nn.init.zeros_(module.bias)


class MobileNetV1(nn.Module):
    """A convolution, 13 depthwise separable blocks, a linear layer; `width` multiplies all channels."""

    def __init__(self, num_classes: int, in_channels: int, width: float, stem_stride: int) -> None:
        super().__init__()
        channels = max(8, int(32 * width))
        blocks = [_conv_bn(in_channels, channels, 3, stem_stride, nn.ReLU)]
        for full, stride in _V1_BLOCKS:
            out_channels = max(8, int(full * width))
            blocks.append(_conv_bn(channels, channels, 3, stride, nn.ReLU, groups=channels))
            blocks.append(_conv_bn(channels, out_channels, 1, 1, nn.ReLU))
            channels = out_channels
        self.features = nn.Sequential(*blocks)
        self.classifier = nn.Linear(channels, num_classes)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] -> [N, num_classes] logits."""
        logits: Tensor = self.classifier(F.adaptive_avg_pool2d(self.features(x), 1).flatten(1))
        return logits


class InvertedResidual(nn.Module):
    """Expand, depthwise, project (V2, table 1); the input is added where the shapes allow."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        expand = [_conv_bn(in_channels, hidden, 1, 1, nn.ReLU6)] if expansion > 1 else []
        self.conv = nn.Sequential(
            *expand,
            _conv_bn(hidden, hidden, 3, stride, nn.ReLU6, groups=hidden),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """[N, in, H, W] -> [N, out, H / stride, W / stride]."""
        y: Tensor = self.conv(x)
        return x + y if self.residual else y


class MobileNetV2(nn.Module):
    """A convolution, 17 inverted residuals, a 1 x 1 convolution, a linear layer; torchvision's names."""

    def __init__(self, num_classes: int, in_channels: int, width: float, stem_stride: int) -> None:
        super().__init__()
        channels = _multiple_of_8(32 * width)
        blocks: list[nn.Module] = [_conv_bn(in_channels, channels, 3, stem_stride, nn.ReLU6)]
        for expansion, full, repeats, first_stride in _V2_STAGES:
            out_channels = _multiple_of_8(full * width)
            for repeat in range(repeats):
                stride = first_stride if repeat == 0 else 1
                blocks.append(InvertedResidual(channels, out_channels, stride, expansion))
                channels = out_channels
        last = _multiple_of_8(1280 * max(1.0, width))
        blocks.append(_conv_bn(channels, last, 1, 1, nn.ReLU6))
        self.features = nn.Sequential(*blocks)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, num_classes))
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] -> [N, num_classes] logits."""
        logits: Tensor = self.classifier(F.adaptive_avg_pool2d(self.features(x), 1).flatten(1))
        return logits


def _multiple_of_8(channels: float) -> int:
    """The nearest multiple of 8, at least 8 and never more than 10 % below `channels`."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8


def mobilenet_v1(
    num_classes: int = 1000, in_channels: int = 3, width: float = 1.0, stem_stride: int = 2
) -> MobileNetV1:
    """MobileNet-V1: 4.2 M parameters, 569 M MACs at 224 x 224."""
    return MobileNetV1(num_classes, in_channels, width, stem_stride)


def mobilenet_v2(
    num_classes: int = 1000, in_channels: int = 3, width: float = 1.0, stem_stride: int = 2
) -> MobileNetV2:
    """MobileNet-V2: 3.5 M parameters, 301 M MACs at 224 x 224."""
    return MobileNetV2(num_classes, in_channels, width, stem_stride)


def mobilenet_v1_folded(num_classes: int = 1001, in_channels: int = 3) -> nn.Sequential:
    """MobileNet-V1 1.0 as TensorFlow publishes it: batch norm folded in, ReLU6, class 0 for background.

    [N, in_channels, H, W] in -1..1 -> [N, num_classes] logits; the classifier is a 1 x 1 convolution.
    """
    modules: list[nn.Module] = [*_folded_conv(in_channels, 32, 3, 2)]
    channels = 32
    for out_channels, stride in _V1_BLOCKS:
        modules += _folded_conv(channels, channels, 3, stride, groups=channels)
        modules += _folded_conv(channels, out_channels, 1, 1)
        channels = out_channels
    modules += [nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, num_classes, 1), nn.Flatten()]
    return nn.Sequential(*modules)


def _folded_conv(in_channels: int, out_channels: int, kernel: int, stride: int, groups: int = 1) -> Iterator[nn.Module]:
    padding = kernel // 2
    if stride == 2:
        # TensorFlow's SAME at an even size: the odd pixel of padding goes to the right and the bottom.
        yield nn.ZeroPad2d((0, 1, 0, 1))
        padding = 0
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, groups=groups)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    yield conv
    yield nn.ReLU6()

"""Small networks written by hand, as users write them, each with the widths of the sites that one should find in it.

A site is an axis that can lose indices: all its readers are contractions with a weight, linear, norms or means over it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.case import Case, Cases, Inputs, fresh, images

CASES: Cases = {}
SITES: dict[str, tuple[int, ...]] = {}
"""By name, the widths of the sites, sorted, with repetitions; axes of width 1 are left out."""

UNSURE: dict[str, str] = {}
"""By name, what in `SITES` is open to argument."""


def pictures(side: int, channels: int = 3) -> Callable[[int], Inputs]:
    """What makes the inputs of a network that takes images."""
    return lambda batch: Inputs((images(batch, side, channels),))


def sequences(length: int, features: int) -> Callable[[int], Inputs]:
    """What makes the inputs of a network that takes `[batch, length, features]`."""
    return lambda batch: Inputs((torch.randn(batch, length, features),))


def tokens(length: int, vocabulary: int) -> Callable[[int], Inputs]:
    """What makes the inputs of a network that takes `[batch, length]` of token numbers."""
    return lambda batch: Inputs((torch.randint(vocabulary, (batch, length)),))


def add(
    name: str,
    build: Callable[[], nn.Module],
    sites: tuple[int, ...],
    make: Callable[[int], Inputs] | None = None,
    task: str = "classification",
    unsure: str = "",
) -> None:
    """Put one network into the tables; `make` gives its inputs for a batch size (by default images of 16 x 16)."""
    inputs = make or pictures(16)

    def case() -> Case:
        model = fresh(build)
        two, three = inputs(2), inputs(3)
        return Case(model, two.args, two.kwargs, three, task)

    CASES[name] = case
    SITES[name] = tuple(sorted(sites))
    if unsure:
        UNSURE[name] = unsure


def conv_bn(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution and batch norm, padded to keep the size."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(outputs)
    )


def conv_bn_relu(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch norm and ReLU."""
    return nn.Sequential(*conv_bn(inputs, outputs, kernel, stride, groups), nn.ReLU())


# --------------------------------------------------------------------------------------------------- convolutions


class PlainCNN(nn.Module):
    """Pixels flattened behind the channels: the linear layer reads channels x pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 12, 3, padding=1)
        self.fc1 = nn.Linear(12 * 4 * 4, 24)
        self.fc2 = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = x.view(-1, 12 * 4 * 4)
        return self.fc2(F.relu(self.fc1(x)))


add("plain_cnn", PlainCNN, (8, 12, 24))


class ResidualBlock(nn.Module):
    """Two convolutions beside an identity or a projection."""

    def __init__(self, inputs: int, inner: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = conv_bn_relu(inputs, inner, stride=stride)
        self.conv2 = conv_bn(inner, outputs)
        self.downsample = None if inputs == outputs and stride == 1 else conv_bn(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.conv1(x))
        y += x if self.downsample is None else self.downsample(x)
        return F.relu(y)


class ResidualProjection(nn.Module):
    """Two residual streams with a projection between them; the sum is in place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn_relu(3, 8)
        self.layer1 = ResidualBlock(8, 12, 8)
        self.layer2 = ResidualBlock(8, 10, 16, 2)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer2(self.layer1(self.stem(x))).mean((2, 3)))


add("residual_projection", ResidualProjection, (8, 10, 12, 16))


class PaddedShortcut(nn.Module):
    """ResNet option A: the shortcut of every second pixel is padded with channels of zeros on both sides."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn_relu(3, 8)
        self.layer1 = ResidualBlock(8, 12, 8)
        self.conv1 = conv_bn_relu(8, 10, stride=2)
        self.conv2 = conv_bn(10, 16)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer1(self.stem(x))
        shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4), "constant", 0)
        x = F.relu(self.conv2(self.conv1(x)) + shortcut)
        x = F.avg_pool2d(x, x.size(3))
        return self.fc(x.view(x.size(0), -1))


add("padded_shortcut", PaddedShortcut, (4, 4, 8, 10, 12))


class DenseLayer(nn.Module):
    """Norm, ReLU, 1x1, norm, ReLU, 3x3; its output goes behind its input."""

    def __init__(self, inputs: int, inner: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, inner, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(inner), nn.Conv2d(inner, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(F.relu(self.norm2(y)))], 1)


class DenseBlock(nn.Module):
    """DenseNet: norms and convolutions over concatenations that grow."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.layers = nn.Sequential(DenseLayer(8, 12, 4), DenseLayer(12, 10, 6))
        self.norm = nn.BatchNorm2d(18)
        self.transition = nn.Conv2d(18, 16, 1, bias=False)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.transition(F.relu(self.norm(self.layers(self.stem(x)))))
        return self.fc(F.adaptive_avg_pool2d(F.relu(F.avg_pool2d(x, 2)), 1).flatten(1))


add("dense_block", DenseBlock, (4, 6, 8, 10, 12, 16))


class Inception(nn.Module):
    """Four branches concatenated, one of them pooled."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn_relu(3, 8)
        self.branch1 = conv_bn_relu(8, 4, 1)
        self.branch2 = nn.Sequential(conv_bn_relu(8, 6, 1), conv_bn_relu(6, 10))
        self.branch3 = nn.Sequential(conv_bn_relu(8, 14, 1), conv_bn_relu(14, 9, 5))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv_bn_relu(8, 5, 1))
        self.head = conv_bn_relu(28, 12, 1)
        self.fc = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([branch(x) for branch in (self.branch1, self.branch2, self.branch3, self.branch4)], dim=1)
        return self.fc(self.head(x).mean(dim=[2, 3]))


add("inception", Inception, (4, 5, 6, 8, 9, 10, 12, 14))


class DepthwiseSeparable(nn.Module):
    """MobileNet: depthwise and pointwise in turn, ReLU6."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [*conv_bn(3, 8, 3, 2), nn.ReLU6()]
        for inputs, outputs in ((8, 16), (16, 24)):
            layers += [*conv_bn(inputs, inputs, groups=inputs), nn.ReLU6(), *conv_bn(inputs, outputs, 1), nn.ReLU6()]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(24, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(nn.functional.adaptive_avg_pool2d(self.features(x), (1, 1)).reshape(x.shape[0], -1))


add("depthwise_separable", DepthwiseSeparable, (8, 16, 24))


class DepthwiseMultiplier(nn.Module):
    """A depthwise convolution that makes two channels of each."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn_relu(3, 8)
        self.depthwise = conv_bn_relu(8, 16, groups=8)
        self.pointwise = conv_bn_relu(16, 12, 1)
        self.fc = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pointwise(self.depthwise(self.stem(x))).mean((-2, -1)))


add(
    "depthwise_multiplier",
    DepthwiseMultiplier,
    (2, 8, 12),
    unsure="the multiplier (2) is a site only if 8 x 2 is a product",
)


class GroupedConvolution(nn.Module):
    """ResNeXt: a convolution of 4 groups, 4 channels in and 6 out each, inside a residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn_relu(3, 12)
        self.reduce = conv_bn_relu(12, 16, 1)
        self.grouped = conv_bn_relu(16, 24, groups=4)
        self.expand = conv_bn(24, 12, 1)
        self.fc = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(x + self.expand(self.grouped(self.reduce(x))))
        return self.fc(x.mean((2, 3)))


add("grouped_convolution", GroupedConvolution, (4, 4, 6, 12))


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Deal the channels of the groups out in turn."""
    batch, channels, height, width = x.size()
    x = x.view(batch, groups, channels // groups, height, width)
    return x.transpose(1, 2).contiguous().view(batch, -1, height, width)


class ShuffleUnit(nn.Module):
    """ShuffleNet V2: one half passes, the other goes through a branch, then both are shuffled."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(
            conv_bn_relu(half, inner, 1), conv_bn(inner, inner, groups=inner), conv_bn_relu(inner, half, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        x1, x2 = x.chunk(2, dim=1)
        return channel_shuffle(torch.cat((x1, self.branch(x2)), dim=1), 2)


class ShuffleUnits(nn.Module):
    """Two shuffle units in a row: the second takes halves of what the first has shuffled."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn_relu(3, 16)
        self.units = nn.Sequential(ShuffleUnit(16, 10), ShuffleUnit(16, 12))
        self.head = conv_bn_relu(16, 20, 1)
        self.fc = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.head(self.units(self.stem(x))).mean([2, 3]))


add(
    "shuffle_units",
    ShuffleUnits,
    (4, 4, 8, 10, 12, 20),
    unsure="the stem's 16 are 4 + 4 that pass (the next unit's halves) and 8 for the branch; fewer if halves are equal",
)


class SqueezeExciteConv(nn.Module):
    """Squeeze-excite of 1x1 convolutions on a mean that keeps its dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn_relu(3, 12)
        self.conv = conv_bn_relu(12, 16)
        self.reduce, self.expand = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.stem(x))
        x = x * F.hardsigmoid(self.expand(F.silu(self.reduce(x.mean((2, 3), keepdim=True)))))
        return self.fc(x.mean((2, 3)))


add("squeeze_excite_conv", SqueezeExciteConv, (4, 12, 16))


class SqueezeExciteLinear(nn.Module):
    """Squeeze-excite of linear layers, its gate viewed and expanded, in a residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn_relu(3, 12)
        self.conv1, self.conv2 = conv_bn_relu(12, 16), conv_bn(16, 12)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.gate = nn.Sequential(nn.Linear(12, 6, bias=False), nn.ReLU(), nn.Linear(6, 12, bias=False), nn.Sigmoid())
        self.fc = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.conv2(self.conv1(x))
        b, c, _, _ = y.size()
        gate = self.gate(self.pool(y).view(b, c)).view(b, c, 1, 1)
        return self.fc(F.relu(x + y * gate.expand_as(y)).mean((2, 3)))


add("squeeze_excite_linear", SqueezeExciteLinear, (6, 12, 16))


class GatedChunk(nn.Module):
    """Gated linear units by chunk: value and gate are one site."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(8, 24, 3, padding=1)
        self.fc = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.conv1(x).chunk(2, dim=1)
        x = F.glu(self.conv2(value * gate.sigmoid()), dim=1)
        return self.fc(x.mean((2, 3)))


add("gated_chunk", GatedChunk, (8, 12))


class C2f(nn.Module):
    """YOLOv8's block: two halves of which only one goes on through bottlenecks; all are concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn_relu(3, 12)
        self.cv1 = conv_bn_relu(12, 16, 1)
        self.m = nn.ModuleList(nn.Sequential(conv_bn_relu(8, inner), conv_bn_relu(inner, 8)) for inner in (6, 10))
        self.cv2 = conv_bn_relu(32, 20, 1)
        self.fc = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = list(self.cv1(self.stem(x)).chunk(2, 1))
        for bottleneck in self.m:
            y.append(y[-1] + bottleneck(y[-1]))
        return self.fc(self.cv2(torch.cat(y, 1)).mean((2, 3)))


add(
    "c2f", C2f, (6, 8, 8, 10, 12, 20), unsure="the halves (8, 8) are read differently: one site if they must stay equal"
)


class SplitSizes(nn.Module):
    """FasterNet's partial convolution: the first 4 of 16 channels are convolved, the rest passes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.partial = conv_bn_relu(3, 16), nn.Conv2d(4, 10, 3, padding=1, bias=False)
        self.head = conv_bn_relu(22, 14, 1)
        self.fc = nn.Linear(14, 5)

    def forward(self, x: Tensor) -> Tensor:
        first, rest = torch.split(self.stem(x), [4, 12], dim=1)
        return self.fc(self.head(torch.cat((self.partial(first), rest), 1)).mean((2, 3)))


add("split_sizes", SplitSizes, (4, 10, 12, 14))


class PixelShuffleUpsampler(nn.Module):
    """Super-resolution: channels become pixels, the bicubic picture is added to the output."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 12, 5, padding=2), nn.Conv2d(12, 32, 3, padding=1)
        self.shuffle, self.conv3 = nn.PixelShuffle(2), nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.shuffle(F.relu(self.conv2(F.relu(self.conv1(x)))))
        return self.conv3(y) + F.interpolate(x, scale_factor=2, mode="bicubic", align_corners=False)


add("pixel_shuffle", PixelShuffleUpsampler, (8, 12), task="super-resolution")


class Autoencoder(nn.Module):
    """Transposed convolutions behind a linear layer whose output is viewed as a picture."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 16, 3, 2, 1)
        self.encode, self.decode = nn.Linear(16 * 4 * 4, 10), nn.Linear(10, 24 * 4 * 4)
        self.up1, self.norm = nn.ConvTranspose2d(24, 12, 3, 2, 1, output_padding=1), nn.BatchNorm2d(12)
        self.up2 = nn.ConvTranspose2d(12, 3, 4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.conv2(F.leaky_relu(self.conv1(x), 0.2)), 0.2)
        x = self.decode(self.encode(torch.flatten(x, 1))).view(-1, 24, 4, 4)
        return torch.tanh(self.up2(F.relu(self.norm(self.up1(x)))))


add("autoencoder", Autoencoder, (8, 10, 12, 16, 24), task="reconstruction")


class UNet(nn.Module):
    """Skips concatenated to what is interpolated to their size."""

    def __init__(self) -> None:
        super().__init__()
        self.enc1, self.enc2, self.middle = conv_bn_relu(3, 8), conv_bn_relu(8, 16), conv_bn_relu(16, 24)
        self.dec2, self.dec1 = conv_bn_relu(24 + 16, 14), conv_bn_relu(14 + 8, 10)
        self.head = nn.Conv2d(10, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        s1 = self.enc1(x)
        s2 = self.enc2(F.max_pool2d(s1, 2))
        x = self.middle(F.max_pool2d(s2, 2))
        x = F.interpolate(x, size=s2.shape[-2:], mode="bilinear", align_corners=False)
        x = self.dec2(torch.cat([s2, x], dim=1))
        x = F.interpolate(x, size=s1.shape[-2:], mode="nearest")
        return self.head(self.dec1(torch.cat([x, s1], dim=1)))


add("unet", UNet, (8, 10, 14, 16, 24), task="segmentation")


class Conv1dNet(nn.Module):
    """One-dimensional convolutions over a signal."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv1d(1, 8, 7, 2, 3), nn.BatchNorm1d(8), nn.ReLU(), nn.MaxPool1d(2)),
            *(nn.Conv1d(8, 16, 5, padding=2), nn.BatchNorm1d(16), nn.ELU(), nn.AdaptiveAvgPool1d(4)),
        )
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


add("conv1d", Conv1dNet, (8, 12, 16), lambda batch: Inputs((torch.randn(batch, 1, 64),)))


class TemporalBlock(nn.Module):
    """Two dilated causal convolutions, padded on both sides and cut on the right, beside a shortcut."""

    def __init__(self, inputs: int, inner: int, outputs: int, dilation: int) -> None:
        super().__init__()
        self.chomp = 2 * dilation
        self.conv1 = nn.Conv1d(inputs, inner, 3, padding=self.chomp, dilation=dilation)
        self.conv2 = nn.Conv1d(inner, outputs, 3, padding=self.chomp, dilation=dilation)
        self.downsample = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv1(x)[:, :, : -self.chomp].contiguous())
        y = F.relu(self.conv2(y)[:, :, : -self.chomp].contiguous())
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class TemporalNet(nn.Module):
    """Temporal convolutional network: `[batch, time, features]` turned round, the last step is read."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(TemporalBlock(6, 10, 12, 1), TemporalBlock(12, 8, 12, 2))
        self.fc = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.blocks(x.transpose(1, 2))[:, :, -1])


add("temporal_net", TemporalNet, (8, 10, 12), sequences(20, 6))


def clips(batch: int) -> Inputs:
    """Clips of 8 pictures of 12 x 12."""
    return Inputs((images(batch, (8, 12, 12)),))


class Conv3dNet(nn.Module):
    """Three-dimensional convolutions and norms, flattened at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv3d(3, 8, 3, padding=1), nn.BatchNorm3d(8)
        self.conv2, self.norm2 = nn.Conv3d(8, 12, 3, (1, 2, 2), 1), nn.BatchNorm3d(12)
        self.fc = nn.Linear(12 * 2 * 3 * 3, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool3d(F.relu(self.norm1(self.conv1(x))), (1, 2, 2))
        x = F.avg_pool3d(F.relu(self.norm2(self.conv2(x))), (4, 1, 1))
        return self.fc(x.flatten(1))


add("conv3d", Conv3dNet, (8, 12), clips)


class Factored3d(nn.Sequential):
    """R(2+1)D: a convolution over the picture, then one over time."""

    def __init__(self, inputs: int, middle: int, outputs: int) -> None:
        super().__init__(
            nn.Conv3d(inputs, middle, (1, 3, 3), padding=(0, 1, 1), bias=False),
            *(nn.BatchNorm3d(middle), nn.ReLU()),
            nn.Conv3d(middle, outputs, (3, 1, 1), padding=(1, 0, 0), bias=False),
            nn.BatchNorm3d(outputs),
        )


class R2Plus1D(nn.Module):
    """A residual video network of factored convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Factored3d(3, 6, 8)
        self.conv1, self.conv2 = Factored3d(8, 10, 12), Factored3d(12, 14, 8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = (x + self.conv2(self.conv1(x).relu())).relu()
        return self.fc(F.adaptive_avg_pool3d(x, (1, 1, 1)).flatten(1))


add("r2plus1d", R2Plus1D, (6, 8, 10, 12, 14), clips)


# ------------------------------------------------------------------------------------------------------ recurrent

ONE_HIDDEN_SIZE = "the two are separate axes, but nn.LSTM has one hidden_size for both"


class LSTMClassifier(nn.Module):
    """Embedding, LSTM, the last step is read."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 12)
        self.lstm = nn.LSTM(12, 16, batch_first=True)
        self.fc = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.lstm(self.embedding(x))
        return self.fc(y[:, -1])


add("lstm_classifier", LSTMClassifier, (12, 16), tokens(10, 20))


class GRURegressor(nn.Module):
    """GRU over features, time first, averaged over time; its first state is made in `forward`."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(6, 12)
        self.fc1, self.fc2 = nn.Linear(12, 10), nn.Linear(10, 1)

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros(1, x.size(0), 12, device=x.device)
        y, _ = self.gru(x.permute(1, 0, 2), state)
        return self.fc2(torch.relu(self.fc1(y.mean(0)))).squeeze(-1)


add("gru_regressor", GRURegressor, (10, 12), sequences(10, 6), "regression")


class BidirectionalLSTM(nn.Module):
    """LSTM in both directions: its outputs lie one behind the other."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 8, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.lstm(x)[0].max(dim=1).values)


add("bidirectional_lstm", BidirectionalLSTM, (8, 8), sequences(10, 6), unsure=ONE_HIDDEN_SIZE)


class TwoLayerLSTM(nn.Module):
    """Two stacked layers with dropout between; the last layer's final state is read."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 10, num_layers=2, dropout=0.1, batch_first=True)
        self.fc = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        _, (hidden, _) = self.lstm(x)
        return self.fc(hidden[-1])


add("two_layer_lstm", TwoLayerLSTM, (10, 10), sequences(10, 6), unsure=ONE_HIDDEN_SIZE)


class LSTMCellLoop(nn.Module):
    """An LSTM cell called in a Python loop, as decoders do."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(6, 12)
        self.fc = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = cell = x.new_zeros(x.shape[0], 12)
        outputs = []
        for step in x.unbind(1):
            hidden, cell = self.cell(step, (hidden, cell))
            outputs.append(self.fc(hidden))
        return torch.stack(outputs, 1)


add("lstm_cell_loop", LSTMCellLoop, (12,), sequences(6, 6), "sequence labelling")


# ------------------------------------------------------------------------------------------------------ attention


class MultiheadSelfAttention(nn.Module):
    """nn.MultiheadAttention as self-attention in a residual stream, batch first or not, with or without its weights."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.embed, self.norm = nn.Linear(6, 24), nn.LayerNorm(24)
        self.attention = nn.MultiheadAttention(24, 4, batch_first=batch_first)
        self.fc = nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x if self.batch_first else x.transpose(0, 1))
        y = self.norm(x)
        y, _ = self.attention(y, y, y, need_weights=self.batch_first)
        return self.fc((x + y).mean(1 if self.batch_first else 0))


add("multihead_attention_batch_first", lambda: MultiheadSelfAttention(True), (4, 6, 24), sequences(10, 6))
add("multihead_attention_time_first", lambda: MultiheadSelfAttention(False), (4, 6, 24), sequences(10, 6))


class Encoder(nn.Module):
    """nn.TransformerEncoder of two layers, norm first or last, with or without a mask of padded positions."""

    def __init__(self, norm_first: bool) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True, norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=not norm_first)
        for parameter in self.encoder.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)
        self.fc = nn.Linear(16, 3)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        x = self.encoder(self.embed(x), src_key_padding_mask=padding)
        if padding is None:
            return self.fc(x[:, 0])
        valid = (~padding).unsqueeze(-1).to(x.dtype)
        return self.fc((x * valid).sum(1) / valid.sum(1))


def padded(batch: int) -> Inputs:
    """Sequences of up to 10 steps, each one shorter than the one before, the padded positions marked True."""
    lengths = 10 - torch.arange(batch)
    return Inputs((torch.randn(batch, 10, 6),), {"padding": torch.arange(10)[None] >= lengths[:, None]})


add("transformer_encoder", lambda: Encoder(False), (2, 2, 8, 8, 16, 24, 24), sequences(10, 6))
add("transformer_encoder_norm_first", lambda: Encoder(True), (2, 2, 8, 8, 16, 24, 24), sequences(10, 6))
add("transformer_encoder_padding_mask", lambda: Encoder(False), (2, 2, 8, 8, 16, 24, 24), padded)


class FusedAttention(nn.Module):
    """timm's attention: one linear layer makes q, k and v, viewed as `[3, batch, heads, tokens, dim]`."""

    def __init__(self, width: int, heads: int, dim: int) -> None:
        super().__init__()
        self.heads, self.dim, self.scale = heads, dim, dim**-0.5
        self.qkv, self.proj = nn.Linear(width, 3 * heads * dim), nn.Linear(heads * dim, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, self.dim).permute(2, 0, 3, 1, 4).unbind(0)
        attention = ((q * self.scale) @ k.transpose(-2, -1)).softmax(dim=-1)
        return self.proj((attention @ v).transpose(1, 2).reshape(b, n, self.heads * self.dim))


class SeparateAttention(nn.Module):
    """Three linear layers for q, k and v, `F.scaled_dot_product_attention`: value dims are a site of their own."""

    def __init__(self, width: int, heads: int, dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (nn.Linear(width, heads * dim) for _ in range(3))
        self.out = nn.Linear(heads * dim, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (layer(x).view(b, n, self.heads, -1).transpose(1, 2) for layer in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).contiguous().view(b, n, -1))


class GroupedQueryAttention(nn.Module):
    """2 key heads for 6 query heads: keys and values repeated by `repeat_interleave` or by expand and reshape."""

    def __init__(self, expand: bool) -> None:
        super().__init__()
        self.expand, self.kv_heads, self.repeats, self.dim = expand, 2, 3, 4
        self.q_proj, self.o_proj = nn.Linear(20, 24, bias=False), nn.Linear(24, 20, bias=False)
        self.k_proj, self.v_proj = nn.Linear(20, 8, bias=False), nn.Linear(20, 8, bias=False)

    def repeat(self, x: Tensor) -> Tensor:
        """`[batch, kv heads, tokens, dim]` to `[batch, heads, tokens, dim]`."""
        if not self.expand:
            return x.repeat_interleave(self.repeats, dim=1)
        b, heads, n, dim = x.shape
        return x[:, :, None, :, :].expand(b, heads, self.repeats, n, dim).reshape(b, heads * self.repeats, n, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q = self.q_proj(x).view(b, n, self.kv_heads * self.repeats, self.dim).transpose(1, 2)
        k, v = (p(x).view(b, n, self.kv_heads, self.dim).transpose(1, 2) for p in (self.k_proj, self.v_proj))
        scores = torch.matmul(q, self.repeat(k).transpose(2, 3)) / math.sqrt(self.dim)
        y = torch.matmul(F.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype), self.repeat(v))
        return self.o_proj(y.transpose(1, 2).contiguous().reshape(b, n, -1))


class EinsumAttention(nn.Module):
    """Attention in einsum notation; its weights are bare parameters `[width, heads, dim]`."""

    def __init__(self) -> None:
        super().__init__()
        self.w_q, self.w_k = (nn.Parameter(torch.randn(20, 3, 4) / 5) for _ in range(2))
        self.w_v, self.w_o = nn.Parameter(torch.randn(20, 3, 6) / 5), nn.Parameter(torch.randn(3, 6, 20) / 5)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (torch.einsum("bnc,chd->bhnd", x, w) for w in (self.w_q, self.w_k, self.w_v))
        attention = (torch.einsum("bhid,bhjd->bhij", q, k) * 4**-0.5).softmax(-1)
        return torch.einsum("bhid,hdc->bic", torch.einsum("bhij,bhjd->bhid", attention, v), self.w_o)


class AttentionNet(nn.Module):
    """A residual stream with one attention, norm first."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.embed, self.norm, self.attention = nn.Linear(6, 20), nn.LayerNorm(20), attention
        self.head = nn.Sequential(nn.LayerNorm(20), nn.Linear(20, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.attention(self.norm(x))
        return self.head(x).mean(1)


add("attention_fused", lambda: AttentionNet(FusedAttention(20, 4, 6)), (4, 6, 20), sequences(10, 6))
add("attention_separate", lambda: AttentionNet(SeparateAttention(20, 4, 6)), (4, 6, 6, 20), sequences(10, 6))
add("attention_einsum", lambda: AttentionNet(EinsumAttention()), (3, 4, 6, 20), sequences(10, 6))
for _name, _expand in (("repeat_interleave", False), ("expand", True)):
    add(
        f"grouped_query_{_name}",
        lambda expand=_expand: AttentionNet(GroupedQueryAttention(expand)),
        (2, 3, 4, 4, 20),
        sequences(10, 6),
        unsure="the repeats (3) are a site only if query heads are key heads x repeats",
    )


class CrossAttention(nn.Module):
    """Queries of one input, keys and values of another of other width and length; value dims differ from key dims."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.embed_context = nn.Linear(6, 20), nn.Linear(5, 14)
        self.to_q, self.to_k, self.to_v = nn.Linear(20, 12), nn.Linear(14, 12), nn.Linear(14, 24)
        self.to_out, self.fc = nn.Linear(24, 20), nn.Linear(20, 3)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        x, context = self.embed(x), self.embed_context(context)
        q, k, v = (
            y.unflatten(-1, (3, -1)).transpose(1, 2) for y in (self.to_q(x), self.to_k(context), self.to_v(context))
        )
        y = F.scaled_dot_product_attention(q, k, v)
        return self.fc(x + self.to_out(y.transpose(1, 2).flatten(2)))


add(
    "cross_attention",
    CrossAttention,
    (3, 4, 8, 14, 20),
    lambda batch: Inputs((torch.randn(batch, 7, 6), torch.randn(batch, 9, 5))),
)


class LearnedQueries(nn.Module):
    """5 learned queries, expanded over the batch, attend to the input and are flattened for the head."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, 5, 20))
        self.embed = nn.Linear(6, 20)
        self.attention = nn.MultiheadAttention(20, 2, batch_first=True)
        self.fc = nn.Linear(5 * 20, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        y, _ = self.attention(self.queries.expand(x.size(0), -1, -1), x, x, need_weights=False)
        return self.fc(y.flatten(1))


add(
    "learned_queries",
    LearnedQueries,
    (2, 5, 10, 20, 20),
    sequences(10, 6),
    unsure="in_proj_weight ties the queries' width to the input's; the output's is another 20; the 5 queries can go",
)


class MLP(nn.Sequential):
    """Linear, GELU, linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


class VisionTransformer(nn.Module):
    """Class token and position embedding are bare parameters in the residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 20, 4, 4)
        self.cls_token, self.pos_embed = nn.Parameter(torch.randn(1, 1, 20)), nn.Parameter(torch.randn(1, 17, 20))
        self.norm1, self.attention = nn.LayerNorm(20), FusedAttention(20, 4, 5)
        self.norm2, self.mlp = nn.LayerNorm(20), MLP(20, 24)
        self.norm, self.head = nn.LayerNorm(20), nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1) + self.pos_embed
        x = x + self.attention(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return self.head(self.norm(x)[:, 0])


add("vision_transformer", VisionTransformer, (4, 5, 20, 24))


def windows(x: Tensor, side: int) -> Tensor:
    """`[batch, height, width, channels]` to `[batch x windows, side x side, channels]`."""
    b, h, w, c = x.shape
    x = x.view(b, h // side, side, w // side, side, c)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, side * side, c)


class WindowBlock(nn.Module):
    """Swin's block: attention in windows of 4 x 4, shifted or not, with a table of biases by relative position."""

    def __init__(self, hidden: int, shift: int) -> None:
        super().__init__()
        self.shift, self.heads = shift, 3
        self.norm1, self.qkv, self.proj = nn.LayerNorm(12), nn.Linear(12, 36), nn.Linear(12, 12)
        self.table = nn.Parameter(torch.randn(49, 3))
        at = torch.stack(torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")).flatten(1)
        apart = at[:, :, None] - at[:, None, :] + 3
        self.register_buffer("index", apart[0] * 7 + apart[1], persistent=False)
        region = torch.zeros(1, 8, 8, 1)
        for i, part in enumerate((slice(0, -4), slice(-4, -2), slice(-2, None))):
            region[:, part] += 3 * i
            region[:, :, part] += i
        region = windows(region, 4).squeeze(-1)
        mask = (region[:, None] != region[:, :, None]).float() * -100.0
        self.register_buffer("mask", mask if shift else None)
        self.norm2, self.mlp = nn.LayerNorm(12), MLP(12, hidden)

    def attend(self, x: Tensor) -> Tensor:
        """Attention within each window, `[batch x windows, 16, 12]`."""
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        scores = (q * (c // self.heads) ** -0.5) @ k.transpose(-2, -1)
        bias = self.table[self.index.view(-1)].view(n, n, -1).permute(2, 0, 1).contiguous()
        scores = scores + bias.unsqueeze(0)
        if self.mask is not None:
            count = self.mask.shape[0]
            scores = scores.view(b // count, count, self.heads, n, n) + self.mask.unsqueeze(1).unsqueeze(0)
            scores = scores.view(-1, self.heads, n, n)
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, n, c))

    def forward(self, x: Tensor) -> Tensor:
        b, h, w, c = x.shape
        y = torch.roll(self.norm1(x), (-self.shift, -self.shift), (1, 2))
        y = self.attend(windows(y, 4)).view(b, h // 4, w // 4, 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
        x = x + torch.roll(y, (self.shift, self.shift), (1, 2))
        return x + self.mlp(self.norm2(x))


class WindowAttention(nn.Module):
    """Swin: a plain and a shifted block of windows on `[batch, height, width, channels]`."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 12, 2, 2)
        self.blocks = nn.Sequential(WindowBlock(24, 0), WindowBlock(18, 2))
        self.norm, self.head = nn.LayerNorm(12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.patch(x).permute(0, 2, 3, 1))).mean((1, 2)))


add("window_attention", WindowAttention, (3, 3, 4, 4, 12, 18, 24))


class Mixer(nn.Module):
    """MLP-Mixer: one MLP over the tokens, one over the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 20, 4, 4)
        self.norm1, self.tokens = nn.LayerNorm(20), MLP(16, 10)
        self.norm2, self.channels = nn.LayerNorm(20), MLP(20, 24)
        self.norm, self.head = nn.LayerNorm(20), nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        x = x + self.channels(self.norm2(x))
        return self.head(self.norm(x).mean(dim=1))


add("mixer", Mixer, (10, 20, 24))


class TinyGPT(nn.Module):
    """nanoGPT: the embedding is the head's weight, q, k and v are split from one layer, the mask is a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.width = 4, 20
        self.wte, self.wpe = nn.Embedding(30, 20), nn.Embedding(16, 20)
        self.ln_1, self.c_attn, self.c_proj = nn.LayerNorm(20), nn.Linear(20, 60), nn.Linear(20, 20)
        self.ln_2, self.mlp = nn.LayerNorm(20), MLP(20, 24)
        self.ln_f, self.lm_head = nn.LayerNorm(20), nn.Linear(20, 30, bias=False)
        self.lm_head.weight = self.wte.weight
        self.register_buffer("mask", torch.tril(torch.ones(16, 16)).view(1, 1, 16, 16))

    def attend(self, x: Tensor) -> Tensor:
        """Causal attention, `[batch, time, width]`."""
        b, t, c = x.size()
        q, k, v = self.c_attn(x).split(self.width, dim=2)
        q, k, v = (y.view(b, t, self.heads, c // self.heads).transpose(1, 2) for y in (q, k, v))
        scores = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        scores = scores.masked_fill(self.mask[:, :, :t, :t] == 0, float("-inf"))
        y = F.softmax(scores, dim=-1) @ v
        return self.c_proj(y.transpose(1, 2).contiguous().view(b, t, c))

    def forward(self, x: Tensor) -> Tensor:
        position = torch.arange(0, x.size(1), dtype=torch.long, device=x.device)
        x = self.wte(x) + self.wpe(position)
        x = x + self.attend(self.ln_1(x))
        x = x + self.mlp(self.ln_2(x))
        return self.lm_head(self.ln_f(x))


add(
    "tiny_gpt",
    TinyGPT,
    (4, 5, 5, 20, 24),
    tokens(10, 30),
    "language modelling",
    unsure="split q, k, v: value dims (5) are a site of their own, or one with q and k where `split(width)` must hold",
)


class RotaryAttention(nn.Module):
    """Rotary positions: dim d of queries and keys turns with dim d + 2 of 4, by tables made of a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(20, 20) for _ in range(4))
        self.register_buffer("frequencies", 100.0 ** -(torch.arange(2) / 2))

    def rotate(self, x: Tensor) -> Tensor:
        """`[batch, heads, time, 4]`, turned by its time."""
        angles = torch.outer(torch.arange(x.shape[2], dtype=torch.float32), self.frequencies)
        angles = torch.cat((angles, angles), dim=-1)
        first, second = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
        return x * angles.cos() + torch.cat((-second, first), dim=-1) * angles.sin()

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (5, 4)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(self.rotate(q), self.rotate(k), v, is_causal=True)
        return self.out(y.transpose(1, 2).flatten(2))


add(
    "rotary_attention",
    lambda: AttentionNet(RotaryAttention()),
    (2, 4, 5, 20),
    sequences(10, 6),
    unsure="query/key dims go in pairs: one site of 2, if the tables are cut with them; value dims are the 4",
)


# ---------------------------------------------------------------------------------------------- norms and weights


class ConvNeXtBlock(nn.Module):
    """Depthwise 7x7, then channels last: LayerNorm, two linear layers, layer scale."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.dwconv, self.norm = nn.Conv2d(width, width, 7, padding=3, groups=width), nn.LayerNorm(width, eps=1e-6)
        self.pwconv1, self.pwconv2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.gamma = nn.Parameter(0.5 * torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        y = self.gamma * self.pwconv2(F.gelu(self.pwconv1(y)))
        return x + y.permute(0, 3, 1, 2)


class ChannelsFirstNorm(nn.Module):
    """ConvNeXt's own LayerNorm over the channels of `[batch, channels, height, width]`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(variance + 1e-6)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class ConvNeXt(nn.Module):
    """Two ConvNeXt blocks between a norm over channels first and one over channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 4, 4), ChannelsFirstNorm(8))
        self.blocks = nn.Sequential(ConvNeXtBlock(8, 24), ConvNeXtBlock(8, 32))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.stem(x)).mean([-2, -1])))


add("convnext", ConvNeXt, (8, 24, 32))


class FrozenBatchNorm(nn.Module):
    """A batch norm of four buffers, as detectors use it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("weight", 1 + 0.2 * torch.randn(width))
        self.register_buffer("bias", 0.2 * torch.randn(width))
        self.register_buffer("mean", 0.2 * torch.randn(width))
        self.register_buffer("var", 0.5 + torch.rand(width))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.reshape(1, -1, 1, 1), self.bias.reshape(1, -1, 1, 1)
        scale = weight * (self.var.reshape(1, -1, 1, 1) + 1e-5).rsqrt()
        return x * scale + (bias - self.mean.reshape(1, -1, 1, 1) * scale)


class NormedResidual(nn.Module):
    """A stem and a residual block with a norm of one's own after each convolution."""

    def __init__(self, norm: Callable[[int], nn.Module], width: int, inner: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, width, 3, padding=1, bias=False), norm(width)
        self.conv2, self.norm2 = nn.Conv2d(width, inner, 3, padding=1, bias=False), norm(inner)
        self.conv3, self.norm3 = nn.Conv2d(inner, width, 3, padding=1, bias=False), norm(width)
        self.fc = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv1(x)))
        y = self.norm3(self.conv3(F.relu(self.norm2(self.conv2(x)))))
        return self.fc(F.relu(x + y).mean((2, 3)))


add("frozen_batch_norm", lambda: NormedResidual(FrozenBatchNorm, 8, 12), (8, 12))


def group_norm(width: int) -> nn.Module:
    """5 groups of 4, or 4 groups of 6."""
    return nn.GroupNorm(5 if width == 20 else 4, width)


add(
    "group_norm",
    lambda: NormedResidual(group_norm, 20, 24),
    (4, 4, 5, 6),
    unsure="20 = 5 groups x 4 and 24 = 4 groups x 6: both factors are sites if the norm makes a product",
)
add("group_norm_of_one_group", lambda: NormedResidual(lambda width: nn.GroupNorm(1, width), 8, 12), (8, 12))
add("instance_norm", lambda: NormedResidual(lambda width: nn.InstanceNorm2d(width, affine=True), 8, 12), (8, 12))


class GDN(nn.Module):
    """Divisive normalisation of learned compression: its parameters are a matrix over the channels and a vector."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.ones(width))
        self.gamma = nn.Parameter(0.1 * torch.eye(width) + 0.02 * torch.rand(width, width))

    def forward(self, x: Tensor) -> Tensor:
        c = x.shape[1]
        gamma = self.gamma.clamp_min(0).view(c, c, 1, 1)
        return x * torch.rsqrt(F.conv2d(x**2, gamma, self.beta.clamp_min(1e-3)))


add("divisive_norm", lambda: NormedResidual(GDN, 8, 12), (8, 12))


class RMSNorm(nn.Module):
    """Llama's norm, written out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)).type_as(x)


class GatedMLP(nn.Module):
    """Llama's feed-forward layer behind an RMSNorm of one's own."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.norm_f = nn.Linear(6, 16), RMSNorm(16), RMSNorm(16)
        self.w1, self.w3 = nn.Linear(16, 24, bias=False), nn.Linear(16, 24, bias=False)
        self.w2, self.head = nn.Linear(24, 16, bias=False), nn.Linear(16, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        y = self.norm(x)
        return self.head(self.norm_f(x + self.w2(F.silu(self.w1(y)) * self.w3(y))))


add("rms_norm", GatedMLP, (16, 24), sequences(7, 6))


class Reparametrised(nn.Module):
    """Two convolutions whose weights are computed anew in each call by a parametrisation, each followed by ReLU."""

    def __init__(self, wrap: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        self.conv1, self.conv2 = wrap(nn.Conv2d(3, 8, 3, padding=1)), wrap(nn.Conv2d(8, 12, 3, padding=1))
        self.fc = wrap(nn.Linear(12, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.conv2(F.relu(self.conv1(x)))).mean((2, 3)))


add("weight_norm", lambda: Reparametrised(nn.utils.parametrizations.weight_norm), (8, 12))
add(
    "spectral_norm",
    lambda: Reparametrised(nn.utils.parametrizations.spectral_norm),
    (8, 12),
    unsure="the largest singular value is a contraction over both axes of the weight: cutting changes it",
)


class StandardisedConv(nn.Conv2d):
    """NFNet's convolution: the weight standardised over its inputs, with a gain for each output."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1)
        self.gain = nn.Parameter(torch.ones(outputs, 1, 1, 1))
        self.scale = 1.7 * self.weight[0].numel() ** -0.5

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True, correction=0)
        weight = (self.weight - mean) / torch.sqrt(variance + 1e-5) * (self.gain * self.scale)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class NormFree(nn.Module):
    """A residual block without norms, of convolutions with standardised weights."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv1, self.conv2 = StandardisedConv(3, 8), StandardisedConv(8, 12), StandardisedConv(12, 8)
        self.gain, self.fc = nn.Parameter(torch.tensor(0.2)), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.gain * self.conv2(F.gelu(self.conv1(F.gelu(x))))
        return self.fc(F.gelu(x).mean((2, 3)))


add(
    "weight_standardisation",
    NormFree,
    (8, 12),
    unsure="the weight is normed over the input channels: cutting those changes the rest of the weight",
)


class BareParameters(nn.Module):
    """Products with parameters that belong to no layer, some of them the other way round."""

    def __init__(self) -> None:
        super().__init__()
        self.w1, self.b1 = nn.Parameter(torch.randn(6, 16) / 3), nn.Parameter(torch.zeros(16))
        self.w2 = nn.Parameter(torch.randn(24, 16) / 4)
        self.w3, self.b3 = nn.Parameter(torch.randn(24, 3) / 5), nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(x @ self.w1 + self.b1)
        x = torch.tanh(torch.matmul(x, self.w2.t()))
        return torch.addmm(self.b3, x, self.w3)


add("bare_parameters", BareParameters, (16, 24), lambda batch: Inputs((torch.randn(batch, 6),)))


class ReflectPadding(nn.Module):
    """Convolutions padded by reflection, circularly and by a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect")
        self.conv2 = nn.Conv2d(8, 12, 3, padding=1, padding_mode="circular")
        self.pad, self.conv3 = nn.ReflectionPad2d(1), nn.Conv2d(12, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(self.pad(F.relu(self.conv2(F.relu(self.conv1(x))))))


add("reflect_padding", ReflectPadding, (8, 12), task="restoration")


class BilinearLayer(nn.Module):
    """nn.Bilinear joins two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(6, 10), nn.Linear(4, 8)
        self.join, self.fc = nn.Bilinear(10, 8, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.fc(self.join(self.left(x).relu(), self.right(y).relu()).relu())


add(
    "bilinear_layer",
    BilinearLayer,
    (8, 10, 12),
    lambda batch: Inputs((torch.randn(batch, 6), torch.randn(batch, 4))),
    unsure="all three may be left alone where the operator is not known",
)


class PReLUMaxout(nn.Module):
    """PReLU with a slope for each channel, and maxout: the larger of two halves."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu = nn.Conv2d(3, 8, 3, padding=1), nn.PReLU(8)
        self.conv2, self.fc = nn.Conv2d(8, 24, 3, padding=1), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.conv2(self.prelu(self.conv1(x))).chunk(2, 1)
        return self.fc(torch.max(first, second).mean((2, 3)))


add("prelu_maxout", PReLUMaxout, (8, 12))


# ------------------------------------------------------------------------------------------- mixing over channels


class EfficientChannelAttention(nn.Module):
    """ECA: a 1-d convolution slides over the channels, which therefore stay; those before and after may go."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.head = conv_bn_relu(3, 8), conv_bn_relu(8, 12), conv_bn_relu(12, 16)
        self.eca = nn.Conv1d(1, 1, 3, padding=1, bias=False)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.stem(x))
        y = self.eca(F.adaptive_avg_pool2d(x, 1).squeeze(-1).transpose(-1, -2)).transpose(-1, -2).unsqueeze(-1)
        return self.fc(self.head(x * y.sigmoid().expand_as(x)).mean((2, 3)))


add("efficient_channel_attention", EfficientChannelAttention, (8, 16))


class SplitAttention(nn.Module):
    """ResNeSt: two groups weighed against each other by a softmax over the two."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = conv_bn_relu(3, 8), conv_bn_relu(8, 24, groups=2)
        self.fc1, self.bn1, self.fc2 = nn.Conv2d(12, 10, 1), nn.BatchNorm2d(10), nn.Conv2d(10, 24, 1)
        self.head, self.fc = conv_bn_relu(12, 16, 1), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.stem(x))
        b, rc, h, w = x.shape
        x = x.reshape(b, 2, rc // 2, h, w)
        gap = F.adaptive_avg_pool2d(x.sum(dim=1), 1)
        attention = self.fc2(F.relu(self.bn1(self.fc1(gap))))
        attention = F.softmax(attention.view(b, 1, 2, -1).transpose(1, 2), dim=1).reshape(b, -1, 1, 1)
        x = (x * attention.reshape(b, 2, rc // 2, 1, 1)).sum(dim=1)
        return self.fc(self.head(x.contiguous()).mean((2, 3)))


add(
    "split_attention",
    SplitAttention,
    (4, 10, 12, 16),
    unsure="the radix (2) stays because of the softmax over it, so the stem's 8 are 2 (stays) x 4",
)


class GhostModule(nn.Module):
    """GhostNet: half the channels by a convolution, the others from those by a depthwise one, cut to what is asked."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.outputs, half = outputs, math.ceil(outputs / 2)
        self.primary, self.cheap = conv_bn_relu(inputs, half, 1), conv_bn_relu(half, half, groups=half)

    def forward(self, x: Tensor) -> Tensor:
        x1 = self.primary(x)
        return torch.cat([x1, self.cheap(x1)], dim=1)[:, : self.outputs, :, :]


class GhostNet(nn.Module):
    """Two ghost modules: one whose slice takes all, one whose slice leaves one channel out."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.ghosts = conv_bn_relu(3, 8), nn.Sequential(GhostModule(8, 20), GhostModule(20, 11))
        self.head, self.fc = conv_bn_relu(11, 14), nn.Linear(14, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.head(self.ghosts(self.stem(x))).mean((2, 3)))


add(
    "ghost_module",
    GhostNet,
    (5, 8, 10, 14),
    unsure="the slice of 11 of 12 parts the second module's 6 into 5 and 1 (left out here)",
)


class TemporalShift(nn.Module):
    """TSM: parts of the channels moved one step in time, written in place into zeros, inside a residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv1, self.conv2 = conv_bn_relu(3, 16), conv_bn_relu(16, 12), conv_bn(12, 16)
        self.fc = nn.Linear(16, 5)

    def shift(self, x: Tensor, steps: int) -> Tensor:
        """`[batch x steps, channels, height, width]`, a quarter of the channels moved back, a quarter forth."""
        nt, c, h, w = x.size()
        x = x.view(nt // steps, steps, c, h, w)
        fold = c // 4
        out = torch.zeros_like(x)
        out[:, :-1, :fold] = x[:, 1:, :fold]
        out[:, 1:, fold : 2 * fold] = x[:, :-1, fold : 2 * fold]
        out[:, :, 2 * fold :] = x[:, :, 2 * fold :]
        return out.view(nt, c, h, w)

    def forward(self, x: Tensor) -> Tensor:
        b, steps = x.shape[:2]
        x = self.stem(x.flatten(0, 1))
        x = F.relu(x + self.conv2(self.conv1(self.shift(x, steps))))
        return self.fc(x.mean((2, 3))).view(b, steps, -1).mean(1)


add(
    "temporal_shift",
    TemporalShift,
    (4, 4, 8, 12),
    lambda batch: Inputs((torch.randn(batch, 4, 3, 10, 10),)),
    unsure="the stream of 16 is 4 + 4 + 8; `fold = c // 4` asks for quarters of equal size",
)


class SliceSum(nn.Module):
    """A side branch is added in place to the first 6 of 16 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.side, self.head = conv_bn_relu(3, 16), conv_bn_relu(3, 6, 1), conv_bn_relu(16, 12)
        self.fc = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x) * 1.5
        y[:, :6] += self.side(x)
        return self.fc(self.head(y).mean((2, 3)))


add("slice_sum_in_place", SliceSum, (6, 10, 12))


class SortedBranch(nn.Module):
    """A side branch is sorted over its channels: only those stay."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.side, self.main = conv_bn_relu(3, 16), conv_bn(16, 12), conv_bn_relu(16, 24)
        self.fc_side, self.fc = nn.Linear(12, 5), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        ranked = torch.sort(self.side(x).mean((2, 3)), dim=1, descending=True).values
        return self.fc(self.main(x).mean((2, 3))) + self.fc_side(ranked)


add("sorted_branch", SortedBranch, (16, 24))


class PixelAttention(nn.Module):
    """DANet: pixels attend to pixels, so the channels of queries and keys are contracted with each other."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn_relu(3, 12)
        self.query, self.key, self.value = nn.Conv2d(12, 6, 1), nn.Conv2d(12, 6, 1), nn.Conv2d(12, 12, 1)
        self.gamma, self.fc = nn.Parameter(torch.full((1,), 0.5)), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.stem(x), 2)
        b, c, h, w = x.size()
        query = self.query(x).view(b, -1, h * w).permute(0, 2, 1)
        attention = torch.bmm(query, self.key(x).view(b, -1, h * w)).softmax(-1)
        y = torch.bmm(self.value(x).view(b, -1, h * w), attention.permute(0, 2, 1)).view(b, c, h, w)
        return self.fc((self.gamma * y + x).mean((2, 3)))


add("pixel_attention", PixelAttention, (6, 12))


class ChannelAttention(nn.Module):
    """DANet: channels attend to channels by a softmax over them: these stay."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.head = conv_bn_relu(3, 8), conv_bn_relu(8, 12), conv_bn_relu(12, 16)
        self.gamma, self.fc = nn.Parameter(torch.full((1,), 0.5)), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.stem(x))
        b, c, h, w = x.size()
        flat = x.view(b, c, -1)
        energy = flat @ flat.transpose(1, 2)
        energy = torch.max(energy, -1, keepdim=True)[0].expand_as(energy) - energy
        y = torch.bmm(energy.softmax(-1), flat).view(b, c, h, w)
        return self.fc(self.head(self.gamma * y + x).mean((2, 3)))


add("channel_attention", ChannelAttention, (8, 16))


class BilinearPooling(nn.Module):
    """Second-order pooling: the products of channels with channels, summed over pixels, are the features."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv_bn_relu(3, 8), conv_bn_relu(8, 12)
        self.fc = nn.Linear(144, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2(self.conv1(x)).flatten(2)
        gram = torch.bmm(x, x.transpose(1, 2)) / x.shape[2]
        gram = torch.sign(gram) * torch.sqrt(gram.abs() + 1e-8)
        return self.fc(gram.view(-1, 144))


add("bilinear_pooling", BilinearPooling, (8, 12), unsure="12 is both factors of the linear layer's 12 x 12 inputs")


class CBAM(nn.Module):
    """Channel attention by a shared MLP of mean and maximum over pixels; spatial attention by those over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.head = conv_bn_relu(3, 8), conv_bn(8, 12), conv_bn_relu(12, 16)
        self.mlp = nn.Sequential(nn.Conv2d(12, 6, 1, bias=False), nn.ReLU(), nn.Conv2d(6, 12, 1, bias=False))
        self.spatial, self.fc = nn.Conv2d(2, 1, 7, padding=3, bias=False), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.stem(x))
        x = x * (self.mlp(F.adaptive_avg_pool2d(x, 1)) + self.mlp(F.adaptive_max_pool2d(x, 1))).sigmoid()
        pooled = torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True)[0]], dim=1)
        return self.fc(self.head(x * self.spatial(pooled).sigmoid()).mean((2, 3)))


add(
    "cbam",
    CBAM,
    (6, 8, 16),
    unsure="the maximum over the 12 channels keeps them; were a maximum allowed, 12 is a site too",
)


class FeatureModulation(nn.Module):
    """FiLM: scale and shift of the features are the two halves of a linear layer on another input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv_bn(3, 12), conv_bn_relu(12, 16)
        self.film = nn.Sequential(nn.Linear(5, 10), nn.SiLU(), nn.Linear(10, 24))
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.film(condition)[:, :, None, None].chunk(2, dim=1)
        x = F.relu(self.conv1(x) * (1 + scale) + shift)
        return self.fc(self.conv2(x).mean((2, 3)))


add(
    "feature_modulation",
    FeatureModulation,
    (10, 12, 16),
    lambda batch: Inputs((images(batch, 16), torch.randn(batch, 5))),
)


# --------------------------------------------------------------------------------------------- inputs and outputs


class TensorFlowOrder(nn.Module):
    """Flattened after a permutation to channels last: the linear layer reads pixels x channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 12, 3, 2, 1)
        self.fc1, self.fc2 = nn.Linear(4 * 4 * 12, 10), nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        x = x.permute(0, 2, 3, 1).reshape(x.size(0), -1)
        return self.fc2(F.relu(self.fc1(x)))


add("tensorflow_order", TensorFlowOrder, (8, 10, 12))


class DistributionFocalHead(nn.Module):
    """YOLOv8: a side of a box is the mean of a softmax over 8 bins, by a fixed 1x1 convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.neck = conv_bn_relu(3, 8, stride=2), conv_bn_relu(8, 12)
        self.box = nn.Sequential(conv_bn_relu(12, 10), nn.Conv2d(10, 32, 1))
        self.classes = nn.Sequential(conv_bn_relu(12, 14), nn.Conv2d(14, 3, 1))
        self.dfl = nn.Conv2d(8, 1, 1, bias=False).requires_grad_(False)
        self.dfl.weight.data[:] = torch.arange(8, dtype=torch.float).view(1, 8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.neck(self.stem(x))
        x = torch.cat((self.box(x), self.classes(x)), 1)
        box, classes = x.view(x.shape[0], 35, -1).split((32, 3), 1)
        n, _, anchors = box.shape
        box = self.dfl(box.view(n, 4, 8, anchors).transpose(2, 1).softmax(1)).view(n, 4, anchors)
        return torch.cat((box * 2, classes.sigmoid()), 1)


class FlatFocalHead(DistributionFocalHead):
    """The same with `flatten(2).view(n, 4, 8, -1).softmax(2)`, boxes and scores apart."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.neck(self.stem(x))
        n = x.size(0)
        bins = self.box(x).flatten(2).view(n, 4, 8, -1).softmax(2)
        box = self.dfl(bins.permute(0, 2, 1, 3)).squeeze(1)
        return box, self.classes(x).flatten(2).sigmoid()


add("distribution_focal_head", DistributionFocalHead, (8, 10, 12, 14), task="detection")
add("flat_focal_head", FlatFocalHead, (8, 10, 12, 14), task="detection")


class AnchorHead(nn.Module):
    """YOLOv5: predictions viewed to `[batch, anchors, height, width, numbers]` and decoded on a grid."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.neck, self.predict = conv_bn_relu(3, 8, stride=2), conv_bn_relu(8, 16), nn.Conv2d(16, 21, 1)
        self.register_buffer("anchors", torch.tensor([[4.0, 5.0], [8.0, 6.0], [10.0, 12.0]]))

    def forward(self, x: Tensor) -> Tensor:
        x = self.predict(self.neck(self.stem(x)))
        bs, _, ny, nx = x.shape
        x = x.view(bs, 3, 7, ny, nx).permute(0, 1, 3, 4, 2).contiguous()
        if self.training:
            return x
        ys, xs = torch.meshgrid(torch.arange(ny), torch.arange(nx), indexing="ij")
        grid = torch.stack((xs, ys), 2).expand(1, 3, ny, nx, 2) - 0.5
        xy, wh, scores = x.sigmoid().split((2, 2, 3), 4)
        xy = (xy * 2 + grid) * 2
        wh = (wh * 2) ** 2 * self.anchors.view(1, 3, 1, 1, 2)
        return torch.cat((xy, wh, scores), 4).view(bs, 3 * ny * nx, 7)


add("anchor_head", AnchorHead, (8, 16), task="detection")


class ListDetector(nn.Module):
    """Takes a list of images of several sizes, pads them to a batch, gives a list of dicts of the best 5 boxes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = (
            conv_bn_relu(3, 8, stride=2),
            conv_bn_relu(8, 16, stride=2),
            conv_bn_relu(16, 12),
        )
        self.scores, self.boxes = nn.Conv2d(12, 3, 3, padding=1), nn.Conv2d(12, 4, 3, padding=1)

    def forward(self, pictures: list[Tensor]) -> list[dict[str, Tensor]]:
        height, width = (max(picture.shape[i] for picture in pictures) for i in (1, 2))
        batch = pictures[0].new_zeros(len(pictures), 3, height, width)
        for place, picture in zip(batch, pictures, strict=True):
            place[:, : picture.shape[1], : picture.shape[2]].copy_(picture)
        x = self.head(self.body(self.stem(batch)))
        scores = self.scores(x).permute(0, 2, 3, 1).flatten(1, 2).sigmoid()
        boxes = self.boxes(x).permute(0, 2, 3, 1).reshape(len(pictures), -1, 4).exp()
        results = []
        for score, box, picture in zip(scores, boxes, pictures, strict=True):
            best, at = score.flatten().topk(5)
            box = box[at // 3].clamp(max=max(picture.shape[1:]))
            results.append({"boxes": box, "scores": best, "labels": at % 3})
        return results


def picture_list(batch: int) -> Inputs:
    """A list of images, each of another size."""
    return Inputs(([torch.randn(3, 16 - 2 * i, 12 + 3 * i) for i in range(batch)],))


add("list_detector", ListDetector, (8, 12, 16), picture_list, "detection")


@dataclass
class Prediction:
    """What `DictNetwork` gives."""

    logits: Tensor
    loss: Tensor | None = None
    features: tuple[Tensor, ...] = ()


class DictNetwork(nn.Module):
    """Takes a dict by keyword, an image and numbers, and gives a dataclass of which some fields are empty."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.numbers = conv_bn_relu(3, 8), conv_bn_relu(8, 12), nn.Linear(5, 10)
        self.join, self.fc = nn.Linear(22, 16), nn.Linear(16, 4)

    def forward(self, *, batch: dict[str, Tensor], labels: Tensor | None = None) -> Prediction:
        image = self.conv2(self.conv1(batch["image"])).mean((2, 3))
        joined = torch.cat([image, self.numbers(batch["numbers"]).relu()], -1)
        logits = self.fc(self.join(joined).relu())
        return Prediction(logits, None if labels is None else F.cross_entropy(logits, labels))


add(
    "dict_inputs",
    DictNetwork,
    (8, 10, 12, 16),
    lambda batch: Inputs((), {"batch": {"image": images(batch, 16), "numbers": torch.randn(batch, 5)}}),
)


class AuxiliaryHead(nn.Module):
    """A second head on an early stage that runs in training only, where the network gives two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.fc = conv_bn_relu(3, 8), conv_bn_relu(8, 16), nn.Linear(16, 5)
        self.aux, self.aux_fc = conv_bn_relu(8, 6, 1), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.stem(x)
        aux = self.aux_fc(self.aux(x).mean((2, 3))) if self.training else None
        x = self.fc(self.body(x).mean((2, 3)))
        return x if aux is None else (x, aux)


add(
    "auxiliary_head",
    AuxiliaryHead,
    (6, 8, 16),
    unsure="6 is inside the head that only training runs; where that is not watched, 8 stays too, as the head reads it",
)


class EarlyExit(nn.Module):
    """An exit after the first stage is taken only where the caller asks for it."""

    def __init__(self) -> None:
        super().__init__()
        self.stage1, self.stage2 = conv_bn_relu(3, 12), conv_bn_relu(12, 16)
        self.exit, self.fc = nn.Linear(12, 5), nn.Linear(16, 5)

    def forward(self, x: Tensor, early: bool = False) -> Tensor:
        x = self.stage1(x)
        if early:
            return self.exit(x.mean((2, 3)))
        return self.fc(self.stage2(x).mean((2, 3)))


add(
    "early_exit",
    EarlyExit,
    (12, 16),
    unsure="`exit` never runs: cutting 12 without it breaks `early=True`; safe is 16 alone",
)


class KeepsFeature(nn.Module):
    """`forward` keeps a feature map as an attribute, as those do who look at it later; it is no output."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.fc = conv_bn_relu(3, 8), conv_bn_relu(8, 12), nn.Linear(12, 5)
        self.feature: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.conv1(x))
        self.feature = y
        return self.fc(y.mean((2, 3)))


add("keeps_feature", KeepsFeature, (8, 12))


class Siamese(nn.Module):
    """Two images through the same weights; the distance of their features is classified."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv_bn_relu(3, 8), nn.MaxPool2d(2), conv_bn_relu(8, 12), nn.AdaptiveAvgPool2d(2))
        self.embed, self.fc = nn.Linear(48, 16), nn.Linear(16, 1)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        a, b = (self.embed(self.body(x).flatten(1)) for x in (first, second))
        return self.fc(torch.abs(a - b))


add(
    "siamese",
    Siamese,
    (8, 12, 16),
    lambda batch: Inputs((images(batch, 16), images(batch, 16))),
    "verification",
)


class TwoScales(nn.Module):
    """Two outputs of very different scale: boxes times 100 beside scores below 1."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = conv_bn_relu(3, 8), conv_bn_relu(8, 16, stride=2)
        self.boxes = nn.Sequential(conv_bn_relu(16, 10), nn.Conv2d(10, 4, 1))
        self.classes = nn.Sequential(conv_bn_relu(16, 12), nn.Conv2d(12, 3, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.body(self.stem(x))
        return self.boxes(x) * 100.0, self.classes(x).sigmoid()


add("two_scales", TwoScales, (8, 10, 12, 16), task="detection")

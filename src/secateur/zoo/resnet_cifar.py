"""The residual networks for CIFAR and their plain counterpart (He et al., CVPR 2016, sec. 4.2).

Three stages of n blocks with width, 2 width and 4 width channels: 6n + 2 layers. No shortcut has parameters.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PaddedShortcut(nn.Module):
    """Option A: every `stride`-th pixel, and `added` channels of zeros, half of them before the others."""

    def __init__(self, added: int, stride: int) -> None:
        super().__init__()
        self.before, self.after = added // 2, added - added // 2
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """[N, in, H, W] -> [N, in + added, H / stride, W / stride]."""
        every = F.avg_pool2d(x, 1, self.stride)  # x[:, :, ::stride, ::stride], in a way that every runtime knows
        return F.pad(every, (0, 0, 0, 0, self.before, self.after))


def copying(padded: PaddedShortcut, channels: int) -> nn.Conv2d:
    """The 1 x 1 convolution that does what a padded shortcut of so many channels does."""
    convolution = nn.Conv2d(channels, padded.before + channels + padded.after, 1, padded.stride, bias=False)
    with torch.no_grad():
        convolution.weight.zero_()
        convolution.weight[padded.before :][:channels, :, 0, 0] = torch.eye(channels)
    return convolution


class Block(nn.Module):
    """Two 3 x 3 convolutions with batch norm; `residual` adds the shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, residual: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module | None = None
        if residual:
            same = stride == 1 and in_channels == out_channels
            self.shortcut = nn.Identity() if same else PaddedShortcut(out_channels - in_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[N, in, H, W] -> [N, out, H / stride, W / stride]."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y if self.shortcut is None else y + self.shortcut(x))


class CifarResNet(nn.Module):
    """A convolution, three stages of blocks, a linear layer; for any H and W, as the pooling is global.

    Raises ValueError when `depth` is not 6n + 2.
    """

    def __init__(self, depth: int, num_classes: int, in_channels: int, width: int, residual: bool) -> None:
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            raise ValueError(f"a CIFAR ResNet has 6n + 2 layers (20, 32, 44, 56, ...), not {depth}")
        blocks = depth // 6
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, blocks, 1, residual)
        self.layer2 = _stage(width, 2 * width, blocks, 2, residual)
        self.layer3 = _stage(2 * width, 4 * width, blocks, 2, residual)
        self.linear = nn.Linear(4 * width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] -> [N, num_classes] logits."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def with_copying_shortcuts(network: nn.Module) -> nn.Module:
    """Give the network 1 x 1 convolutions that copy in place of its padded shortcuts, and return it.

    It answers as before, and whole residual streams can be cut: which channels padding adds is written in code alone.
    """
    for block in network.modules():
        if isinstance(block, Block) and isinstance(block.shortcut, PaddedShortcut):
            block.shortcut = copying(block.shortcut, block.conv1.in_channels)
    return network


def _stage(in_channels: int, out_channels: int, blocks: int, stride: int, residual: bool) -> nn.Sequential:
    first = Block(in_channels, out_channels, stride, residual)
    return nn.Sequential(first, *(Block(out_channels, out_channels, 1, residual) for _ in range(blocks - 1)))


def resnet20(num_classes: int = 10, in_channels: int = 3, width: int = 16) -> CifarResNet:
    """ResNet-20: 0.27 M parameters, 41 M MACs at 32 x 32."""
    return CifarResNet(20, num_classes, in_channels, width, residual=True)


def resnet32(num_classes: int = 10, in_channels: int = 3, width: int = 16) -> CifarResNet:
    """ResNet-32: 0.46 M parameters, 69 M MACs at 32 x 32."""
    return CifarResNet(32, num_classes, in_channels, width, residual=True)


def resnet44(num_classes: int = 10, in_channels: int = 3, width: int = 16) -> CifarResNet:
    """ResNet-44: 0.66 M parameters, 97 M MACs at 32 x 32."""
    return CifarResNet(44, num_classes, in_channels, width, residual=True)


def resnet56(num_classes: int = 10, in_channels: int = 3, width: int = 16) -> CifarResNet:
    """ResNet-56: 0.85 M parameters, 126 M MACs at 32 x 32."""
    return CifarResNet(56, num_classes, in_channels, width, residual=True)


def plain20(num_classes: int = 10, in_channels: int = 3, width: int = 16) -> CifarResNet:
    """Plain-20: ResNet-20 without its shortcuts, with the same parameter names."""
    return CifarResNet(20, num_classes, in_channels, width, residual=False)

"""VGG-16 (Simonyan and Zisserman, ICLR 2015, table 1 D): 13 convolutions of 3 x 3 in five pooled stages."""

import torch.nn.functional as F
from torch import Tensor, nn

_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG16(nn.Module):
    """VGG-16 in one of two forms.

    `imagenet=False`: batch norm after every convolution, global pooling, one linear layer; for any H and W.
    `imagenet=True`: the paper's network, without batch norm, three linear layers; for 224 x 224 only.
    Its parameters have torchvision's names.
    """

    def __init__(self, num_classes: int, in_channels: int, imagenet: bool) -> None:
        super().__init__()
        self.features = _features(in_channels, batch_norm=not imagenet)
        self.global_pool = not imagenet
        self.classifier = _imagenet_classifier(num_classes) if imagenet else nn.Linear(512, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] -> [N, num_classes] logits."""
        x = self.features(x)
        if self.global_pool:
            x = F.adaptive_avg_pool2d(x, 1)
        logits: Tensor = self.classifier(x.flatten(1))
        return logits


def _features(in_channels: int, batch_norm: bool) -> nn.Sequential:
    modules: list[nn.Module] = []
    for stage in _STAGES:
        for out_channels in stage:
            modules.append(nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=not batch_norm))
            if batch_norm:
                modules.append(nn.BatchNorm2d(out_channels))
            modules.append(nn.ReLU(inplace=True))
            in_channels = out_channels
        # Rounding up changes nothing at 32 or 224 pixels and keeps smaller images (28, 8) from vanishing.
        modules.append(nn.MaxPool2d(2, ceil_mode=batch_norm))
    return nn.Sequential(*modules)


def _imagenet_classifier(num_classes: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(512 * 7 * 7, 4096), nn.ReLU(inplace=True), nn.Dropout(),
        nn.Linear(4096, 4096), nn.ReLU(inplace=True), nn.Dropout(),
        nn.Linear(4096, num_classes),
    )  # fmt: skip


def vgg16(num_classes: int = 10, in_channels: int = 3, imagenet: bool = False) -> VGG16:
    """VGG-16 with batch norm for CIFAR: 14.7 M parameters, 313 M MACs at 32 x 32; or the ImageNet form."""
    return VGG16(num_classes, in_channels, imagenet)


def vgg16_imagenet(num_classes: int = 1000, in_channels: int = 3) -> VGG16:
    """VGG-16 for ImageNet: 138 M parameters, 15.5 G MACs at 224 x 224."""
    return VGG16(num_classes, in_channels, imagenet=True)

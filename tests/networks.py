"""Small networks for tests, one for each way in which channels hang together, and random ones.

Norms start with statistics as after training: means, variances, gains and offsets all differ by channel.
"""

import random
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Example = Tensor | tuple[Tensor, ...]


def settled(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in eval mode with weights, biases and norms drawn from `seed`, as if trained."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)):
                low, high = (0.5, 1.5) if name == "weight" else (-0.3, 0.3)
                parameter.data.uniform_(low, high, generator=generator)
            elif parameter.dim() > 1:
                fan_in = parameter[0].numel()
                parameter.data.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
            elif name == "bias":
                parameter.data.uniform_(-0.3, 0.3, generator=generator)
            else:
                parameter.data.uniform_(0.1, 0.4, generator=generator)
        for name, buffer in module.named_buffers(recurse=False):
            if name == "running_mean":
                buffer.uniform_(-0.3, 0.3, generator=generator)
            elif name == "running_var":
                buffer.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


def conv_bn(in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU())


def pooled(x: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(x, 1).flatten(1)


class Plain(nn.Module):
    """Convolutions, then linear layers on the flattened picture."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.fc1 = nn.Linear(12 * 4 * 4, 20)
        self.fc2 = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.conv2(x))
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


class ProjectionBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.in_place, self.shortcut = True, nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.in_place:
            y += self.shortcut(x)
        else:
            y = y + self.shortcut(x)
        return F.relu(y)


class Viewed(nn.Module):
    """Takes the view of a feature map that is not one pixel large: no view of one that lies channels-last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.fc1 = nn.Linear(32 * 4, 24)
        self.fc2 = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.adaptive_max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc2(F.relu(self.fc1(x.view(x.size(0), -1))))


class ActingNorm(nn.BatchNorm2d):
    """A batch norm with its activation inside, as some libraries have it."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x))


class PaddingConv(nn.Conv2d):
    """Pads by itself, on one side more, as TensorFlow does."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (0, 1, 0, 1)), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class StandardisedConv(nn.Conv2d):
    """Its weights count only as they differ from their mean."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


def own_forwards() -> nn.Module:
    """Layers and norms that do more than their class in torch."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        ActingNorm(16),
        PaddingConv(16, 12, 3, stride=2),
        nn.ReLU(),
        StandardisedConv(12, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 6, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 4),
    )


class Named(nn.Module):
    """Calls layers by keyword, and answers with more than tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 6, 3)
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, None, str]:
        x = F.relu(self.bn1(input=self.conv1(input=x)))
        return self.fc(input=F.relu(self.conv2(x)).mean((2, 3))), None, "logits"


class Anchored(nn.Module):
    """Holds a buffer of five dimensions, which no layout of images is for; its input has to be above 0."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 6, 1)
        self.register_buffer("anchors", torch.ones(1, 2, 1, 1, 3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.relu(self.conv1(torch.log(x))))
        return y.view(len(y), 2, 3, *y.shape[2:]).permute(0, 1, 3, 4, 2) * self.anchors


class Residual(nn.Module):
    """Two residual stages with a 1 x 1 projection between them (option B)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.blocks = nn.Sequential(ProjectionBlock(8, 8, 1), ProjectionBlock(8, 16, 2), ProjectionBlock(16, 16, 1))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(pooled(self.blocks(self.stem(x))))


class PaddedBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.added, self.stride = out_channels - in_channels, stride

    def forward(self, x: Tensor) -> Tensor:
        half = self.added // 2
        shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.added - half))
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + shortcut)


class Padded(nn.Module):
    """A residual network whose wider stage is reached by padding the shortcut with zeros (option A)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.blocks = nn.Sequential(PaddedBlock(8, 8, 1), PaddedBlock(8, 16, 2), PaddedBlock(16, 16, 1))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(pooled(self.blocks(self.stem(x))))


class Dense(nn.Module):
    """DenseNet: each layer reads all before it, through a batch norm that stands after the concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm1, self.conv1 = nn.BatchNorm2d(8), nn.Conv2d(8, 6, 3, padding=1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(14), nn.Conv2d(14, 6, 3, padding=1, bias=False)
        self.norm3, self.head = nn.BatchNorm2d(20), nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([x, self.conv1(F.relu(self.norm1(x)))], 1)
        x = torch.cat([x, self.conv2(F.relu(self.norm2(x)))], 1)
        return self.head(pooled(F.relu(self.norm3(x))))


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = conv_bn(3, 12), nn.Conv2d(12, 16, 1)
        self.squeeze, self.excite = nn.Conv2d(16, 6, 1), nn.Conv2d(6, 16, 1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(self.stem(x)))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1)))))
        return self.head(pooled(x * gate))


class Split(nn.Module):
    """Half of the channels goes one way, half the other; then a gate made by chunk."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.left, self.right = nn.Conv2d(6, 8, 1), nn.Conv2d(6, 8, 3, padding=1)
        self.gated = nn.Conv2d(16, 20, 1)
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        left, right = torch.split(F.relu(self.stem(x)), 6, dim=1)
        x = torch.cat([F.relu(self.left(left)), F.relu(self.right(right))], 1)
        value, gate = self.gated(x).chunk(2, dim=1)
        return self.head(pooled(value * torch.sigmoid(gate)))


class Reshaped(nn.Module):
    """View, reshape, permute, mean and functional operations instead of modules."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1)
        self.mix, self.head = nn.Linear(12, 10), nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.leaky_relu(self.conv1(x)), 2)
        x = F.hardtanh(self.conv2(x))
        x = x.view(x.size(0), x.size(1), -1).permute(0, 2, 1)
        x = F.gelu(self.mix(x))
        return self.head(x.mean(1).reshape(x.size(0), -1))


class Shared(nn.Module):
    """One convolution that runs twice, on two sizes of picture."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.twice = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.last, self.head = nn.Conv2d(8, 12, 3, padding=1), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.twice(F.relu(self.stem(x))))
        x = F.relu(self.twice(F.avg_pool2d(x, 2)))
        return self.head(pooled(F.relu(self.last(x))))


class OneChannel(nn.Module):
    """A convolution with one output channel (an attention map), which is no depthwise convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.map = conv_bn(3, 8), nn.Conv2d(8, 1, 3, padding=1)
        self.after, self.head = nn.Conv2d(1, 6, 3, padding=1), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(pooled(F.relu(self.after(torch.sigmoid(self.map(self.stem(x)))))))


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image, self.vector = conv_bn(3, 8), nn.Linear(6, 10)
        self.joint, self.head = nn.Linear(18, 12), nn.Linear(12, 5)

    def forward(self, image: Tensor, vector: Tensor) -> Tensor:
        both = torch.cat([pooled(self.image(image)), F.relu(self.vector(vector))], 1)
        return self.head(F.relu(self.joint(both)))


class Shuffled(nn.Module):
    """ShuffleNet's channel shuffle between grouped convolutions; a plain convolution before and after."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.grouped1, self.grouped2 = nn.Conv2d(8, 8, 1, groups=2), nn.Conv2d(8, 8, 1, groups=2)
        self.last, self.head = conv_bn(8, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.grouped1(self.stem(x)))
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.head(pooled(self.last(F.relu(self.grouped2(x)))))


class Attention(nn.Module):
    """A transformer block on torch's own attention."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm1 = nn.Linear(6, 16), nn.LayerNorm(16)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.norm2, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        x = x + self.down(F.gelu(self.up(self.norm2(x))))
        return self.head(x.mean(1))


class HandMadeAttention(nn.Module):
    """Heads made with view and transpose, as in many a repository."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 16)
        self.q, self.k, self.v, self.out = (nn.Linear(16, 16) for _ in range(4))
        self.up, self.down, self.head = nn.Linear(16, 24), nn.Linear(24, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        n, tokens, _ = x.shape
        q, k, v = (part(x).view(n, tokens, 4, -1).transpose(1, 2) for part in (self.q, self.k, self.v))
        y = torch.softmax(q @ k.transpose(-2, -1) / 2.0, -1) @ v
        x = x + self.out(y.transpose(1, 2).reshape(n, tokens, -1))
        x = x + self.down(F.gelu(self.up(x)))
        return self.head(x.mean(1))


class SingleHead(nn.Module):
    """One head, so that the channels of its values can be followed through the products of matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(4))
        self.up, self.head = nn.Linear(8, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.softmax(self.q(x) @ self.k(x).transpose(1, 2), -1) @ self.v(x)
        return self.head(F.relu(self.up(self.out(y))).mean(1))


class Frames(nn.Module):
    """Pictures of a film taken as a batch of their own, [N, T, C, H, W]: layers see N * T examples."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = conv_bn(3, 8), conv_bn(8, 12)
        self.token, self.head = nn.Linear(12, 10), nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        n, frames = x.shape[:2]
        x = pooled(self.conv(self.stem(x.flatten(0, 1))))
        return self.head(F.relu(self.token(x)).view(n, frames, -1).mean(1))


class Tied(nn.Module):
    """Two convolutions with one weight tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.other = conv_bn(3, 8), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.other.weight = self.one.weight
        self.last, self.head = nn.Conv2d(8, 12, 3, padding=1), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.other(F.relu(self.one(self.stem(x)))))
        return self.head(pooled(F.relu(self.last(x))))


class LayerScale(nn.Module):
    """ConvNeXt: a depthwise convolution, a layer norm, an MLP, and bare parameters that scale what is added."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 32), nn.Linear(32, 8)
        self.scale, self.head = nn.Parameter(torch.ones(8)), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.down(F.gelu(self.up(y))) * self.scale
        return self.head(pooled(x + y.permute(0, 3, 1, 2)))


class TwoOutputs(nn.Module):
    """Returns logits and what lies before them, in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = conv_bn(3, 8), conv_bn(8, 12)
        self.hidden, self.head = nn.Linear(12, 10), nn.Linear(10, 5)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        hidden = F.relu(self.hidden(pooled(self.conv(self.stem(x)))))
        return {"logits": self.head(hidden), "hidden": hidden}


def depthwise_separable() -> nn.Module:
    return nn.Sequential(
        conv_bn(3, 8),
        conv_bn(8, 8, groups=8),
        conv_bn(8, 16, kernel=1),
        conv_bn(16, 16, stride=2, groups=16),
        conv_bn(16, 12, kernel=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 5),
    )


def grouped() -> nn.Module:
    return nn.Sequential(
        conv_bn(3, 12),
        conv_bn(12, 16, groups=4),
        conv_bn(16, 8, groups=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )


def layer_norm_mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 24), nn.LayerNorm(24), nn.GELU(), nn.Linear(24, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 5)
    )


def group_norm() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1),
        nn.GroupNorm(3, 12),
        nn.ReLU(),
        nn.Conv2d(12, 8, 3, padding=1),
        nn.GroupNorm(2, 8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )


def prelu() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.PReLU(8),
        nn.Conv2d(8, 12, 3, padding=1),
        nn.PReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 5),
    )


def conv1d() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(3, 8, 5, padding=2, bias=False),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.Conv1d(8, 12, 3, stride=2, dilation=2, padding=2, padding_mode="circular"),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(12, 5),
    )


IMAGE = (8, 8)


def image(examples: int = 2) -> Tensor:
    return torch.randn(examples, 3, *IMAGE, generator=torch.Generator().manual_seed(1))


def tokens(examples: int = 2) -> Tensor:
    return torch.randn(examples, 7, 6, generator=torch.Generator().manual_seed(1))


def rows(*shape: int) -> Callable[..., Tensor]:
    return lambda examples=2: torch.randn(examples, *shape, generator=torch.Generator().manual_seed(1))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[..., Example]]] = {
    "plain": (Plain, image),
    "viewed": (Viewed, image),
    "own_forwards": (own_forwards, image),
    "anchored": (Anchored, lambda examples=2: image(examples).abs() + 0.1),
    "residual": (Residual, image),
    "padded": (Padded, image),
    "dense": (Dense, image),
    "depthwise": (depthwise_separable, image),
    "grouped": (grouped, image),
    "squeeze_excite": (SqueezeExcite, image),
    "layer_norm_mlp": (layer_norm_mlp, rows(6)),
    "group_norm": (group_norm, image),
    "prelu": (prelu, image),
    "conv1d": (conv1d, rows(3, 20)),
    "split": (Split, image),
    "reshaped": (Reshaped, image),
    "shared": (Shared, image),
    "one_channel": (OneChannel, image),
    "two_inputs": (TwoInputs, lambda examples=2: (image(examples), rows(6)(examples))),
    "shuffled": (Shuffled, image),
    "attention": (Attention, tokens),
    "hand_made_attention": (HandMadeAttention, tokens),
    "single_head": (SingleHead, rows(7, 8)),
    "frames": (Frames, rows(4, 3, *IMAGE)),
    "tied": (Tied, image),
    "layer_scale": (LayerScale, image),
    "two_outputs": (TwoOutputs, image),
}
"""Name -> (factory, `example(examples)`)."""

MIXING_NORMS = {"layer_norm_mlp", "group_norm", "attention"}
"""Networks with norms over channels: taking a channel out changes what the norm gives the others."""


def build(name: str, examples: int = 2) -> tuple[nn.Module, Example]:
    """A network of the table, settled, and its example input."""
    factory, example = NETWORKS[name]
    return settled(factory()), example(examples)


class RandomNetwork(nn.Module):
    """A stem, some random blocks, a pooled or flattened head; [N, 3, 8, 8] -> [N, 4]."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = random.Random(seed)
        width = rng.choice([4, 8, 12, 16])
        self.stem = conv_bn(3, width)
        self.kinds, self.blocks, self.norms = [], nn.ModuleList(), nn.ModuleList()
        for _ in range(rng.randint(1, 4)):
            kind = rng.choice(["plain", "residual", "projection", "concat", "depthwise", "grouped"])
            wider = rng.choice([4, 6, 8, 12, 16, 24])
            block, norm, width = self._block(rng, kind, width, wider)
            self.kinds.append(kind)
            self.blocks.append(block)
            self.norms.append(norm)
        self.flat = rng.random() < 0.3
        self.head = nn.Linear(width * 4 if self.flat else width, 4)

    def _block(self, rng: random.Random, kind: str, width: int, wider: int) -> tuple[nn.Module, nn.Module, int]:
        if kind == "plain":
            return conv_bn(width, wider, rng.choice([1, 3])), nn.Identity(), wider
        if kind == "depthwise":
            return nn.Sequential(conv_bn(width, width, groups=width), conv_bn(width, wider, 1)), nn.Identity(), wider
        if kind == "grouped":
            return conv_bn(width, width, groups=2), nn.Identity(), width
        if kind == "concat":
            return conv_bn(width, wider), nn.BatchNorm2d(width + wider), width + wider
        out_channels = wider if kind == "projection" else width
        inner = nn.Sequential(conv_bn(width, wider), nn.Conv2d(wider, out_channels, 3, padding=1, bias=False))
        projection = nn.Conv2d(width, out_channels, 1) if kind == "projection" else nn.Identity()
        return nn.ModuleList([inner, projection]), nn.BatchNorm2d(out_channels), out_channels

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for kind, block, norm in zip(self.kinds, self.blocks, self.norms, strict=True):
            if kind in ("residual", "projection"):
                inner, projection = block
                x = F.relu(norm(inner(x)) + projection(x))
            elif kind == "concat":
                x = norm(torch.cat([x, block(x)], 1))
            else:
                x = norm(block(x))
        return self.head(F.adaptive_avg_pool2d(x, 2).flatten(1) if self.flat else pooled(x))


def random_network(seed: int) -> nn.Module:
    """A small random CNN on [N, 3, 8, 8], the same for the same seed."""
    return settled(RandomNetwork(seed), seed)

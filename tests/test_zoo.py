"""The reference networks: published sizes, shapes, and the real weights."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import secateur as sc
from secateur import zoo
from secateur.search import SearchSpace

SHARED = Path(__file__).parents[2] / "shared"
CIFAR_MEAN, CIFAR_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SMALL = ["resnet20", "resnet32", "resnet44", "resnet56", "plain20", "vgg16", "mobilenet_v1", "mobilenet_v2"]


@pytest.fixture(scope="module")
def assets() -> ModuleType:
    path = SHARED / "data" / "assets.py"
    if not path.is_file():
        pytest.skip(f"the real weights are not here: {path} does not exist")
    spec = importlib.util.spec_from_file_location("assets", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("resnet20", 269_722),
        ("resnet32", 464_154),
        ("resnet44", 658_586),
        ("resnet56", 853_018),
        ("plain20", 269_722),
        (
            "vgg16",
            14_723_136 - 4_224 + 5_130,
        ),  # torchvision's vgg16_bn features, less biases, and the linear layer
        ("vgg16_imagenet", 138_357_544),
        ("mobilenet_v1", 4_231_976),
        ("mobilenet_v2", 3_504_872),
        ("mobilenet_v1_folded", 4_231_976 - 10_944 + 1_025),  # less the norms' scales, and one class more
    ],
)
def test_parameter_counts_are_the_published_ones(name: str, count: int) -> None:
    with torch.device("meta"):
        assert parameters(zoo.build(name)) == count


@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_imagenet_shapes(name: str) -> None:
    with torch.device("meta"):
        model = zoo.build(name, num_classes=7)
        assert model(torch.empty(2, 3, 224, 224)).shape == (2, 7)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(("channels", "side"), [(1, 8), (3, 32), (1, 28)])
def test_any_small_image_fits(name: str, channels: int, side: int) -> None:
    with torch.device("meta"):
        model = zoo.build(name, num_classes=5, in_channels=channels)
        assert model(torch.empty(3, channels, side, side)).shape == (3, 5)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet20", {"width": 4}),
        ("plain20", {"width": 4}),
        ("vgg16", {}),
        ("mobilenet_v1", {"width": 0.25, "stem_stride": 1}),
        ("mobilenet_v2", {"width": 0.35, "stem_stride": 1}),
        ("mobilenet_v1_folded", {}),
    ],
)
def test_gradients_reach_every_parameter(name: str, options: dict[str, float]) -> None:
    torch.manual_seed(0)
    model = zoo.build(name, num_classes=3, in_channels=1, **options)
    model(torch.randn(4, 1, 32, 32)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", ["resnet20", "vgg16", "mobilenet_v1", "mobilenet_v2"])
def test_convolutions_start_kaiming_normal(name: str) -> None:
    torch.manual_seed(0)
    convs = [m for m in zoo.build(name).modules() if isinstance(m, nn.Conv2d) and m.weight.numel() > 2000]
    for conv in convs:
        fan_in = conv.weight[0].numel()
        assert conv.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.15)


def test_plain20_is_resnet20_without_shortcuts() -> None:
    plain, residual = zoo.plain20(width=4), zoo.resnet20(width=4)
    plain.load_state_dict(residual.state_dict(), strict=True)
    images = torch.randn(2, 3, 16, 16)
    assert not torch.allclose(plain.eval()(images), residual.eval()(images))
    for block in residual.modules():
        if hasattr(block, "shortcut"):
            block.shortcut = None
    assert torch.equal(plain(images), residual(images))


def test_copying_shortcuts_answer_alike_and_make_a_stream_one_site() -> None:
    network, images = zoo.build("resnet20").eval(), torch.randn(2, 3, 32, 32)
    whole = SearchSpace(sc.inspect(network, images), sc.Budget(macs=0.5), sc.SpaceSettings(streams=True))
    before = network(images)
    copying = zoo.with_copying_shortcuts(network)
    torch.testing.assert_close(copying(images), before)
    cut = SearchSpace(sc.inspect(copying, images), sc.Budget(macs=0.5), sc.SpaceSettings(streams=True))
    assert (len(whole.sites), len(cut.sites)) == (9 + 5, 9 + 3), "what padding adds to a stream is a site of its own"


def test_mobilenet_v2_has_torchvision_names() -> None:
    with torch.device("meta"):
        state = zoo.mobilenet_v2().state_dict()
    assert state["features.1.conv.1.weight"].shape == (16, 32, 1, 1)
    assert state["features.18.0.weight"].shape == (1280, 320, 1, 1)
    assert state["classifier.1.bias"].shape == (1000,)
    assert len(state) == 314


def test_vgg16_imagenet_has_torchvision_names() -> None:
    with torch.device("meta"):
        state = zoo.vgg16(imagenet=True, num_classes=1000).state_dict()
    assert state["features.28.weight"].shape == (512, 512, 3, 3)
    assert state["classifier.0.weight"].shape == (4096, 25088)
    assert state["classifier.6.weight"].shape == (1000, 4096)


def test_unknown_name_lists_the_zoo() -> None:
    with pytest.raises(ValueError, match=r"resnet57.*resnet20, .*mobilenet_v2"):
        zoo.build("resnet57")


@pytest.mark.parametrize("depth", [20, 56])
def test_real_resnet_weights_load_strictly(assets: ModuleType, depth: int) -> None:
    zoo.build(f"resnet{depth}").load_state_dict(assets.resnet_weights(depth), strict=True)


def test_real_resnet20_classifies(assets: ModuleType) -> None:
    model = zoo.resnet20().eval()
    model.load_state_dict(assets.resnet_weights(20), strict=True)
    folder = SHARED / "data" / "cifar10"
    mosaic = np.asarray(Image.open(folder / "test.webp").convert("RGB"))[:64]  # 100 images a row, two rows
    images = mosaic.reshape(2, 32, 100, 32, 3).transpose(0, 2, 4, 1, 3).reshape(200, 3, 32, 32)
    labels = torch.from_numpy(np.load(folder / "labels.npz")["test"][:200].astype(np.int64))
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (CIFAR_MEAN, CIFAR_STD))
    with torch.inference_mode():
        guesses = model((torch.tensor(images) / 255 - mean) / std).argmax(1)
    assert (guesses == labels).float().mean() > 0.88


def test_folded_mobilenet_is_the_published_one(assets: ModuleType) -> None:
    published = assets.mobilenet_v1()
    model = zoo.mobilenet_v1_folded().eval()
    model.load_state_dict(published.state_dict(), strict=True)
    images = torch.rand(1, 3, 224, 224) * 2 - 1
    with torch.inference_mode():
        torch.testing.assert_close(model(images), published(images), rtol=1e-5, atol=1e-5)

"""Files for runtimes: what they answer, and what is said where they cannot be made."""

import importlib.util
from pathlib import Path

import pytest
import torch
from networks import settled
from torch import Tensor, nn

import secateur as sc
from secateur import zoo
from secateur.graph import as_inputs
from secateur.prune import Calibration, Pruner, PruneSettings
from secateur.runtimes import RUNTIMES, installed
from secateur.runtimes.export import TOLERANCE
from secateur.runtimes.sessions import TIMED, WARMING, median_ms, open_session
from secateur.search import SearchSpace, SpaceSettings

LIGHT = ("onnxruntime", "openvino", "ncnn")
"""What CI installs; others are tried where they are there."""
ZOO: dict[str, dict[str, float]] = {
    "plain20": {"width": 8},
    "resnet20": {"width": 8},
    "resnet32": {"width": 8},
    "resnet44": {"width": 8},
    "resnet56": {"width": 4},
    "vgg16": {},
    "mobilenet_v1": {"width": 0.25},
    "mobilenet_v1_folded": {},
    "mobilenet_v2": {"width": 0.35},
}
"""All of it, small, but for VGG-16 of ImageNet, whose files are half a gigabyte (`benchmarks/export.py` has them)."""


def images(examples: int = 3, size: int = 32) -> Tensor:
    return torch.randn(examples, 3, size, size, generator=torch.Generator().manual_seed(0))


def network(name: str) -> nn.Module:
    return settled(zoo.build(name, 10, **ZOO[name]))


def pruned(name: str, entries: bool = True) -> nn.Module:
    """Half of everything, entries too where a network has streams."""
    dense = network(name)
    space = SearchSpace(sc.inspect(dense, images()), sc.Budget(macs=0.9), SpaceSettings(entries=entries))
    pruner = Pruner(
        dense,
        space.graph,
        Calibration(as_inputs(images(20))),
        PruneSettings("magnitude", refit=False, sequential=False),
    )
    return pruner.final({site.key: max(site.width // 2, 1) for site in space.sites}).eval()


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", ZOO)
def test_dense_and_pruned_answer_as_in_pytorch(name: str, runtime: str, tmp_path: Path) -> None:
    if runtime not in installed():
        assert runtime not in LIGHT, "CI has to have it"
        pytest.skip(f"{runtime} is not installed")
    sizes = []
    for kind, built in (("dense", network(name)), ("pruned", pruned(name, entries=runtime != "ncnn"))):
        place = tmp_path / f"{kind}{RUNTIMES[runtime].suffix}"
        assert sc.export(built, images(), place, runtime=runtime) < TOLERANCE
        (answer,) = open_session(runtime, place)([images(1).numpy()])
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(answer), built(images(1)), rtol=1e-3, atol=1e-3)
        sizes.append(sum(file.stat().st_size for file in tmp_path.glob(f"{kind}.*")))
    assert sizes[1] < 0.85 * sizes[0]  # a file tells of the code that it was made by, too


def test_what_ncnn_does_not_have_is_named(tmp_path: Path) -> None:
    with pytest.raises(sc.ExportError, match=r"ncnn has no torch\.index_select"):
        sc.export(pruned("resnet20"), images(), tmp_path / "a.param", runtime="ncnn")
    with pytest.warns(UserWarning, match=r"ncnn is left out: .*index_select"):
        found = sc.measure({"pruned": pruned("resnet20")}, images(1))
    assert {"torch", "onnxruntime"} <= {each.runtime for each in found}
    assert "ncnn" not in {each.runtime for each in found}
    with pytest.raises(sc.ExportError, match="index_select"):
        sc.measure({"pruned": pruned("resnet20")}, images(1), runtime="ncnn")


def test_other_precisions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(sc.ExportError, match=r"conv1\.weight is float64: files for runtimes are in float32"):
        sc.export(pruned("resnet20").double(), images().double(), tmp_path / "a.onnx", runtime="onnxruntime")


class ByName(nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"answer": 2 * x}


class ByNumber(ByName):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"answer": float(x.sum())}  # type: ignore[dict-item]


def test_answers_may_have_names_and_have_to_be_tensors(tmp_path: Path) -> None:
    assert sc.export(ByName(), images(), tmp_path / "a.onnx", runtime="onnxruntime") < TOLERANCE
    with pytest.raises(sc.ExportError, match="ByNumber answers by dict"):
        sc.export(ByNumber(), images(), tmp_path / "a.onnx", runtime="onnxruntime")


class TwoAndTwo(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return torch.relu(x + y), x.flatten(1) @ y.flatten(1).T


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_several_inputs_and_outputs(runtime: str, tmp_path: Path) -> None:
    place = tmp_path / "two.onnx"
    assert sc.export(TwoAndTwo(), (images(2), images(2) + 1), place, runtime=runtime) < TOLERANCE


class Counting(nn.Module):
    """Answers differently every time, as no file can."""

    calls = 0.0

    def forward(self, x: Tensor) -> Tensor:
        Counting.calls += 1.0
        return x.flatten(1)[:, :5] * self.calls


def test_a_file_that_answers_differently_is_not_written(tmp_path: Path) -> None:
    place = tmp_path / "wrong.onnx"
    place.write_bytes(b"an older file")
    with pytest.raises(sc.ExportMismatch, match="nothing was written"):
        sc.export(Counting(), images(), place, runtime="onnxruntime")
    assert place.read_bytes() == b"an older file"


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) if x.sum() > 0 else -x.flatten(1)


def test_what_cannot_be_converted_says_why(tmp_path: Path) -> None:
    with pytest.raises(sc.ExportError, match="Branching cannot be converted for onnxruntime"):
        sc.export(Branching(), images(), tmp_path / "no.onnx", runtime="onnxruntime")
    assert not list(tmp_path.iterdir())


def test_unknown_runtimes_and_suffixes(tmp_path: Path) -> None:
    with pytest.raises(sc.ExportError, match="choose one of onnxruntime"):
        sc.export(nn.Flatten(), images(), tmp_path / "a.onnx", runtime="tensorrt")
    with pytest.raises(sc.ExportError, match=r"ends in \.onnx"):
        sc.export(nn.Flatten(), images(), tmp_path / "a.pte", runtime="onnxruntime")


def test_a_runtime_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name))
    assert "onnxruntime" not in installed()
    with pytest.raises(sc.ExportError, match=r"pip install onnxruntime"):
        sc.export(nn.Flatten(), images(), tmp_path / "a.onnx", runtime="onnxruntime")


def test_the_model_is_not_touched(tmp_path: Path) -> None:
    model = network("mobilenet_v1").train()
    model.requires_grad_(True)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    sc.export(model, images(), tmp_path / "a.onnx", runtime="onnxruntime")
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_networks_side_by_side() -> None:
    networks = {"dense": network("resnet20"), "pruned": pruned("resnet20")}
    found = sc.measure(networks, images(), runtime=["torch", "onnxruntime"])
    assert [(each.runtime, each.network) for each in found] == [
        (runtime, name) for runtime in ("torch", "onnxruntime") for name in networks
    ]
    assert all(each.latency_ms > 0 for each in found)
    assert found[3].file_bytes < found[2].file_bytes


def test_sessions_take_turns() -> None:
    order: list[str] = []
    sessions = {name: (lambda inputs, name=name: order.append(name) or []) for name in "ab"}
    times = median_ms(sessions, [], rounds=2 * TIMED)
    turn = WARMING + TIMED
    assert order == (["a"] * turn + ["b"] * turn) * 2
    assert times.keys() == {"a", "b"}

"""What is done on an NVIDIA GPU, where there is one; and what is said where there is none."""

import importlib.util
from pathlib import Path

import pytest
import torch
from jobs import digits_job
from rich.console import Console
from torch import Tensor, nn

import secateur as sc
from secateur.commands.profiling import How, make_table
from secateur.data import TrainBatches
from secateur.finish import Epoch
from secateur.job import read_job
from secateur.job.compress import Run
from secateur.report import runtimes_table
from secateur.report.wording import UNKNOWN
from secateur.runtimes import Measured, check_counts, hardware
from secateur.search import SearchSpace, SpaceSettings

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="torch sees a GPU")


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.BatchNorm2d(32), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


def batches() -> TrainBatches:
    drawn = torch.Generator().manual_seed(0)
    images, labels = torch.randn(68, 3, 12, 12, generator=drawn), torch.randint(10, (68,), generator=drawn)
    return TrainBatches(images, labels, 8, seed=0)  # the last has four


def weights(model: nn.Module) -> Tensor:
    return torch.cat([x.detach().cpu().flatten() for x in model.parameters()])


@gpu
def test_replayed_steps_are_the_steps() -> None:
    taught: dict[bool, nn.Module] = {replay: network().cuda() for replay in (False, True)}
    before = weights(taught[True])
    for replay, model in taught.items():
        settings = sc.FineTune(epochs=6, lr=0.05, replay=replay, precision="float32", averaging=0.9)
        history = sc.finetune(model, batches().to("cuda"), teacher=network(), settings=settings)
        assert history[-1].loss < history[0].loss
    torch.testing.assert_close(weights(taught[True]), weights(taught[False]), rtol=1e-2, atol=1e-3)
    assert (weights(taught[True]) - before).abs().max() > 0.02


@gpu
def test_a_replayed_training_resumes(tmp_path: Path) -> None:
    settings = sc.FineTune(epochs=5, lr=0.05, replay=True, precision="float32")
    whole, halved = network().cuda(), network().cuda()
    sc.finetune(whole, batches().to("cuda"), settings=settings)

    def stop(epoch: Epoch) -> None:
        if epoch.number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sc.finetune(halved, batches().to("cuda"), settings=settings, checkpoint=tmp_path / "a.pt", on_epoch=stop)
    again = network().cuda()
    history = sc.finetune(again, batches().to("cuda"), settings=settings, checkpoint=tmp_path / "a.pt")
    assert len(history) == 5
    torch.testing.assert_close(weights(again), weights(whole), rtol=1e-2, atol=1e-3)


@gpu
def test_the_gpu_is_a_runtime() -> None:
    wide = nn.Sequential(nn.Conv2d(3, 1024, 3), nn.ReLU(), nn.Conv2d(1024, 1024, 3))
    narrow = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3))
    found = sc.measure({"wide": wide, "narrow": narrow}, torch.randn(1, 3, 64, 64), runtime=["cuda"])
    assert [each.runtime for each in found] == ["cuda", "cuda"]
    assert found[0].latency_ms > found[1].latency_ms > 0


@gpu
@pytest.mark.skipif(importlib.util.find_spec("pynvml") is None, reason="nvidia-ml-py is not installed")
def test_nvml_counts_what_a_pass_takes() -> None:
    layers = nn.Sequential(nn.Conv2d(3, 512, 3), nn.ReLU(), nn.Conv2d(512, 512, 3))
    (on_gpu, on_cpu) = sc.measure({"it": layers}, torch.randn(1, 3, 64, 64), runtime=["cuda", "torch"], meter="nvml")
    assert (on_gpu.energy_mj or 0) > 0
    assert (on_gpu.meter, on_cpu.energy_mj, on_cpu.meter) == ("nvml", None, None)


@gpu
def test_a_table_of_the_gpu() -> None:
    model, example = network().eval(), torch.zeros(1, 3, 12, 12)
    space = SearchSpace(sc.inspect(model, example), sc.Budget(macs=1.0), SpaceSettings(step=8))
    table = make_table(model, example, space, How("cuda"))
    assert table["runtime"] == "cuda"
    assert table["device"].endswith(torch.cuda.get_device_name())
    assert all(cost > 0 for layer in table["layers"] for row in layer["cost"] for cost in row)


@no_gpu
def test_without_a_gpu_every_wish_for_one_is_refused() -> None:
    with pytest.raises(sc.ExportError, match="NVIDIA GPU"):
        sc.measure({"it": network()}, torch.randn(1, 3, 12, 12), runtime=["cuda"])
    with pytest.raises(sc.DataError, match="replay is for one process with its network on a GPU"):
        sc.finetune(network(), batches(), settings=sc.FineTune(replay=True))
    assert {each.runtime for each in sc.measure({"it": network()}, torch.randn(1, 3, 12, 12))} >= {"torch"}
    assert "GPU" in hardware("cuda")


@no_gpu
def test_a_run_of_a_gpu_is_used_without_one(tmp_path: Path) -> None:
    tables = "[budget]\nmacs = 0.5\n[finetune]\nepochs = 1\n"
    job = digits_job(tmp_path, "trials = 2", tables + "replay = true")
    first = Run(read_job(job), "a test").small().state_dict()
    made = (tmp_path / "run" / "searched" / "finetune.pt").stat().st_mtime_ns
    job.write_text(job.read_text().replace("replay = true", 'device = "cpu"'))
    again = Run(read_job(job), "a test").small().state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert made == (tmp_path / "run" / "searched" / "finetune.pt").stat().st_mtime_ns, "nothing is trained again"


def test_energy_that_nothing_counts_is_not_nothing() -> None:
    found = [Measured("dense", "cuda", 1.0, 1, 2.5, "nvml"), Measured("dense", "torch", 1.0, 1)]
    console = Console(record=True, width=120)
    console.print(runtimes_table(found, 1))
    (torch_row,) = [line for line in console.export_text().splitlines() if line.strip().startswith("torch")]
    assert UNKNOWN in torch_row
    assert "0.0" not in torch_row


def test_a_meter_counts_one_chip() -> None:
    check_counts("nvml", "cuda")
    check_counts("rapl", "onnxruntime")
    with pytest.raises(sc.BudgetError, match="nvml counts the energy of the GPU, and onnxruntime runs on the CPU"):
        check_counts("nvml", "onnxruntime")
    with pytest.raises(sc.BudgetError, match="rapl counts the energy of the CPU"):
        check_counts("rapl", "cuda")
